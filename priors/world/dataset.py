"""Pictures of the closed world with captions and truths, deterministic from (seed, index).

``sample_instance(seed, index)`` draws one; ``render_dataset`` draws many in parallel into shards
that later runs reuse. Nothing here is stored in the repository: generating is cheap (about 54 ms a
picture on one core of the machine that ``docs/experiments.md`` names).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
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
SHARD = 1000
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


def _render_shard(path: Path, seed: int, start: int, stop: int, held_out: bool | None) -> None:
    torch.set_num_threads(1)
    instances = [sample_instance(seed, index, held_out) for index in range(start, stop)]
    labels = [instance.labels() for instance in instances]
    images = np.stack([instance.picture() for instance in instances])
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with open(temporary, "wb") as stream:
        np.savez(stream, images=images, labels=np.frombuffer(json.dumps(labels).encode(), dtype=np.uint8))
    temporary.replace(path)


def _shards(folder: Path, seed: int, count: int, held_out: bool | None) -> Iterator[tuple[Path, int, int]]:
    kind = {False: "seen", True: "held-out", None: "all"}[held_out]
    for start in range(0, count, SHARD):
        stop = min(start + SHARD, count)
        yield folder / f"v{VERSION}-seed{seed}-{kind}-{start:06d}-{stop:06d}.npz", start, stop


def render_dataset(
    folder: str | Path, count: int, seed: int = 0, held_out: bool | None = False, processes: int | None = None
) -> tuple[UInt8[np.ndarray, "count 128 128 3"], list[dict]]:
    """Pictures and labels of instances 0..count-1, rendered where no earlier call has left them.

    Interrupt and call again: finished shards of 1,000 are kept.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(folder, seed, count, held_out))
    missing = [shard for shard in shards if not shard[0].exists()]
    if missing:
        with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
            jobs = [pool.submit(_render_shard, path, seed, start, stop, held_out) for path, start, stop in missing]
            for job in tqdm(jobs, desc="rendering the world", unit="shard"):
                job.result()
    images, labels = [], []
    for path, _, _ in shards:
        with np.load(path) as shard:
            images.append(shard["images"])
            labels.extend(json.loads(shard["labels"].tobytes()))
    return np.concatenate(images), labels
