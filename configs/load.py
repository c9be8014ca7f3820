"""From YAML files and ``key=value`` arguments to a ``RunConfig``.

Values are merged in this order, later ones winning:

    defaults of the schema < configs/defaults.yaml < the prior's preset < the run that a stage goes on from
                           < the configuration's YAML < a pipeline's YAML < the command line

The first three are what the project chooses, the rest is what a user states, and that is what runs: in a file or
on the command line, in the project's own YAML files or in a copy under another name. ``configs/defaults.yaml``
holds what goes with a stage and with a loss (the papers' lengths and guidance scales), which a preset adapts to
what its prior can do. So the YAML files of this folder state only what defines a job (stage, loss, texts) and
no value that a preset adapts: a copy of one that changes a line differs from it in that line.

Both kinds of file hold a body, then parts for this stage (``by_stage``), this loss (``by_loss``), one particle or
several (``by_particles``), what the colours start from (``by_start``: ``prompt``, ``mesh`` or ``run``), this device
(``by_device``) and the field ``memory`` (``by_memory``: ``full`` or ``low``), later ones winning; a part may hold parts
in turn. Stage, loss, particles, device and ``memory`` are those that the YAML files and the command line state, so
``guidance.loss=sds`` on the command line brings what goes with SDS.

On the command line a text field takes its value exactly as typed (a prompt may hold commas, colons,
quotes, ``null`` or ``${...}``); every other value is read as YAML.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from configs.errors import ConfigError
from configs.fields import flatten, kind_name, leaves, nested, takes_null, takes_text, type_of
from configs.lineage import Earlier, check_values, inherited
from configs.messages import explain, is_of_field
from configs.retired import without_retired
from configs.schema import RunConfig
from configs.sources import (
    COMMAND_LINE,
    CUSTOM_PRESET,
    DEFAULT_PRIOR,
    MESH,
    Case,
    PriorChoice,
    Source,
    choose_prior,
    default_sources,
    preset_sources,
    read_config,
    read_yaml,
)
from guidance.model_files import Lora

_RUN = TypeAdapter(RunConfig)


@dataclass(frozen=True)
class LoadedConfig:
    """A run's configuration, and the choices behind it."""

    config: RunConfig  # its accelerator is the device that was found, never auto
    prior: PriorChoice


def load_config(
    path: Path, overrides: dict[str, str], earlier: Earlier | None = None, stated: Source | None = None
) -> LoadedConfig:
    """Merge a YAML file, the preset of its prior, and the command line's ``key=value``.

    Args:
        earlier: the run that a stage goes on from.
        stated: what a pipeline states for this stage.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, an unknown prior, a
            device that isn't there, an unreadable file, or an earlier run that doesn't go with it all.
    """
    file, choice = _split_prior(read_config(path), overrides)
    if stated is not None and isinstance(stated.values.get("prior"), str):
        values = dict(stated.values)
        choice = overrides.get("prior", values.pop("prior"))
        stated = Source(stated.where, values)
    keeps_prior = earlier is not None and choice is None
    prior = earlier.prior if keeps_prior else choose_prior(DEFAULT_PRIOR if choice is None else choice)
    typed = read_overrides({key: text for key, text in overrides.items() if key != "prior"})
    asked = [file, typed] if stated is None else [file, stated, typed]
    check_fields(asked)  # first: a mistake in a key or a value is told before PyTorch is imported to find the device
    known = flatten(RunConfig()) | _merge(asked)  # what presets depend on, and so cannot set
    device = find_device(known["trainer.accelerator"])
    start = _start(known[MESH], earlier)
    check_prompt(start, earlier, _merge(asked))
    case = Case(known["stage"], known["guidance.loss"], known["particles"], start, device, known["memory"])
    chosen = [*default_sources(case), *preset_sources(prior, case)]
    if earlier is not None:
        file.values.pop("source", None)  # as it was typed; what is taken over names the checkpoint itself
        taken = inherited(case.stage, earlier, keeps_prior)
        check_values(case.stage, _merge([taken, *asked]), earlier.config, earlier.checkpoint)
        chosen.append(taken)
    return LoadedConfig(_with_lasting_paths(_on_device(build([*chosen, *asked]))), prior)


