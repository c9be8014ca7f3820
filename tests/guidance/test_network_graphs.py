"""Recorded calls compute what plain ones do. A stand-in has a recording's fixed places in memory, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from guidance.dry_run import META, on_meta
from guidance.estimator import LoraEstimator
from guidance.network_graphs import NetworkGraphs
from guidance.prompts import embed_prompt
from tests.guidance.test_network_speed import far, guidance_of, step


class StandIn:
    """Inputs, output and gradients have places that every replay writes to, as in a CUDA graph."""

    def __init__(self, estimator: LoraEstimator | None = None) -> None:
        self.recorded, self.estimator = 0, estimator

    @contextmanager
    def as_recorded(self) -> Iterator[None]:
        """The backward pass is recorded too, at a gradient scale of 1, and not made anew by a replay."""
        if self.estimator is None:
            yield
            return
        scale, self.estimator._gradient_scale = self.estimator._gradient_scale, 1.0
        yield
        self.estimator._gradient_scale = scale

    def __call__(self, module: nn.Module, places: tuple[Tensor, ...]):
        self.recorded += 1
        assert self.estimator is None or not torch.is_grad_enabled() or self.estimator._gradient_scale == 1
        as_recorded = self.as_recorded
        trained = list(module.parameters())
        place = module(*places).detach().clone()

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *given):
                with torch.no_grad():
                    for inside, outside in zip(places, given, strict=False):
                        inside.copy_(outside)
                    place.copy_(module(*places))
                return place.detach()

            @staticmethod
            def backward(ctx, gradient):
                reached = [each for each in (*places, *trained) if each.requires_grad]
                with torch.enable_grad(), as_recorded():
                    found = torch.autograd.grad(module(*places), reached, gradient, allow_unused=True)
                by_id = dict(zip(map(id, reached), found, strict=True))
                return tuple(by_id.get(id(each)) for each in (*places, *trained))

        return lambda *given: Replay.apply(*given, *trained)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_stays_as_it_was(prior, checkpointing) -> None:
    """For each family: values, gradients of adapters and camera, and again with other inputs."""
    prompts = embed_prompt(prior, "a red mug")
    guidance = guidance_of(prior, layers="all", gradient_checkpointing=checkpointing)
    expected = [step(guidance, prompts, views) for views in (1, 2, 1)]
    stand_in = StandIn()
    prior.graphs = NetworkGraphs(stand_in, device_type="cpu")
    found = [step(guidance, prompts, views) for views in (1, 2, 1)]
    assert max(map(far, found, expected)) < 1e-5
    assert stand_in.recorded == 2 * 3  # frozen network, estimator's score, estimator's training


@pytest.mark.parametrize("prior", ["epsilon"], indirect=True)
def test_gradients_in_fp16_are_scaled_once(prior) -> None:
    """While a call is recorded, and later."""
    prompts = embed_prompt(prior, "a red mug")
    guidance = guidance_of(prior)
    guidance.estimator._scale_gradients = lambda output, dtype: type(guidance.estimator)._scale_gradients(
        guidance.estimator, output, torch.float16
    )
    expected = [step(guidance, prompts, 1) for _ in range(2)]
    prior.graphs = NetworkGraphs(StandIn(guidance.estimator), device_type="cpu")
    found = [step(guidance, prompts, 1) for _ in range(2)]
    assert max(map(far, found, expected)) < 1e-5


@pytest.mark.parametrize("prior", ["epsilon"], indirect=True)
def test_outputs_are_not_overwritten(prior) -> None:
    text = prior.encode_text(["a red mug"])
    prior.graphs = NetworkGraphs(StandIn(), device_type="cpu")
    t = torch.tensor([500])
    first = prior.predict(torch.zeros(1, *prior.latent_shape), t, text).output
    kept = first.clone()
    prior.predict(torch.ones(1, *prior.latent_shape), t, text)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("prior", ["epsilon"], indirect=True)
def test_a_backward_pass_after_a_later_call_is_an_error(prior) -> None:
    """Its intermediate results are no longer there."""
    text, t = prior.encode_text(["a red mug"]), torch.tensor([500])
    prior.graphs = NetworkGraphs(StandIn(), device_type="cpu")
    x_t = torch.zeros(1, *prior.latent_shape, requires_grad=True)
    early, late = (prior.predict(x_t, t, text).output.sum() for _ in range(2))
    with pytest.raises(RuntimeError, match="again before this backward pass"):
        early.backward()
    late.backward()
    assert x_t.grad.norm() > 0


@pytest.mark.parametrize("prior", ["epsilon"], indirect=True)
def test_a_move_forgets_and_another_device_runs_plainly(prior) -> None:
    text, t, stand_in = prior.encode_text(["a red mug"]), torch.tensor([500]), StandIn()
    x_t = torch.zeros(1, *prior.latent_shape)
    prior.graphs = NetworkGraphs(stand_in, device_type="cpu")
    for _ in range(2):
        prior.predict(x_t, t, text)
        prior.predict(x_t, t, text)
        prior.to("cpu")
    assert stand_in.recorded == 2
    prior.graphs = NetworkGraphs(stand_in)  # of a GPU
    prior.predict(x_t, t, text)
    assert stand_in.recorded == 2


@pytest.mark.parametrize("prior", ["epsilon"], indirect=True)
def test_what_cannot_be_recorded_says_what_to_do(prior) -> None:
    def fails(module: nn.Module, places: tuple[Tensor, ...]):
        raise RuntimeError("operation not permitted when stream is capturing")

    prior.graphs = NetworkGraphs(fails, device_type="cpu")
    with pytest.raises(ValueError, match=r"not permitted.*set prior.speed=channels_last"):
        prior.predict(torch.zeros(1, *prior.latent_shape), torch.tensor([500]), prior.encode_text(["a red mug"]))


class NothingFromTheHost(TorchDispatchMode):
    """A recorded call would copy from memory that is long gone."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        devices = {each.device.type for each in tree_leaves((args, kwargs, output)) if isinstance(each, Tensor)}
        assert "cpu" not in devices, f"{func} reads or makes a tensor on the host"
        return output


def test_calls_read_nothing_from_the_host(prior) -> None:
    """For each family, with the estimator's camera."""
    prompts = embed_prompt(prior, "a red mug").to(META)
    guidance = on_meta(guidance_of(prior))
    guidance.model.schedule = guidance.model.schedule.to(META)
    views = guidance.model.views_together
    x_t, t = torch.zeros(views, *prior.latent_shape, device=META), torch.zeros(views, dtype=torch.int64, device=META)
    text = prompts.plain.expand(views).seen_from(torch.zeros(views, 4, 4, device=META))
    width = guidance.estimator.traits.condition_width
    with NothingFromTheHost():
        guidance.model.output(
            guidance.estimator.twin.module, x_t, t, text, torch.zeros(views, width, device=META)
        ).sum().backward()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_on_a_gpu_a_step_stays_as_it_was(prior, checkpointing) -> None:
    """Real recordings, for each family."""
    prompts = embed_prompt(prior, "a red mug").to("cuda")
    guidance = guidance_of(prior, layers="all", gradient_checkpointing=checkpointing).to("cuda")
    expected = [step(guidance, prompts, views) for views in (1, 2, 1)]
    prior.graphs = NetworkGraphs()
    for _ in range(2):
        found = [step(guidance, prompts, views) for views in (1, 2, 1)]
        assert max(map(far, found, expected)) < 1e-3
