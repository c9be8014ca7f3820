"""Load a network with all of its weights, or not at all.

``from_pretrained`` of diffusers and of transformers gives random values to a weight that the files lack, drops a
weight that the network lacks, and only logs a warning. A text encoder with random weights then gives a run without
any error and a scene of nothing. Here both are errors, for every component and every source.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import ModelMixin
from torch import nn

SHOWN = 3  # names in a message
REMEDY = "fetch the model again, or save it again with `save_pretrained`"


def load_whole(
    component: type[Any], source: Path | str, field: str, unused: Collection[str] = (), **kwargs: Any
) -> nn.Module:
    """``component.from_pretrained(source, **kwargs)``, if network and files hold the same weights.

    Buffers that the network computes itself (``position_ids`` of old files), tied weights and old names that the
    libraries convert are no differences.

    Args:
        component: a model class of diffusers or transformers, or an ``AutoModel`` class.
        field: of the configuration, for messages.
        unused: beginnings of names that the files may hold beyond the network's; ``""`` for any.

    Raises:
        ValueError: a weight is missing, unknown or of another shape.
        OSError, SafetensorError: as ``from_pretrained``.
    """
    where = str(Path(source) / kwargs["subfolder"] if kwargs.get("subfolder") else source)
    if not issubclass(component, ModelMixin):
        kwargs["ignore_mismatched_sizes"] = True  # transformers lists them then, like the missing ones
    try:
        with quiet_libraries():
            network, found = component.from_pretrained(source, output_loading_info=True, **kwargs)
    except ValueError as error:
        if "expected shape" not in str(error):
            raise
        # Diffusers raises at the first one. Its message ends with advice that does not help here.
        reason = str(error).split(" because ")[-1].split(". ")[0]
        raise ValueError(f"{field}: the weights in {where!r} do not fit its config.json: {reason}; {REMEDY}") from error
    computed = {name for name, _ in network.named_buffers()}  # transformers 5.0 lists these among the unexpected ones
    unknown = [name for name in found["unexpected_keys"] if not name.startswith(tuple(unused)) and name not in computed]
    differences = {"missing": found["missing_keys"], "unknown": unknown, "of another shape": found["mismatched_keys"]}
    reasons = [f"{len(names)} {kind} ({_shown(names)})" for kind, names in differences.items() if names]
    if reasons:
        raise ValueError(
            f"{field}: the weights in {where!r} are not those of a {type(network).__name__} with its config.json: "
            f"{', '.join(reasons)}; {REMEDY}"
        )
    return network


def _shown(names: Iterable[str | tuple[Any, ...]]) -> str:
    """A few names; transformers 5 puts the shapes of a mismatch beside its name."""
    plain = sorted(name if isinstance(name, str) else name[0] for name in names)
    return ", ".join(plain[:SHOWN]) + (", ..." if len(plain) > SHOWN else "")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide the libraries' own tables of differences, which the error replaces."""
    loggers = [logging.getLogger(library) for library in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