def _start(mesh: str | None, earlier: Earlier | None) -> str:
    """What a stage's colours start from; a shape from a mesh that only the stage geometry has refined has a mesh's."""
    if earlier is not None:
        return "run" if earlier.has_learnt_colors else "mesh"
    return "prompt" if mesh is None else "mesh"


def check_prompt(start: str, earlier: Earlier | None, stated: dict[str, Any]) -> None:
    """Raise a ConfigError where a run begins with a mesh and nothing says what it shall become."""
    if start == "mesh" and earlier is None and "prompt" not in stated:
        raise ConfigError('prompt: missing; say what the mesh shall become, such as prompt="a red mug"')


def _split_prior(file: Source, overrides: dict[str, str]) -> tuple[Source, object]:
    """A YAML's fields, and the prior that the command line or the YAML chooses; None where neither does."""
    if "prior.preset" in overrides:
        raise ConfigError("prior.preset: follows from the prior; choose that: prior=NAME")
    values = dict(file.values)
    choice = values.pop("prior", None)
    if isinstance(choice, dict):  # fields of the prior; a copy of a run's config.yaml has its preset among them
        values["prior"] = fields = dict(choice)
        choice = fields.pop("preset", None)
        choice = fields.get("path") if choice == CUSTOM_PRESET else choice
        if "prior" in overrides:
            fields.pop("path", None)
    return Source(file.where, values), overrides.get("prior", choice)


def from_plain(values: dict[str, Any], where: str) -> RunConfig:
    """A configuration from the containers that a checkpoint holds.

    Raises:
        ConfigError: as ``load_config``.
    """
    return build([Source(where, without_retired(values, where))])


def read_saved(path: Path) -> RunConfig:
    """A run's own ``config.yaml`` as it stands, wherever the run was; raises as ``load_config``."""
    return from_plain(read_yaml(path), str(path))


def load_saved(path: Path, overrides: dict[str, str]) -> tuple[RunConfig, RunConfig]:
    """A run's own ``config.yaml``, as it stands and with the command line's changes.

    ``prior=...`` stands for the model's path alone here: the sizes that go with it are saved already.

    Raises:
        ConfigError: as ``load_config``.
    """
    saved = Source(str(path), without_retired(read_yaml(path), str(path)))
    changes = [read_overrides({key: text for key, text in overrides.items() if key != "prior"})]
    if "prior" in overrides:
        for source in preset_sources(choose_prior(overrides["prior"]), Case("", "", 1, "", "")):
            if "path" in source.values.get("prior", {}):
                changes.insert(0, Source(source.where, {"prior": {"path": source.values["prior"]["path"]}}))
    return build([saved]), _on_device(build([saved, *changes]))


def find_device(accelerator: str) -> str:
    """The device that ``trainer.accelerator`` means on this machine: cuda, mps or cpu.

    Raises:
        ConfigError: the one that is asked for isn't there.
    """
    if accelerator == "cpu":
        return "cpu"
    import torch

    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "trainer.accelerator: 'cuda' is asked for, but PyTorch sees no CUDA device here; "
            "use trainer.accelerator=cpu or auto"
        )
    if accelerator == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError(
                "trainer.accelerator: 'mps' is asked for, but PyTorch sees no GPU of Apple's here; "
                "use trainer.accelerator=cpu or auto"
            )
        return "mps"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _on_device(config: RunConfig) -> RunConfig:
    """Write down the device that was found: sizes and numbers of iterations were chosen for it."""
    device, count = find_device(config.trainer.accelerator), config.trainer.devices
    if device == "cuda" and count > 1:
        import torch

        if count > torch.cuda.device_count():
            raise ConfigError(
                f"trainer.devices: {count} is more than the {torch.cuda.device_count()} CUDA devices that PyTorch sees"
            )
    if device == "mps" and (config.stage in ("geometry", "texture") or config.starts_from_mesh):
        raise ConfigError(
            "trainer.accelerator: 'mps' has no float64, in which meshes are placed and drawn; it runs the stages nerf "
            "and image without a mesh to begin with; use trainer.accelerator=cpu"
        )
    if device == "mps" and count > 1:
        raise ConfigError(f"trainer.devices: {count}, but mps is one device; set it to 1")
    if device != "cuda" and config.trainer.precision == "16-mixed":
        raise ConfigError(
            "trainer.precision: '16-mixed' has a loss scale on CUDA only, on a CPU Lightning takes bfloat16 instead; "
            "use 32-true or bf16-mixed"
        )
    return replace(config, trainer=replace(config.trainer, accelerator=device))


