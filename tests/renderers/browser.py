"""A real browser for tests: headless Chromium with WebGL in software, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-sandbox",  # root and most containers have none; the pages are our own
    "--disable-dev-shm-usage",  # containers have little of it
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find_browser() -> str | None:
    """The program, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of one browser; messages go through pipes, which need no port and no further library."""

    def __init__(self, program: str, profile: Path, timeout_s: float = 120.0) -> None:
        self.timeout_s = timeout_s
        self.events: list[dict] = []
        self._number, self._received = 0, b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # The browser reads from 3 and writes to 4; copies above 9 can't be in the way of either.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        script = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}'
        command = ["bash", "-c", script, "bash", program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with open(profile.with_suffix(".log"), "wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=ends)
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        targets = self.ask("Target.getTargets")["targetInfos"]
        (target,) = [entry["targetId"] for entry in targets if entry["type"] == "page"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters) -> dict:
        """Send one command and wait for its answer; what else happens goes to ``events``."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self.timeout_s
        while (answer := self._next(method, deadline)).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _next(self, method: str, deadline: float) -> dict:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._in], [], [], max(deadline - time.monotonic(), 0))
            data = os.read(self._in, 2**20) if ready else b""
            if not data:
                raise RuntimeError(f"{method}: the browser {'has ended' if ready else 'does not answer'}")
            self._received += data
        message, self._received = self._received.split(b"\0", 1)
        return json.loads(message)

    def value(self, expression: str):
        """What a JavaScript expression is in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['text']}")
        return answer["result"].get("value")

    def open(self, path: Path, fragment: str = "", width: int = 256, height: int = 256) -> None:
        """Show a file of the disk, and wait until the viewer in it has drawn."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Page.navigate", url="about:blank")  # else another fragment would load nothing
        self.ask("Page.navigate", url=f"{path.resolve().as_uri()}#{fragment}")
        deadline = time.monotonic() + self.timeout_s
        while not self.value("document.body !== null && document.body.dataset.ready === 'true'"):
            if time.monotonic() > deadline:
                shown = self.value("document.body.innerText")
                raise RuntimeError(f"{path.name}: not ready after {self.timeout_s:g} s; it says {shown!r}")
            time.sleep(0.05)

    def mouse(self, kind: str, x: float, y: float, **details) -> None:
        """A real input event: ``mousePressed``, ``mouseMoved``, ``mouseReleased`` or ``mouseWheel``."""
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **details)

    def screenshot(self) -> np.ndarray:
        """What the window shows, ``[height, width, 3]`` bytes."""
        picture = base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))

    def close(self) -> None:
        """End the browser."""
        try:
            self.ask("Browser.close")
            self._process.wait(timeout=30)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            os.close(self._out)
            os.close(self._in)
