"""The stage texture on models that other people made, as packages of Debian, PyPI and npm bring them.

    python -m benchmarks.public_models --jobs 2        # needs apt-get, dpkg, npm and the network for the first time

The packages are fetched into the folder, and nothing of them is kept elsewhere. Each model is painted by one run with
everything at its default. The table gives its faces, what the file brings, how far any corner of a triangle of the
exported GLB lies from where it was (a share of the size), and what Khronos's validator says of the GLB. A picture shows
eight sides of each. Finished runs are kept: interrupt and call again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.judged_runs import judge_run
from benchmarks.own_shapes import moved
from benchmarks.text_to_3d import at_a_time, run_prompt, wall_seconds
from evaluation.gltf_validator import GltfValidator
from models.mesh_file import read_mesh_file
from priors.evaluate import contact_sheet
from priors.judge_model import load_judge

VIEWS = 8


@dataclass(frozen=True)
class PublicModel:
    """A model file in a package."""

    prompt: str  # what it becomes; the bundled prior knows the words
    archive: str  # debian | pypi | npm
    package: str
    path: str  # inside the package
    maker: str


MODELS = (
    PublicModel("a gray rabbit", "debian", "glmark2-data", "usr/share/glmark2/models/bunny.obj", "Stanford"),
    PublicModel(
        "a green train",
        "debian",
        "assimp-testmodels",
        "usr/share/assimp/models/glTF2/2CylinderEngine-glTF-Binary/2CylinderEngine.glb",
        "Okino",
    ),
    PublicModel("a brown turtle", "debian", "assimp-testmodels", "usr/share/assimp/models/OBJ/spider.obj", "Softimage"),
    PublicModel("a red robot", "debian", "assimp-testmodels", "usr/share/assimp/models/STL/Wuson.stl", "assimp"),
    PublicModel("a yellow duck", "pypi", "pybullet", "pybullet_data/duck.obj", "Sony"),
    PublicModel("a blue car", "pypi", "pybullet", "pybullet_data/a1/meshes/trunk.obj", "Unitree"),
    PublicModel("a blue airplane", "pypi", "pyvista", "pyvista/examples/airplane.ply", "G. Turk"),
    PublicModel(
        "a white camera",
        "npm",
        "@webxr-input-profiles/assets",
        "package/dist/profiles/meta-quest-touch-plus/left.glb",
        "Meta",
    ),
)


def fetch_debian(package: str, folder: Path) -> None:
    _call(["apt-get", "download", package], folder)
    _call(["dpkg", "-x", next(folder.glob("*.deb")).name, "."], folder)


def fetch_pypi(package: str, folder: Path) -> None:
    _call([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", package], folder)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)


def fetch_npm(package: str, folder: Path) -> None:
    _call(["npm", "pack", "-s", package], folder)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")


FETCH: dict[str, Callable[[str, Path], None]] = {"debian": fetch_debian, "pypi": fetch_pypi, "npm": fetch_npm}


def fetched(model: PublicModel, folder: Path) -> Path:
    """The model's file, after fetching its package where it isn't there yet."""
    place = (folder / "packages" / model.package.replace("/", "-")).absolute()
    if not (place / model.path).is_file():
        place.mkdir(parents=True, exist_ok=True)
        FETCH[model.archive](model.package, place)
    return place / model.path


def _call(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{' '.join(command)}: {error}; the package cannot be fetched here") from error


def brings(path: Path) -> str:
    """What is in the file beside the shape."""
    mesh = read_mesh_file(path)
    return f"{len(mesh.faces):,} | {'colours' if mesh.is_colored else 'shape alone'}"


def main() -> None:
    """Fetch, run, check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/public-models"))
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()

    files = {model.prompt: fetched(model, args.folder) for model in MODELS}
    validate = GltfValidator(args.folder / "gltf-validator")

    def run(prompt: str, more: list[str]) -> Path | None:
        overrides = [f"from={files[prompt]}", *args.overrides, *more]
        return run_prompt(prompt, args.folder, "configs/vsd-texture.yaml", overrides)

    judge, pictures = load_judge(), []
    print(
        "| model | maker | faces | brings | prompt | minutes | moved | validator |\n|---|---|---|---|---|---|---|---|"
    )
    for model, folder in zip(MODELS, at_a_time(args.jobs, run, list(files)), strict=True):
        path = files[model.prompt]
        start = f"| {path.name} | {model.maker} | {brings(path)} | {model.prompt}"
        if folder is None:
            print(f"{start} | collapsed | | |", flush=True)
            continue
        report, shift = validate(folder / "mesh.glb"), moved(path, folder / "mesh.glb")
        found = f"{report.errors} errors, {report.warnings} warnings"
        print(f"{start} | {wall_seconds(folder) / 60:.1f} | {shift:.1g} | {found} |", flush=True)
        pictures.append(judge_run(folder, judge).pictures[0])
    contact_sheet(torch.cat(pictures), VIEWS, args.folder / "public-models.png")


if __name__ == "__main__":
    main()
