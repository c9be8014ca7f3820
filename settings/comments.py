"""The comments beside the fields of a section, which are their documentation."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from functools import cache


@cache
def comments(section: type) -> dict[str, str]:
    """The comment of each field: the one at the end of its lines, else those on the lines just above it.

    A field without a comment has an empty one.
    """
    source = textwrap.dedent(inspect.getsource(section))
    by_line: dict[int, tuple[str, bool]] = {}  # text, and whether it has the line for itself
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            by_line[token.start[0]] = token.string.lstrip("# ").rstrip(), not token.line[: token.start[1]].strip()
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno is not None:
            lines = range(node.lineno, node.end_lineno + 1)
            beside = [by_line[line][0] for line in lines if line in by_line]
            above: list[str] = []
            line = node.lineno - 1
            while by_line.get(line, ("", False))[1]:
                above.insert(0, by_line[line][0])
                line -= 1
            found[node.target.id] = " ".join([*above, *beside])
    return found
