"""Cameras on a sphere around the object: conventions, construction, sampling, view words.

Conventions, stated here once and used everywhere:

- World axes are right-handed with y up, as in glTF. The front of an object looks along +z.
- Azimuth 0 is a camera on the +z axis, which sees the front; azimuth grows towards +x (the
  object's left side) and is periodic in 360 degrees. Elevation is the angle above the xz plane.
- Camera axes are OpenGL's: x right, y up, the camera looks along its own -z. ``c2w`` maps
  homogeneous camera coordinates to world coordinates.
- Pixel (row 0, column 0) is the top left one; rays go through pixel centres. ``rays_d`` has unit
  length, so distances along a ray are Euclidean.
- Lengths are in scene units; the default scenes fit into a ball of radius 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from models.transfer import to_device
from renderers.config import VIEW_WORDS, CameraSampling, ViewThresholds


@dataclass(frozen=True)
class Cameras:
    """A batch of cameras that look at the origin from an orbit.

    The spherical coordinates are kept beside the matrix because view-dependent prompting and the
    logs need them.
    """

    c2w: Float[Tensor, "batch 4 4"]
    fovy_deg: Float[Tensor, "batch"]
    azimuth_deg: Float[Tensor, "batch"]
    elevation_deg: Float[Tensor, "batch"]
    distance: Float[Tensor, "batch"]

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Cameras:
        return Cameras(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> Cameras:
        return Cameras(**{f.name: to_device(getattr(self, f.name), device) for f in fields(self)})


def orbit_cameras(
    azimuth_deg: Float[Tensor, "batch"],
    elevation_deg: Float[Tensor, "batch"],
    distance: Float[Tensor, "batch"],
    fovy_deg: Float[Tensor, "batch"],
) -> Cameras:
    """Cameras at the given spherical coordinates, upright, looking at the origin.

    Raises:
        ValueError: an elevation at or beyond the poles, where "upright" has no meaning.
    """
    if (elevation_deg.abs() >= 90).any():
        worst = elevation_deg.abs().max().item()
        raise ValueError(f"elevation_deg: |{worst:g}| is not below 90; use 89.9 for a view from the pole")
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    zeros = torch.zeros_like(azimuth)
    backward = torch.stack(
        [
            torch.cos(elevation) * torch.sin(azimuth),
            torch.sin(elevation),
            torch.cos(elevation) * torch.cos(azimuth),
        ],
        dim=-1,
    )
    right = torch.stack([torch.cos(azimuth), zeros, -torch.sin(azimuth)], dim=-1)
    up = torch.linalg.cross(backward, right)
    c2w = torch.zeros(*azimuth.shape, 4, 4, dtype=azimuth.dtype, device=azimuth.device)
    c2w[..., :3, 0], c2w[..., :3, 1], c2w[..., :3, 2] = right, up, backward
    c2w[..., :3, 3] = backward * distance[..., None]
    c2w[..., 3, 3] = 1.0
    return Cameras(c2w, fovy_deg, azimuth_deg, elevation_deg, distance)


def camera_rays(
    cameras: Cameras, height: int, width: int
) -> tuple[Float[Tensor, "batch height width 3"], Float[Tensor, "batch height width 3"]]:
    """Origins and unit directions of the rays through the pixel centres."""
    device, dtype = cameras.c2w.device, cameras.c2w.dtype
    half_height = torch.tan(torch.deg2rad(cameras.fovy_deg) / 2)[:, None, None]
    rows = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height * 2 - 1
    columns = ((torch.arange(width, device=device, dtype=dtype) + 0.5) / width * 2 - 1) * (width / height)
    y = (-rows[None, :, None] * half_height).expand(-1, height, width)
    x = (columns[None, None, :] * half_height).expand(-1, height, width)
    directions = torch.stack([x, y, -torch.ones_like(x)], dim=-1)
    rays_d = torch.einsum("bij,bhwj->bhwi", cameras.c2w[:, :3, :3], directions)
    rays_d = torch.nn.functional.normalize(rays_d, dim=-1)
    rays_o = cameras.c2w[:, None, None, :3, 3].expand_as(rays_d)
    return rays_o, rays_d


def view_index(
    azimuth_deg: Float[Tensor, "batch"],
    elevation_deg: Float[Tensor, "batch"],
    thresholds: ViewThresholds = ViewThresholds(),
) -> Tensor:
    """Index into ``VIEW_WORDS`` of each view, int64 ``[batch]``."""
    from_front = ((azimuth_deg + 180) % 360 - 180).abs()
    index = torch.full_like(azimuth_deg, VIEW_WORDS.index("side"), dtype=torch.int64)
    index = index.masked_fill(from_front <= thresholds.front_deg, VIEW_WORDS.index("front"))
    index = index.masked_fill(from_front >= 180 - thresholds.back_deg, VIEW_WORDS.index("back"))
    index = index.masked_fill(elevation_deg > thresholds.overhead_deg, VIEW_WORDS.index("overhead"))
    return index.masked_fill(elevation_deg < thresholds.bottom_deg, VIEW_WORDS.index("bottom"))


def sample_cameras(count: int, sampling: CameraSampling, generator: torch.Generator, together: int = 1) -> Cameras:
    """Draw cameras; azimuths are stratified over the batch so that one step sees all sides.

    Args:
        together: cameras of a group, which stand in a row: they differ in azimuth alone, spread evenly over the range.
    """
    if together > 1:
        return _group_of_cameras(count, sampling, generator, together)

    def uniform(bounds: tuple[float, float]) -> Float[Tensor, "batch"]:
        low, high = bounds
        return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)

    strata = torch.randperm(count, generator=generator, device=generator.device)
    offset = torch.rand(count, generator=generator, device=generator.device)
    low, high = sampling.azimuth_deg
    azimuth = low + (high - low) * (strata + offset) / count
    elevation_deg, distance, fovy_deg = map(uniform, (sampling.elevation_deg, sampling.distance, sampling.fovy_deg))
    if sampling.relative_distance:
        distance = distance / torch.tan(torch.deg2rad(fovy_deg) / 2)
    return orbit_cameras(azimuth, elevation_deg, distance, fovy_deg)


def _group_of_cameras(count: int, sampling: CameraSampling, generator: torch.Generator, together: int) -> Cameras:
    low, high = sampling.azimuth_deg
    part = replace(sampling, azimuth_deg=(low, low + (high - low) / together))
    first = sample_cameras(count // together, part, generator)
    azimuth, elevation, distance, fovy = (
        value.repeat_interleave(together)
        for value in (first.azimuth_deg, first.elevation_deg, first.distance, first.fovy_deg)
    )
    steps = torch.arange(together, device=azimuth.device).repeat(count // together)
    return orbit_cameras(azimuth + steps * (high - low) / together, elevation, distance, fovy)


def turntable_cameras(count: int, elevation_deg: float, distance: float, fovy_deg: float) -> Cameras:
    """``count`` cameras evenly spaced in azimuth from 0 (the front)."""
    azimuth = torch.arange(count, dtype=torch.float32) * (360.0 / count)
    fixed = [torch.full((count,), float(value)) for value in (elevation_deg, distance, fovy_deg)]
    return orbit_cameras(azimuth, *fixed)
