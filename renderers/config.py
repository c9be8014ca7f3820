"""Configurations of cameras and renderers. Nothing here imports PyTorch, so that the schema loads at once."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from settings.constraints import (
    ORDERED,
    ElevationDeg,
    Momentum,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Whole,
)
from settings.fields import Conflict, section, setting

VIEW_WORDS = ("front", "side", "back", "overhead", "bottom")
VolumeBackend = Literal["auto", "torch", "numba", "triton"]
RasterizerBackend = Literal["auto", "torch", "numba", "triton", "nvdiffrast", "kaolin"]
Azimuth = Annotated[float, Field(ge=0, le=180)]  # degrees from a direction, to either side
Elevation = Annotated[float, Field(ge=-90, le=90)]  # degrees
OpeningDeg = Annotated[float, Field(gt=0, lt=180)]


@section
class ViewThresholds:
    """Where one view word ends and the next begins, in degrees.

    "front" lies around azimuth 0 and "back" around 180; what lies between is "side". Elevation decides before azimuth.
    The defaults are those of the paper's code. Quadrants (45, 45) separate the three as evenly as words can; the
    bundled prior was trained on them.
    """

    front_deg: Azimuth = 30.0  # half-width of "front"
    back_deg: Azimuth = 30.0  # half-width of "back"
    overhead_deg: Elevation = 60.0  # elevation above which a view is "overhead"
    bottom_deg: Elevation = -60.0  # elevation below which a view is "bottom"

    def __post_init__(self) -> None:
        if self.front_deg + self.back_deg > 180:
            raise Conflict(
                ("front_deg", "back_deg"), f"must be at most 180 together, not {self.front_deg:g} and {self.back_deg:g}"
            )
        if self.bottom_deg >= self.overhead_deg:
            raise Conflict(
                ("bottom_deg", "overhead_deg"),
                f"bottom_deg {self.bottom_deg:g} must be below overhead_deg {self.overhead_deg:g}",
            )


@section
class CameraSampling:
    """The distribution that training cameras are drawn from; each range is uniform.

    Defaults are threestudio's for ProlificDreamer; the paper's code also looks from above and below.
    """

    azimuth_deg: Annotated[tuple[float, float], ORDERED] = (-180.0, 180.0)  # degrees around the object; 0: in front
    elevation_deg: Annotated[tuple[ElevationDeg, ElevationDeg], ORDERED] = (-10.0, 45.0)  # degrees above the horizon
    distance: Annotated[tuple[Positive, Positive], ORDERED] = (1.0, 1.5)  # from the world's centre, scene units
    # Whether distance is a factor of 1 / tan(fovy / 2), at which a view's height is 2 scene units across the centre: a
    # wide view is then a near one, as with MVDream.
    relative_distance: bool = False
    # Degrees between a view's top and bottom.
    fovy_deg: Annotated[tuple[OpeningDeg, OpeningDeg], ORDERED] = (40.0, 70.0)

    @property
    def middle(self) -> tuple[float, float]:
        """Distance (scene units) and field of view (degrees) of the camera in the middle of both ranges."""
        distance, fovy_deg = (sum(bounds) / 2 for bounds in (self.distance, self.fovy_deg))
        if self.relative_distance:
            distance /= math.tan(math.radians(fovy_deg) / 2)
        return distance, fovy_deg


@section
class OccupancyConfig:
    """Resolution and memory of the grid."""

    radius: Positive = 1.0  # half the side of the cube, scene units; that of the radiance field
    resolution: PositiveInt = 64  # cells along an axis
    decay: Momentum = 0.95  # factor on the remembered density, an update
    threshold: NonNegative = 0.1  # density per scene unit below which a cell counts as empty


@section
class VolumeRendererConfig:
    """Sampling of rays."""

    # Intervals across the diameter of the bounds, before empty space is skipped; the paper: 64 + 32.
    samples_per_ray: PositiveInt = 96
    bounds: Literal["ball", "box"] = "ball"  # where samples may lie; both have the radius of the radiance field
    rays_per_chunk: PositiveInt = setting(32768, change="anywhere")  # rays whose graph is held at once
    # What marches rays and composites their samples; auto: the fastest for the device. numba marches only.
    backend: VolumeBackend = setting("auto", change="anywhere")


@section
class RasterizerConfig:
    """Which code rasterises."""

    backend: RasterizerBackend = setting("auto", change="anywhere")  # auto: the fastest for the device


@section
class MeshRendererConfig:
    """How meshes are drawn."""

    rasterizer: RasterizerConfig = setting(factory=RasterizerConfig)  # which pixels see which triangle
    antialias: bool = True  # off: hard silhouettes, without a gradient


@section
class BakingConfig:
    """Size of what is exported."""

    texture_size: Annotated[Whole, Field(ge=16, le=16384)] = 1024  # texels along a side
    max_faces: NonNegativeInt = 20_000  # surfaces with more are simplified to about this many; 0 keeps all
    padding: NonNegativeInt = 2  # texels between charts, at least

    def __post_init__(self) -> None:
        if 0 < self.max_faces < 4:
            raise Conflict("max_faces", f"{self.max_faces} is too few for a solid; use at least 4, or 0 to keep all")
        if self.padding >= self.texture_size // 2:
            raise Conflict(
                ("padding", "texture_size"), f"padding {self.padding} must be below half of {self.texture_size}"
            )
