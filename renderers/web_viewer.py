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
from pathlib import Path

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
