"""A guidance step on meta tensors: all of its operations and shapes, none of its numbers.

It runs the code that training runs, in the order of ``systems/base.py``, so what it costs can be counted in
seconds on any machine, whatever the model's size, before it is paid: in FLOPs (``benchmarks/step_cost.py``)
or in bytes (``guidance/memory.py``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidance.gradients import as_loss
from guidance.prompts import PromptEmbeddings
from guidance.score_distillation import ScoreDistillation
from renderers.cameras import Cameras, orbit_cameras

META = torch.device("meta")


def on_meta(guidance: ScoreDistillation) -> ScoreDistillation:
    """A copy whose weights have shapes alone. Text encoders are released: they are no part of a step."""
    guidance.model.release_text_encoder()
    modules = [guidance, guidance.model.network, guidance.model.frozen_autoencoder.module]
    if guidance.estimator is not None:
        modules.append(guidance.estimator.twin.module)
    tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
    return copy.deepcopy(guidance, {id(tensor): _without_numbers(tensor) for tensor in tensors})


def run_step(
    guidance: ScoreDistillation, prompts: PromptEmbeddings, views: int = 1, reconstructs: bool = False
) -> None:
    """One iteration from rendered images on: encode, scene's gradient and its backward, the estimator's step.

    ``guidance`` and ``prompts`` are on the meta device. With ``reconstructs`` the latents are decoded too.
    """
    size = guidance.image_size
    generator = torch.Generator().manual_seed(0)  # t and noise are drawn as always; their numbers end there
    cameras = _cameras(views)
    images = torch.empty(views, 3, size, size, device=META, requires_grad=True)
    latents = guidance.encode(images)
    output = guidance.gradient(latents, prompts, cameras, (0.02, 0.98), generator)
    if reconstructs:
        with torch.no_grad():
            guidance.decode(latents)
    as_loss(latents, output.gradient).backward()
    if guidance.estimator is not None:
        loss = output.estimator_loss
        if loss is None:
            loss = guidance.estimator_loss(latents, prompts, cameras, generator)
        guidance.zero_grad()
        loss.backward()


def run_samples(guidance: ScoreDistillation, prompts: PromptEmbeddings, count: int) -> None:
    """So many pictures of the prior and of the estimator at once, as the diagnostics draw them, in a single step."""
    guidance.samples(prompts, _cameras(count), 1, torch.Generator().manual_seed(0))


def _cameras(count: int) -> Cameras:
    angles = torch.zeros(count)
    return orbit_cameras(angles, angles, torch.ones(count), torch.full((count,), 40.0))


@contextmanager
def fused_attention() -> Iterator[None]:
    """Within the block, attention on meta tensors is one fused kernel, as it is on a GPU.

    Left to itself PyTorch would take the matrix products of its fallback, which store every pair of tokens.
    The function is replaced because modes that intercept calls are off while a backward pass recomputes.
    """
    original = F.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not query.is_meta:
            return original(query, key, value, *args, **kwargs)
        needs_backward = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, needs_backward)[0]

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


def _without_numbers(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device=META, requires_grad=False)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
