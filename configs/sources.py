"""Where a configuration's values come from: YAML files, presets of priors, the command line.

Nothing here knows the fields of a run, so that mistakes in file names, YAML and the form of arguments
are told at once, before the seconds that importing PyTorch takes. YAML is OmegaConf's: ``1e-3`` is a
number, a doubled key is an error, ``${...}`` refers to another value of the same file (write ``\\${``
for the characters themselves).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.errors import ConfigError, allowed
from models.placement import is_mesh_name
from settings.quoting import quoted

CONFIG_FOLDER = Path(__file__).parent
PRESET_FOLDER = CONFIG_FOLDER / "prior"
BASE_KEY = "base"  # of a preset: the file of BASE_FOLDER, or the other preset, that it adds to
BASE_FOLDER = "base"  # in PRESET_FOLDER
DEFAULTS_FILE = CONFIG_FOLDER / "defaults.yaml"  # what goes with a stage and with a loss, whatever the prior
CUSTOM_PRESET = "custom"  # goes with a prior that is given by folder or hub id
DEFAULT_PRIOR = "mini"
PART_NAMES = {  # stages and losses are known elsewhere
    "by_particles": ("one", "several"),
    "by_start": ("prompt", "mesh", "run"),
    "by_device": ("cpu", "cuda", "mps"),
    "by_memory": ("full", "low"),
}
COMMAND_LINE = "the command line"
STAGES_KEY = "stages"  # of a pipeline's YAML
#: What the command line calls a field, where that reads better. ``from`` is the field MESH if its value is a mesh file.
ALIASES = {
    "from": "source",
    "from.up": "source_mesh.up",
    "from.front": "source_mesh.front",
    "from.colors": "source_mesh.colors",
}
MESH = "source_mesh.path"
_KEY = re.compile(r"\w+(\.\w+)*")


@dataclass(frozen=True)
class Source:
    """Values, nested by section, and the place that the user knows them from."""

    where: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What decides which parts of a preset hold."""

    stage: str
    loss: str
    particles: int
    start: str  # prompt | mesh | run: what the colours of the stage start from
    device: str  # cpu | cuda | mps
    memory: str = "full"  # full | low

    @property
    def names(self) -> dict[str, str]:
        """The part that holds under each heading; later headings are more special."""
        count = "one" if self.particles == 1 else "several"
        return {
            "by_stage": self.stage,
            "by_loss": self.loss,
            "by_particles": count,
            "by_start": self.start,
            "by_device": self.device,
            "by_memory": self.memory,
        }


@dataclass(frozen=True)
class PriorChoice:
    """A preset, and the model's own path where the preset doesn't name it."""

    preset: str
    path: str | None = None  # folder, or hub id of the preset "custom"


def config_files() -> list[Path]:
    """The configurations of runs that come with the project."""
    return [path for path in _yaml_files() if not is_pipeline(path)]


def pipeline_files() -> list[Path]:
    """The pipelines that come with the project."""
    return [path for path in _yaml_files() if is_pipeline(path)]


def find_file(path: Path) -> Path:
    """A file as the command line names it: the file, else the project's own of that name, from any folder.

    >>> find_file(Path("vsd-nerf")) == find_file(Path("configs/vsd-nerf.yaml")) == CONFIG_FOLDER / "vsd-nerf.yaml"
    True
    """
    if path.is_file():
        return path
    own = {name: file for file in _yaml_files() for name in (file.stem, f"{CONFIG_FOLDER.name}/{file.name}")}
    return own.get(path.as_posix(), path)


def _yaml_files() -> list[Path]:
    """By name without the suffix, so that prolific.yaml, which most people want, comes before prolific-mv.yaml."""
    files = (path for path in CONFIG_FOLDER.glob("*.yaml") if path.name != DEFAULTS_FILE.name)
    return sorted(files, key=lambda path: path.stem)


