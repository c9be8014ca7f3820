"""From a configuration to a run of training, and on from a checkpoint."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy

from configs.runs import CHECKPOINT_FOLDER, NEWEST, RUN_FOLDER_VARIABLE, is_first_process
from configs.schema import EARLIER_STAGE, RunConfig
from guidance.families.flux import FluxPrior
from guidance.families.sd3 import StableDiffusion3Prior
from guidance.image_text import ImageTextModel, load_image_text_model
from guidance.loading import load_prior
from guidance.memory import device_memory, estimate_run, preflight_line
from guidance.prior import DiffusionPrior
from guidance.prompts import PromptEmbeddings, embed_prompt
from systems.base import DistillationSystem
from systems.callbacks.checkpoints import Checkpoints
from systems.callbacks.collapse import CollapseDetection
from systems.callbacks.diagnostics import Diagnostics
from systems.callbacks.interruption import Interruption
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
from systems.outputs.loggers import build_loggers, close_loggers, log_interval
from systems.source import check_source
from systems.stages import system_class

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLED = "priors"  # folder of the bundled priors in the repository
PRESETS_OF_FLOWS = {StableDiffusion3Prior: "sd35", FluxPrior: "flux"}


class Interrupted(Exception):
    """Ctrl-C or SIGTERM stopped the run after an iteration, perhaps its last, and a checkpoint was written."""


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
    if resume is not None:
        check_same_run(resume, read_metadata(resume), config)
    elif config.stage in EARLIER_STAGE:
        check_source(config)  # before anything large is loaded
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    quieten_lightning()
    with ordered_sums(chosen_device(config)):
        trainer = build_trainer(config, folder)
        if trainer.is_global_zero and not config.guidance.works_on_images:
            print(f"memory: {preflight(config, trainer.strategy.root_device)}", flush=True)
        prior = build_prior(config, trainer.strategy.root_device)
        system = system_class(config)(config, prior, build_prompts(config, prior))
        if resume is None:
            system.scene.to(trainer.strategy.root_device).begin(folder if trainer.is_global_zero else None)
        announce(config, trainer, prior, system)
        finished = resume is not None and is_finished(system, resume)
        if begun is not None and trainer.is_global_zero:
            begun()
        if finished:
            if trainer.is_global_zero:
                checkpoint = read_checkpoint(resume)
                system.load_state_dict(checkpoint["state_dict"])
                system.scene.to(trainer.strategy.root_device)
                write_results(system, folder, checkpoint["callbacks"]["Performance"]["seconds"])
            return folder
        trainer.fit(system, ckpt_path=resume, weights_only=True)
    close_loggers(config.logger)
    interruption = next(callback for callback in trainer.callbacks if isinstance(callback, Interruption))
    if interruption.stopping or interruption.received is not None:  # also while the results were written
        last = folder / CHECKPOINT_FOLDER / NEWEST
        raise Interrupted(f"stopped after iteration {int(system.iteration)}; go on with --resume {last}")
    return folder


@contextmanager
def ordered_sums(device: str) -> Iterator[None]:
    """Within the block sums on a CPU don't depend on the order of threads.

    Else these add up the gradients of shared vertices in whatever order, and a resumed run differs from one without
    a break. (On CUDA it would cost speed, and not every operation has such a form.)
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    if device == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a check for bugs, which costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def is_finished(system: DistillationSystem, checkpoint: Path) -> bool:
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


def build_trainer(config: RunConfig, folder: Path) -> lightning.Trainer:
    """Lightning's Trainer with this project's callbacks, loggers and checkpoints."""
    interruption, detection, performance = Interruption(), CollapseDetection(config.collapse), Performance()
    callbacks = [
        performance,
        interruption,
        detection,
        Previews(config.output.preview_every, folder),
        Diagnostics(config, folder),
        Results(folder, performance),
        Progress(),
        Checkpoints(config.output, folder, interruption, detection),
    ]
    return lightning.Trainer(
        accelerator=chosen_device(config),
        devices=config.trainer.devices,
        strategy=distributed_strategy() if config.trainer.devices > 1 else "auto",
        precision=chosen_precision(config),
        max_epochs=1,
        logger=build_loggers(config.logger, folder, f"{config.name}: {config.prompt}", plain(config)),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
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


def build_prior(config: RunConfig, device: torch.device) -> DiffusionPrior | ImageTextModel:
    """The frozen model that pulls, on the device and in the precision that it will run in."""
    if config.guidance.works_on_images:
        return load_image_text_model(find_prior(config.guidance.clip_model, "guidance.clip_model"), device)
    return load_prior(find_prior(config.prior.path), device, prior_dtype(config, device))


def prior_dtype(config: RunConfig, device: torch.device) -> torch.dtype:
    """The number format of the frozen weights."""
    wanted = config.prior.precision
    if wanted == "auto":
        on_cuda = "fp16" if chosen_precision(config) == "16-mixed" else "bf16"
        wanted = on_cuda if device.type == "cuda" else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]


