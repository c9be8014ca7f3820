"""The run that a stage goes on from, as a checkpoint: what kind of run it must be, and its scenes."""

from __future__ import annotations

from pathlib import Path

from configs.lineage import check_same_world, check_stage
from configs.load import from_plain
from configs.schema import STAGES, RunConfig
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


def load_source(config: RunConfig, scenes_class: type[AnyScenes]) -> AnyScenes:
    """The scenes of the earlier stage, on the CPU; raises as ``check_source``."""
    return restore(scenes_class, check_source(config), Path(config.source))
