"""Volume renderer: cameras and functions of space to images.

It knows no network and no text: a field is a function from points to `FieldSamples`. Colours are
composited as sRGB, without tone mapping, as in NeRF.

Memory is bounded by chunks of rays. Without gradient each chunk is reduced to its pixels. With
gradient, an image of more than one chunk keeps per-sample intervals and weights only; the graph of a
chunk is rebuilt during backward, on the same samples, so the gradient is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.fields import FieldSamples
from renderers.cameras import Cameras, camera_rays
from renderers.compositing import accumulate, blend_background, render_weights
from renderers.config import VolumeRendererConfig
from renderers.occupancy import OccupancyGrid
from renderers.output import RenderOutput
from renderers.ray_marching import PackedSamples, march_rays

Field = Callable[[Float[Tensor, "n 3"]], FieldSamples]
Normals = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]


class VolumeRenderer:
    """Renders fields inside the bounds of an occupancy grid; holds no state."""

    def __init__(self, config: VolumeRendererConfig) -> None:
        self.config = config

    def render(
        self,
        field: Field,
        occupancy: OccupancyGrid,
        cameras: Cameras,
        height: int,
        width: int,
        background: Float[Tensor, "batch height width 3"] | Float[Tensor, "batch 3"],
        generator: torch.Generator | None = None,
        normals: Normals | None = None,
    ) -> RenderOutput:
        """Render a batch of views, differentiable in the field's parameters and the background.

        Args:
            field: density and colour at points; called once for each chunk of rays, and once more
                during backward where there are several chunks.
            background: sRGB in [0, 1], an image or one colour for each view.
            generator: shifts every ray's samples by a random share of a step; None for no jitter.
            normals: unit normals at points, composited into ``normal``; None to leave them out.
        """
        rays_o, rays_d = (rays.reshape(-1, 3) for rays in camera_rays(cameras, height, width))
        first_step = torch.ones(len(rays_o), device=rays_o.device)
        if generator is not None:
            share = torch.rand(len(rays_o), generator=generator, device=generator.device)
            first_step = 1 - share.to(rays_o.device)  # in (0, 1]
        starts = range(0, len(rays_o), self.config.rays_per_chunk)
        # Recomputing pays only where there are graphs that need not be held at once.
        recompute = torch.is_grad_enabled() and len(starts) > 1
        chunks = []
        for start in starts:
            rays = [tensor[start : start + self.config.rays_per_chunk] for tensor in (rays_o, rays_d, first_step)]
            arguments = (field, normals, occupancy, *rays)
            if recompute:
                # The chunk draws nothing at random: its jitter was drawn above.
                chunk = checkpoint(self._render_rays, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                chunk = self._render_rays(*arguments)
            chunks.append(chunk)
        return _assemble(chunks, background, (len(cameras), height, width))

    def _render_rays(
        self,
        field: Field,
        normals: Normals | None,
        occupancy: OccupancyGrid,
        rays_o: Float[Tensor, "rays 3"],
        rays_d: Float[Tensor, "rays 3"],
        first_step: Float[Tensor, "rays"],
    ) -> _RayChunk:
        step = 2 * occupancy.config.radius / self.config.samples_per_ray
        samples = march_rays(rays_o, rays_d, occupancy, bounds=self.config.bounds, step=step, first_step=first_step)
        points = samples.points(rays_o, rays_d)
        answers = field(points)
        index = (samples.ray_indices, samples.n_rays)
        weights, _ = render_weights(answers.sigmas, samples.t_starts, samples.t_ends, *index)
        return _RayChunk(
            rgb=accumulate(weights, answers.rgb, *index),
            opacity=accumulate(weights, None, *index),
            depth=accumulate(weights, samples.t_middles[:, None], *index),
            normal=None if normals is None else accumulate(weights, normals(points), *index),
            samples=samples if torch.is_grad_enabled() else None,
            weights=weights if torch.is_grad_enabled() else None,
        )


@dataclass(frozen=True)
class _RayChunk:
    """`RenderOutput` of a list of rays, before the background."""

    rgb: Float[Tensor, "rays 3"]
    opacity: Float[Tensor, "rays 1"]
    depth: Float[Tensor, "rays 1"]
    normal: Float[Tensor, "rays 3"] | None
    samples: PackedSamples | None
    weights: Float[Tensor, "n"] | None


def _assemble(chunks: list[_RayChunk], background: Tensor, shape: tuple[int, int, int]) -> RenderOutput:
    """Join chunks into images in front of a background."""
    if background.shape == (shape[0], 3):
        background = background[:, None, None]
    elif background.shape != (*shape, 3):
        raise ValueError(
            f"background: shape {list(background.shape)} is neither {[shape[0], 3]} (one colour a view) "
            f"nor {[*shape, 3]} (an image a view)"
        )
    rgb, opacity, depth = (
        torch.cat([getattr(chunk, name) for chunk in chunks]).view(*shape, -1) for name in ("rgb", "opacity", "depth")
    )
    normal = samples = weights = None
    if chunks[0].normal is not None:
        normal = torch.cat([chunk.normal for chunk in chunks]).view(*shape, 3)
    if chunks[0].samples is not None:
        samples = _join_samples([chunk.samples for chunk in chunks])
        weights = torch.cat([chunk.weights for chunk in chunks])
    return RenderOutput(blend_background(rgb, opacity, background), opacity, depth, normal, samples, weights)


def _join_samples(parts: list[PackedSamples]) -> PackedSamples:
    """One list of samples for all rays, rays renumbered."""
    firsts = [sum(part.n_rays for part in parts[:i]) for i in range(len(parts))]
    return PackedSamples(
        torch.cat([part.t_starts for part in parts]),
        torch.cat([part.t_ends for part in parts]),
        torch.cat([part.ray_indices + first for part, first in zip(parts, firsts, strict=True)]),
        sum(part.n_rays for part in parts),
    )
