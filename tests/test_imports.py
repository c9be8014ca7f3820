"""Imports point one way: among folders down the table of layers, and among files in no circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: What a folder may import, apart from itself. docs/architecture.md shows the same table.
LAYERS: dict[str, set[str]] = {
    "files": set(),
    "settings": set(),
    "models": {"settings"},
    "renderers": {"models", "settings"},
    "evaluation": {"models", "renderers"},
    "priors": {"evaluation", "files", "models", "renderers"},
    "guidance": {"files", "models", "priors", "renderers", "settings"},
    "configs": {"files", "guidance", "models", "renderers", "settings"},
    "systems": {"configs", "files", "guidance", "models", "renderers", "settings"},
    "runs": {"configs", "files", "guidance", "models", "renderers", "settings", "systems"},
    "launch": {"configs", "runs", "settings", "systems"},
    "benchmarks": {"*"},
}
#: Rooms of `systems`, from the lowest. All know the names of files; the modules call the outputs, and callbacks watch
#: the modules.
SYSTEMS = {"systems.layout": 0, "systems.outputs": 1, "systems": 2, "systems.callbacks": 3}


def source_files() -> dict[str, Path]:
    """The project's modules by name."""
    paths = [ROOT / "launch.py", *(path for folder in LAYERS for path in (ROOT / folder).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def import_graph() -> dict[str, set[str]]:
    """For each module those that it imports anywhere, in functions too, but not for type checkers alone."""
    modules = source_files()
    return {name: imports_of(ast.parse(path.read_text(encoding="utf-8")), modules) for name, path in modules.items()}


def imports_of(tree: ast.AST, modules: dict[str, Path]) -> set[str]:
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name for name in names if name in modules} | imports_of(node, modules)
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of a circle of the graph, the first one again at the end; empty if there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            for target in sorted(graph.get(node, ())):
                if found := walk(target, [*path, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def test_circles_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    tree = ast.parse("import a.b\ndef f():\n    from a import b, c\nif TYPE_CHECKING:\n    import d")
    assert imports_of(tree, dict.fromkeys(["a", "a.b", "d"], Path())) == {"a", "a.b"}


def test_no_circle_among_files() -> None:
    assert circle(import_graph()) == []


def test_no_circle_among_layers() -> None:
    assert circle(LAYERS) == []


@pytest.mark.parametrize("folder", LAYERS)
def test_a_folder_imports_only_what_lies_below_it(folder: str) -> None:
    allowed = LAYERS[folder] | {folder}
    wrong = [
        f"{module} imports {target}"
        for module, targets in import_graph().items()
        if module.partition(".")[0] == folder
        for target in sorted(targets)
        if "*" not in allowed and target.partition(".")[0] not in allowed
    ]
    assert wrong == []


def test_every_folder_of_code_has_a_layer() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders - {"tests"} <= LAYERS.keys()


def test_rooms_of_systems() -> None:
    def height(module: str) -> int:
        room = ".".join(module.split(".")[:2])
        return SYSTEMS.get(room, SYSTEMS["systems"])

    wrong = [
        f"{module} imports {target}"
        for module, targets in import_graph().items()
        for target in targets
        if module.startswith("systems.") and target.startswith("systems.") and height(target) > height(module)
    ]
    assert wrong == []
