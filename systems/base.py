"""The one training loop (Wang et al. 2023, ProlificDreamer, arXiv 2305.16213, Algorithm 1).

An iteration draws a particle and cameras, renders, takes one step of the scene's optimizer (theta) on
the distillation gradient and the regularisers, and then K steps of the estimator's optimizer (phi) on
the same renders, detached. Each optimizer has a backward pass of its own, because a pass for both would
misreport the second one's gradients when an fp16 loss scale changes in between.

The clock is the buffer ``iteration``, the number of iterations done; schedules, draws, files and logs
are keyed on it alone. (Lightning's ``global_step`` counts optimizer steps, 1 + K of them an iteration;
its loop counters are kept out of checkpoints, so that nothing can disagree with the clock.)

With n particles an iteration moves one of them on each rank, and every schedule is stretched by n. Ranks
render other particles as far as there are others; the estimator is one for all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from configs.schema import RunConfig
from guidance.building import build_guidance
from guidance.frozen_model import FrozenModel
from guidance.gradients import as_loss
from guidance.interface import GuidanceOutput
from guidance.prompts import PromptEmbeddings
from guidance.schedule import Latents
from models.transfer import to_device
from renderers.cameras import Cameras, sample_cameras
from renderers.output import RenderOutput
from settings.schedules import scaled, value_at
from systems import optimizers
from systems.checkpoints import run_metadata
from systems.collapse import OVERFLOW_ADVICE, CollapseError, require_finite
from systems.regularizers import REGULARIZERS, Rendered
from systems.scenes import Scenes
from systems.seeding import Purpose, pick_particles, stream

# Under fp16's loss scale an overflow skips a step and halves the scale. From its 65,536 the scaler needs 16 such steps
# at most to come down to 1; gradients that overflow even then aren't the scale's fault.
MAX_OVERFLOWS = 20  # of an optimizer, in a row

PROGRESS_BAR = ("loss/scene", "loss/estimator")


@dataclass(frozen=True)
class StepReport:
    """What the callbacks may look at after an iteration."""

    particle: int
    cameras: Cameras
    views: RenderOutput  # detached


class DistillationSystem(LightningModule, ABC):
    """Scenes pulled by a frozen model. A stage adds how it renders and how it is regularised."""

    stage: str  # name of the stage, in configurations and checkpoints
    scenes_class: type[Scenes]
    regularizers: tuple[str, ...] = ()  # fields of RegularizerConfig that have a meaning in this stage
    advice: ClassVar[dict[str, str]]  # what to try against a collapse, by symptom (systems/callbacks/collapse.py)
    iteration: Tensor  # on the CPU, wherever the rest is: reading it mustn't wait for a GPU
    report: StepReport  # of the last iteration

    # It is the same on all ranks, and a GPU's collectives don't read the CPU's memory.
    _ddp_params_and_buffers_to_ignore = ("iteration",)

    scene: Scenes  # theta; its parameters are the scene optimizer's

    def __init__(self, config: RunConfig, model: FrozenModel, prompts: PromptEmbeddings) -> None:
        """Put the parts together around the frozen model that the loss needs."""
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.prompts = prompts
        self.scene = self.scenes_class(config)
        initialisation = stream(config.seed, 0, Purpose.INITIALISATION)
        self.guidance = build_guidance(model, config.guidance, config.estimator, initialisation)
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        # What an iteration has to log. It is handed over in one go at the end: Lightning forgets what was
        # logged before an optimizer's step in a first iteration.
        self.figures: dict[str, Tensor | float] = {}
        self._overflows: dict[str, int] = {}  # by optimizer, in a row

    def _apply(self, fn: Callable, recurse: bool = True) -> DistillationSystem:
        super()._apply(fn, recurse)
        self.iteration = self.iteration.cpu()
        return self

    @property
    def iterations(self) -> int:
        """Of the whole run, all particles together."""
        return self.config.iterations * self.config.particles

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return 1 if self._trainer is None else self.trainer.world_size

    def first_problem(self, mine: str | None) -> str | None:
        """What went wrong on the first of the ranks on which something did: all have to stop together."""
        if self.ranks == 1:
            return mine
        found: list[str | None] = [None] * self.ranks
        dist.all_gather_object(found, mine)
        return next((problem for problem in found if problem is not None), None)

    @abstractmethod
    def render_training_views(self, iteration: int, particle: int, cameras: Cameras) -> RenderOutput:
        """Views with gradient, at the training size."""

    def prepare(self, iteration: int) -> None:
        """What a stage has to keep up to date before it renders; nothing by default."""

    def on_fit_start(self) -> None:
        self.prompts = self.prompts.to(self.device)

    def train_dataloader(self) -> DataLoader:
        """The iterations that are left, from the clock (0, or restored from a checkpoint) to the end.

        Everything else that a step needs is drawn from its number (`systems.seeding`).
        """
        return DataLoader(IterationNumbers(int(self.iteration), self.iterations), batch_size=None)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Theta's optimizer and, where the loss trains an estimator, phi's."""
        fused = self.trainer.precision != "16-mixed"
        groups = self.scene.parameter_groups()
        both: list[torch.optim.Optimizer] = [
            optimizers.scene_optimizer(self.scene, groups, self.config.optimizer, fused)
        ]
        if self.guidance.estimator is not None:
            config = self.config.estimator_optimizer
            both.append(optimizers.estimator_optimizer(self.guidance.estimator, config, fused))
        return both

    def training_step(self, batch: int, batch_idx: int) -> None:
        """One iteration."""
        iteration = int(self.iteration)
        assert int(batch) == iteration, f"the data is at iteration {batch}, the module at {iteration}"
        self._set_learning_rates(iteration)
        self.prepare(iteration)
        particles = pick_particles(self.config.seed, iteration, self.config.particles, self.ranks)
        particle = particles[self.global_rank]
        cameras = self.draw_cameras(iteration)
        views = self.render_training_views(iteration, particle, cameras)
        latents = self.encode(views.rgb)
        guidance = self.guidance.gradient(
            latents, self.prompts, cameras, self.noise_range(iteration), self._stream(Purpose.SCENE_STEP, iteration)
        )
        self._step_scene(iteration, latents, guidance, views, particles.count(particle) / self.ranks)
        if self.guidance.estimator is not None:
            self._step_estimator(iteration, latents.detach(), guidance, cameras)
        self.report = StepReport(particle, cameras, views.detached())
        self.iteration += 1
        self._log(guidance, views)

    def draw_cameras(self, iteration: int) -> Cameras:
        """This rank's cameras of an iteration."""
        generator = self._stream(Purpose.CAMERAS, iteration)
        together = self.guidance.views_together
        return sample_cameras(self.config.render.views, self.config.cameras, generator, together).to(self.device)

    def encode(self, rgb: Float[Tensor, "batch height width 3"]) -> Latents:
        """Renders (BHWC) to what the loss reads, latents or images (BCHW), with gradient.

        Renders of another size than the frozen model was trained for are resized: it knows objects at one
        scale only.
        """
        images = rgb.permute(0, 3, 1, 2)
        size = self.guidance.image_size
        if images.shape[-1] != size:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return self.guidance.encode(images)

    @torch.no_grad()
    def _autoencode(self, latents: Latents, size: int) -> Float[Tensor, "batch size size 3"]:
        """What the prior's decoder makes of latents, as renders of that size."""
        images = self.guidance.decode(latents)
        if images.shape[-1] != size:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return images.permute(0, 2, 3, 1)

    def noise_range(self, iteration: int) -> tuple[float, float]:
        """Range of t for the scene's gradient, as fractions of the noise schedule."""
        noise = self.config.noise
        return self._schedule(noise.t_min, iteration), self._schedule(noise.t_max, iteration)

    def training_size(self, iteration: int) -> int:
        """Pixels a side of the views that are rendered with gradient."""
        return max(round(self.config.render.size * self._schedule(self.config.render.scale, iteration)), 1)

    def regularizer_weights(self, iteration: int) -> dict[str, float]:
        config = self.config.regularizers
        return {name: self._schedule(getattr(config, name), iteration) for name in self.regularizers}

    def _step_scene(
        self, iteration: int, latents: Latents, guidance: GuidanceOutput, views: RenderOutput, share: float
    ) -> None:
        """Algorithm 1, step 2, with the regularisers.

        Args:
            share: of the ranks, those that render this rank's particle.
        """
        weights = self.regularizer_weights(iteration)
        target = self._schedule(self.config.regularizers.transmittance_target, iteration)
        seen = Rendered(views, target, lambda: self._autoencode(latents, views.rgb.shape[1]))
        terms = {name: REGULARIZERS[name](seen) for name, weight in weights.items() if weight}
        loss = as_loss(latents, guidance.gradient)
        self.figures["loss/guidance"] = loss.detach()
        for name, value in terms.items():
            self.figures[f"loss/{name}"] = value.detach()
            loss = loss + weights[name] * value
        self._update(0, "scene", loss, share)
        self.figures |= {f"schedule/{name}": weight for name, weight in weights.items()}

    def _step_estimator(self, iteration: int, latents: Latents, guidance: GuidanceOutput, cameras: Cameras) -> None:
        """Algorithm 1, step 3, K times; a pass shared with the score is the first of them."""
        for step in range(self.config.estimator_optimizer.steps_per_iteration):
            loss = guidance.estimator_loss if step == 0 else None
            if loss is None:
                generator = self._stream(Purpose.ESTIMATOR_STEP, iteration, step)
                loss = self.guidance.estimator_loss(latents, self.prompts, cameras, generator)
            self._update(1, "estimator", loss)

    def _update(self, index: int, name: str, loss: Tensor, share: float = 1.0) -> None:
        """Backward and one step of an optimizer; nothing is updated by a loss that is no number.

        Args:
            share: of the ranks, those whose loss reaches the parameters that this rank's does.
        """
        # The mean over ranks, so that all of them stop together. It is looked at before the optimizer's step.
        self.figures[f"loss/{name}"] = self.trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean")
        optimizer = self._optimizers()[index]
        optimizer.zero_grad()
        # The forward pass chose its number formats; autocast would round the gradients of what ran in float32.
        with torch.autocast(self.device.type, enabled=False):
            # Gradients are summed over ranks and divided by all of them; each is to be the mean over those it is of.
            self.manual_backward(loss if share == 1 else loss / share)
        optimizer.step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Look at the loss and the gradient, unscaled and averaged over ranks, and clip it.

        Both numbers come in one transfer, the only one that an optimizer's step waits for.
        """
        is_scene = optimizer is self._optimizers()[0].optimizer
        name, config = ("scene", self.config.optimizer) if is_scene else ("estimator", self.config.estimator_optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm, loss = optimizers.gradient_norm(parameters), self.figures[f"loss/{name}"]
        loss_value, norm_value = torch.stack([torch.as_tensor(loss).float(), norm.to(self.device)]).tolist()
        require_finite(f"loss/{name}", loss_value, int(self.iteration), state_is_sound=is_scene)
        # An overflow under a loss scale is no collapse: the scaler skips the step and lowers the scale.
        if self.trainer.precision == "16-mixed":
            self._overflows[name] = 0 if math.isfinite(norm_value) else self._overflows.get(name, 0) + 1
            if self._overflows[name] >= MAX_OVERFLOWS:
                quantity = f"grad/{name} is {norm_value:g} in fp16 for {MAX_OVERFLOWS} steps in a row"
                raise CollapseError(quantity, int(self.iteration), OVERFLOW_ADVICE, state_is_sound=is_scene)
        else:
            require_finite(f"grad/{name}", norm_value, int(self.iteration), state_is_sound=is_scene)
        if config.clip_norm is not None:
            optimizers.scale_gradients(parameters, norm, config.clip_norm)
        self.figures[f"grad/{name}"] = norm

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Say what the checkpoint belongs to, and leave out Lightning's counters."""
        checkpoint.pop("loops", None)
        latent_shape = self.guidance.latent_shape
        checkpoint["run"] = asdict(run_metadata(self.config, self.stage, int(self.iteration), latent_shape))

    def _set_learning_rates(self, iteration: int) -> None:
        rates = optimizers.scene_rates(self.scene.parameter_groups(), iteration, self.config.particles)
        if self.guidance.estimator is not None:
            rates["estimator"] = optimizers.estimator_rate(self.config.estimator_optimizer, iteration)
        for optimizer in self._optimizers():
            optimizers.set_learning_rates(optimizer.optimizer, rates)
        self.figures |= {f"schedule/lr_{name}": rate for name, rate in rates.items()}

    def _log(self, guidance: GuidanceOutput, views: RenderOutput) -> None:
        """Hand all figures of the iteration to Lightning."""
        self.figures |= {
            **guidance.figures,
            "render/opacity": views.opacity.detach().mean(),
            "render/brightness": views.rgb.detach().mean(),
            # The x axis of all logs: iterations done, as in the names of files.
            "step": float(self.iteration),
        }
        self.figures = on_device(self.figures, self.device)
        shown = {name: value for name, value in self.figures.items() if name in PROGRESS_BAR}
        self.log_dict(shown, prog_bar=True)
        self.log_dict({name: value for name, value in self.figures.items() if name not in shown})
        self.figures = {}

    def _optimizers(self) -> list:
        found = self.optimizers()
        return found if isinstance(found, list) else [found]

    def _schedule(self, knots: list[list[float]], iteration: int) -> float:
        return value_at(scaled(knots, self.config.particles), iteration)

    def _stream(self, purpose: Purpose, iteration: int, index: int = 0) -> torch.Generator:
        """This rank's random stream."""
        return stream(self.config.seed, iteration, purpose, self.global_rank, index)


def on_device(figures: Mapping[str, Tensor | float], device: torch.device) -> dict[str, Tensor | float]:
    """Figures with their numbers on the device, by one copy: Lightning would copy each, and wait for the device."""
    numbers = {name: value for name, value in figures.items() if not isinstance(value, Tensor)}
    copied = to_device(torch.tensor(list(numbers.values()), dtype=torch.float32), device)
    return {**figures, **dict(zip(numbers, copied, strict=True))}


class IterationNumbers(IterableDataset):
    """The training "data": the iterations from ``start`` up to, not including, ``stop``."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)
