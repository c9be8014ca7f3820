"""Regularisers: values by hand, slopes by finite differences, nothing from nothing."""

from __future__ import annotations

import pytest
import torch

from configs.schema import RegularizerConfig
from renderers.output import RenderOutput
from systems.nerf import NeRFSystem
from systems.regularizers import (
    REGULARIZERS,
    Rendered,
    binary_entropy,
    binary_opacity,
    sparsity,
    transmittance,
    weight_entropy,
)

SHARES = torch.tensor([0.01, 0.2, 0.5, 0.7, 0.99], dtype=torch.float64)


def test_binary_entropy_by_hand() -> None:
    values = binary_entropy(torch.tensor([0.0, 0.25, 0.5, 1.0]))
    torch.testing.assert_close(values, torch.tensor([0.0, 0.8112781, 1.0, 0.0]), rtol=0, atol=3e-4)
    assert values[0] == pytest.approx(0, abs=1e-7) and values[3] == pytest.approx(0, abs=1e-6)


def test_sparsity_by_hand() -> None:
    opacity = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert sparsity(opacity).item() == pytest.approx((1.01**0.5 - 0.1) / 2, abs=1e-6)
    assert sparsity(torch.zeros(1, 4, 4, 1)).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("function", [weight_entropy, sparsity, binary_opacity])
def test_slopes_are_those_of_the_values(function) -> None:
    shares = SHARES.clone().requires_grad_()
    function(shares).backward()
    step = 1e-3
    for index in range(len(SHARES)):
        moved = torch.zeros_like(SHARES)
        moved[index] = step
        # float32 inside: differences of 1e-3 leave three digits
        slope = (function(SHARES + moved) - function(SHARES - moved)).item() / (2 * step)
        assert shares.grad[index].item() == pytest.approx(slope, rel=2e-2, abs=2e-3), index


@pytest.mark.parametrize("function", [weight_entropy, sparsity, binary_opacity])
def test_the_ends_have_finite_slopes_and_entropy_drives_towards_them(function) -> None:
    ends = torch.tensor([0.0, 1e-9, 1.0 - 1e-9, 1.0], requires_grad=True)
    function(ends).backward()
    assert torch.isfinite(ends.grad).all()
    if function is not sparsity:
        assert (ends.grad[:2] > 0).all() and (ends.grad[2:] < 0).all()


def test_transmittance_asks_each_view_for_room_up_to_the_target() -> None:
    opacity = torch.tensor([[1.0, 1.0, 0.8, 0.0], [0.1, 0.0, 0.0, 0.1]]).view(2, 2, 2, 1).requires_grad_()
    loss = transmittance(opacity, 0.9)
    assert loss.item() == pytest.approx(-(0.3 + 0.9) / 2)  # the views pass 0.3 and 0.95
    loss.backward()
    torch.testing.assert_close(opacity.grad[0], torch.full((2, 2, 1), 1 / 8))  # less opacity costs less
    assert torch.equal(opacity.grad[1], torch.zeros(2, 2, 1))
    nothing = torch.zeros(0, 2, 2, 1, requires_grad=True)
    transmittance(nothing, 0.9).backward()
    assert nothing.grad is not None


def test_the_target_is_a_share_by_iteration() -> None:
    with pytest.raises(ValueError, match=r"transmittance_target\s+Value error, values must lie in \[0, 1\]"):
        RegularizerConfig(transmittance_target=[[0, 0.4], [500, 1.5]])


@pytest.mark.parametrize("function", [weight_entropy, sparsity, binary_opacity])
def test_nothing_costs_nothing(function) -> None:
    nothing = torch.zeros(0, requires_grad=True)
    value = function(nothing)
    value.backward()
    assert value.item() == 0 and nothing.grad is not None


def test_every_regulariser_of_a_radiance_field_has_a_formula() -> None:
    opacity = torch.full((1, 2, 2, 1), 0.5)
    views = RenderOutput(opacity.expand(-1, -1, -1, 3), opacity, opacity, weights=torch.full((7,), 0.5))
    seen = Rendered(views, 0.4, lambda: views.rgb + 0.1)
    values = {name: REGULARIZERS[name](seen).item() for name in NeRFSystem.regularizers}
    assert values["reconstruction"] == pytest.approx(0.5 * 0.01)  # half of each pixel is background
    assert values["transmittance"] == pytest.approx(-0.4)
    assert values["entropy"] == pytest.approx(1, abs=1e-3) == values["opacity_binary"]
    assert values["sparsity"] == pytest.approx(0.26**0.5 - 0.1, abs=1e-6)
