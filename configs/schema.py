"""The configuration of a run: every field that a YAML or ``key=value`` can set, with its type and unit.

A run's configuration is put together from the sections that stand beside the classes they belong to; what is left is
here. Defaults are the paper's for its first stage; ``configs/defaults.yaml`` has those of the other stages and losses.
Numbers of iterations are for one particle: they are multiplied by ``particles``.

``settings/fields.py`` explains sections and the policies of their fields.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from guidance.config import EstimatorConfig, GuidanceConfig, NetworkSpeed, TextConfig
from models.config import ImageConfig, NeRFSceneConfig, SDFFieldConfig, SourceMeshConfig, TextureFieldConfig
from renderers.config import BakingConfig, CameraSampling, MeshRendererConfig, VolumeRendererConfig
from settings.constraints import (
    Betas,
    ElevationDeg,
    FolderName,
    NonNegative,
    NonNegativeInt,
    NonNegativeSchedule,
    OneOf,
    Positive,
    PositiveInt,
    ScaleSchedule,
    Share,
    ShareSchedule,
    Whole,
)
from settings.fields import Conflict, section, setting
from settings.schedules import value_at

#: Each stage, with the stage of the run that it goes on from; None: it starts from nothing.
STAGES: dict[str, str | None] = {
    "nerf": None,  # a radiance field
    "geometry": "nerf",  # a surface
    "texture": "geometry",  # colours on a surface
    "image": None,  # a picture
}

ExportFormat = Literal["glb", "obj", "ply", "stl", "html"]
AUTO_FACES = 20_000  # of a model, at most, where export.faces is auto
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


def earlier_stages(stage: str) -> tuple[str, ...]:
    """The stages that a stage builds on, the nearest first.

    >>> earlier_stages("texture")
    ('geometry', 'nerf')
    """
    before = STAGES[stage]
    return () if before is None else (before, *earlier_stages(before))


def _check_prompt(prompt: str) -> str:
    if not prompt.strip():
        raise ValueError('must say what to make, such as prompt="a red mug"')
    return prompt


@section
class PriorConfig:
    """Which frozen text-to-image model guides the scene, and how it is run."""

    # Folder in diffusers' format (bundled ones: relative to the repository), single file with a model's weights, or hub
    # id.
    path: str = setting("priors/mini", inherit="default")
    revision: str | None = setting(None, inherit="default")  # branch, tag or commit of a hub id; null: its main branch
    # Of a single file: folder or hub id of a model with the same layout, for sizes, noise levels, tokenizers, and
    # networks that the file lacks. null: the hub id that the names and shapes of its weights tell.
    config: str | None = setting(None, inherit="default")
    # LoRA files, folders or hub ids whose changes are added to the model, FILE or FILE:SCALE.
    loras: tuple[str, ...] = setting((), inherit="default")
    embeddings: tuple[str, ...] = setting((), inherit="default")  # files of textual inversions, for SD 1.x and 2.x
    preset: str = "mini"  # file of configs/prior that the settings came from; prior=NAME chooses it
    # Number format of the frozen weights. auto: fp32 on a CPU; on CUDA fp16 for Stable Diffusion 1.x and 2.x (bf16 is
    # too coarse for differences of scores), bf16 for others (fp16 with a 16-mixed trainer).
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting("auto", change="anywhere")
    # How its networks run. channels_last: convolutions with the channels of a pixel side by side. compiled: also blocks
    # compiled by torch.compile, which takes minutes in the first iteration and again where a new batch size comes.
    # graphs: also calls recorded as CUDA graphs, which takes seconds in the first iteration; for one process on a GPU,
    # where it halved an iteration's time (docs/costs.md). The other two were not measured on a GPU.
    speed: NetworkSpeed = setting("plain", change="anywhere")
    # Views of an object that the model must see at once; a preset states it. null: as many as the model says.
    views: PositiveInt | None = None


@section
class NoiseConfig:
    """Range of t for the scene's gradient, by iteration."""

    t_min: ShareSchedule = setting([[0, 0.02]])  # lowest t, fraction of the noise schedule
    t_max: ShareSchedule = setting([[0, 0.98], [5000, 0.98], [5000, 0.5]])  # highest t, fraction of the noise schedule

    def __post_init__(self) -> None:
        changes = {iteration for iteration, _ in self.t_min + self.t_max}
        before = {math.nextafter(change, 0) for change in changes}  # particles stretch the time, so not one iteration
        for iteration in sorted(changes | before):  # linear in between
            low, high = value_at(self.t_min, iteration), value_at(self.t_max, iteration)
            if low > high:
                raise Conflict(
                    ("t_min", "t_max"),
                    f"at iteration {iteration:g} the range of noise levels is inverted: {low:g} is above {high:g}",
                )


