"""From a configuration to a run of training, and on from a checkpoint."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy

from configs.load import find_device
from configs.schema import STAGES, RunConfig
from guidance.building import preset_remark
from guidance.frozen_model import FrozenModel
from guidance.network_speed import check_speed, speed_up
from runs.devices import chosen_precision, ordered_sums, use_threads
from runs.frozen_model import build_prior, build_prompts, check_views, too_little_memory
from runs.processes import agreed_folder, cluster_environment, end_with_first_process, is_first_process
from systems.base import DistillationSystem
from systems.callbacks.checkpoints import Checkpoints
from systems.callbacks.collapse import CollapseDetection
from systems.callbacks.diagnostics import Diagnostics
from systems.callbacks.first_process import FirstProcessWatch
from systems.callbacks.interruption import Interruption
from systems.callbacks.notices import EstimatorWatch, Forecast
from systems.callbacks.performance import Performance, Progress
from systems.callbacks.results import Previews, Results, write_results
from systems.checkpoints import (
    AtomicCheckpointIO,
    check_same_prior,
    check_same_run,
    check_state,
    plain,
    read_checkpoint,
    read_metadata,
)
from systems.layout import newest_path
from systems.memory import memory_line
from systems.outputs.loggers import build_loggers, close_loggers, log_interval
from systems.source import check_source, read_source_mesh
from systems.stages import system_class


class Interrupted(Exception):
    """A signal stopped the run after an iteration, perhaps its last, and a checkpoint was written."""

    def __init__(self, message: str, requeue: bool = False) -> None:
        super().__init__(message)
        self.requeue = requeue  # the signal was that of a scheduler, before the job's time ends


def train(config: RunConfig, folder: Path, resume: Path | None = None, begun: Callable[[], None] | None = None) -> Path:
    """Run, or go on from a checkpoint, to the end of the configuration's iterations.

    Args:
        begun: called in the first process once nothing speaks against the run any more.

    Returns:
        The folder with the results.

    Raises:
        ValueError, FileNotFoundError: a prior, prompt, source or checkpoint that cannot be used.
        CollapseError: the scene or a number is beyond recovery.
        Interrupted: a signal stopped it.
    """
    folder = agreed_folder(Path(folder))
    end_with_first_process()
    if resume is not None:
        check_same_run(resume, read_metadata(resume), config)
    elif config.starts_from_mesh:
        print_notes(read_source_mesh(config).mesh.notes)  # before anything large is loaded
    elif STAGES[config.stage] is not None:
        check_source(config)
    check_views(config)
    use_threads(config.trainer)
    quieten_lightning()
    with ordered_sums(find_device(config.trainer.accelerator)):
        trainer = build_trainer(config, folder)
        device = trainer.strategy.root_device
        check_speed(config.prior.speed, device, trainer.world_size)
        print_memory(too_little_memory(config, device) if trainer.is_global_zero else None)
        prior = build_prior(config, device)
        system = system_class(config)(config, prior, build_prompts(config, prior))
        speed_up(system.guidance, config.prior.speed)
        system.scene.to(device)
        if resume is None:
            system.scene.begin(folder if trainer.is_global_zero else None)
        print_setup(config, trainer, prior, system)
        only_results_left = resume is not None and is_at_the_end(system, resume)
        if begun is not None and trainer.is_global_zero:
            begun()
        if only_results_left:
            if trainer.is_global_zero:
                checkpoint = read_checkpoint(resume)
                system.load_state_dict(checkpoint["state_dict"])
                write_results(system, folder, checkpoint["callbacks"]["Performance"]["seconds"])
            return folder
        if trainer.is_global_zero:
            if resume is not None:  # Lightning restores it later, and a surface is as large as it has become
                system.load_state_dict(read_checkpoint(resume)["state_dict"])
            print_memory(memory_line(system, device))
        interruption = next(callback for callback in trainer.callbacks if isinstance(callback, Interruption))
        try:
            trainer.fit(system, ckpt_path=resume, weights_only=True)
            if system.iterations == 0:
                save_beginning(trainer, system, folder)
        finally:
            interruption.release()
    close_loggers(config.logger)
    if interruption.stopping or interruption.received is not None:  # also while the results were written
        message = f"stopped after iteration {int(system.iteration)}; go on with --resume {newest_path(folder)}"
        raise Interrupted(message, interruption.requeue)
    return folder


def is_at_the_end(system: DistillationSystem, checkpoint: Path) -> bool:
    """Whether nothing but the results is left to do.

    Raises:
        ValueError: the checkpoint does not fit, or is beyond the run's end.
    """
    metadata = read_metadata(checkpoint)
    check_same_prior(checkpoint, metadata, system.guidance.latent_shape)
    check_state(checkpoint, read_checkpoint(checkpoint)["state_dict"], system)
    if metadata.iteration > system.iterations:
        raise ValueError(
            f"checkpoint: {str(checkpoint)!r} is at iteration {metadata.iteration}, beyond this run's "
            f"{system.iterations}; raise iterations, or use an earlier checkpoint"
        )
    return metadata.iteration == system.iterations


def save_beginning(trainer: lightning.Trainer, system: DistillationSystem, folder: Path) -> None:
    """Checkpoint and results of a run without iterations, whose loop Lightning doesn't enter."""
    next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoints)).save(trainer, system)
    if trainer.is_global_zero:
        system.scene.to(trainer.strategy.root_device)
        write_results(system, folder, seconds=0.0)


