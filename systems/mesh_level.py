"""Which density is the surface? The level whose silhouette agrees best with what the renders show.

Training shapes the pictures, not the density: the same picture comes from a hard surface or from fog
of any strength, so no fixed level suits all scenes, and one chosen from the density's histogram (Otsu)
answers to the empty and the hidden parts of space, which no picture constrains. The pictures are the
evidence: a ray meets the mesh of level L exactly where the greatest density along it exceeds L, so a
mesh's silhouette is a threshold on the rays' greatest densities. Taken is the level whose silhouette
has the largest intersection over union with "opacity > 1/2"; where a range of levels does equally well
(a hard surface), its geometric middle, since densities span orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from renderers.cameras import Cameras, camera_rays
from renderers.config import VolumeRendererConfig
from renderers.ray_marching import OccupancyGrid, march_rays
from renderers.volume import accumulate, render_weights

LOWEST_SHARE = 0.01  # of a range's upper end that its lower end counts at least


@dataclass(frozen=True)
class RayExtremes:
    """What rays tell about the surface."""

    greatest: Float[Tensor, "rays"]  # density along the ray
    opacity: Float[Tensor, "rays"]

    @staticmethod
    def join(parts: Sequence[RayExtremes]) -> RayExtremes:
        return RayExtremes(torch.cat([part.greatest for part in parts]), torch.cat([part.opacity for part in parts]))


def silhouette_overlaps(rays: RayExtremes) -> tuple[Float[Tensor, "rays"], Float[Tensor, "rays"]]:
    """The rays' greatest densities, falling, and the intersection over union with the level just below each.

    Where several are equal, only the last one's is meant: the others' is -1.

    Raises:
        ValueError: no ray is opaque.
    """
    opaque = rays.opacity > 0.5
    if not opaque.any():
        raise ValueError(
            f"level: nothing to choose it from, the scene is empty: no pixel's opacity exceeds 0.5 (the greatest is "
            f"{rays.opacity.max().item():g}); train on, or set the level by hand"
        )
    levels, order = rays.greatest.double().sort(descending=True)
    # With the level just below the k-th greatest density, k rays are inside.
    hits = torch.cumsum(opaque[order].double(), 0)
    inside = torch.arange(1, len(levels) + 1, dtype=torch.float64, device=levels.device)
    overlap = hits / (inside + opaque.sum() - hits)
    overlap[:-1][levels[:-1] == levels[1:]] = -1  # a level cannot tell equal densities apart
    return levels, overlap


def silhouette_level(rays: RayExtremes) -> float:
    """The level L for which "greatest > L" agrees best with "opacity > 1/2"; raises as `silhouette_overlaps`."""
    levels, overlap = silhouette_overlaps(rays)
    best = int(overlap.argmax())
    above = levels[best].item()
    below = levels[best + 1].item() if best + 1 < len(levels) else 0.0
    # Empty space tells nothing about how far below its lower end may lie.
    return (above * max(below, LOWEST_SHARE * above)) ** 0.5


@torch.no_grad()
def ray_extremes(
    density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]],
    occupancy: OccupancyGrid,
    cameras: Cameras,
    size: int,
    config: VolumeRendererConfig,
) -> RayExtremes:
    """Greatest density along each ray of the views, and its opacity, sampled as the renderer samples."""
    rays_o, rays_d = (rays.reshape(-1, 3) for rays in camera_rays(cameras, size, size))
    step = 2 * occupancy.config.radius / config.samples_per_ray
    parts = []
    for origins, directions in zip(
        rays_o.split(config.rays_per_chunk), rays_d.split(config.rays_per_chunk), strict=True
    ):
        first_step = torch.ones(len(origins), device=origins.device)
        samples = march_rays(
            origins,
            directions,
            occupancy,
            bounds=config.bounds,
            step=step,
            first_step=first_step,
            backend=config.backend,
        )
        sigmas = density(samples.points(origins, directions)).float()
        index = (samples.ray_indices, samples.n_rays, config.backend)
        weights, _ = render_weights(sigmas, samples.t_starts, samples.t_ends, *index)
        greatest = torch.zeros(samples.n_rays, device=sigmas.device)
        greatest = greatest.scatter_reduce(0, samples.ray_indices, sigmas, "amax")
        parts.append(RayExtremes(greatest, accumulate(weights, None, *index)[:, 0]))
    return RayExtremes.join(parts)