def _with_lasting_paths(config: RunConfig) -> RunConfig:
    """What is added to the prior under absolute paths, where these exist: a run may go on from another folder."""

    def lasting(path: str) -> str:
        place = Path(os.path.expanduser(path))
        return str(place.resolve()) if os.path.exists(place) and place.parts[:1] != ("priors",) else path

    loras = (Lora.read(text) for text in config.prior.loras)
    prior = replace(
        config.prior,
        config=None if config.prior.config is None else lasting(config.prior.config),
        loras=tuple(replace(lora, path=lasting(lora.path)).written for lora in loras),
        embeddings=tuple(map(lasting, config.prior.embeddings)),
    )
    return replace(config, prior=prior)


def read_overrides(overrides: dict[str, str]) -> Source:
    """Arguments as typed, read by the type of their field.

    Raises:
        ConfigError: an unknown key, or a value that isn't YAML.
    """
    values: dict[str, Any] = {}
    for key, text in overrides.items():
        value = _read_value(key, text)
        section = values
        *parents, name = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ConfigError(f"command line: {key} is set, and so is the whole of {parent}; keep one")
        if name in section:
            raise ConfigError(f"command line: {key} is set as a whole, and so are parts of it; keep one")
        section[name] = value
    return Source(COMMAND_LINE, values)


def _read_value(key: str, text: str) -> Any:
    kind = type_of(key, COMMAND_LINE)
    if takes_text(kind):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ConfigError(f"{key}: {text!r} holds bytes that are not UTF-8; type it in UTF-8") from error
        return None if text == "null" and takes_null(kind) else text
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=True)["value"]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{key}: {text!r} in {COMMAND_LINE}: must be {kind_name(kind)}") from error


def build(sources: list[Source]) -> RunConfig:
    """The schema's defaults under all sources, validated.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, with its source.
    """
    try:
        return _validated(sources)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(problem, sources) for problem in error.errors())) from error


def check_fields(sources: list[Source]) -> None:
    """Raise a ConfigError for an unknown key, or a value that its field never takes, whatever the others are."""
    try:
        _validated(sources)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if is_of_field(problem)]
        if problems:
            raise ConfigError("\n".join(explain(problem, sources) for problem in problems)) from error


def _validated(sources: list[Source]) -> RunConfig:
    # By way of JSON, in whose strict mode a list may become a tuple and a mapping a section, but no text a number.
    return _RUN.validate_json(json.dumps(nested(_merge(sources)), default=_not_plain), strict=True)


def _not_plain(value: Any) -> None:
    raise ConfigError(f"{value!r}: a configuration holds texts, numbers, true, false, null and lists of these")


def _merge(sources: list[Source]) -> dict[str, Any]:
    """What the sources set by full key; later ones win."""
    return {key: value for source in sources for key, value in leaves(source.values, source.where)}


def to_yaml(config: RunConfig) -> str:
    """YAML that ``read_yaml`` turns back into the same values."""
    return OmegaConf.to_yaml(OmegaConf.create(_literal(asdict(config))))


def _literal(value: Any) -> Any:
    """Escape what OmegaConf would take for a reference: ``${`` and the backslashes before it."""
    if isinstance(value, dict):
        return {key: _literal(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_literal(part) for part in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
