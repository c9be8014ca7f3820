"""The configuration of a run: every field that a YAML or ``key=value`` can set, with its type and unit.

A run's configuration is put together from the configurations that stand beside the classes they
belong to; what is left is here. Defaults are the paper's for its first stage; ``configs/defaults.yaml`` has
those that go with another stage or loss.
Numbers of iterations are for one particle: they are multiplied by ``particles``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields

from settings.schedules import Knots, check_knots, value_at
from guidance.config import EstimatorConfig, GuidanceConfig, TextConfig
from models.config import ImageConfig, NeRFSceneConfig, SDFFieldConfig, TextureFieldConfig
from renderers.config import BakingConfig, CameraSampling, MeshRendererConfig, VolumeRendererConfig

STAGES = ("nerf", "geometry", "texture", "image")
EARLIER_STAGE = {"geometry": "nerf", "texture": "geometry"}  # of the run that a stage goes on from
SHADINGS = ("normals", "lit")
EXPORT_FORMATS = ("glb", "obj", "ply", "html")
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


def _momenta(config: object) -> None:
    betas = config.betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas: {list(betas)} must be two numbers in [0, 1)")


def _schedules(config: object, *names: str) -> None:
    """Schedules of rates or weights: below 0 they would drive away from what is wanted."""
    for name in names:
        check_knots(name, getattr(config, name))
        if any(value < 0 for _, value in getattr(config, name)):
            raise ValueError(f"{name}: {getattr(config, name)} holds values below 0; use 0 or more")


def _folder_name(name: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"{name}: {value!r} is no folder name; use letters, digits, dots, dashes and underscores")


@dataclass(frozen=True)
class PriorConfig:
    """Which frozen text-to-image model pulls, and how it is run."""

    path: str = "priors/mini"  # folder in diffusers' format (relative: to the repository) or a hub id
    preset: str = "mini"  # file of configs/prior that the settings came from; prior=NAME chooses it
    # Of the frozen weights: fp32 | bf16 | fp16; auto: fp32 on a CPU, bf16 on CUDA (fp16 with a 16-mixed trainer).
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise ValueError(f"precision: {self.precision!r} is not one of auto, fp32, bf16, fp16")


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
        changes = {iteration for iteration, _ in self.t_min + self.t_max}
        before = {math.nextafter(change, 0) for change in changes}  # particles stretch the time, so not one iteration
        for iteration in sorted(changes | before):  # linear in between
            low, high = value_at(self.t_min, iteration), value_at(self.t_max, iteration)
            if low > high:
                raise ValueError(
                    f"t_min and t_max: at iteration {iteration:g} the range of noise levels is inverted: "
                    f"{low:g} is above {high:g}"
                )


@dataclass(frozen=True)
class SceneOptimizerConfig:
    """Adam on the scene; learning rates by iteration."""

    lr_grid: Knots = field(default_factory=lambda: [[0, 1e-2]])
    lr_mlp: Knots = field(default_factory=lambda: [[0, 1e-3]])
    lr_image: Knots = field(default_factory=lambda: [[0, 3e-2]])  # of the spectrum of logits
    lr_geometry: Knots = field(default_factory=lambda: [[0, 5e-3]])  # of signed distances (scene units) and offsets
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-15
    clip_norm: float | None = None  # of the scene's gradient, None: no clipping

    def __post_init__(self) -> None:
        _schedules(self, "lr_grid", "lr_mlp", "lr_image", "lr_geometry")
        _positive(self, "eps", "clip_norm")
        _momenta(self)


@dataclass(frozen=True)
class EstimatorOptimizerConfig:
    """AdamW on the LoRA estimator."""

    lr: float = 1e-4  # after warm-up
    warmup_iterations: int = 500  # linear from 0; not multiplied by the number of particles
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)  # threestudio's; the paper's code has (0.9, 0.999)
    steps_per_iteration: int = 1  # K: optimizer steps of phi for each of theta
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        _positive(self, "lr", "steps_per_iteration", "clip_norm")
        _not_negative(self, "warmup_iterations", "weight_decay")
        _momenta(self)


@dataclass(frozen=True)
class RenderConfig:
    """How training views are rendered."""

    size: int = 512  # pixels a side
    views: int = 1  # views an iteration and device: the batch size of the guidance
    volume: VolumeRendererConfig = field(default_factory=VolumeRendererConfig)  # of the stage nerf
    mesh: MeshRendererConfig = field(default_factory=MeshRendererConfig)  # of the stages geometry and texture
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
    transmittance: Knots = field(default_factory=lambda: [[0, 0.0]])  # Dream Fields: room around the object
    # No weight, but the share of a view's light that ``transmittance`` asks to pass; Dream Fields' by default.
    transmittance_target: Knots = field(
        default_factory=lambda: [[0, 0.4], [100, 0.565], [200, 0.685], [300, 0.772], [400, 0.834], [500, 0.88]]
    )
    # Of views to what the prior's autoencoder makes of them: no noise that it can't see. Costs a decoding an iteration.
    reconstruction: Knots = field(default_factory=lambda: [[0, 0.0]])
    # Of the stage geometry. The weights make up for means over a whole mesh: with the bundled prior both gradients are
    # then about as long as the guidance's, and its noise doesn't crumple the surface.
    normal_consistency: Knots = field(default_factory=lambda: [[0, 1e4]])  # no creases
    laplacian: Knots = field(default_factory=lambda: [[0, 1e6]])  # evenly spaced, smooth vertices

    def __post_init__(self) -> None:
        _schedules(self, *(term.name for term in fields(self)))
        if any(not 0 <= value <= 1 for _, value in self.transmittance_target):
            raise ValueError("transmittance_target: values are shares of a view's light in [0, 1]")


@dataclass(frozen=True)
class SurfaceConfig:
    """Stage geometry: a surface that starts from a radiance field's density, and what its renders show."""

    field: SDFFieldConfig = field(default_factory=SDFFieldConfig)
    level: float | None = None  # density of the surface at first; None: as output.mesh_level
    shading: str = "normals"  # normals: as colours; lit: the radiance field's colours under a light from above

    def __post_init__(self) -> None:
        _positive(self, "level")
        if self.shading not in SHADINGS:
            raise ValueError(f"shading: {self.shading!r} is not one of {', '.join(SHADINGS)}")


