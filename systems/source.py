"""What a run goes on from: the checkpoint of an earlier stage, with its scenes, or a user's mesh."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.lineage import check_same_world, check_stage
from configs.load import from_plain
from configs.schema import STAGES, RunConfig
from models.mesh_file import MeshFile, read_mesh_file
from models.placement import Placement, chosen_axes, is_mesh_name
from systems.checkpoints import read_metadata
from systems.scenes import AnyScenes, restore


def check_source(config: RunConfig) -> RunConfig:
    """The configuration of the run that a stage goes on from, by its checkpoint.

    Raises:
        ValueError, FileNotFoundError: there is no source, it is of another stage or of another world, or cannot be
            read.
    """
    if config.source is None:
        raise ValueError(
            f"source: the stage {config.stage!r} goes on from a run of the stage {STAGES[config.stage]!r}; "
            "name one: from=RUN"
        )
    checkpoint = Path(config.source)
    metadata = read_metadata(checkpoint)
    earlier = from_plain(metadata.config, str(checkpoint))
    check_stage(config.stage, earlier.stage, checkpoint)
    check_same_world(config, earlier, checkpoint)
    return earlier


FILLED = 0.883  # of a view's height: as of the bundled world's pictures, whose objects have a sphere of radius 0.9
REACH = 0.92  # of the scene's radius


@dataclass(frozen=True)
class SourceMesh:
    """A user's mesh, and where it stands in the scene."""

    mesh: MeshFile
    placement: Placement


def read_source_mesh(config: RunConfig) -> SourceMesh:
    """The mesh that a run starts from, put into the middle of the scene, as large as cameras see well.

    Raises:
        FileNotFoundError, ValueError: the file cannot be used, or its axes lie on one line.
    """
    source = config.source_mesh
    path = Path(source.path)
    up, front = chosen_axes(path.suffix.lower(), source) if is_mesh_name(path.name) else ("y", "z")
    mesh = read_mesh_file(path)  # which refuses other names
    used = mesh.vertices[np.unique(mesh.faces)]
    return SourceMesh(mesh, Placement.fit(used, up, front, seen_radius(config)))


def seen_radius(config: RunConfig) -> float:
    """Radius of the sphere that fills ``FILLED`` of a view of the middle training camera, inside the scene's cube."""
    distance, fovy_deg = config.cameras.middle
    seen = distance * math.sin(math.radians(fovy_deg) / 2)
    return min(FILLED * seen, REACH * config.scene.field.radius)


def load_source(config: RunConfig, scenes_class: type[AnyScenes]) -> AnyScenes:
    """The scenes of the earlier stage, on the CPU; raises as ``check_source``."""
    return restore(scenes_class, check_source(config), Path(config.source))
