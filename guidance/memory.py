"""How much memory the guidance will need, estimated on meta tensors before any weight is read.

A dry run (``guidance/dry_run.py``) does the operations of a step, backward passes included, on tensors without
numbers. Every storage that an operation returns counts from then on until Python and autograd drop it. So saved
activations, gradients and temporary results are all there, and gradient checkpointing shows. What a kernel needs
within itself is not (a convolution may take some hundred MB). Mixed precision is not modelled: autocast
computes norms in float32 and adapters in half precision, where the dry run does the reverse.

``systems/memory.py`` adds the scene and its renders.
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
from guidance.dry_run import META, fused_attention, on_meta, run_samples, run_step
from guidance.families.latent_diffusion import LatentDiffusionPrior
from guidance.loading import outline_prior
from guidance.model_files import ModelFiles
from guidance.prompts import PromptEmbeddings, embed_prompt
from guidance.score_distillation import ScoreDistillation

GB = 10**9
ADAM_MOMENTS = 2
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # bytes, or "max"
LESS_MEMORY = (
    "set memory=low or guidance.shared_pass=false, lower render.views, set prior.precision=bf16, or take a smaller "
    "prior"
)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes."""

    weights: int  # frozen
    estimator: int  # its parameters and optimizer
    step: int  # peak of what a step allocates
    text_encoders: int = 0  # their weights
    pictures: int = 0  # peak of what the diagnostics allocate between steps

    @property
    def total(self) -> int:
        """The most at any time: while prompts are encoded, in a step, or between steps."""
        training = self.weights + self.estimator + max(self.step, self.pictures)
        return max(self.weights + self.text_encoders, training)


class LiveMemory(TorchDispatchMode):
    """Within the block, follows the bytes of all storages on a device that operations return, while they live."""

    def __init__(self, device: torch.device = META) -> None:
        super().__init__()
        self.device = device
        self.now = 0
        self.peak = 0
        self._alive: set[int] = set()
        self._gradients: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.device.type == self.device.type:
                self._follow(leaf.untyped_storage())
        return output

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Weights are counted elsewhere; operations return views of them."""
        self._alive.update(tensor.untyped_storage()._cdata for tensor in tensors)

    def ignore_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Nor does any storage of the size of one of these count."""
        self._gradients.update(parameter.untyped_storage().nbytes() for parameter in parameters)

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive or size in self._gradients:
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


def estimate_memory(
    guidance: ScoreDistillation,
    prompts: PromptEmbeddings,
    views: int = 1,
    reconstructs: bool = False,
    samples: int = 0,
) -> MemoryEstimate:
    """Of a step with ``views`` images at the prior's size. Allocates nothing; takes seconds for large models.

    Args:
        reconstructs: whether the step decodes its latents, for ``regularizers.reconstruction``.
        samples: pictures that the diagnostics draw at once, between steps; of 0 nothing is estimated.
    """
    dry, prompts = on_meta(guidance), prompts.to(META)
    frozen, trained = _frozen_tensors(dry), list(dry.parameters())
    with LiveMemory() as step, fused_attention():
        step.ignore([*frozen, *trained])
        for parameter in trained:  # those of the step before live until the backward pass
            parameter.grad = torch.empty_like(parameter)
        run_step(dry, prompts, views, reconstructs)
    with LiveMemory() as between, fused_attention():
        between.ignore([*frozen, *trained])
        if samples:
            run_samples(dry, prompts, samples)
    return MemoryEstimate(size_of(frozen), size_of(trained) * (1 + ADAM_MOMENTS), step.peak, pictures=between.peak)


def _frozen_tensors(guidance: ScoreDistillation) -> list[Tensor]:
    modules = (guidance.model.network, guidance.model.frozen_autoencoder.module)
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def device_memory(device: torch.device) -> int:
    """Bytes of a CUDA device, or of this machine or container."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limit = CONTAINER_LIMIT.read_text(encoding="ascii").strip() if CONTAINER_LIMIT.exists() else "max"
    total = psutil.virtual_memory().total
    return min(int(limit), total) if limit.isdigit() else total


def preflight(run: PlannedRun) -> str | None:
    """A line where the guidance alone needs more memory than there is; raises as ``load_prior``.

    Image-text models are small.
    """
    if run.guidance.reads == "images":
        return None
    try:
        estimate = estimate_run(run)
    except RuntimeError as error:  # an operation that meta tensors lack is no reason to stop
        reason = " ".join(str(error).split())
        return f"no estimate ({reason:.100})"
    return preflight_line(estimate, device_memory(run.device))


def preflight_line(estimate: MemoryEstimate, available: int) -> str | None:
    """ "guidance needs about N GB, this device has M GB", and what to do, where that is too little."""
    if estimate.total <= available:
        return None
    parts = (("weights", estimate.weights), ("estimator", estimate.estimator), ("a step", estimate.step))
    shares = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts if size)
    if estimate.text_encoders:
        shares += f"; text encoders {estimate.text_encoders / GB:.1f}, freed before"
    line = f"guidance needs about {estimate.total / GB:.1f} GB ({shares}), this device has {available / GB:.1f} GB"
    if estimate.weights + estimate.text_encoders > available:
        return f"{line}: too little for the weights; set prior.precision to bf16, or take a smaller prior"
    return f"{line}: too little; {LESS_MEMORY}"
