"""Configurations of what is optimised. Nothing here imports PyTorch, so that the schema loads at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

HASH_GRID_BACKENDS = ("auto", "torch", "numba", "tinycudann")
DENSITY_KINDS = ("object", "scene", "centred_object")
NORMALS = ("finite_difference", "analytic")
BACKGROUND_KINDS = ("mlp", "solid")
# How far vertices of the lattice may move, as a share of the spacing, until a tetrahedron could turn inside out:
# opposite edges lie half a spacing apart, and both may move.
SAFE_OFFSET = 0.25


@dataclass(frozen=True)
class HashGridConfig:
    """Shape of the grid; the defaults are ProlificDreamer's."""

    levels: int = 16  # resolutions, spaced geometrically
    features: int = 2  # features of an entry: 1, 2, 4 or 8
    log2_hashmap_size: int = 19  # base-2 logarithm of the most entries a level may have
    base_resolution: int = 16  # vertices along an axis of the coarsest level
    finest_resolution: int = 2048  # the same of the finest level
    backend: str = "auto"  # auto | torch | numba | tinycudann; auto takes the fastest for the device

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"levels: {self.levels} is too few; use at least 1")
        if self.features not in (1, 2, 4, 8):
            raise ValueError(f"features: {self.features} is not one of 1, 2, 4, 8")
        if not 3 <= self.log2_hashmap_size <= 28:
            raise ValueError(f"log2_hashmap_size: {self.log2_hashmap_size} must lie in [3, 28]")
        if not 2 <= self.base_resolution <= self.finest_resolution:
            raise ValueError(
                f"base_resolution and finest_resolution: need 2 <= base <= finest, "
                f"not {self.base_resolution} and {self.finest_resolution}"
            )
        if self.backend not in HASH_GRID_BACKENDS:
            raise ValueError(f"backend: {self.backend!r} is not one of {', '.join(HASH_GRID_BACKENDS)}")

    @property
    def per_level_scale(self) -> float:
        """Ratio of the resolutions of neighbouring levels."""
        return (self.finest_resolution / self.base_resolution) ** (1 / max(self.levels - 1, 1))


@dataclass(frozen=True)
class DensityInitConfig:
    """Initial density; the defaults are the paper's."""

    kind: str = "object"  # object | scene | centred_object
    object_strength: float = 10.0  # lambda of the object: the bias at the origin
    object_radius: float = 0.5  # scene units, where the object's bias crosses zero
    scene_strength: float = -10.0  # lambda of the scene: the bias at the origin
    scene_radius: float = 2.5  # scene units, where the scene's bias crosses zero

    def __post_init__(self) -> None:
        if self.kind not in DENSITY_KINDS:
            raise ValueError(f"kind: {self.kind!r} is not one of {', '.join(DENSITY_KINDS)}")
        if self.object_strength <= 0:
            raise ValueError(f"object_strength: {self.object_strength:g} must be positive: dense inside")
        if self.scene_strength >= 0:
            raise ValueError(f"scene_strength: {self.scene_strength:g} must be negative: empty inside")
        if not 0 < self.object_radius < self.scene_radius:
            raise ValueError(
                f"object_radius and scene_radius: need 0 < object < scene, "
                f"not {self.object_radius:g} and {self.scene_radius:g}"
            )

    @property
    def switch_radius(self) -> float:
        """Where the two biases are equal, in scene units; 5/6 at the defaults."""
        difference = self.object_strength - self.scene_strength
        return difference / (self.object_strength / self.object_radius - self.scene_strength / self.scene_radius)


