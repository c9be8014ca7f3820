"""Adam on the scene, AdamW on the estimator, and the learning rates that both take at an iteration.

Learning rates are set anew at every iteration from the configuration; optimizers hold moments only.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from configs.schema import EstimatorOptimizerConfig, RunConfig, SceneOptimizerConfig
from settings.schedules import scaled, value_at


def scene_optimizer(scene: nn.Module, config: SceneOptimizerConfig, fused: bool) -> torch.optim.Adam:
    """Adam with a group of its own for each kind of parameter, since their scales differ.

    Args:
        fused: one kernel for all parameters; it must be off where gradients are loss-scaled (fp16),
            because fused optimizers unscale by themselves, after clipping.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in scene.named_parameters():
        if parameter.requires_grad:  # what an earlier stage made may be shown without being changed
            groups.setdefault(_group(name), []).append(parameter)
    groups = [{"name": name, "params": params} for name, params in groups.items()]
    return torch.optim.Adam(groups, lr=0.0, betas=tuple(config.betas), eps=config.eps, fused=fused)


def estimator_optimizer(estimator: nn.Module, config: EstimatorOptimizerConfig, fused: bool) -> torch.optim.AdamW:
    """AdamW on adapters and camera embedding."""
    groups = [{"name": "estimator", "params": list(estimator.parameters())}]
    return torch.optim.AdamW(groups, lr=0.0, betas=tuple(config.betas), weight_decay=config.weight_decay, fused=fused)


def learning_rates(config: RunConfig, iteration: int) -> dict[str, float]:
    """The learning rate of each parameter group; schedules of the scene are stretched by the particles."""
    warmup = config.estimator_optimizer.warmup_iterations
    optimizer = config.optimizer
    scene = {
        "grid": optimizer.lr_grid,
        "mlp": optimizer.lr_mlp,
        "image": optimizer.lr_image,
        "geometry": optimizer.lr_geometry,
    }
    return {
        **{name: value_at(scaled(knots, config.particles), iteration) for name, knots in scene.items()},
        "estimator": config.estimator_optimizer.lr * min(1.0, (iteration + 1) / max(warmup, 1)),
    }


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: dict[str, float]) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]]


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """Euclidean norm of all gradients together; 0 where there are none."""
    norms = [torch.linalg.vector_norm(p.grad.float()) for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], norm: Float[Tensor, ""], clip_norm: float) -> None:
    """Shrink all gradients together so that their norm, given, is at most ``clip_norm``."""
    factor = (clip_norm / norm).clamp(max=1.0)  # a norm of 0 makes it infinite, hence 1
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def _group(name: str) -> str:
    """Tables of hash grids, spectra of pictures, lattices of surfaces, and all else: the small networks."""
    kinds = {"table": "grid", "spectrum": "image", "sdf": "geometry", "offsets": "geometry"}
    return kinds.get(name.rsplit(".", 1)[-1], "mlp")
