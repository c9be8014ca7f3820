"""Volume renderer: cameras and functions of space to images.

It knows no network and no text: a field is a function from points to `FieldSamples`. Colours are
composited as sRGB, without tone mapping, as in NeRF.

Memory is bounded by chunks of rays. Without gradient each chunk is reduced to its pixels. With
gradient, an image of more than one chunk keeps the places and weights of its samples only; the graph of a chunk is
rebuilt during backward, on the same samples, so the gradient is exact.

Compositing is emission and absorption (Max 1995; NeRF, Eq. 3). With optical depths
tau_i = sigma_i (t_end_i - t_start_i) along one ray:

    transmittance T_i = exp(-sum_{j<i} tau_j),  weight w_i = T_i (1 - exp(-tau_i)),
    opacity = sum_i w_i = 1 - exp(-sum_i tau_i).

These are pure functions of samples sorted by ray, differentiable in ``sigmas`` and the values. Results are
float32. In plain PyTorch the running sum over all rays at once is kept in float64: a ray's share is the difference of
two sums, which would lose its digits behind a thousand saturated rays. The Triton kernels sum each ray by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.fields import FieldSamples
from models.transfer import to_device
from renderers.cameras import Cameras, camera_rays
from renderers.config import VolumeRendererConfig
from renderers.output import BackgroundColors, RenderOutput, in_front_of
from renderers.ray_marching import OccupancyGrid, PackedSamples, first_samples, march_rays, volume_backend

Field = Callable[[Float[Tensor, "n 3"]], FieldSamples]
Normals = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]

RAYS_PER_MARCH = 2**18  # of a view of 512 px: up to 350 MB of samples at 96 a ray


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
        background: BackgroundColors,
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
            first_step = 1 - to_device(share, rays_o.device)  # in (0, 1]
        size = self.config.rays_per_chunk
        # Recomputing pays only where there are graphs that need not be held at once.
        recompute = torch.is_grad_enabled() and len(rays_o) > size
        chunks = []
        samples = self._march(occupancy, rays_o, rays_d, first_step)
        for of_chunk, origins, directions in zip(samples, rays_o.split(size), rays_d.split(size), strict=True):
            arguments = (field, normals, of_chunk, origins, directions)
            if recompute:
                # The chunk draws nothing at random: its samples were chosen above.
                chunk = checkpoint(self._render_rays, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                chunk = self._render_rays(*arguments)
            chunks.append(chunk)
        return _assemble(chunks, background, (len(cameras), height, width))

    def _march(
        self,
        occupancy: OccupancyGrid,
        rays_o: Float[Tensor, "rays 3"],
        rays_d: Float[Tensor, "rays 3"],
        first_step: Float[Tensor, "rays"],
    ) -> Iterator[PackedSamples]:
        """The samples of each chunk of rays.

        Each march makes the host wait for a GPU, so many chunks are marched together. Plain PyTorch marches them one by
        one, because it holds all intervals of its rays, empty ones included.
        """
        size, backend = self.config.rays_per_chunk, self.config.backend
        one_by_one = volume_backend(backend).on(rays_o.device) == "torch"
        together = size if one_by_one else max(RAYS_PER_MARCH // size, 1) * size
        step = 2 * occupancy.config.radius / self.config.samples_per_ray
        parts = (rays.split(together) for rays in (rays_o, rays_d, first_step))
        for origins, directions, firsts in zip(*parts, strict=True):
            samples = march_rays(
                origins, directions, occupancy, bounds=self.config.bounds, step=step, first_step=firsts, backend=backend
            )
            yield from [samples] if len(origins) <= size else samples.split(size)

    def _render_rays(
        self,
        field: Field,
        normals: Normals | None,
        samples: PackedSamples,
        rays_o: Float[Tensor, "rays 3"],
        rays_d: Float[Tensor, "rays 3"],
    ) -> _RayChunk:
        backend = self.config.backend
        points = samples.points(rays_o, rays_d)
        answers = field(points)
        index = (samples.ray_indices, samples.n_rays, backend, samples.firsts)
        weights, _ = render_weights(answers.sigmas, samples.t_starts, samples.t_ends, *index)
        return _RayChunk(
            rgb=accumulate(weights, answers.rgb, *index),
            opacity=accumulate(weights, None, *index),
            normal=None if normals is None else accumulate(weights, normals(points), *index),
            weights=weights if torch.is_grad_enabled() else None,
        )


@dataclass(frozen=True)
class _RayChunk:
    """`RenderOutput` of a list of rays, before the background."""

    rgb: Float[Tensor, "rays 3"]
    opacity: Float[Tensor, "rays 1"]
    normal: Float[Tensor, "rays 3"] | None
    weights: Float[Tensor, "n"] | None


def _assemble(chunks: list[_RayChunk], background: BackgroundColors, shape: tuple[int, int, int]) -> RenderOutput:
    """Join chunks into images in front of a background."""
    rgb, opacity = (
        torch.cat([getattr(chunk, name) for chunk in chunks]).view(*shape, -1) for name in ("rgb", "opacity")
    )
    normals = [chunk.normal for chunk in chunks if chunk.normal is not None]
    weights = [chunk.weights for chunk in chunks if chunk.weights is not None]
    return RenderOutput(
        in_front_of(background, rgb, opacity),
        opacity,
        torch.cat(normals).view(*shape, 3) if normals else None,
        torch.cat(weights) if weights else None,
    )


def optical_depths(
    sigmas: Float[Tensor, "n"], t_starts: Float[Tensor, "n"], t_ends: Float[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """tau_i of the samples."""
    return sigmas.float() * (t_ends - t_starts)


def transmittances(depths: Float[Tensor, "n"], ray_indices: Int[Tensor, "n"], n_rays: int) -> Float[Tensor, "n"]:
    """Share of the light that reaches each sample from the camera, T_i, given optical depths."""
    if depths.device.type == "mps":  # which has no float64
        return transmittances(depths.cpu(), ray_indices.cpu(), n_rays).to(depths.device)
    before = torch.cumsum(depths, dim=0, dtype=torch.float64) - depths
    counts = torch.bincount(ray_indices, minlength=n_rays)
    # The place of each ray's first sample; rays without samples get a place that nothing reads.
    firsts = (torch.cumsum(counts, dim=0) - counts).index_select(0, ray_indices)
    return torch.exp(before.index_select(0, firsts) - before).float()


def render_weights(
    sigmas: Float[Tensor, "n"],
    t_starts: Float[Tensor, "n"],
    t_ends: Float[Tensor, "n"],
    ray_indices: Int[Tensor, "n"],
    n_rays: int,
    backend: str = "auto",
    firsts: Int[Tensor, "rays_and_one"] | None = None,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Weights w_i and transmittances T_i of the samples; ``backend`` as ``render.volume.backend``.

    Args:
        firsts: `PackedSamples.firsts`, where it is known.
    """
    if volume_backend(backend).on(sigmas.device) == "triton":
        from renderers.compositing_triton import TritonWeights  # needs triton

        firsts = first_samples(ray_indices, n_rays) if firsts is None else firsts
        return TritonWeights.apply(sigmas, t_starts, t_ends, firsts)
    depths = optical_depths(sigmas, t_starts, t_ends)
    transmittance = transmittances(depths, ray_indices, n_rays)
    return transmittance * -torch.expm1(-depths), transmittance


def accumulate(
    weights: Float[Tensor, "n"],
    values: Float[Tensor, "n channels"] | None,
    ray_indices: Int[Tensor, "n"],
    n_rays: int,
    backend: str = "auto",
    firsts: Int[Tensor, "rays_and_one"] | None = None,
) -> Float[Tensor, "rays channels"]:
    """Weighted sums of values along rays; of ones (the opacity) where ``values`` is None. Arguments as above."""
    if volume_backend(backend).on(weights.device) == "triton":
        from renderers.compositing_triton import TritonAccumulate  # needs triton

        firsts = first_samples(ray_indices, n_rays) if firsts is None else firsts
        return TritonAccumulate.apply(weights, values, ray_indices, firsts)
    weighted = weights[:, None] if values is None else weights[:, None] * values.float()
    sums = torch.zeros(n_rays, weighted.shape[-1], dtype=weighted.dtype, device=weighted.device)
    return sums.index_add(0, ray_indices, weighted)
