"""Adam on the scene, AdamW on the estimator, and the learning rates of an iteration.

A scene declares its parameter groups, each with the schedule of its learning rate. Learning rates are set anew at
every iteration; optimizers hold moments only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from configs.schema import EstimatorOptimizerConfig, SceneOptimizerConfig
from settings.schedules import Knots, scaled, value_at


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate."""

    name: str  # of the group in checkpoints; its rate is logged as schedule/lr_<name>
    parameters: list[nn.Parameter]
    lr: Knots  # by iterations of one particle


def scene_optimizer(
    scene: nn.Module, groups: Sequence[ParameterGroup], config: SceneOptimizerConfig, fused: bool
) -> torch.optim.Adam:
    """Adam on a scene's parameter groups.

    Args:
        scene: the module that declared the groups.
        fused: one kernel for all parameters; it must be off where gradients are loss-scaled (fp16),
            because fused optimizers unscale by themselves, after clipping.

    Raises:
        TypeError: a trainable parameter of the scene is in no group or in several.
    """
    check_groups(scene, groups)
    named = [{"name": group.name, "params": group.parameters} for group in groups]
    return torch.optim.Adam(named, lr=0.0, betas=config.betas, eps=config.eps, fused=fused)


def check_groups(scene: nn.Module, groups: Sequence[ParameterGroup]) -> None:
    """Raise a TypeError unless every trainable parameter is in exactly one group."""
    places: dict[int, list[str]] = {}
    for group in groups:
        for parameter in group.parameters:
            places.setdefault(id(parameter), []).append(group.name)
    where = f"{type(scene).__module__}.{type(scene).__name__}.parameter_groups"
    for name, parameter in scene.named_parameters():
        found = places.get(id(parameter), [])
        if parameter.requires_grad and len(found) != 1:
            problem = f"in several groups ({', '.join(found)})" if found else "in no parameter group"
            raise TypeError(
                f"{name}: the parameter is trained, but {problem}; add it to one group in {where}, or freeze it with "
                "requires_grad_(False)"
            )
        if found and not parameter.requires_grad:
            raise TypeError(f"{name}: the parameter is frozen, but in the group {found[0]!r}; take it out in {where}")


def estimator_optimizer(estimator: nn.Module, config: EstimatorOptimizerConfig, fused: bool) -> torch.optim.AdamW:
    """AdamW on adapters and camera embedding."""
    groups = [{"name": "estimator", "params": list(estimator.parameters())}]
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, weight_decay=config.weight_decay, fused=fused)


def scene_rates(groups: Sequence[ParameterGroup], iteration: int, particles: int) -> dict[str, float]:
    """The learning rate of each group; with n particles schedules are n times as long."""
    return {group.name: value_at(scaled(group.lr, particles), iteration) for group in groups}


def estimator_rate(config: EstimatorOptimizerConfig, iteration: int) -> float:
    """The estimator's learning rate: a linear warm-up, then constant."""
    return config.lr * min(1.0, (iteration + 1) / max(config.warmup_iterations, 1))


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: dict[str, float]) -> None:
    """Set the rate of each group by the group's name."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]]


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """Euclidean norm of all gradients together; 0 where there are none."""
    gradients = [p.grad.float() for p in parameters if p.grad is not None]
    # All tensors in one go: an estimator has hundreds of them.
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) if gradients else torch.zeros(())


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], norm: Float[Tensor, ""], clip_norm: float) -> None:
    """Shrink all gradients together so that their norm, given, is at most ``clip_norm``."""
    factor = (clip_norm / norm).clamp(max=1.0)  # a norm of 0 makes it infinite, hence 1
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)
