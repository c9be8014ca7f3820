"""Khronos' glTF validator on a file. It comes from npm, and is put into a folder of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = "2.0.0-dev.3.10"
SCRIPT = """
    require('gltf-validator').validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[1])))
        .then(report => console.log(JSON.stringify(report)))
"""


@dataclass(frozen=True)
class GltfReport:
    """What the validator finds."""

    errors: int
    warnings: int
    messages: list[dict[str, Any]]  # code, message, pointer, severity of each


class GltfValidator:
    """The validator, installed below a folder unless it is there already.

    Raises:
        OSError: there is no npm, or it cannot install the validator.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / "node_modules/gltf-validator").is_dir():
            return
        if not shutil.which("npm"):
            raise OSError("npm is not installed: gltf-validator comes from it")
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"gltf-validator@{VERSION}"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired as error:
            raise OSError("npm cannot install gltf-validator: no answer within two minutes") from error
        if done.returncode:
            raise OSError(f"npm cannot install gltf-validator: {done.stderr.strip()[-200:]}")

    def __call__(self, path: Path) -> GltfReport:
        command = ["node", "-e", SCRIPT, str(path.absolute())]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, check=True, timeout=60)
        issues = json.loads(done.stdout)["issues"]
        return GltfReport(issues["numErrors"], issues["numWarnings"], issues["messages"])
