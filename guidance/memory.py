"""How much memory a guidance step will need, estimated before it runs.

A run needs the more of two things: what a guidance step needs, and, while prompts are encoded, the weights of
the model with its text encoders, which are freed after that. A step has three parts:

- *weights*: of the frozen network and autoencoder, in their dtype;
- *estimator*: its float32 parameters and AdamW's two moments of them;
- *step*: the most that is alive at once of all that a step allocates. A dry run on meta tensors
  (``guidance/dry_run.py``) does the step's operations, backward passes included, on tensors without numbers;
  every storage that an operation returns counts from then on until Python and autograd drop it. So saved
  activations, gradients and temporary results are all there, and gradient checkpointing shows. What a kernel
  needs within itself is not (convolutions may take some hundred MB).

All of it is done before any weight is read: networks are built from their configurations alone
(``guidance/families/components.py``). Not counted are the scene and its renders, the decoding that
``regularizers.reconstruction`` asks for, the CUDA context (about 0.5 GB), and the allocator's fragments (some 10%). The
Trainer's mixed precision is not modelled either: it
computes norms in float32 and adapters in half precision, where the dry run does the reverse.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from guidance.building import build_guidance
from guidance.config import DebiasingConfig, EstimatorConfig, GuidanceConfig, TextConfig
from guidance.dry_run import META, fused_attention, on_meta, run_step
from guidance.families.latent_diffusion import LatentDiffusionPrior
from guidance.loading import outline_prior
from guidance.model_files import ModelFiles
from guidance.prompts import PromptEmbeddings, embed_prompt
from guidance.score_distillation import ScoreDistillation

GB = 1e9
ADAM_MOMENTS = 2


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes."""

    weights: int  # frozen
    estimator: int  # its parameters and optimizer
    step: int  # peak of what a step allocates
    text_encoders: int = 0  # their weights

    @property
    def total(self) -> int:
        return max(self.weights + self.text_encoders, self.weights + self.estimator + self.step)


class LiveMemory(TorchDispatchMode):
    """Within the block, follows the bytes of all storages that operations return, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.is_meta:  # random numbers are drawn on a CPU
                self._follow(leaf.untyped_storage())
        return output

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Weights are counted elsewhere; operations return views of them."""
        self._alive.update(tensor.untyped_storage()._cdata for tensor in tensors)

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


@dataclass(frozen=True)
class PlannedRun:
    """What the memory of a run depends on."""

    model: str | Path | ModelFiles  # the frozen one; its weights needn't be here yet
    device: torch.device
    dtype: torch.dtype  # of the frozen weights
    prompt: str
    text: TextConfig
    guidance: GuidanceConfig
    estimator: EstimatorConfig
    views: int = 1  # images a step


def estimate_run(run: PlannedRun) -> MemoryEstimate:
    """From the model's configuration alone; no weights are read. Raises as ``load_prior``."""
    with warnings.catch_warnings(action="ignore"):  # whatever is amiss is told when it is loaded
        prior = outline_prior(run.model, run.dtype)
        if run.device.type == "cpu" and isinstance(prior, LatentDiffusionPrior):
            prior.use_plain_attention()  # as on the device that the run will be on
        # Which words are left out makes no difference to shapes.
        text = replace(run.text, debiasing=DebiasingConfig())
        prompts = embed_prompt(prior, run.prompt, text, run.guidance.further_texts, release_text_encoder=False)
    encoders = [encoder for encoder in prior.text_encoders if encoder is not None]
    text_encoders = size_of(tensor for encoder in encoders for tensor in encoder.parameters())
    with META:
        guidance = build_guidance(prior, run.guidance, run.estimator, torch.Generator().manual_seed(0))
    return replace(estimate_memory(guidance, prompts, run.views), text_encoders=text_encoders)


def estimate_memory(guidance: ScoreDistillation, prompts: PromptEmbeddings, views: int = 1) -> MemoryEstimate:
    """Of a step with ``views`` images at the prior's size. Allocates nothing; takes seconds for large models."""
    dry, prompts = on_meta(guidance), prompts.to(META)
    frozen, trained = _frozen_tensors(dry), list(dry.parameters())
    with LiveMemory() as memory, fused_attention():
        memory.ignore([*frozen, *trained])
        run_step(dry, prompts, views)
    return MemoryEstimate(size_of(frozen), size_of(trained) * (1 + ADAM_MOMENTS), memory.peak)


def _frozen_tensors(guidance: ScoreDistillation) -> list[Tensor]:
    modules = (guidance.model.network, guidance.model.frozen_autoencoder.module)
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def device_memory(device: torch.device) -> int:
    """Bytes of a CUDA device, or of this machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def preflight(run: PlannedRun) -> str | None:
    """A line on the memory that a run will need, before any of it is taken; raises as ``load_prior``.

    None for losses of image-text models, which are small.
    """
    if run.guidance.reads == "images":
        return None
    try:
        estimate = estimate_run(run)
    except RuntimeError as error:  # an operation that meta tensors lack is no reason to stop
        reason = " ".join(str(error).split())
        return f"no estimate ({reason:.100})"
    return preflight_line(estimate, device_memory(run.device))


def preflight_line(estimate: MemoryEstimate, available: int) -> str:
    """ "guidance needs about N GB, this device has M GB", and what to do where that is too little."""
    parts = (("weights", estimate.weights), ("estimator", estimate.estimator), ("a step", estimate.step))
    shares = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts if size)
    if estimate.text_encoders:
        shares += f"; text encoders {estimate.text_encoders / GB:.1f}, freed before"
    line = f"guidance needs about {estimate.total / GB:.1f} GB ({shares}), this device has {available / GB:.1f} GB"
    if estimate.weights + estimate.text_encoders > available:
        line += ": too little for the weights; set prior.precision to bf16, or take a smaller prior"
    elif estimate.total > available:
        line += (
            ": too little; lower render.views, set prior.precision to bf16, estimator.gradient_checkpointing to true "
            "or guidance.shared_pass to false, or take a smaller prior"
        )
    return line
