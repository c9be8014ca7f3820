"""What a run goes on from: the checkpoint of an earlier stage, with its scenes, or a user's mesh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class SourceMesh:
    """A user's mesh, and where it stands in the scene."""

    mesh: MeshFile
    placement: Placement


def read_source_mesh(config: RunConfig) -> SourceMesh:
    """The mesh that a run starts from, put into the middle of the scene.

    Raises:
        FileNotFoundError, ValueError: the file cannot be used, or its axes lie on one line.
    """
    source = config.source_mesh
    path = Path(source.path)
    up, front = chosen_axes(path.suffix.lower(), source) if is_mesh_name(path.name) else ("y", "z")
    mesh = read_mesh_file(path)  # which refuses other names
    used = mesh.vertices[mesh.faces.ravel()]
    return SourceMesh(mesh, Placement.fit(used, up, front, config.scene.field.radius))


def load_source(config: RunConfig, scenes_class: type[AnyScenes]) -> AnyScenes:
    """The scenes of the earlier stage, on the CPU; raises as ``check_source``."""
    return restore(scenes_class, check_source(config), Path(config.source))
