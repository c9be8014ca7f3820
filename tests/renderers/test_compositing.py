"""Compositing against closed forms, per-ray loops and finite differences."""

import math

import pytest
import torch

from renderers.output import in_front_of
from renderers.volume import accumulate, render_weights, transmittances

COUNTS = (3, 0, 5, 1, 0)  # samples of each ray; the second and the last have none


def packed(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ray_indices = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
    t_starts = torch.arange(len(ray_indices), dtype=dtype) * 0.1
    t_ends = t_starts + 0.05 + 0.05 * torch.rand(len(ray_indices), generator=generator, dtype=dtype)
    sigmas = torch.rand(len(ray_indices), generator=generator, dtype=dtype) * 20
    return sigmas, t_starts, t_ends, ray_indices


def test_weights_equal_a_loop_over_rays():
    sigmas, t_starts, t_ends, ray_indices = packed()
    weights, transmittance = render_weights(sigmas, t_starts, t_ends, ray_indices, len(COUNTS))
    light, last = 1.0, None
    for i, ray in enumerate(ray_indices.tolist()):
        light = light if ray == last else 1.0
        alpha = 1 - math.exp(-sigmas[i].item() * (t_ends[i] - t_starts[i]).item())
        assert transmittance[i].item() == pytest.approx(light, rel=1e-5)
        assert weights[i].item() == pytest.approx(light * alpha, rel=1e-5)
        light, last = light * (1 - alpha), ray


def test_constant_slab_has_the_closed_form_and_a_known_colour():
    edges = torch.linspace(1.0, 3.0, 65)
    sigmas, ray_indices = torch.full((64,), 0.7), torch.zeros(64, dtype=torch.int64)
    weights, _ = render_weights(sigmas, edges[:-1], edges[1:], ray_indices, 1)
    opacity = accumulate(weights, None, ray_indices, 1)
    assert opacity.item() == pytest.approx(1 - math.exp(-0.7 * 2), rel=1e-5)
    rgb = accumulate(weights, torch.tensor([[0.2, 0.4, 0.6]]).expand(64, 3), ray_indices, 1)
    blended = in_front_of(torch.ones(1, 3), rgb.view(1, 1, 1, 3), opacity.view(1, 1, 1, 1))[:, 0, 0]
    expected = opacity * torch.tensor([0.2, 0.4, 0.6]) + (1 - opacity)
    torch.testing.assert_close(blended, expected)


def test_rays_without_samples_are_empty():
    weights, _ = render_weights(*packed(), len(COUNTS))
    opacity = accumulate(weights, None, packed()[3], len(COUNTS))[:, 0]
    assert opacity[[1, 4]].tolist() == [0, 0] and (opacity[[0, 2, 3]] > 0.1).all()
    blended = in_front_of(torch.ones(1, 3), torch.zeros(1, 1, 1, 3), opacity[1].view(1, 1, 1, 1))
    torch.testing.assert_close(blended, torch.ones(1, 1, 1, 3))


def test_gradients_against_finite_differences():
    sigmas, t_starts, t_ends, ray_indices = packed()
    values = torch.rand(len(sigmas), 3, generator=torch.Generator().manual_seed(1))
    upstream = torch.randn(len(COUNTS), 3, generator=torch.Generator().manual_seed(2))

    def loss(sigmas):
        weights, _ = render_weights(sigmas, t_starts, t_ends, ray_indices, len(COUNTS))
        return (accumulate(weights, values, ray_indices, len(COUNTS)) * upstream).sum()

    sigmas.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(sigmas), sigmas)
    step = 0.05
    for i in range(len(sigmas)):
        shift = torch.zeros_like(sigmas)
        shift[i] = step
        with torch.no_grad():
            numeric = (loss(sigmas + shift) - loss(sigmas - shift)) / (2 * step)
        assert gradient[i].item() == pytest.approx(numeric.item(), abs=3e-5, rel=3e-3)


def test_a_ray_keeps_its_digits_behind_many_saturated_rays():
    n_rays = 5000
    depths = torch.full((n_rays, 4), 1e4)
    depths[-1] = 1e-3
    got = transmittances(depths.view(-1), torch.arange(n_rays).repeat_interleave(4), n_rays)
    torch.testing.assert_close(got[-4:], torch.exp(-1e-3 * torch.arange(4)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sigma", [0.0, 1e-12, 1e6])
def test_gradients_of_empty_and_saturated_rays_are_finite(sigma):
    _, t_starts, t_ends, ray_indices = packed()
    sigmas = torch.full_like(t_starts, sigma).requires_grad_()
    weights, transmittance = render_weights(sigmas, t_starts, t_ends, ray_indices, len(COUNTS))
    accumulate(weights, torch.rand(len(sigmas), 3), ray_indices, len(COUNTS)).sum().backward()
    assert sigmas.grad.isfinite().all() and weights.isfinite().all() and transmittance.isfinite().all()
    assert (sigmas.grad != 0).any() == (sigma < 1)  # empty space can still learn, a wall has no slope


def test_half_precision_inputs_are_composited_in_float32():
    sigmas, t_starts, t_ends, ray_indices = packed()
    weights, _ = render_weights(sigmas.bfloat16(), t_starts, t_ends, ray_indices, len(COUNTS))
    sums = accumulate(weights, torch.ones(len(sigmas), 3, dtype=torch.bfloat16), ray_indices, len(COUNTS))
    assert weights.dtype == sums.dtype == torch.float32


def test_no_samples_at_all():
    nothing = torch.zeros(0)
    weights, _ = render_weights(nothing, nothing, nothing, torch.zeros(0, dtype=torch.int64), 3)
    assert torch.equal(accumulate(weights, None, torch.zeros(0, dtype=torch.int64), 3), torch.zeros(3, 1))
