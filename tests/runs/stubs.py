"""Stand-ins for training: what it would be asked, what it would leave, and how it would end."""

from __future__ import annotations

import sys
import types
import zipfile
from pathlib import Path

# Executed under the names of the modules that it stands for: what counts as a mistake depends on them.
STUB = """
class Interrupted(Exception):
    requeue = False

def train(config, folder, resume=None, begun=None):
    calls.append(("train", config, folder, resume))
    check(config, folder)
    if begun is not None:
        begun()
    behave(config, folder)
    summary = {"iterations": 600, "training_seconds": 571.2, "files": ["turntable.mp4", "mesh.glb"], "problems": []}
    (folder / "summary.json").write_text(json.dumps(summary | found))

def test(config, folder, checkpoint):
    calls.append(("test", config, folder, checkpoint))
    return {"particles": [{"similarity": None, "opacity": 0.25}], "without_similarity": "no such word"}

def export(config, folder, checkpoint):
    calls.append(("export", config, folder, checkpoint))
"""
LOOP = "def advance(step):\n    step()\n"


def module(name, source, **names):
    made = types.ModuleType(name)
    vars(made).update(names)
    exec(source, vars(made))
    return made


def raised_in(name, expression, **names):
    """A behaviour that raises what an expression makes, from inside a module of that name."""
    source = f"def behave(config, folder):\n    raise {expression}\n"
    return module(name, source, **names).behave


def save_checkpoint(folder, name="last.ckpt"):
    path = folder / "checkpoints" / name
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:  # the format of torch.save
        archive.writestr("data", "x" * 100)
    return path


def files(folder):
    """Every file below a folder, with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def interrupt(config, folder):
    raise KeyboardInterrupt


def finish_the_iteration(config, folder):
    raise sys.modules["runs.train"].Interrupted("stopped after iteration 3")
