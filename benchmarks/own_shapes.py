"""The stages that start from a user's mesh, on true shapes of the bundled prior's world without their colours.

    python -m benchmarks.own_shapes                       # the stage texture paints 12 shapes
    python -m benchmarks.own_shapes --prompts 2           # the first two
    python -m benchmarks.own_shapes --stage geometry      # the stage geometry sharpens 12 shapes that were smoothed

Each shape is written as a GLB without colours, at a place and a size of its own, and given to one run with everything
else at its default. Prompts whose run is finished are skipped: interrupt and call again. The table of the stage texture
gives the judge's view of eight renders, the distance of its features to the nearest of 24 world instances of the prompt
by the same cameras (beside it, that of one more instance), and how far any vertex of the exported GLB lies from the
given one, as a share of the size. The table of the stage geometry gives the volume IoU with the shape before it was
smoothed, of the first and the last checkpoint, without any alignment.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import trimesh

from benchmarks.judged_runs import attributes_of, judge_run
from benchmarks.text_to_3d import at_a_time, benchmark_prompts, run_prompt, wall_seconds, world_features
from benchmarks.world_shapes import world_truths
from configs.load import load_saved
from evaluation.image_metrics import nearest_distance
from models.mesh_distance import MeshSolid, solid_of
from models.mesh_file import read_mesh_file
from priors.evaluate import contact_sheet
from priors.judge_model import Judge, load_judge
from runs.checkpoint_files import checkpoints
from runs.folder import slug
from runs.from_checkpoint import load_scene
from systems.layout import CONFIG_FILE

SEED = 7  # of the shapes; the judge's instances have another
CELLS = 96  # of marching cubes, across a shape
SCALE, PLACE = 10.0, (100.0, 0.0, 0.0)
INSTANCES = 24
POINTS = 200_000  # at which volumes are compared
SMOOTHING = 60  # passes of Laplacian smoothing, which round off edges and thin out what is thin
STAGES = ("texture", "geometry")


def write_shape(prompt: str, folder: Path, smoothed: bool) -> Path:
    """A true shape of the prompt's class as a GLB without colours."""
    mesh = trimesh.Trimesh(*true_shape(attributes_of(prompt)[0]))
    if smoothed:
        trimesh.smoothing.filter_laplacian(mesh, lamb=0.5, iterations=SMOOTHING)
    path = folder.absolute() / ("smoothed" if smoothed else "shapes") / f"{slug(prompt)}.glb"
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh.export(path)
    return path


def moved(given: Path, exported: Path) -> float:
    """The largest distance of a triangle's corner from where it was, as a share of the size."""
    before, after = (mesh.vertices[mesh.faces] for mesh in map(read_mesh_file, (given, exported)))
    return float(np.linalg.norm(after - before, axis=-1).max() / np.ptp(before.reshape(-1, 3), axis=0).max())


def true_shape(class_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces, where the file has them."""
    vertices, faces = world_truths(class_name, 1, SEED)[0].solid.mesh(CELLS)
    return vertices * SCALE + PLACE, faces


def iou_in_place(run: Path, checkpoint: Path, class_name: str) -> float:
    """Volume IoU of a checkpoint's surface with the true shape, both where the file has them."""
    _, config = load_saved(run / CONFIG_FILE, {"trainer.accelerator": "cpu"})
    scenes, _ = load_scene(config, checkpoint)
    surface = scenes.surface(0)
    vertices = scenes.origin.placement.to_file(surface.vertices.detach().double().numpy())
    return volume_iou(solid_of(vertices, surface.faces.numpy()), solid_of(*true_shape(class_name)))


def volume_iou(one: MeshSolid, other: MeshSolid) -> float:
    """Share of points inside both among those inside either; points are uniform in the box of both."""
    corners = np.concatenate([one.vertices, other.vertices])
    points = np.random.default_rng(0).uniform(corners.min(axis=0), corners.max(axis=0), (POINTS, 3))
    a, b = (solid.winding_number(points) > 0.5 for solid in (one, other))
    return float((a & b).sum() / (a | b).sum())


class TextureTable:
    """What the stage texture reaches, prompt by prompt."""

    head = ("class", "colour", "view", "distance", "of an instance", "moved")

    def __init__(self, folder: Path) -> None:
        self.judge: Judge = load_judge()
        self.folder = folder
        self.pictures: list[torch.Tensor] = []

    def row(self, prompt: str, run: Path) -> list[float]:
        judged = judge_run(run, self.judge)
        *instances, one_more = world_features(self.judge, judged, INSTANCES + 1)
        world = torch.stack(instances)
        self.pictures.append(judged.pictures[0])
        return [
            *(getattr(judged, key) for key in ("class_right", "color_right", "view_right")),
            nearest_distance(judged.features[0], world),
            nearest_distance(one_more, world),
            moved(self.folder / "shapes" / f"{slug(prompt)}.glb", run / "mesh.glb"),
        ]

    def finish(self) -> None:
        contact_sheet(torch.cat(self.pictures), 8, self.folder / "own-shapes.png")


class GeometryTable:
    """What the stage geometry makes of smoothed shapes, prompt by prompt."""

    head = ("IoU at first", "IoU at last")

    def row(self, prompt: str, run: Path) -> list[float]:
        numbered = [path for path in checkpoints(run) if path.stem.isdecimal()]
        return [iou_in_place(run, path, attributes_of(prompt)[0]) for path in (numbered[0], numbered[-1])]

    def finish(self) -> None:
        """There is no picture."""


def main() -> None:
    """Run, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, default="texture")
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark"))
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()

    is_texture = args.stage == "texture"
    table = TextureTable(args.folder) if is_texture else GeometryTable()

    def run(prompt: str, more: list[str]) -> Path | None:
        mesh = write_shape(prompt, args.folder, smoothed=not is_texture)
        overrides = [f"from={mesh}", "output.keep_checkpoints=99", *args.overrides, *more]
        return run_prompt(prompt, args.folder, f"configs/vsd-{args.stage}.yaml", overrides)

    prompts, rows = benchmark_prompts()[::2][: args.prompts], []
    print("| prompt | minutes | " + " | ".join(table.head) + " |\n|" + "---|" * (len(table.head) + 2))
    for prompt, folder in zip(prompts, at_a_time(args.jobs, run, prompts), strict=True):
        if folder is None:
            print(f"| {prompt} | collapsed |", flush=True)
            continue
        rows.append([wall_seconds(folder) / 60, *table.row(prompt, folder)])
        print(f"| {prompt} | {_cells(rows[-1])} |", flush=True)
    if not rows:
        raise SystemExit("every run collapsed: nothing to compare")
    print(f"| **mean of {len(rows)}** | {_cells(list(np.mean(rows, axis=0)))} |")
    table.finish()


def _cells(values: list[float]) -> str:
    return " | ".join(f"{value:.3g}" for value in values)


if __name__ == "__main__":
    main()