def build_trainer(config: RunConfig, folder: Path) -> lightning.Trainer:
    """Lightning's Trainer with this project's callbacks, loggers and checkpoints."""
    interruption, detection, performance = Interruption(), CollapseDetection(config.collapse), Performance()
    environment = cluster_environment()
    callbacks = [
        FirstProcessWatch(),
        performance,
        interruption,
        detection,
        Previews(config.output.preview_every, folder),
        Diagnostics(config, folder),
        Results(folder, performance),
        Forecast(),
        EstimatorWatch(),
        Progress(),
        Checkpoints(config.output, folder, interruption, detection),
    ]
    return lightning.Trainer(
        accelerator=find_device(config.trainer.accelerator),
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=distributed_strategy() if config.trainer.devices * config.trainer.num_nodes > 1 else "auto",
        precision=chosen_precision(config.trainer),
        max_epochs=1,
        logger=build_loggers(config.logger, folder, f"{config.name}: {config.prompt}", plain(config)),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), *([] if environment is None else [environment])],
        default_root_dir=folder,
        log_every_n_steps=log_interval(config.iterations * config.particles),
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )


def distributed_strategy() -> DDPStrategy:
    """Lightning's DDP for this loop."""
    return DDPStrategy(
        # Theta's and phi's losses reach disjoint parameters, and of n particles one is seen.
        find_unused_parameters=True,
        # Lattices and occupancy grids: every rank computes the same ones, so that none has to be sent.
        broadcast_buffers=False,
    )


def quieten_lightning() -> None:
    """Drop Lightning's remarks on what this project does on purpose, and its advertisements; warnings stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    empty = "Total length of `.*` across ranks is zero"  # a run without iterations
    for message in ("Your `IterableDataset` has `__len__` defined", ".*isinstance\\(treespec, LeafSpec\\)", empty):
        warnings.filterwarnings("ignore", message)


def print_memory(line: str | None) -> None:
    if line is not None:
        print(f"memory: {line}", flush=True)


def print_notes(notes: Iterable[str]) -> None:
    """What a user should know, once for all processes."""
    for note in notes if is_first_process() else ():
        print(f"note: {note}", flush=True)


def print_setup(config: RunConfig, trainer: lightning.Trainer, prior: FrozenModel, system: DistillationSystem) -> None:
    """Say what runs where: the model, the device, the number of trained parameters."""
    if not trainer.is_global_zero:
        return
    device = trainer.strategy.root_device
    estimator = system.guidance.estimator
    trained = {
        "scene": sum(p.numel() for p in system.scene.parameters() if p.requires_grad),
        "estimator": 0 if estimator is None else sum(p.numel() for p in estimator.parameters()),
    }
    path = config.guidance.frozen_model(config.prior.path).path
    print(
        f"prior: {path} ({prior.describe()})\n"
        f"device: {device} x {trainer.world_size}, precision {trainer.precision}, torch threads "
        f"{torch.get_num_threads()}, {system.scene.backend(device)}\n"
        f"trained parameters: scene {trained['scene']:,}, estimator {trained['estimator']:,}",
        flush=True,
    )
    if prior.views_together > 1:
        low, high = config.cameras.azimuth_deg
        print(
            f"views: in groups of {prior.views_together} of one object, at one elevation and distance, azimuths "
            f"{(high - low) / prior.views_together:g} degrees apart from a random start; one noise level a group",
            flush=True,
        )
    remarks = [
        preset_remark(prior, config.prior.preset, config.prior.path),
        None if estimator is None else estimator.remark(),
    ]
    print_notes([*system.scene.notes, *filter(None, remarks)])
