"""Learning rates by iteration, parameter groups, gradient norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from configs.schema import EstimatorOptimizerConfig, SceneOptimizerConfig
from systems.optimizers import gradient_norm, learning_rates, scale_gradients, scene_optimizer, set_learning_rates


def test_learning_rates_follow_their_schedules_and_stretch_with_the_particles(config) -> None:
    optimizer = SceneOptimizerConfig(lr_grid=[[0, 1.0], [10, 0.0]], lr_mlp=[[0, 0.5]])
    estimator = EstimatorOptimizerConfig(lr=1.0, warmup_iterations=4)
    config = replace(config, optimizer=optimizer, estimator_optimizer=estimator)
    rates = learning_rates(config, 5)
    assert (rates["grid"], rates["mlp"], rates["estimator"]) == (0.5, 0.5, 1.0)
    assert rates["geometry"] == optimizer.lr_geometry[0][1]
    assert learning_rates(replace(config, particles=2), 5)["grid"] == 0.75
    warmup = [learning_rates(replace(config, particles=2), i)["estimator"] for i in range(5)]
    assert warmup == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_no_warm_up_is_allowed(config) -> None:
    config = replace(config, estimator_optimizer=EstimatorOptimizerConfig(lr=2.0, warmup_iterations=0))
    assert learning_rates(config, 0)["estimator"] == 2.0


def test_tables_and_networks_have_their_own_rates(system, config) -> None:
    optimizer = scene_optimizer(system.scene, config.optimizer, fused=True)
    set_learning_rates(optimizer, {"grid": 0.1, "mlp": 0.2, "estimator": 0.3})
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert groups["grid"]["lr"] == 0.1 and groups["mlp"]["lr"] == 0.2
    assert [p.ndim for p in groups["grid"]["params"]] == [1]
    total = sum(p.numel() for group in groups.values() for p in group["params"])
    assert total == sum(p.numel() for p in system.scene.parameters())


def test_gradients_are_scaled_down_together_and_never_up() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    norm = gradient_norm(parameters)
    assert norm.item() == pytest.approx(5)
    scale_gradients(parameters, norm, 10.0)
    assert gradient_norm(parameters).item() == pytest.approx(5)
    scale_gradients(parameters, norm, 1.0)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.0]))
    assert parameters[2].grad is None


def test_no_gradient_has_no_norm_and_survives_scaling() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    assert gradient_norm([parameter]).item() == 0
    parameter.grad = torch.zeros(2)
    scale_gradients([parameter], gradient_norm([parameter]), 1.0)
    assert torch.equal(parameter.grad, torch.zeros(2))
