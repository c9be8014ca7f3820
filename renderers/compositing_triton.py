"""CUDA kernels of compositing, written in Triton; the formulas are `renderers.volume`'s.

A program treats one ray and walks along its samples in blocks. Samples are sorted by ray; ``firsts [rays + 1]`` says
where those of each ray begin. Optical depths are summed in float32, each ray by itself, so no ray loses digits to
another. A sum over what lies before a sample leaves the sample out instead of subtracting it, for the same reason.

With the upstream gradient g_i of the weight w_i = T_i (1 - exp(-tau_i)), the gradient of an optical depth is

    dL/dtau_k = g_k T_k exp(-tau_k) - sum_{i>k} g_i w_i.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.backends import on_device

BLOCK = 128  # samples that are looked at together


@triton.jit
def _absorbed(depth):
    """1 - exp(-depth) for depths >= 0; by its series where the difference would lose digits (error below 5e-7)."""
    series = depth * (1 - depth * (0.5 - depth * (1 / 6 - depth * (1 / 24 - depth * (1 / 120)))))
    return tl.where(depth < 0.2, series, 1 - tl.exp(-depth))


@triton.jit
def _depth(sigmas, t_starts, t_ends, sample, exists):
    """Optical depth of samples, 0 where there are none."""
    length = tl.load(t_ends + sample, exists, 0.0) - tl.load(t_starts + sample, exists, 0.0)
    return tl.load(sigmas + sample, exists, 0.0).to(tl.float32) * length


@triton.jit
def _weights(sigmas, t_starts, t_ends, firsts, weights, transmittances, BLOCK: tl.constexpr):
    """Weights and transmittances of all samples."""
    ray = tl.program_id(0)
    first, end = tl.load(firsts + ray), tl.load(firsts + ray + 1)
    before = tl.zeros((1,), tl.float32)
    start = first
    while start < end:
        sample = start + tl.arange(0, BLOCK)
        exists = sample < end
        depth = _depth(sigmas, t_starts, t_ends, sample, exists)
        previous = _depth(sigmas, t_starts, t_ends, sample - 1, exists & (sample > first))
        transmittance = tl.exp(-(before + tl.cumsum(previous, axis=0)))
        tl.store(transmittances + sample, transmittance, exists)
        tl.store(weights + sample, transmittance * _absorbed(depth), exists)
        before += tl.sum(previous, axis=0)
        start += BLOCK


@triton.jit
def _weights_gradient(
    sigmas, t_starts, t_ends, firsts, weights, transmittances, grad, grad_transmittance, grad_sigmas,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient with respect to the densities, from that of the weights and of the transmittances.

    T_i depends on the depths before it: dT_i/dtau_k = -T_i for k < i.
    """
    ray = tl.program_id(0)
    first, end = tl.load(firsts + ray), tl.load(firsts + ray + 1)
    behind = tl.zeros((1,), tl.float32)  # the sum over samples behind the block
    last = end - 1
    while last >= first:
        sample = last - tl.arange(0, BLOCK)  # from far to near
        exists = sample >= first
        length = tl.load(t_ends + sample, exists, 0.0) - tl.load(t_starts + sample, exists, 0.0)
        depth = tl.load(sigmas + sample, exists, 0.0).to(tl.float32) * length
        upstream = tl.load(grad + sample, exists, 0.0)
        transmittance = tl.load(transmittances + sample, exists, 0.0)
        farther = exists & (sample + 1 < end)
        lost = tl.load(grad + sample + 1, farther, 0.0) * tl.load(weights + sample + 1, farther, 0.0)
        lost += tl.load(grad_transmittance + sample + 1, farther, 0.0) * tl.load(
            transmittances + sample + 1, farther, 0.0
        )
        own = upstream * transmittance * tl.exp(-depth)
        tl.store(grad_sigmas + sample, (own - (behind + tl.cumsum(lost, axis=0))) * length, exists)
        behind += tl.sum(lost, axis=0)
        last -= BLOCK