def preflight(config: RunConfig, device: torch.device) -> str:
    """How much memory the guidance will need, before any of it is taken."""
    try:
        estimate = estimate_run(
            find_prior(config.prior.path),
            device,
            prior_dtype(config, device),
            config.prompt,
            config.text,
            config.guidance,
            config.estimator,
            config.render.views,
        )
    except RuntimeError as error:  # an operation that meta tensors lack is no reason to stop
        reason = " ".join(str(error).split())
        return f"no estimate ({reason:.100})"
    return preflight_line(estimate, device_memory(device))


def build_prompts(config: RunConfig, prior: DiffusionPrior | ImageTextModel) -> PromptEmbeddings:
    """The prompt's embeddings."""
    return embed_prompt(prior, config.prompt, config.text, config.guidance.low_quality)


def find_prior(path: str, field: str = "prior") -> str:
    """The path itself, or for a bundled model the one in the repository; hub ids pass through.

    Raises:
        FileNotFoundError: a bundled model that is not there, which would otherwise be taken for a hub id.
    """
    if Path(path).expanduser().is_dir() or Path(path).parts[:1] != (BUNDLED,):
        return path
    bundled = REPOSITORY / path
    if not bundled.is_dir():
        found = sorted(sums.parent.name for sums in (REPOSITORY / BUNDLED).glob("*/checksums.json"))
        raise FileNotFoundError(
            f"{field}: {path!r} is neither in the current folder nor in {REPOSITORY}; bundled are "
            f"{', '.join(found) or 'none'}; give one of them, a model's folder or a hub id"
        )
    return str(bundled)


def chosen_device(config: RunConfig) -> str:
    """The type of device to run on."""
    if config.trainer.accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.trainer.accelerator


def chosen_precision(config: RunConfig) -> str:
    """Lightning's name of the number format: on CUDA bfloat16, or fp16 on GPUs older than that (Turing, Volta)."""
    if config.trainer.precision != "auto":
        return config.trainer.precision
    if chosen_device(config) != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def agreed_folder(folder: Path) -> Path:
    """The folder of the first process, also in those that Lightning starts by the same command.

    Their own choice may differ: folders are named by date and time.
    """
    if is_first_process():
        os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    return Path(os.environ.get(RUN_FOLDER_VARIABLE, folder))


def quieten_lightning() -> None:
    """Drop Lightning's remarks on what this project does on purpose, and its advertisements; warnings stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in ("Your `IterableDataset` has `__len__` defined", ".*isinstance\\(treespec, LeafSpec\\)"):
        warnings.filterwarnings("ignore", message)


def announce(
    config: RunConfig, trainer: lightning.Trainer, prior: DiffusionPrior | ImageTextModel, system: DistillationSystem
) -> None:
    """Say what runs where."""
    if not trainer.is_global_zero:
        return
    device = trainer.strategy.root_device
    estimator = system.guidance.estimator
    trained = {
        "scene": sum(p.numel() for p in system.scene.parameters() if p.requires_grad),
        "estimator": 0 if estimator is None else sum(p.numel() for p in estimator.parameters()),
    }
    path = config.guidance.clip_model if config.guidance.works_on_images else config.prior.path
    print(
        f"prior: {path} ({prior.describe()})\n"
        f"device: {device} x {trainer.world_size}, precision {trainer.precision}, torch threads "
        f"{torch.get_num_threads()}, {system.scene.backend(device)}\n"
        f"trained parameters: scene {trained['scene']:,}, estimator {trained['estimator']:,}",
        flush=True,
    )
    remark = preset_remark(config, prior)
    if remark is not None:
        print(f"note: {remark}", flush=True)


def preset_remark(config: RunConfig, prior: DiffusionPrior | ImageTextModel) -> str | None:
    """A sentence where the model learnt a flow and the preset is for the other kind of model."""
    if config.guidance.works_on_images or config.prior.preset in PRESETS_OF_FLOWS.values():
        return None
    if prior.prediction_type != "flow":
        return None
    fitting = next((preset for family, preset in PRESETS_OF_FLOWS.items() if isinstance(prior, family)), None)
    remedy = f"prior={fitting} prior.path={config.prior.path} brings" if fitting else "prior=sd35 and prior=flux bring"
    return (
        f"this model learnt a flow, but where nothing else is stated noise range and guidance scale are those of the "
        f"preset {config.prior.preset!r}, which are for models like Stable Diffusion 2.1; {remedy} those of a flow"
    )
