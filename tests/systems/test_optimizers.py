"""Learning rates by iteration, parameter groups, gradient norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from configs.schema import EstimatorOptimizerConfig
from systems.optimizers import (
    ParameterGroup,
    check_groups,
    estimator_rate,
    gradient_norm,
    scale_gradients,
    scene_optimizer,
    scene_rates,
    set_learning_rates,
)
from systems.stages import SYSTEMS


def test_rates_follow_their_schedules_and_stretch_with_the_particles() -> None:
    groups = [ParameterGroup("grid", [], [[0, 1.0], [10, 0.0]]), ParameterGroup("mlp", [], [[0, 0.5]])]
    assert scene_rates(groups, 5, particles=1) == {"grid": 0.5, "mlp": 0.5}
    assert scene_rates(groups, 5, particles=2) == {"grid": 0.75, "mlp": 0.5}


def test_the_estimators_warm_up_is_linear() -> None:
    config = EstimatorOptimizerConfig(lr=1.0, warmup_iterations=4)
    assert [estimator_rate(config, i) for i in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert estimator_rate(EstimatorOptimizerConfig(lr=2.0, warmup_iterations=0), 0) == 2.0


@pytest.mark.parametrize("stage", SYSTEMS)
def test_every_stage_groups_its_parameters_by_scale(config, stage) -> None:
    """Order included: the optimizer's state in a checkpoint is by number."""
    config = replace(config, stage=stage, particles=2)
    scene = SYSTEMS[stage].scenes_class(config)
    optimizer = scene_optimizer(scene, scene.parameter_groups(), config.optimizer, fused=True)
    names = {id(parameter): name for name, parameter in scene.named_parameters()}
    found = {group["name"]: [names[id(p)] for p in group["params"]] for group in optimizer.param_groups}
    expected: dict[str, list[str]] = {}
    for name, parameter in scene.named_parameters():
        if parameter.requires_grad:
            kind = {"table": "grid", "spectrum": "image", "sdf": "geometry", "offsets": "geometry"}
            expected.setdefault(kind.get(name.rsplit(".", 1)[-1], "mlp"), []).append(name)
    assert list(found.items()) == list(expected.items())


def test_rates_are_set_by_the_groups_names(system, config) -> None:
    optimizer = scene_optimizer(system.scene, system.scene.parameter_groups(), config.optimizer, fused=True)
    set_learning_rates(optimizer, {"grid": 0.1, "mlp": 0.2, "estimator": 0.3})
    assert [(group["name"], group["lr"]) for group in optimizer.param_groups] == [("grid", 0.1), ("mlp", 0.2)]


def test_a_parameter_in_no_group_or_in_two_is_an_error_that_names_it() -> None:
    module = torch.nn.Linear(2, 2)
    weight = ParameterGroup("weights", [module.weight], [[0, 1.0]])
    place = r"torch\.nn\.modules\.linear\.Linear\.parameter_groups"
    with pytest.raises(TypeError, match=f"bias: the parameter is trained, but in no parameter group; .*{place}"):
        check_groups(module, [weight])
    both = ParameterGroup("all", list(module.parameters()), [[0, 1.0]])
    with pytest.raises(TypeError, match=r"weight: the parameter is trained, but in several groups \(weights, all\)"):
        check_groups(module, [weight, both])
    module.bias.requires_grad_(False)
    check_groups(module, [weight])
    with pytest.raises(TypeError, match="bias: the parameter is frozen, but in the group 'all'"):
        check_groups(module, [both])


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