def is_pipeline(path: Path) -> bool:
    """Whether a YAML file lists stages rather than a run's fields; raises as ``read_yaml``."""
    return STAGES_KEY in read_yaml(path)


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml") if path.stem != CUSTOM_PRESET)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping.

    Raises:
        ConfigError: no such file, not readable, not YAML (with its line), or no mapping.
    """
    try:
        content = OmegaConf.load(path)
        if not isinstance(content, DictConfig):
            raise ConfigError(f"{path}: holds a list; give a YAML file of `key: value` lines")
        return OmegaConf.to_container(content, resolve=True)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}: {place}not valid YAML: {reason}; correct the file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        reason = error.strerror or "holds a single value, not `key: value` lines"
        raise ConfigError(f"{path}: {reason}; give a YAML file of `key: value` lines") from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: {reason}; write \\${{ for a literal ${{ in a text") from error


def read_config(path: Path) -> Source:
    """A run's YAML file; it takes its name from the file unless it states one.

    Raises:
        ConfigError: no such file, or any of ``read_yaml``'s reasons.
    """
    if not path.is_file():
        known = ", ".join(_short(file) for file in _yaml_files())
        raise ConfigError(f"--config: {str(path)!r} is no file; there are {known}")
    return Source(str(path), {"name": path.stem, **read_yaml(path)})


def presets_by_model() -> dict[str, str]:
    """The preset that names a hub id, or a folder of the repository, as its model."""
    paths = {name: read_yaml(PRESET_FOLDER / f"{name}.yaml").get("prior", {}).get("path") for name in preset_names()}
    return {path: name for name, path in paths.items() if path is not None}


def choose_prior(choice: object) -> PriorChoice:
    """What ``prior=...`` means: a preset's name, else a folder or file, else a hub id (owner/name).

    A folder or hub id that a preset names as its model brings that preset; any other the preset "custom".

    Raises:
        ConfigError: none of these. Whether a hub id exists is known only when it is loaded.
    """
    presets = preset_names()
    if choice in presets:
        return PriorChoice(str(choice))
    if isinstance(choice, str) and choice:
        folder = Path(os.path.expanduser(choice))  # pathlib's raises where ~name is nobody's home
        preset = presets_by_model().get(str(folder), CUSTOM_PRESET)
        if os.path.exists(folder):  # Path.exists raises where the name is too long
            return PriorChoice(preset, str(folder.resolve()))
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", choice):
            return PriorChoice(preset, choice)
    raise ConfigError(
        f"prior: {quoted(choice)} is no preset, no folder, no file and no hub id (owner/name); "
        f"{allowed(str(choice), presets)}, or a path"
    )


def default_sources(case: Case) -> list[Source]:
    """What goes with a stage and with a loss, whatever the prior; raises as ``preset_sources``."""
    return list(_parts(DEFAULTS_FILE, "", read_yaml(DEFAULTS_FILE), case))


def preset_sources(choice: PriorChoice, case: Case) -> list[Source]:
    """What goes with a prior.

    Raises:
        ConfigError: the preset isn't valid YAML, or has a part of the wrong form.
    """
    path = PRESET_FOLDER / f"{choice.preset}.yaml"
    model = {"preset": choice.preset} | ({} if choice.path is None else {"path": choice.path})
    return [*_preset(path, case), Source(_short(path), {"prior": model})]


def _preset(path: Path, case: Case, below: tuple[Path, ...] = ()) -> Iterator[Source]:
    """The values of a preset for a case, after those of its base.

    Args:
        below: the presets that name this one as their base.
    """
    values = read_yaml(path)
    base = values.pop(BASE_KEY, None)
    if base is not None:
        files = [PRESET_FOLDER / BASE_FOLDER / f"{base}.yaml", PRESET_FOLDER / f"{base}.yaml"]
        file = next((each for each in files if each.is_file()), None)
        if file is None or file in (path, *below):
            names = sorted(each.stem for each in (PRESET_FOLDER / BASE_FOLDER).glob("*.yaml"))
            raise ConfigError(f"{path}: {BASE_KEY}: {base!r} is no other base; {allowed(str(base), names)}")
        yield from _preset(file, case, (*below, file))
    yield from _parts(path, "", values, case)


def _parts(path: Path, label: str, values: dict[str, Any], case: Case) -> Iterator[Source]:
    """A file's values from general to special: its body, then its parts for this case, each of the same form."""
    own = {key: value for key, value in values.items() if key not in case.names}
    if own:
        yield Source(f"{_short(path)}{label}", own)
    for heading, name in case.names.items():
        parts = values.get(heading, {})
        if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
            raise ConfigError(f"{path}: {heading} must hold a mapping of values for each name")
        known = PART_NAMES.get(heading, parts.keys())
        if not parts.keys() <= set(known):
            raise ConfigError(f"{path}: {heading}: {', '.join(map(str, parts))}: the names are {', '.join(known)}")
        if name in parts:
            yield from _parts(path, f"{label} ({heading}: {name})", parts[name], case)


def split_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """``key=value`` arguments as a mapping; everything after the first ``=`` is the value, as typed.

    ``from`` is the field ``source``, or the mesh of ``source_mesh`` where its value ends as the name of a mesh file.

    Raises:
        ConfigError: an argument of another form, or one key twice.
    """
    overrides: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise ConfigError(
                f'command line: {quoted(argument)} is not of the form key=value, such as prompt="a red mug" '
                "or render.size=64; put quotes around a value with spaces"
            )
        if key == "from" and is_mesh_name(value):
            key, value = MESH, str(Path(value).expanduser().absolute())
        key = ALIASES.get(key, key)
        if key in overrides:
            raise ConfigError(
                f"command line: {key} is given twice, as {quoted(overrides[key])} and {quoted(value)}; keep one"
            )
        overrides[key] = value
    return overrides


def _short(path: Path) -> str:
    """Relative to the working folder where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
