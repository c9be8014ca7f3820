"""Scenes that have died: empty, opaque everywhere, or with all colours at their limits.

(Numbers that are NaN or infinite are found by the training loop, before they reach the parameters.)
A scene must look dead ``patience`` times in a row, counted for each particle; meanwhile it is
*suspicious*, and no checkpoint is written.
"""

from __future__ import annotations

import torch
from lightning import Callback, Trainer

from configs.schema import CollapseConfig
from systems.base import DistillationSystem
from systems.collapse import CollapseError, Vitals, mean, measure, require_finite


class CollapseDetection(Callback):
    """Raises a `CollapseError` when a particle has looked dead for long enough."""

    def __init__(self, config: CollapseConfig) -> None:
        self.config = config
        self.counts: dict[tuple[int, str], int] = {}  # by particle and symptom, of looks in a row

    @property
    def suspicious(self) -> bool:
        return any(self.counts.values())

    def on_train_batch_end(self, trainer: Trainer, system: DistillationSystem, *_: object) -> None:
        if not self.config.enabled:
            return
        report, iteration = system.report, int(system.iteration)
        for particle, vitals in self._over_ranks(trainer, report.particle, measure(report.views)).items():
            for name, value in vars(vitals).items():
                require_finite(f"render/{name}", value, iteration, state_is_sound=False)
            for symptom, (found, quantity) in self.symptoms(vitals, system.scene.may_be_opaque).items():
                key = (particle, symptom)
                self.counts[key] = self.counts.get(key, 0) + 1 if found else 0
                if self.counts[key] >= self.config.patience:
                    what = f"particle {particle} is {symptom}: {quantity} for {self.config.patience} views in a row"
                    raise CollapseError(what, iteration, system.advice[symptom])

    def symptoms(self, vitals: Vitals, may_be_opaque: bool) -> dict[str, tuple[bool, str]]:
        """Which symptoms a scene shows, each with the quantity in words."""
        config = self.config
        return {
            "empty": (vitals.opacity < config.min_opacity, f"mean opacity {vitals.opacity:.2g}"),
            "opaque": (
                vitals.opaque > config.max_opaque and not may_be_opaque,
                f"{vitals.opaque:.1%} of the pixels opaque",
            ),
            "saturated": (
                vitals.saturated > config.max_saturated,
                f"{vitals.saturated:.1%} of the colour values at 0 or 1",
            ),
        }

    def _over_ranks(self, trainer: Trainer, particle: int, vitals: Vitals) -> dict[int, Vitals]:
        """By particle the mean over the ranks that have rendered it; the same on all ranks, so that they stop together.

        The first of them comes first.
        """
        if trainer.world_size == 1:
            return {particle: vitals}
        mine = torch.tensor([particle, *vars(vitals).values()], dtype=torch.float64)
        gathered = trainer.strategy.all_gather(mine.to(trainer.strategy.root_device)).tolist()
        seen: dict[int, list[Vitals]] = {}
        for number, *values in gathered:
            seen.setdefault(int(number), []).append(Vitals(*values))
        return {number: mean(several) for number, several in seen.items()}
