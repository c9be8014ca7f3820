"""How large everything is: as in a run, or tiny, to try the benchmark itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.config import HashGridConfig


@dataclass(frozen=True)
class Sizes:
    """Of what is measured."""

    matrix: int  # side of the matrices of the rate
    copied: int  # bytes of the copy
    points: int  # of the hash grid
    checked_points: int  # of it against the reference, which needs much memory
    grid: HashGridConfig
    image: int  # pixels a side whose rays are marched and composited
    samples: int  # across the diameter
    subdivisions: int  # of the icosphere that is rasterised, 20 * 4^subdivisions faces
    repeats: int  # of a timing
    warmup: int  # iterations of a stage before it is timed
    iterations: int  # of a stage that are timed, at most
    stage: dict[str, str] = field(default_factory=dict)  # further settings of the stages


FULL = Sizes(
    matrix=8192,
    copied=2**31,
    points=2**21,
    checked_points=2**18,
    grid=HashGridConfig(finest_resolution=4096),
    image=512,
    samples=96,
    subdivisions=7,
    repeats=20,
    warmup=5,
    iterations=60,
)
SMALL = Sizes(
    matrix=64,
    copied=2**16,
    points=600,
    checked_points=300,
    grid=HashGridConfig(levels=4, log2_hashmap_size=10, base_resolution=4, finest_resolution=40),
    image=6,
    samples=16,
    subdivisions=1,
    repeats=1,
    warmup=1,
    iterations=2,
    stage={
        "render.size": "32",
        "render.occupancy_resolution": "16",
        "render.volume.samples_per_ray": "12",
        "scene.field.grid.levels": "3",
        "scene.field.grid.log2_hashmap_size": "9",
        "scene.field.grid.base_resolution": "4",
        "scene.field.grid.finest_resolution": "16",
        "appearance.field.grid.levels": "3",
        "appearance.field.grid.log2_hashmap_size": "9",
        "surface.field.cells": "8",
        "estimator.gradient_checkpointing": "false",
    },
)
