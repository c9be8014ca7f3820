"""A self-contained web page that shows a textured mesh: it turns and zooms when opened from disk.

The page, `web_viewer.html` beside this file, is our own: some 200 lines of WebGL 2 that read exactly the GLB
that `renderers.textured_export` writes. The GLB goes into it as base64. Nothing is loaded from anywhere,
so the page works without a network, and there is no licence but this project's to mind.

The page's address can fix the view, with the conventions of `renderers/cameras.py` and lengths in metres:
`chair.html#azimuth=30&elevation=20&distance=3&fovy=40&still`. All are optional; "still" stops the turning and hides
the text.
"""

from __future__ import annotations

import base64
import html
import os
from pathlib import Path

from files.whole_files import whole_file
from models.mesh import TexturedMesh
from renderers.textured_export import textured_glb

TEMPLATE = Path(__file__).with_suffix(".html")


def viewer_page(glb: bytes, title: str) -> str:
    """The page, as HTML, of a GLB that `textured_glb` made.

    Args:
        title: shown as plain text.
    """
    page = TEMPLATE.read_text(encoding="utf-8")
    # The model first: a title could hold its mark, base64 cannot hold any.
    page = page.replace("{{glb}}", base64.b64encode(glb).decode(), 1)
    return page.replace("{{title}}", html.escape(title))


def write_viewer(path: str | os.PathLike[str], mesh: TexturedMesh, title: str, meters_per_unit: float = 1.0) -> None:
    """Write the page; the file appears under its name when it is complete."""
    with whole_file(path) as unfinished:
        unfinished.write_text(viewer_page(textured_glb(mesh, meters_per_unit), title), encoding="utf-8")
