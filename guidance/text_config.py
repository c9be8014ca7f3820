"""How a prompt is turned into the texts that the networks read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from string import Formatter

from guidance.debiasing import DebiasingConfig, without_words
from renderers.cameras import ViewThresholds


@dataclass(frozen=True)
class TextConfig:
    """What is said beside the prompt itself."""

    negative: str = ""  # what classifier-free guidance pushes away from
    view_template: str = "{prompt}, {view} view"  # {view}: front, side, back, overhead or bottom
    view_thresholds: ViewThresholds = field(default_factory=ViewThresholds)  # degrees
    embedded_guidance: float | None = None  # scale that guidance-distilled models (FLUX) read; None: the model's own
    debiasing: DebiasingConfig = field(default_factory=DebiasingConfig)  # words that contradict a view

    def __post_init__(self) -> None:
        try:
            names = {name for _, name, _, _ in Formatter().parse(self.view_template) if name is not None}
        except ValueError as error:
            names = {str(error)}
        if "prompt" not in names or not names <= {"prompt", "view"}:
            raise ValueError(
                f"view_template: {self.view_template!r} must contain {{prompt}} and may contain {{view}}, "
                'nothing else in braces; the default is "{prompt}, {view} view"'
            )
        if self.embedded_guidance is not None and not (
            math.isfinite(self.embedded_guidance) and self.embedded_guidance >= 0
        ):
            raise ValueError(
                f"embedded_guidance: {self.embedded_guidance:g} must be 0 or more; FLUX.1-dev is made for about "
                "1.5 to 5, null takes its usual 3.5"
            )

    def view_prompt(self, prompt: str, view: str, dropped: tuple[str, ...] = ()) -> str:
        """y^c for one view word, without the words that contradict it."""
        return self.view_template.format(prompt=without_words(prompt.strip(), dropped), view=view)
