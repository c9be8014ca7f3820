"""Configurations of cameras and renderers. Nothing here imports PyTorch, so that the schema loads at once."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

VIEW_WORDS = ("front", "side", "back", "overhead", "bottom")
BOUNDS = ("ball", "box")
RASTERIZER_BACKENDS = ("auto", "torch", "numba", "nvdiffrast", "kaolin")


@dataclass(frozen=True)
class ViewThresholds:
    """Where one view word ends and the next begins, in degrees.

    ``front_deg`` is the half-width of "front" around azimuth 0 and ``back_deg`` that of "back"
    around 180; what lies between is "side". Elevation decides before azimuth. The paper's code
    uses 30 and 30, and -60 for "bottom"; quadrants (45, 45) tell the three apart as evenly as words can, and are what
    the bundled prior was trained on.
    """

    front_deg: float = 45.0
    back_deg: float = 45.0
    overhead_deg: float = 60.0  # elevation above which a view is "overhead"
    bottom_deg: float = -5.0  # elevation below which a view is "bottom"

    def __post_init__(self) -> None:
        if min(self.front_deg, self.back_deg) < 0 or self.front_deg + self.back_deg > 180:
            raise ValueError(
                f"front_deg and back_deg must be non-negative and at most 180 together, "
                f"not {self.front_deg:g} and {self.back_deg:g}"
            )
        if not -90 <= self.bottom_deg < self.overhead_deg <= 90:
            raise ValueError(
                f"need -90 <= bottom_deg < overhead_deg <= 90, not {self.bottom_deg:g} and {self.overhead_deg:g}"
            )


@dataclass(frozen=True)
class CameraSampling:
    """The distribution that training cameras are drawn from; each range is uniform.

    Defaults are threestudio's for ProlificDreamer; the paper's code also looks from above and below.
    """

    azimuth_deg: tuple[float, float] = (-180.0, 180.0)
    elevation_deg: tuple[float, float] = (-10.0, 45.0)
    distance: tuple[float, float] = (1.0, 1.5)  # scene units
    fovy_deg: tuple[float, float] = (40.0, 70.0)

    def __post_init__(self) -> None:
        for part in fields(self):
            low, high = getattr(self, part.name)
            if low > high:
                raise ValueError(f"{part.name}: the range [{low:g}, {high:g}] is empty; write [low, high]")
        if not -90 < self.elevation_deg[0] <= self.elevation_deg[1] < 90:
            raise ValueError(f"elevation_deg: {list(self.elevation_deg)} must lie inside (-90, 90)")
        if self.distance[0] <= 0:
            raise ValueError(f"distance: {list(self.distance)} must be positive")
        if not 0 < self.fovy_deg[0] <= self.fovy_deg[1] < 180:
            raise ValueError(f"fovy_deg: {list(self.fovy_deg)} must lie inside (0, 180)")


@dataclass(frozen=True)
class OccupancyConfig:
    """Resolution and memory of the grid."""

    radius: float = 1.0  # half the side of the cube, scene units; that of the radiance field
    resolution: int = 64  # cells along an axis
    decay: float = 0.95  # factor on the remembered density, an update
    threshold: float = 0.1  # density per scene unit below which a cell counts as empty

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"radius: {self.radius:g} must be positive")
        if self.resolution < 1:
            raise ValueError(f"resolution: {self.resolution} is too small; use at least 1")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay: {self.decay:g} must lie in [0, 1)")
        if self.threshold < 0:
            raise ValueError(f"threshold: {self.threshold:g} must not be negative")


@dataclass(frozen=True)
class VolumeRendererConfig:
    """Sampling of rays."""

    samples_per_ray: int = 96  # intervals across the diameter of the bounds, before skipping; the paper: 64 + 32
    bounds: str = "ball"  # ball | box, of the occupancy grid's radius: where samples may lie
    rays_per_chunk: int = 32768  # rays whose graph is held at once

    def __post_init__(self) -> None:
        if self.samples_per_ray < 1:
            raise ValueError(f"samples_per_ray: {self.samples_per_ray} is too few; use at least 1")
        if self.bounds not in BOUNDS:
            raise ValueError(f"bounds: {self.bounds!r} is not one of {', '.join(BOUNDS)}")
        if self.rays_per_chunk < 1:
            raise ValueError(f"rays_per_chunk: {self.rays_per_chunk} is too few; use at least 1")


@dataclass(frozen=True)
class RasterizerConfig:
    """Which code rasterises."""

    backend: str = "auto"  # auto | torch | numba | nvdiffrast | kaolin; auto takes the fastest for the device

    def __post_init__(self) -> None:
        if self.backend not in RASTERIZER_BACKENDS:
            raise ValueError(f"backend: {self.backend!r} is not one of {', '.join(RASTERIZER_BACKENDS)}")


@dataclass(frozen=True)
class MeshRendererConfig:
    """How meshes are drawn."""

    rasterizer: RasterizerConfig = field(default_factory=RasterizerConfig)
    antialias: bool = True  # off: hard silhouettes, without a gradient


@dataclass(frozen=True)
class BakingConfig:
    """Size of what is exported."""

    texture_size: int = 1024  # texels along a side
    max_faces: int = 20_000  # surfaces with more are simplified to about this many; 0 keeps all
    padding: int = 2  # texels between charts, at least

    def __post_init__(self) -> None:
        if not 16 <= self.texture_size <= 16384:
            raise ValueError(f"texture_size: {self.texture_size} must lie in [16, 16384]")
        if self.max_faces != 0 and self.max_faces < 4:
            raise ValueError(f"max_faces: {self.max_faces} is too few for a solid; use at least 4, or 0 to keep all")
        if not 0 <= self.padding < self.texture_size // 2:
            raise ValueError(f"padding: {self.padding} must lie in [0, texture_size / 2)")
