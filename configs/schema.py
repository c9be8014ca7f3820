"""The configuration of a run: every field that a YAML or ``key=value`` can set, with its type and unit.

A run's configuration is put together from the configurations that stand beside the classes they
belong to; what is left is here. Defaults are the paper's; the YAML files of this folder change them.
Numbers of iterations are for one particle: they are multiplied by ``particles``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from configs.schedules import Knots, check_knots
from guidance.estimator import EstimatorConfig
from guidance.vsd import GuidanceConfig
from models.image import ImageConfig
from models.scene import NeRFSceneConfig
from renderers.cameras import CameraSampling, ViewThresholds
from renderers.volume import VolumeRendererConfig

STAGES = ("nerf", "image")
ACCELERATORS = ("auto", "cpu", "cuda")
TRAINER_PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}: {value:g} must be positive")


def _not_negative(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < 0:
            raise ValueError(f"{name}: {value:g} must be 0 or more")


def _folder_name(name: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"{name}: {value!r} is no folder name; use letters, digits, dots, dashes and underscores")


@dataclass(frozen=True)
class PriorConfig:
    """Which frozen text-to-image model pulls, and how it is run."""

    path: str = "priors/mini"  # folder in diffusers' format (relative: to the repository) or a hub id
    precision: str = "auto"  # of the frozen weights: fp32 | bf16 | fp16; auto: bf16 on CUDA, fp32 on a CPU

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise ValueError(f"precision: {self.precision!r} is not one of auto, fp32, bf16, fp16")


@dataclass(frozen=True)
class PromptTextConfig:
    """How the prompt is turned into the texts that the networks read."""

    negative: str = ""  # what classifier-free guidance pushes away from
    view_template: str = "{prompt}, {view} view"  # {view}: front, side, back, overhead or bottom
    view_thresholds: ViewThresholds = field(default_factory=ViewThresholds)
    embedded_guidance: float | None = None  # scale that guidance-distilled models (FLUX) read; None: the model's own


@dataclass(frozen=True)
class NoiseConfig:
    """Range of t for the scene's gradient, as fractions of the noise schedule, by iteration."""

    t_min: Knots = field(default_factory=lambda: [[0, 0.02]])
    t_max: Knots = field(default_factory=lambda: [[0, 0.98], [5000, 0.98], [5000, 0.5]])

    def __post_init__(self) -> None:
        for name in ("t_min", "t_max"):
            check_knots(name, getattr(self, name))
            if any(not 0 <= value <= 1 for _, value in getattr(self, name)):
                raise ValueError(f"{name}: values are fractions of the noise schedule in [0, 1]")


@dataclass(frozen=True)
class SceneOptimizerConfig:
    """Adam on the scene; learning rates by iteration."""

    lr_grid: Knots = field(default_factory=lambda: [[0, 1e-2]])
    lr_mlp: Knots = field(default_factory=lambda: [[0, 1e-3]])
    lr_image: Knots = field(default_factory=lambda: [[0, 3e-2]])  # of logits
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-15
    clip_norm: float | None = None  # of the scene's gradient, None: no clipping

    def __post_init__(self) -> None:
        for name in ("lr_grid", "lr_mlp", "lr_image"):
            check_knots(name, getattr(self, name))
        _positive(self, "eps", "clip_norm")


@dataclass(frozen=True)
class EstimatorOptimizerConfig:
    """AdamW on the LoRA estimator."""

    lr: float = 1e-4  # after warm-up
    warmup_iterations: int = 100  # linear from 0; not multiplied by the number of particles
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    steps_per_iteration: int = 1  # K: optimizer steps of phi for each of theta
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        _positive(self, "lr", "steps_per_iteration", "clip_norm")
        _not_negative(self, "warmup_iterations", "weight_decay")


@dataclass(frozen=True)
class RenderConfig:
    """How training views are rendered."""

    size: int = 512  # pixels a side
    views: int = 1  # views an iteration and device: the batch size of the guidance
    volume: VolumeRendererConfig = field(default_factory=VolumeRendererConfig)
    occupancy_resolution: int = 64  # cells along an axis
    occupancy_every: int = 16  # iterations between two updates of the occupancy grid
    occupancy_warmup: int = 256  # iterations before empty space is skipped
    random_background: float = 0.5  # probability that a solid random colour replaces the background network
    background_low: float = 0.0  # range of the random colours' brightness, sRGB
    background_high: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "size", "views", "occupancy_resolution", "occupancy_every")
        _not_negative(self, "occupancy_warmup")
        if not 0 <= self.random_background <= 1:
            raise ValueError(f"random_background: {self.random_background:g} is no probability in [0, 1]")
        if not 0 <= self.background_low <= self.background_high <= 1:
            raise ValueError(
                f"background_low and background_high: need 0 <= low <= high <= 1, "
                f"not {self.background_low:g} and {self.background_high:g}"
            )


