"""Pictures of the closed world with captions and truths, deterministic from (seed, index).

``sample_instance(seed, index)`` draws one; ``render_dataset`` draws many in parallel into shards
that later runs reuse. ``python -m priors.world.dataset --pictures 64000`` does only that, also beside a training
that takes up what is finished (``finished_shards``). Nothing here is stored in the repository: generating is cheap
(about 54 ms a picture on one core of the machine that ``docs/experiments.md`` names).
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from tqdm import tqdm

from priors.world.appearance import COLORS, PATTERNS, Appearance, render, sample_appearance
from priors.world.captions import held_out_pairs, sample_caption
from priors.world.classes import CLASSES, build_solid
from priors.world.solids import RADIUS, Solid
from renderers.cameras import Cameras, orbit_cameras, view_index
from renderers.config import VIEW_WORDS, CameraSampling, ViewThresholds

#: Cameras and view words of the world. ``configs/prior/mini.yaml`` uses the same. The solids' bounding sphere
#: (``solids.RADIUS`` around the origin) fills 80% of the frame from afar with a wide field of view, and 95% from
#: nearby with a narrow one.
CAMERAS = CameraSampling(elevation_deg=(-20.0, 80.0), distance=(2.76, 3.06), fovy_deg=(40.0, 42.0))
THRESHOLDS = ViewThresholds(front_deg=45.0, back_deg=45.0, overhead_deg=60.0, bottom_deg=-5.0)
PATTERN_SHARES = (0.5, 0.25, 0.25)  # of PATTERNS
IMAGE_SIZE = 128
SHARD = 250
#: Raise whenever the pictures change, so that stale shards are not reused.
VERSION = 2


@dataclass(frozen=True)
class Instance:
    """One thing of the world, seen by one camera, with everything that is true of it."""

    class_name: str
    color: str
    pattern: str
    view: str
    caption: str
    cameras: Cameras  # a batch of one
    solid: Solid
    appearance: Appearance

    def picture(self, size: int = IMAGE_SIZE, supersampling: int = 2) -> UInt8[np.ndarray, "size size 3"]:
        """The rendered picture, sRGB bytes."""
        rgb = render(self.solid, self.appearance, self.cameras, size, supersampling)[0]
        return np.round(rgb * 255).astype(np.uint8)

    @property
    def fill(self) -> float:
        """Share of the frame's height that the bounding sphere takes."""
        half_angle = math.asin(RADIUS / float(self.cameras.distance))
        return math.tan(half_angle) / math.tan(math.radians(float(self.cameras.fovy_deg)) / 2)

    def labels(self) -> dict[str, int | float | str]:
        """Indices of the attributes, and the camera, as plain values."""
        return {
            "class": list(CLASSES).index(self.class_name),
            "color": list(COLORS).index(self.color),
            "pattern": PATTERNS.index(self.pattern),
            "view": VIEW_WORDS.index(self.view),
            "azimuth_deg": float(self.cameras.azimuth_deg),
            "elevation_deg": float(self.cameras.elevation_deg),
            "distance": float(self.cameras.distance),
            "fovy_deg": float(self.cameras.fovy_deg),
            "radius": RADIUS,
            "fill": self.fill,
            "caption": self.caption,
        }


def draw_instance(
    rng: np.random.Generator,
    class_name: str | None = None,
    color: str | None = None,
    pattern: str | None = None,
    view: str | None = None,
    held_out: bool | None = False,
) -> Instance:
    """Draw an instance; attributes that are given are kept, the others drawn.

    Args:
        held_out: False draws only pairs of class and colour that training may see, True only
            the others, None any.
    """
    while True:
        name = class_name or str(rng.choice(list(CLASSES)))
        tint = color or str(rng.choice(list(COLORS)))
        if held_out is None or ((name, tint) in held_out_pairs()) == held_out:
            break
        if class_name and color:
            raise ValueError(f"{color} {name}: held_out={held_out} contradicts priors/world/held_out.json")
    surface = pattern or str(rng.choice(PATTERNS, p=PATTERN_SHARES))
    while True:
        spherical = [rng.uniform(*bounds) for bounds in (CAMERAS.azimuth_deg, CAMERAS.elevation_deg)]
        azimuth, elevation = (torch.tensor([value], dtype=torch.float32) for value in spherical)
        word = VIEW_WORDS[int(view_index(azimuth, elevation, THRESHOLDS))]
        if view is None or word == view:
            break
    distance, fovy = (
        torch.tensor([rng.uniform(*bounds)], dtype=torch.float32) for bounds in (CAMERAS.distance, CAMERAS.fovy_deg)
    )
    return Instance(
        class_name=name,
        color=tint,
        pattern=surface,
        view=word,
        caption=sample_caption(name, tint, surface, word, rng),
        cameras=orbit_cameras(azimuth, elevation, distance, fovy),
        solid=build_solid(name, rng),
        appearance=sample_appearance(name, tint, surface, rng),
    )


