"""What `pip install .` installs: a wheel is built, compared with the repository, installed and used elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.repository import REPOSITORY, repository_files

NOT_INSTALLED = {"benchmarks", "docs", "tests"}  # and what begins with a dot
SMALL = [
    *("iterations=1", "render.size=16", "render.views=1", "render.volume.samples_per_ray=8", "output.run=run"),
    *("output.turntable_frames=2", "output.turntable_size=16", "output.mesh_resolution=12"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools writes into the folder that it builds; no network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in repository_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / path, source / path)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out, source)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def site_packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site-packages")
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", target, wheel)
    return target


def pip(command: str, *arguments: str | Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr


def run_installed(site_packages: Path, folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command that finds the installed copy first, in a folder that isn't the repository."""
    environment = os.environ | {"PYTHONPATH": str(site_packages), "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_a_wheel_holds_all_files_of_its_packages_and_no_others(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folders = {path.parts[0] for path in repository_files() if len(path.parts) > 1 and path.parts[0][0] != "."}
    below = {path.as_posix() for path in repository_files() if path.parts[0] in folders - NOT_INSTALLED}
    assert packed == below | {"launch.py"}


def test_the_installed_command_helps_from_any_folder(site_packages: Path, tmp_path: Path) -> None:
    shown = run_installed(site_packages, tmp_path, site_packages / "bin" / "prolific", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "usage: prolific " in shown.stdout and "python launch.py" not in shown.stdout
    assert "prolific --config configs/vsd-nerf.yaml" in shown.stdout
    where = run_installed(site_packages, tmp_path, sys.executable, "-c", "import launch; print(launch.__file__)")
    assert where.stdout.strip() == str(site_packages / "launch.py")


def test_the_installed_command_runs_in_any_folder(site_packages: Path, tmp_path: Path) -> None:
    command = [site_packages / "bin" / "prolific", "--config", "vsd-nerf", "prompt=a red mug", *SMALL]
    finished = run_installed(site_packages, tmp_path, *command)
    assert finished.returncode in (0, 4), finished.stderr  # 4: a scene of one iteration need not have a surface
    run = tmp_path / "outputs/vsd-nerf/a-red-mug/run"
    assert json.loads((run / "summary.json").read_text(encoding="utf-8"))["iterations"] == 1
    assert (run / "turntable.mp4").stat().st_size > 0
    assert "prolific --config vsd-nerf" in (run / "config.yaml").read_text(encoding="utf-8")
    assert "launch.py" not in finished.stdout + finished.stderr
