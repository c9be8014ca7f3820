"""``prior.speed`` changes how networks run, and not what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from guidance.building import build_guidance
from guidance.config import EstimatorConfig, GuidanceConfig
from guidance.interface import Guidance
from guidance.memory import estimate_memory
from guidance.network_speed import check_speed, repeated_blocks, speed_up
from guidance.prior import DiffusionPrior
from guidance.prompts import PromptEmbeddings, embed_prompt
from renderers.cameras import orbit_cameras


def guidance_of(prior: DiffusionPrior, **config) -> Guidance:
    """With adapters that do something."""
    guidance = build_guidance(prior, GuidanceConfig(), EstimatorConfig(**config), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in guidance.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return guidance


def step(guidance: Guidance, prompts: PromptEmbeddings, views: int) -> list[Tensor]:
    """VSD's gradient, and the estimator's."""
    angles, generator = torch.zeros(views), torch.Generator().manual_seed(2)
    cameras = orbit_cameras(angles, angles, torch.full((views,), 3.0), torch.full((views,), 40.0))
    cameras = cameras.to(guidance.model.device)
    latents = torch.randn(views, *guidance.latent_shape, generator=generator).to(guidance.model.device)
    output = guidance.gradient(latents, prompts, cameras, (0.02, 0.98), generator)
    guidance.zero_grad()
    guidance.estimator_loss(latents, prompts, cameras, generator).backward()
    return [output.gradient, *(parameter.grad for parameter in guidance.parameters() if parameter.grad is not None)]


def far(found: list[Tensor], expected: list[Tensor]) -> float:
    assert len(found) == len(expected) > 10
    pairs = zip(found, expected, strict=True)
    return max(float((one - other).norm() / (other.norm() + 1e-6)) for one, other in pairs)


def test_another_layout_leaves_a_step_as_it_was(prior) -> None:
    """For each family, and for a batch of two."""
    prompts = embed_prompt(prior, "a red mug")
    guidance = guidance_of(prior, layers="all")
    expected = [step(guidance, prompts, views) for views in (1, 2)]
    speed_up(guidance, "channels_last")
    found = [step(guidance, prompts, views) for views in (1, 2)]
    assert max(map(far, found, expected)) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("prior", "checkpointing"), [("epsilon", True), ("flux", False)], indirect=["prior"])
def test_compiled_blocks_leave_a_step_as_it_was(prior, checkpointing) -> None:
    """Traced and not translated into code, which takes minutes."""
    prompts = embed_prompt(prior, "a red mug")
    guidance = guidance_of(prior, gradient_checkpointing=checkpointing)
    expected = step(guidance, prompts, 1)
    speed_up(guidance, "compiled", backend="eager")
    assert far(step(guidance, prompts, 1), expected) < 1e-3
    assert all(block._compiled_call_impl is not None for block in repeated_blocks(prior.network))
    assert estimate_memory(guidance, prompts).step > 0
    torch._dynamo.reset()


def test_each_family_has_blocks_that_hold_nearly_all_weights(prior) -> None:
    """And in a UNet the convolutions' weights change their layout."""
    blocks = repeated_blocks(prior.network)
    inside = {id(parameter): parameter.numel() for block in blocks for parameter in block.parameters()}
    assert sum(inside.values()) > 0.4 * sum(parameter.numel() for parameter in prior.network.parameters())
    guidance = guidance_of(prior, layers="all")
    speed_up(guidance, "channels_last")
    convolutions = [
        m for m in guidance.estimator.twin.module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1
    ]
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)


@pytest.mark.parametrize(
    ("device", "processes", "advice"),
    [("cpu", 1, "set prior.speed=plain, or trainer.accelerator=cuda"), ("cuda", 2, "set prior.speed=channels_last")],
)
def test_graphs_need_one_process_on_a_gpu(device, processes, advice) -> None:
    with pytest.raises(ValueError, match=advice):
        check_speed("graphs", torch.device(device), processes)
    for how in ("plain", "channels_last", "compiled"):
        check_speed(how, torch.device(device), processes)
    check_speed("graphs", torch.device("cuda"), 1)