def sample_instance(seed: int, index: int, held_out: bool | None = False) -> Instance:
    """Instance number ``index`` of the endless data set named ``seed``."""
    return draw_instance(np.random.default_rng([VERSION, seed, index]), held_out=held_out)


def sample_group(seed: int, index: int, views: int, held_out: bool | None = False) -> list[Instance]:
    """Instance number ``index`` seen from ``views`` sides: equal elevation, distance and field of view, azimuths spread
    evenly from a random first one. One side: ``sample_instance``."""
    first = sample_instance(seed, index, held_out)
    group = []
    for side in range(views):
        azimuth = (first.cameras.azimuth_deg + 180 + 360 * side / views) % 360 - 180
        cameras = orbit_cameras(azimuth, first.cameras.elevation_deg, first.cameras.distance, first.cameras.fovy_deg)
        word = VIEW_WORDS[int(view_index(azimuth, cameras.elevation_deg, THRESHOLDS))]
        group.append(replace(first, cameras=cameras, view=word))
    return group


def _render_one(instance: Instance) -> UInt8[np.ndarray, "128 128 3"]:
    torch.set_num_threads(1)
    return instance.picture()


def render_instances(instances: list[Instance], title: str) -> UInt8[np.ndarray, "n 128 128 3"]:
    """Pictures of the instances, on all cores."""
    with ProcessPoolExecutor() as pool:
        pictures = pool.map(_render_one, instances, chunksize=16)
        return np.stack(list(tqdm(pictures, desc=title, total=len(instances), mininterval=2)))


def _render_shard(path: Path, seed: int, start: int, stop: int, held_out: bool | None, views: int) -> None:
    torch.set_num_threads(1)
    instances = [view for index in range(start, stop) for view in sample_group(seed, index, views, held_out)]
    labels = [instance.labels() for instance in instances]
    images = np.stack([instance.picture() for instance in instances])
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with open(temporary, "wb") as stream:
        np.savez(stream, images=images, labels=np.frombuffer(json.dumps(labels).encode(), dtype=np.uint8))
    temporary.replace(path)


def _shards(folder: Path, seed: int, count: int, held_out: bool | None, views: int) -> Iterator[tuple[Path, int, int]]:
    kind = {False: "seen", True: "held-out", None: "all"}[held_out] + (f"-{views}views" if views > 1 else "")
    size = max(SHARD // views, 1)
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield folder / f"v{VERSION}-seed{seed}-{kind}-{start:06d}-{stop:06d}.npz", start, stop


def render_dataset(
    folder: str | Path,
    count: int,
    seed: int = 0,
    held_out: bool | None = False,
    processes: int | None = None,
    views: int = 1,
) -> tuple[UInt8[np.ndarray, "pictures 128 128 3"], list[dict]]:
    """Pictures and labels of instances 0..count-1, rendered where no earlier call has left them.

    With several ``views`` each instance has as many pictures in a row (``sample_group``).

    Interrupt and call again: finished shards of 250 are kept.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(folder, seed, count, held_out, views))
    missing = [shard for shard in shards if not shard[0].exists()]
    if missing:
        with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
            jobs = [
                pool.submit(_render_shard, path, seed, start, stop, held_out, views) for path, start, stop in missing
            ]
            for job in tqdm(jobs, desc="rendering the world", unit="shard"):
                job.result()
    parts = [load_shard(path) for path, _, _ in shards]
    return np.concatenate([images for images, _ in parts]), [row for _, labels in parts for row in labels]


def load_shard(path: Path) -> tuple[UInt8[np.ndarray, "n 128 128 3"], list[dict]]:
    """Pictures and labels of one finished shard."""
    with np.load(path) as shard:
        return shard["images"], json.loads(shard["labels"].tobytes())


def cameras_of(labels: list[dict]) -> Cameras:
    """The cameras of pictures with these labels."""
    names = ("azimuth_deg", "elevation_deg", "distance", "fovy_deg")
    return orbit_cameras(*(torch.tensor([row[name] for row in labels], dtype=torch.float32) for name in names))


def finished_shards(
    folder: Path, count: int, seed: int = 0, held_out: bool | None = False, views: int = 1
) -> list[Path]:
    """Those shards of instances 0..count-1 that are there by now."""
    return [path for path, _, _ in _shards(folder, seed, count, held_out, views) if path.exists()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("outputs/priors/world"))
    parser.add_argument("--pictures", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="pairs of class and colour that training never sees")
    parser.add_argument("--views", type=int, default=1, help="pictures of each object, from evenly spread sides")
    parser.add_argument("--processes", type=int)
    args = parser.parse_args()
    render_dataset(args.data, args.pictures, args.seed, args.held_out, args.processes, args.views)


if __name__ == "__main__":
    main()