@section
class SceneOptimizerConfig:
    """Adam on the scene; learning rates by iteration."""

    lr_grid: NonNegativeSchedule = setting([[0, 1e-2]], change="resume")  # of hash grids
    lr_mlp: NonNegativeSchedule = setting([[0, 1e-3]], change="resume")  # of networks
    lr_image: NonNegativeSchedule = setting([[0, 3e-2]], change="resume")  # of a picture's spectrum of logits
    # Of signed distances (scene units) and offsets of vertices.
    lr_geometry: NonNegativeSchedule = setting([[0, 5e-3]], change="resume")
    betas: Betas = (0.9, 0.99)  # decay of Adam's two means, an iteration
    eps: Positive = 1e-15  # Adam's, beside the root of the second mean
    clip_norm: Positive | None = setting(None, change="resume")  # of the scene's gradient; null: no clipping


@section
class EstimatorOptimizerConfig:
    """AdamW on the LoRA estimator."""

    lr: Positive = setting(1e-4, change="resume")  # learning rate after warm-up
    warmup_iterations: NonNegativeInt = 500  # linear from 0; not multiplied by the number of particles
    weight_decay: NonNegative = 0.01  # AdamW's, as a factor of the learning rate
    betas: Betas = (0.9, 0.99)  # threestudio's; the paper's code has (0.9, 0.999)
    steps_per_iteration: PositiveInt = 1  # K: optimizer steps of phi for each of theta
    clip_norm: Positive | None = 1.0  # of the estimator's gradient; null: no clipping


@section
class RenderConfig:
    """How training views are rendered."""

    size: PositiveInt = setting(512, change="test")  # pixels a side
    # Of size, by iteration: coarse views are cheaper and do while the shape forms. Not for the stage image.
    scale: ScaleSchedule = setting([[0, 1.0]])
    views: PositiveInt = 1  # views an iteration and device: the batch size of the guidance
    volume: VolumeRendererConfig = setting(factory=VolumeRendererConfig)  # of the stage nerf
    mesh: MeshRendererConfig = setting(factory=MeshRendererConfig)  # of the stages geometry and texture
    occupancy_resolution: PositiveInt = setting(64, state=True)  # cells along an axis
    occupancy_every: PositiveInt = 16  # iterations between two updates of the occupancy grid
    occupancy_warmup: NonNegativeInt = 256  # iterations before empty space is skipped
    random_background: Share = 0.5  # probability that a solid random colour replaces the background network
    background_low: Share = 0.0  # lowest brightness of the random colours, sRGB
    background_high: Share = 1.0  # highest brightness of the random colours, sRGB

    def __post_init__(self) -> None:
        if self.background_low > self.background_high:
            raise Conflict(
                ("background_low", "background_high"),
                f"need low <= high, not {self.background_low:g} and {self.background_high:g}",
            )


@section
class RegularizerConfig:
    """Weights of the regularisers by iteration; ``systems/regularizers.py`` has their formulas."""

    entropy: NonNegativeSchedule = setting([[0, 10.0]])  # of per-sample weights: no fog along a ray
    sparsity: NonNegativeSchedule = setting([[0, 0.0]])  # of pixel opacity: no matter without need
    opacity_binary: NonNegativeSchedule = setting([[0, 0.0]])  # pixels are object or background
    transmittance: NonNegativeSchedule = setting([[0, 0.0]])  # Dream Fields: room around the object
    # No weight, but the share of a view's light that transmittance asks to pass; Dream Fields' by default.
    transmittance_target: ShareSchedule = setting(
        [[0, 0.4], [100, 0.565], [200, 0.685], [300, 0.772], [400, 0.834], [500, 0.88]]
    )
    # Distance of views to what the prior's autoencoder makes of them: no noise that it cannot see. Costs a decoding an
    # iteration.
    reconstruction: NonNegativeSchedule = setting([[0, 0.0]])
    # No creases; stage geometry. This weight and laplacian's make up for means over a whole mesh: with the bundled
    # prior both gradients are then about as long as the guidance's, and its noise doesn't crumple the surface.
    normal_consistency: NonNegativeSchedule = setting([[0, 1e4]])
    laplacian: NonNegativeSchedule = setting([[0, 1e6]])  # evenly spaced, smooth vertices; stage geometry


@section
class SurfaceConfig:
    """Stage geometry: a surface that starts from a radiance field's density, and what its renders show."""

    # Lattice of the surface.
    field: SDFFieldConfig = setting(factory=SDFFieldConfig, stage="geometry", inherit="always", state=True)
    level: Positive | None = None  # density of the surface at first; null: as output.mesh_level
    # normals: as colours; lit: the radiance field's colours under a light from above.
    shading: Literal["normals", "lit"] = "normals"