@triton.jit
def _accumulate(
    weights, values, firsts, sums,
    HAS_VALUES: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Weighted sums of ``values [n, CHANNELS]``, or of ones, along each ray; ``WIDTH`` is the next power of two."""
    ray = tl.program_id(0).to(tl.int64)
    first, end = tl.load(firsts + ray), tl.load(firsts + ray + 1)
    channel = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.float32)
    start = first
    while start < end:
        sample = start + tl.arange(0, BLOCK)
        weighted = tl.load(weights + sample, sample < end, 0.0)[:, None]
        if HAS_VALUES:
            exists = (sample < end)[:, None] & (channel < CHANNELS)[None, :]
            value = tl.load(values + sample[:, None] * CHANNELS + channel[None, :], exists, 0.0)
            weighted = weighted * value.to(tl.float32)
        total += tl.sum(weighted, axis=0)
        start += BLOCK
    tl.store(sums + ray * CHANNELS + channel, total, channel < CHANNELS)


class TritonWeights(torch.autograd.Function):
    """`renderers.volume.render_weights` on CUDA kernels, differentiable once, in the densities."""

    @staticmethod
    def forward(ctx, sigmas: Tensor, t_starts: Tensor, t_ends: Tensor, firsts: Tensor) -> tuple[Tensor, Tensor]:
        sigmas, t_starts, t_ends = (tensor.detach().contiguous() for tensor in (sigmas, t_starts, t_ends))
        weights, transmittances = (torch.empty_like(sigmas, dtype=torch.float32) for _ in range(2))
        if len(sigmas):
            with on_device(sigmas.device):
                _weights[(len(firsts) - 1,)](
                    sigmas, t_starts, t_ends, firsts, weights, transmittances, BLOCK=BLOCK, num_warps=1
                )
        ctx.save_for_backward(sigmas, t_starts, t_ends, firsts, weights, transmittances)
        return weights, transmittances

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, grad_transmittances: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: gradient checkpointing allows no second look
        sigmas, firsts = saved[0], saved[3]
        grad_sigmas = torch.empty_like(sigmas, dtype=torch.float32)
        upstream = grad.contiguous(), grad_transmittances.contiguous()
        if len(sigmas):
            with on_device(sigmas.device):
                _weights_gradient[(len(firsts) - 1,)](*saved, *upstream, grad_sigmas, BLOCK=BLOCK, num_warps=1)
        return grad_sigmas.to(sigmas.dtype), None, None, None


class TritonAccumulate(torch.autograd.Function):
    """`renderers.volume.accumulate` on a CUDA kernel, differentiable once, in weights and values."""

    @staticmethod
    def forward(ctx, weights: Tensor, values: Tensor | None, ray_indices: Tensor, firsts: Tensor) -> Tensor:
        weights = weights.detach().contiguous()
        values = None if values is None else values.detach().contiguous()
        channels, n_rays = 1 if values is None else values.shape[-1], len(firsts) - 1
        sums = torch.empty(n_rays, channels, device=weights.device)
        if n_rays:
            with on_device(weights.device):
                _accumulate[(n_rays,)](
                    weights, weights if values is None else values, firsts, sums,
                    HAS_VALUES=values is not None, CHANNELS=channels, WIDTH=triton.next_power_of_2(channels),
                    BLOCK=BLOCK, num_warps=1,
                )  # fmt: skip
        ctx.save_for_backward(weights, values, ray_indices)
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, values, ray_indices = ctx.saved_tensors
        of_ray = grad.index_select(0, ray_indices)
        if values is None:
            return of_ray[:, 0], None, None, None
        grad_weights = (of_ray * values).sum(-1) if ctx.needs_input_grad[0] else None
        grad_values = (of_ray * weights[:, None]).to(values.dtype) if ctx.needs_input_grad[1] else None
        return grad_weights, grad_values, None, None
