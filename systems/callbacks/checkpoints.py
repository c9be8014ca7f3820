"""When checkpoints are written, and which stay.

By iterations and by minutes, at the end of an iteration, when no optimizer is halfway; one at the start,
so that there always is one from before a collapse (and a full or read-only disk shows at once); one when
a signal stops the run. ``last.ckpt`` is the newest.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.callbacks import Checkpoint

from configs.schema import OutputConfig
from files.whole_files import whole_file
from systems.base import DistillationSystem
from systems.callbacks.collapse import CollapseDetection
from systems.callbacks.interruption import Interruption
from systems.collapse import CollapseError
from systems.layout import CHECKPOINTS, checkpoint_path, iteration_of, newest_path


class Checkpoints(Checkpoint):
    """Writes ``checkpoints/000500.ckpt``. Lightning runs it after all other callbacks."""

    def __init__(
        self, config: OutputConfig, folder: Path, interruption: Interruption, detection: CollapseDetection
    ) -> None:
        self.config = config
        self.folder = folder
        self.interruption = interruption
        self.detection = detection
        self._saved_at = time.monotonic()
        self._saved_iteration = -1
        self._saved: Path | None = None  # the last that this part of the run wrote

    def on_train_start(self, trainer: Trainer, system: DistillationSystem) -> None:
        self._saved_at = time.monotonic()
        if int(system.iteration) == 0:
            self.save(trainer, system)

    def on_train_batch_end(self, trainer: Trainer, system: DistillationSystem, *_: object) -> None:
        iteration = int(system.iteration)
        late = time.monotonic() - self._saved_at > 60 * self.config.checkpoint_minutes
        if trainer.world_size > 1:  # clocks differ
            late = trainer.strategy.broadcast(late)
        due = late or iteration % self.config.checkpoint_every == 0
        # A scene that may be about to collapse must not push out the checkpoint from before; at the end of a run
        # the results are of this state, and the next stage goes on from it.
        if self.interruption.stopping or iteration == system.iterations or (due and not self.detection.suspicious):
            self.save(trainer, system)

    def on_exception(self, trainer: Trainer, system: DistillationSystem, exception: BaseException) -> None:
        if isinstance(exception, CollapseError):
            if exception.state_is_sound and not self.detection.suspicious:
                self.save(trainer, system)
            resumed = trainer.ckpt_path
            exception.checkpoint = self._saved or (Path(resumed) if resumed else None)

    def save(self, trainer: Trainer, system: DistillationSystem) -> None:
        """Write a checkpoint of the present iteration, unless there is one; called on all ranks."""
        iteration = int(system.iteration)
        if iteration == self._saved_iteration:
            return
        path = checkpoint_path(self.folder, iteration)
        trainer.save_checkpoint(path)
        self._saved_at, self._saved_iteration, self._saved = time.monotonic(), iteration, path
        if trainer.is_global_zero:
            link(path, newest_path(self.folder))
            for old in by_age(path.parent, iteration)[: -self.config.keep_checkpoints]:
                old.unlink()


def by_age(folder: Path, iteration: int) -> list[Path]:
    """Numbered checkpoints, that of ``iteration``, just written, last.

    Those beyond it come first: they are of an attempt before the run was resumed from an earlier one. (The times of
    files don't tell: a copy or a touch changes them.)
    """
    numbered = [(number, path) for path in folder.glob(CHECKPOINTS) if (number := iteration_of(path)) is not None]
    return [path for number, path in sorted(numbered, key=lambda pair: (pair[0] <= iteration, pair[0]))]


def link(path: Path, name: Path) -> None:
    """Give a file a second name at once; a copy where the file system has no hard links."""
    with whole_file(name) as unfinished:
        unfinished.unlink(missing_ok=True)
        try:
            os.link(path, unfinished)
        except OSError:
            shutil.copyfile(path, unfinished)