@section
class AppearanceConfig:
    """Stage texture: colours on the surface of the stage geometry."""

    field: TextureFieldConfig = setting(factory=TextureFieldConfig, state=True)  # colour of points
    # Iterations of a fit to the colours of the radiance field, or of a user's mesh, before the first step; 0: start
    # from grey.
    fit_iterations: NonNegativeInt = 0
    # Whether a model of a user's mesh keeps that mesh's texture coordinates, where they can hold a texture.
    keep_uv: bool = setting(True, change="resume")


@section
class ExportConfig:
    """The models that a finished run and ``--mode export`` write."""

    # obj has MTL and PNG, ply vertex colours, stl the shape alone, html a viewer.
    formats: tuple[ExportFormat, ...] = ("glb", "obj", "ply", "html")
    unlit: bool = False  # the GLB's colours are those of the film in any viewer, whatever its light is
    texture_size: Annotated[Whole, Field(ge=16, le=16384)] = 1024  # texels along a side
    # Surfaces with more faces are simplified to about this many; null: they stay as they are. auto: 20,000, but a mesh
    # of the user's that the stage texture painted stays as it is.
    faces: Annotated[Whole, Field(ge=4)] | Literal["auto"] | None = "auto"
    # Parts with a surface smaller than this share of the largest part's are left out; 0 keeps every part. A user's mesh
    # that the stage texture painted keeps them all.
    floater_share: Share = 0.02
    meters_per_unit: Positive = 1.0  # length of a scene unit, or of a unit of the user's mesh

    def baking(self) -> BakingConfig:
        faces = AUTO_FACES if self.faces == "auto" else self.faces
        return BakingConfig(texture_size=self.texture_size, max_faces=faces or 0)


@section
class OutputConfig:
    """What a run writes and when. Iterations here are not multiplied by the number of particles."""

    folder: str = setting("outputs", change="never")  # where the folders of runs are made
    run: FolderName | None = setting(None, change="never")  # name of the run's folder; null: date and time
    preview_every: PositiveInt = 100  # iterations between two preview pictures
    diagnostics_every: PositiveInt = 500  # iterations between two pictures of what prior and estimator predict
    checkpoint_every: PositiveInt = 500  # iterations between two checkpoints
    checkpoint_minutes: Positive = 10.0  # minutes after which a checkpoint is due even before that
    keep_checkpoints: PositiveInt = 2  # the last k stay
    turntable_frames: PositiveInt = 60  # of a film
    preview_size: PositiveInt | None = None  # pixels a side of each view of a preview; null: as render.size
    turntable_size: PositiveInt = 128  # pixels a side
    turntable_elevation_deg: ElevationDeg = 20.0  # degrees above the horizon
    mesh_resolution: Annotated[Whole, Field(ge=2)] = 128  # density samples along an axis
    mesh_level: Positive | None = None  # density of the surface; null: the one whose silhouette fits the renders best


@section
class CollapseConfig:
    """When a scene counts as dead, so that the run stops instead of wasting hours."""

    enabled: bool = setting(True, change="resume")  # false: never stop a run for its looks
    # Iterations of a particle in a row that must look dead.
    patience: PositiveInt = setting(50, change="resume")
    min_opacity: Share = 0.002  # mean over a view's pixels: below, the scene is empty
    max_opaque: Share = 0.995  # share of a view's opaque pixels: above, it fills everything
    max_saturated: Share = 0.995  # share of colour values at 0 or 1: above, the colours have burnt out


@section
class TrainerConfig:
    """What is left to Lightning's Trainer."""

    # auto: CUDA where PyTorch sees a device, else the CPU. mps: Apple's GPU, for the stages nerf and image; untried.
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", change="anywhere")
    # Processes on each machine; each has its own CUDA device, or a share of the CPU.
    devices: PositiveInt = setting(1, change="anywhere")
    # Machines. A launcher (torchrun, SLURM's srun) starts the processes of more than one, trainer.devices on each.
    num_nodes: PositiveInt = setting(1, change="anywhere")
    # Lightning's; auto: 32-true on a CPU, bf16-mixed on CUDA (16-mixed where it lacks that).
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = setting("auto", change="resume")
    threads: PositiveInt | None = setting(None, change="anywhere")  # PyTorch's on a CPU; null: its own choice


