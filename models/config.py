"""Configurations of what is optimised. Nothing here imports PyTorch, so that the schema loads at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from settings.constraints import Channels, NonNegative, NonNegativeInt, Positive, PositiveInt, Share, Whole
from settings.fields import Conflict, section, setting

Axis = Literal["x", "-x", "y", "-y", "z", "-z"]
HashGridBackend = Literal["auto", "torch", "numba", "triton", "tinycudann"]
# How far vertices of the lattice may move, as a share of the spacing, until a tetrahedron could turn inside out:
# opposite edges lie half a spacing apart, and both may move.
SAFE_OFFSET = 0.25


@section
class HashGridConfig:
    """Shape of the grid; the defaults are ProlificDreamer's."""

    levels: PositiveInt = 16  # resolutions, spaced geometrically
    features: Literal[1, 2, 4, 8] = 2  # features of an entry
    log2_hashmap_size: Annotated[Whole, Field(ge=3, le=28)] = 19  # base-2 logarithm of the most entries of a level
    base_resolution: Annotated[Whole, Field(ge=2)] = 16  # vertices along an axis of the coarsest level
    finest_resolution: Whole = 2048  # vertices along an axis of the finest level
    backend: HashGridBackend = setting("auto", change="anywhere")  # auto: the fastest for the device

    def __post_init__(self) -> None:
        if self.base_resolution > self.finest_resolution:
            raise Conflict(
                ("base_resolution", "finest_resolution"),
                f"the coarsest level has {self.base_resolution} vertices, more than the {self.finest_resolution} of "
                "the finest; raise finest_resolution",
            )

    @property
    def per_level_scale(self) -> float:
        """Ratio of the resolutions of neighbouring levels."""
        return (self.finest_resolution / self.base_resolution) ** (1 / max(self.levels - 1, 1))


@section
class DensityInitConfig:
    """Initial density; the defaults are the paper's."""

    # object: dense in the middle; scene: dense far away; centred_object: both.
    kind: Literal["object", "scene", "centred_object"] = "object"
    object_strength: Positive = 10.0  # lambda of the object: the bias at the origin
    object_radius: Positive = 0.5  # scene units, where the object's bias crosses zero
    scene_strength: Annotated[float, Field(lt=0)] = -10.0  # lambda of the scene: the bias at the origin
    scene_radius: Positive = 2.5  # scene units, where the scene's bias crosses zero

    def __post_init__(self) -> None:
        if self.object_radius >= self.scene_radius:
            raise Conflict(
                ("object_radius", "scene_radius"),
                f"the object's {self.object_radius:g} must be below the scene's {self.scene_radius:g}",
            )

    @property
    def switch_radius(self) -> float:
        """Where the two biases are equal, in scene units; 5/6 at the defaults."""
        difference = self.object_strength - self.scene_strength
        return difference / (self.object_strength / self.object_radius - self.scene_strength / self.scene_radius)


@section
class RadianceFieldConfig:
    """Shape and initialisation of the field."""

    radius: Positive = 1.0  # half the side of the world's cube, scene units; later stages have the same world
    grid: HashGridConfig = setting(factory=HashGridConfig)  # encoding of points
    hidden: Channels = (64,)  # channels of each hidden layer
    density_init: DensityInitConfig = setting(factory=DensityInitConfig)  # density at first
    # analytic is faster, but a loss on such normals doesn't reach the parameters.
    normals: Literal["finite_difference", "analytic"] = "finite_difference"
    normal_step: Positive = 0.01  # half the distance of finite differences, scene units

    def __post_init__(self) -> None:
        init = self.density_init
        if init.kind != "object" and self.radius <= init.scene_radius:
            seen = {"scene": "nothing would be seen", "centred_object": "the object alone would be seen"}[init.kind]
            raise Conflict(
                ("density_init.kind", "radius"),
                f"{init.kind!r} is dense beyond scene_radius {init.scene_radius:g}, outside of radius {self.radius:g}: "
                f"{seen}; raise radius, or lower density_init.scene_radius",
            )
        if self.normal_step >= self.radius:
            raise Conflict(
                ("normal_step", "radius"), f"normal_step {self.normal_step:g} must be below radius {self.radius:g}"
            )


@section
class BackgroundConfig:
    """A learnt background, or one fixed colour."""

    kind: Literal["mlp", "solid"] = "mlp"  # mlp: learnt, depends on the direction; solid: one fixed colour
    hidden: Channels = (32,)  # channels of each hidden layer, of kind mlp
    frequencies: NonNegativeInt = 4  # octaves of the direction's encoding, of kind mlp
    color: tuple[Share, Share, Share] = (1.0, 1.0, 1.0)  # sRGB in [0, 1], of kind solid


@section
class NeRFSceneConfig:
    """A radiance field before a background."""

    field: RadianceFieldConfig = setting(factory=RadianceFieldConfig)  # density and colour of points
    background: BackgroundConfig = setting(factory=BackgroundConfig)  # colour of directions


@section
class SourceMeshConfig:
    """A user's mesh that a run starts from: ``from=FILE``, ``from.up``, ``from.front``, ``from.colors``."""

    # GLB, glTF, OBJ, PLY or STL; a run that goes on from another has that run's. null: no mesh.
    path: str | None = None
    up: Axis | None = None  # the file's direction that is up; null: by the format's convention
    # The file's direction that the front looks along; null: z, or -y where up is z or -z.
    front: Axis | None = None
    # Whether colours start from the file's textures and vertex colours, where it has any; else from grey.
    colors: bool = True

    def __post_init__(self) -> None:
        if self.up is not None and self.front is not None and self.up[-1] == self.front[-1]:
            raise Conflict(
                ("up", "front"), f"{self.up!r} and {self.front!r} lie on one axis; choose two different ones"
            )


@section
class SDFFieldConfig:
    """The lattice and what counts as a part of the object."""

    cells: Annotated[Whole, Field(ge=2)] = 128  # cubes along an axis; with centres 257 layers of vertices
    # How far a vertex may move, as a share of the spacing; 0 fixes all. Beyond the limit tetrahedra turn inside out.
    max_offset: Annotated[float, Field(ge=0, le=SAFE_OFFSET)] = SAFE_OFFSET
    # Parts with a surface smaller than this share of the largest part's are removed; 0 keeps every part.
    floater_share: Share = 0.02


@section
class TextureFieldConfig:
    """Shape of the field."""

    grid: HashGridConfig = setting(factory=HashGridConfig)  # encoding of points
    hidden: Channels = (64,)  # channels of each hidden layer


@section
class ImageConfig:
    """How a picture begins."""

    spread: NonNegative = 0.5  # standard deviation of the first logits: colours around mid-grey; 0: plain grey
