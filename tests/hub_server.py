"""A model hub on this machine: what of the hub's interface fetching needs, for folders that tests have made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

Models = dict[tuple[str, str], Path]  # folders, by id and revision


def commit_of(hub_id: str, revision: str) -> str:
    return hashlib.sha1(f"{hub_id}@{revision}".encode()).hexdigest()


class _Hub(BaseHTTPRequestHandler):
    models: Models

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._describe("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._send_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), with_body)
        else:
            self._refuse("EntryNotFound")

    def _folder(self, hub_id: str, revision: str) -> Path | None:
        """The model of a branch or a commit; without one, says which is missing."""
        for (known, name), folder in self.models.items():
            if known == hub_id and revision in (name, commit_of(known, name)):
                return folder
        is_known = any(known == hub_id for known, _ in self.models)
        self._refuse("RevisionNotFound" if is_known else "RepoNotFound")
        return None

    def _describe(self, hub_id: str, rest: list[str]) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        folder = self._folder(hub_id, revision)
        if folder is None:
            return
        files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        if rest[:1] == ["tree"]:
            body: object = [
                {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": name} for name in files
            ]
        else:
            siblings = [{"rfilename": name} for name in files]
            body = {
                "id": hub_id,
                "modelId": hub_id,
                "sha": commit_of(hub_id, revision),
                "siblings": siblings,
                "tags": [],
            }
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"}, with_body=True)

    def _send_file(self, hub_id: str, revision: str, name: str, with_body: bool) -> None:
        folder = self._folder(hub_id, revision)
        if folder is None:
            return
        if not (folder / name).is_file():
            self._refuse("EntryNotFound")
            return
        content = (folder / name).read_bytes()
        commit = next(commit_of(known, at) for (known, at), place in self.models.items() if place == folder)
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        self._send(200, content, headers, with_body)

    def _refuse(self, code: str) -> None:
        self._send(404, b"", {"X-Error-Code": code}, with_body=True)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """No line for each request."""


@contextmanager
def serve(models: Models) -> Iterator[str]:
    """The address at which the models can be fetched, as HF_ENDPOINT takes it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"models": models}))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