@section
class RunConfig:
    """A run of one stage."""

    stage: Annotated[str, OneOf(STAGES)] = "nerf"  # what is optimised; nerf: a radiance field, image: a picture
    source: str | None = None  # checkpoint of the earlier stage (from=RUN), for geometry and texture
    name: FolderName = setting("vsd-nerf", state=True)  # of the configuration; the first folder below output.folder
    # What to make.
    prompt: Annotated[str, AfterValidator(_check_prompt)] = setting("a red mug", inherit="default", state=True)
    seed: NonNegativeInt = setting(0, inherit="default")  # of all random numbers
    iterations: NonNegativeInt = setting(25_000, change="resume")  # for one particle; 0: only what a run begins with
    particles: PositiveInt = setting(1, inherit="always", state=True)  # n: scenes that share one estimator
    memory: Literal["full", "low"] = "full"  # low: slower settings that need less of it; by_memory in defaults.yaml
    logger: Literal["csv", "wandb"] = setting("csv", change="resume")  # wandb: beside csv
    prior: PriorConfig = setting(factory=PriorConfig)  # the frozen text-to-image model
    text: TextConfig = setting(factory=TextConfig)  # what is said beside the prompt
    guidance: GuidanceConfig = setting(factory=GuidanceConfig)  # the loss
    estimator: EstimatorConfig = setting(factory=EstimatorConfig, state=True)  # eps_phi, the LoRA estimator
    noise: NoiseConfig = setting(factory=NoiseConfig)  # noise levels
    image: ImageConfig = setting(factory=ImageConfig)  # of the stage image
    # The mesh that this run, or the one that it goes on from, starts from (from=FILE).
    source_mesh: SourceMeshConfig = setting(factory=SourceMeshConfig, inherit="always", state=True)
    # Of the stage nerf; later stages keep it.
    scene: NeRFSceneConfig = setting(factory=NeRFSceneConfig, stage="nerf", inherit="always", state=True)
    surface: SurfaceConfig = setting(factory=SurfaceConfig)  # of the stage geometry; texture keeps its field
    appearance: AppearanceConfig = setting(factory=AppearanceConfig)  # of the stage texture
    cameras: CameraSampling = setting(factory=CameraSampling)  # of training views
    render: RenderConfig = setting(factory=RenderConfig)  # training views
    regularizers: RegularizerConfig = setting(factory=RegularizerConfig, change="resume")  # weights
    optimizer: SceneOptimizerConfig = setting(factory=SceneOptimizerConfig)  # of the scene
    estimator_optimizer: EstimatorOptimizerConfig = setting(factory=EstimatorOptimizerConfig)  # of the estimator
    output: OutputConfig = setting(factory=OutputConfig, change="resume")  # what is written, and when
    export: ExportConfig = setting(factory=ExportConfig, change="resume")  # models
    collapse: CollapseConfig = setting(factory=CollapseConfig)  # when to stop
    trainer: TrainerConfig = setting(factory=TrainerConfig)  # where the run is computed

    @property
    def starts_from_mesh(self) -> bool:
        """Whether the run begins with a user's mesh, and not with a prompt or with the run of an earlier stage."""
        return self.source is None and self.source_mesh.path is not None

    def __post_init__(self) -> None:
        if self.source_mesh.path is not None and self.stage == "image":
            raise Conflict("source_mesh.path", "a picture starts from no mesh; use the stage nerf, geometry or texture")
        if self.source is not None and STAGES[self.stage] is None:
            raise Conflict(
                "source",
                f"{self.source!r} is given, but the stage {self.stage!r} starts from nothing; leave it out, or take a "
                "configuration that goes on from a run, such as configs/vsd-geometry.yaml",
            )
        if self.guidance.perp_neg.words and "{view}" not in self.text.view_template:
            raise Conflict(
                "text.view_template",
                "names no {view}, but guidance.perp_neg keeps away from other views' prompts, which would be the "
                "prompt itself; add {view}, or set the weights to 0",
            )
        if self.text.debiasing.is_used and "{view}" not in self.text.view_template:
            raise Conflict(
                "text.view_template",
                "names no {view}, but text.debiasing drops words that contradict a view word; add {view}, or leave "
                "text.debiasing out",
            )
        if self.text.negative.strip() and not self.guidance.reads_negative:
            raise Conflict(
                "text.negative",
                f"{self.text.negative!r} would never be read: at guidance.guidance_scale 1 the loss "
                f"{self.guidance.loss!r} reads the prompt alone; raise guidance.guidance_scale, or leave it out",
            )
        if self.guidance.reads == "images" and any(weight for _, weight in self.regularizers.reconstruction):
            raise Conflict(
                "regularizers.reconstruction",
                f"the loss {self.guidance.loss!r} reads images without an autoencoder; set it to [[0, 0.0]]",
            )