@dataclass(frozen=True)
class RadianceFieldConfig:
    """Shape and initialisation of the field."""

    radius: float = 1.0  # half the side of the cube, scene units
    grid: HashGridConfig = field(default_factory=HashGridConfig)
    hidden: tuple[int, ...] = (64,)  # channels of each hidden layer
    density_init: DensityInitConfig = field(default_factory=DensityInitConfig)
    normals: str = "finite_difference"  # or analytic: faster, but a loss on it doesn't reach the parameters
    normal_step: float = 0.01  # half the distance of finite differences, scene units

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"radius: {self.radius:g} must be positive")
        if any(channels < 1 for channels in self.hidden):
            raise ValueError(f"hidden: {list(self.hidden)} must hold positive channel counts")
        init = self.density_init
        if init.kind != "object" and self.radius <= init.scene_radius:
            beyond = {
                "scene": ("only", "nothing would be seen"),
                "centred_object": ("too", "the object alone would be seen, as with 'object'"),
            }[init.kind]
            raise ValueError(
                f"density_init.kind: {init.kind!r} is dense beyond scene_radius {init.scene_radius:g} {beyond[0]}, "
                f"outside of radius {self.radius:g}: {beyond[1]}; raise radius, or lower density_init.scene_radius"
            )
        if self.normals not in NORMALS:
            raise ValueError(f"normals: {self.normals!r} is not one of {', '.join(NORMALS)}")
        if not 0 < self.normal_step < self.radius:
            raise ValueError(f"normal_step: {self.normal_step:g} must lie in (0, radius), here (0, {self.radius:g})")


@dataclass(frozen=True)
class BackgroundConfig:
    """A learnt background, or one fixed colour."""

    kind: str = "mlp"  # mlp | solid
    hidden: tuple[int, ...] = (32,)  # channels of each hidden layer, of kind mlp
    frequencies: int = 4  # octaves of the direction's encoding, of kind mlp
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)  # sRGB in [0, 1], of kind solid

    def __post_init__(self) -> None:
        if self.kind not in BACKGROUND_KINDS:
            raise ValueError(f"kind: {self.kind!r} is not one of {', '.join(BACKGROUND_KINDS)}")
        if any(channels < 1 for channels in self.hidden):
            raise ValueError(f"hidden: {list(self.hidden)} must hold positive channel counts")
        if self.frequencies < 0:
            raise ValueError(f"frequencies: {self.frequencies} must not be negative")
        if len(self.color) != 3 or not all(0 <= value <= 1 for value in self.color):
            raise ValueError(f"color: {list(self.color)} must be three values in [0, 1]")


@dataclass(frozen=True)
class NeRFSceneConfig:
    """A radiance field before a background."""

    field: RadianceFieldConfig = dataclasses.field(default_factory=RadianceFieldConfig)
    background: BackgroundConfig = dataclasses.field(default_factory=BackgroundConfig)


@dataclass(frozen=True)
class SDFFieldConfig:
    """The lattice and what counts as a part of the object."""

    radius: float = 1.0  # half the side of the cube, scene units; that of the radiance field
    cells: int = 48  # cubes of the lattice along an axis
    max_offset: float = SAFE_OFFSET  # how far a vertex may move, as a share of the spacing; 0 fixes them
    floater_share: float = 0.02  # parts with a surface smaller than this share of the largest part's are removed

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"radius: {self.radius:g} must be positive")
        if self.cells < 2:
            raise ValueError(f"cells: {self.cells} is too few; use at least 2")
        if not 0 <= self.max_offset <= SAFE_OFFSET:
            raise ValueError(
                f"max_offset: {self.max_offset:g} must lie in [0, {SAFE_OFFSET}]: beyond it tetrahedra turn inside out"
            )
        if not 0 <= self.floater_share <= 1:
            raise ValueError(f"floater_share: {self.floater_share:g} must lie in [0, 1]; 0 keeps every part")


@dataclass(frozen=True)
class TextureFieldConfig:
    """Shape of the field."""

    radius: float = 1.0  # half the side of the cube, scene units; that of the geometry
    grid: HashGridConfig = field(default_factory=HashGridConfig)
    hidden: tuple[int, ...] = (64,)  # channels of each hidden layer

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"radius: {self.radius:g} must be positive")
        if any(channels < 1 for channels in self.hidden):
            raise ValueError(f"hidden: {list(self.hidden)} must hold positive channel counts")


@dataclass(frozen=True)
class ImageConfig:
    """How a picture begins."""

    spread: float = 0.5  # standard deviation of the first logits: colours around mid-grey

    def __post_init__(self) -> None:
        if self.spread < 0:
            raise ValueError(f"spread: {self.spread:g} must be 0 or more; 0 starts from plain grey")