@dataclass(frozen=True)
class AppearanceConfig:
    """Stage texture: colours on the surface of the stage geometry."""

    field: TextureFieldConfig = field(default_factory=TextureFieldConfig)
    fit_iterations: int = 0  # of a fit to the radiance field's colours before the first step; 0: start from grey

    def __post_init__(self) -> None:
        _not_negative(self, "fit_iterations")


@dataclass(frozen=True)
class ExportConfig:
    """The models that a finished run and ``--mode export`` write."""

    formats: tuple[str, ...] = EXPORT_FORMATS  # glb, obj (with MTL and PNG), ply (vertex colours), html (a viewer)
    texture_size: int = 1024  # texels along a side
    faces: int | None = 20_000  # surfaces with more are simplified to about this many; null: as they are
    floater_share: float = 0.02  # parts with a surface smaller than this share of the largest part's are left out
    meters_per_unit: float = 1.0  # length of a scene unit

    def __post_init__(self) -> None:
        unknown = sorted(set(self.formats) - set(EXPORT_FORMATS))
        if unknown:
            raise ValueError(f"formats: {', '.join(unknown)} is not among {', '.join(EXPORT_FORMATS)}")
        _positive(self, "meters_per_unit")
        if not 0 <= self.floater_share <= 1:
            raise ValueError(f"floater_share: {self.floater_share:g} must lie in [0, 1]; 0 keeps every part")
        if self.faces is not None and self.faces < 4:
            raise ValueError(f"faces: {self.faces} is too few for a solid; use at least 4, or null to keep all")
        self.baking()  # raises if the texture's size is out of range

    def baking(self) -> BakingConfig:
        return BakingConfig(texture_size=self.texture_size, max_faces=self.faces or 0)


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
    mesh_level: float | None = None  # density of the surface; None: that whose silhouette fits the renders best

    def __post_init__(self) -> None:
        _positive(self, "preview_every", "diagnostics_every", "checkpoint_every", "checkpoint_minutes")
        if self.run is not None:
            _folder_name("run", self.run)
        _positive(self, "keep_checkpoints", "turntable_frames", "turntable_size", "mesh_level")
        if self.mesh_resolution < 2:
            raise ValueError(f"mesh_resolution: {self.mesh_resolution} is too small; use at least 2")
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
    precision: str = "auto"  # Lightning's; auto: 32-true on a CPU, bf16-mixed on CUDA (16-mixed where it lacks that)
    threads: int | None = None  # torch's threads on a CPU; None: torch's own choice

    def __post_init__(self) -> None:
        for name, known in (("accelerator", ACCELERATORS), ("precision", TRAINER_PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(known)}")
        _positive(self, "devices", "threads")


@dataclass(frozen=True)
class RunConfig:
    """A run of one stage."""

    stage: str = "nerf"  # what theta is: nerf, a radiance field; geometry; texture; image, a picture
    source: str | None = None  # checkpoint of the earlier stage (from=RUN), for geometry and texture
    name: str = "vsd-nerf"  # of the configuration; the first folder below ``output.folder``
    prompt: str = "a red mug"
    seed: int = 0
    iterations: int = 25_000  # for one particle
    particles: int = 1  # n: scenes that share one estimator
    logger: str = "csv"  # csv, or wandb beside it
    prior: PriorConfig = field(default_factory=PriorConfig)
    text: TextConfig = field(default_factory=TextConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    image: ImageConfig = field(default_factory=ImageConfig)  # of the stage image
    scene: NeRFSceneConfig = field(default_factory=NeRFSceneConfig)  # of the stage nerf; later stages keep it
    surface: SurfaceConfig = field(default_factory=SurfaceConfig)  # of the stage geometry; texture keeps its field
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)  # of the stage texture
    cameras: CameraSampling = field(default_factory=CameraSampling)
    render: RenderConfig = field(default_factory=RenderConfig)
    regularizers: RegularizerConfig = field(default_factory=RegularizerConfig)
    optimizer: SceneOptimizerConfig = field(default_factory=SceneOptimizerConfig)
    estimator_optimizer: EstimatorOptimizerConfig = field(default_factory=EstimatorOptimizerConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError(f'prompt: {self.prompt!r} is empty; say what to make, such as prompt="a red mug"')
        _folder_name("name", self.name)
        if self.stage not in STAGES:
            raise ValueError(f"stage: {self.stage!r} is not one of {', '.join(STAGES)}")
        if self.source is not None and self.stage not in EARLIER_STAGE:
            raise ValueError(
                f"source: {self.source!r} is given, but the stage {self.stage!r} starts from nothing; leave it out, or "
                "take a configuration that goes on from a run, such as configs/vsd-geometry.yaml"
            )
        if self.guidance.perp_neg.words and "{view}" not in self.text.view_template:
            raise ValueError(
                "text.view_template: names no {view}, but guidance.perp_neg keeps away from other views' prompts, "
                "which would be the prompt itself; add {view}, or set the weights to 0"
            )
        if self.text.negative.strip() and not self.guidance.reads_negative:
            raise ValueError(
                f"text.negative: {self.text.negative!r} would never be read: at guidance.guidance_scale 1 the loss "
                f"{self.guidance.loss!r} looks at the prompt alone; raise guidance.guidance_scale, or leave it out"
            )
        if self.prior.precision == "fp16" and self.guidance.needs_estimator and self.trainer.precision != "16-mixed":
            raise ValueError(
                f"prior.precision: 'fp16' with trainer.precision {self.trainer.precision!r}: the estimator's "
                "gradients, which pass through the network, would vanish without loss scaling; use "
                "trainer.precision=16-mixed, or prior.precision=bf16"
            )
        if self.guidance.works_on_images and any(weight for _, weight in self.regularizers.reconstruction):
            raise ValueError(
                f"regularizers.reconstruction: the loss {self.guidance.loss!r} looks at images without an autoencoder; "
                "set it to [[0, 0.0]]"
            )
        if self.logger not in ("csv", "wandb"):
            raise ValueError(f"logger: {self.logger!r} is not one of csv, wandb")
        _positive(self, "iterations", "particles")
        _not_negative(self, "seed")