@dataclass(frozen=True)
class RegularizerConfig:
    """Weights of the regularisers by iteration; ``systems/regularizers.py`` has their formulas."""

    entropy: Knots = field(default_factory=lambda: [[0, 10.0]])  # of per-sample weights: no fog along a ray
    sparsity: Knots = field(default_factory=lambda: [[0, 0.0]])  # of pixel opacity: no matter without need
    opacity_binary: Knots = field(default_factory=lambda: [[0, 0.0]])  # pixels are object or background

    def __post_init__(self) -> None:
        for name in ("entropy", "sparsity", "opacity_binary"):
            check_knots(name, getattr(self, name))


@dataclass(frozen=True)
class OutputConfig:
    """What a run writes and when. Iterations here are not multiplied by the number of particles."""

    folder: str = "outputs"
    run: str | None = None  # name of the run's folder; None: date and time
    preview_every: int = 100  # iterations between two preview pictures
    diagnostics_every: int = 500  # iterations between two looks at what prior and estimator believe
    checkpoint_every: int = 500  # iterations between two checkpoints
    checkpoint_minutes: float = 10.0  # or minutes, whichever comes first
    keep_checkpoints: int = 2  # the last k stay
    turntable_frames: int = 60
    turntable_size: int = 128  # pixels a side
    turntable_elevation_deg: float = 20.0
    mesh_resolution: int = 128  # density samples along an axis
    mesh_level: float | None = None  # density of the surface; None: chosen from the density itself

    def __post_init__(self) -> None:
        _positive(self, "preview_every", "diagnostics_every", "checkpoint_every", "checkpoint_minutes")
        if self.run is not None:
            _folder_name("run", self.run)
        _positive(self, "keep_checkpoints", "turntable_frames", "turntable_size", "mesh_resolution", "mesh_level")
        if not -90 < self.turntable_elevation_deg < 90:
            raise ValueError(f"turntable_elevation_deg: {self.turntable_elevation_deg:g} must lie inside (-90, 90)")


@dataclass(frozen=True)
class CollapseConfig:
    """When a scene counts as dead, so that the run stops instead of wasting hours."""

    enabled: bool = True
    patience: int = 50  # iterations of a particle in a row that must look dead
    min_opacity: float = 0.002  # mean over a view's pixels: below, the scene is empty
    max_opaque: float = 0.995  # share of a view's opaque pixels: above, it fills everything
    max_saturated: float = 0.995  # share of colour values at 0 or 1: above, the colours have burnt out

    def __post_init__(self) -> None:
        _positive(self, "patience")
        for name in ("min_opacity", "max_opaque", "max_saturated"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name):g} is no share in [0, 1]")


@dataclass(frozen=True)
class TrainerConfig:
    """What is left to Lightning's Trainer."""

    accelerator: str = "auto"  # auto | cpu | cuda; auto: CUDA where PyTorch sees a device
    devices: int = 1  # processes; each has its own CUDA device, or a share of the CPU
    precision: str = "auto"  # Lightning's; auto: bf16-mixed on CUDA, 32-true on a CPU
    threads: int | None = None  # torch's threads on a CPU; None: torch's own choice

    def __post_init__(self) -> None:
        for name, known in (("accelerator", ACCELERATORS), ("precision", TRAINER_PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(known)}")
        _positive(self, "devices", "threads")


@dataclass(frozen=True)
class RunConfig:
    """A run of one stage."""

    stage: str = "nerf"  # what theta is: nerf, a radiance field; image, a picture
    name: str = "vsd-nerf"  # of the configuration; the first folder below ``output.folder``
    prompt: str = "a red mug"
    seed: int = 0
    iterations: int = 25_000  # for one particle
    particles: int = 1  # n: scenes that share one estimator
    logger: str = "csv"  # csv, or wandb beside it
    prior: PriorConfig = field(default_factory=PriorConfig)
    text: PromptTextConfig = field(default_factory=PromptTextConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    image: ImageConfig = field(default_factory=ImageConfig)  # of the stage image
    scene: NeRFSceneConfig = field(default_factory=NeRFSceneConfig)
    cameras: CameraSampling = field(default_factory=CameraSampling)
    render: RenderConfig = field(default_factory=RenderConfig)
    regularizers: RegularizerConfig = field(default_factory=RegularizerConfig)
    optimizer: SceneOptimizerConfig = field(default_factory=SceneOptimizerConfig)
    estimator_optimizer: EstimatorOptimizerConfig = field(default_factory=EstimatorOptimizerConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError(f'prompt: {self.prompt!r} is empty; say what to make, such as prompt="a red mug"')
        _folder_name("name", self.name)
        if self.stage not in STAGES:
            raise ValueError(f"stage: {self.stage!r} is not one of {', '.join(STAGES)}")
        if self.logger not in ("csv", "wandb"):
            raise ValueError(f"logger: {self.logger!r} is not one of csv, wandb")
        _positive(self, "iterations", "particles")
        _not_negative(self, "seed")
