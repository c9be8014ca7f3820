"""The web page: self-contained, harmless titles; its code reads the model and looks where our cameras look."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import torch

from models.mesh import TexturedMesh
from renderers.cameras import orbit_cameras
from renderers.rasterizer import project
from renderers.textured_export import textured_glb
from renderers.web_viewer import viewer_page
from tests.tools import lacking


def small_mesh():
    vertices = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, 0.4, 0], [0, 0, 0.3]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    texture = (torch.arange(16 * 16 * 3) % 251).to(torch.uint8).view(16, 16, 3)
    normals = torch.nn.functional.normalize(vertices - 0.1, dim=-1)
    return TexturedMesh(vertices, faces, normals, vertices[:, :2], texture)


def page_of(title="a red chair"):
    return viewer_page(textured_glb(small_mesh()), title)


def run_in_node(tmp_path, page, code):
    """What the page's own functions answer."""
    if not shutil.which("node"):
        lacking("node is not installed: it runs the page's code")
    (script,) = re.findall(r'<script id="viewer">(.*?)</script>', page, re.S)
    (model,) = re.findall(r'<script type="text/plain" id="model">(.*?)</script>', page, re.S)
    load = f"const bytes = Uint8Array.from(Buffer.from('{model}', 'base64')); const model = parseGlb(bytes.buffer);"
    (tmp_path / "viewer.js").write_text(f"{script}\n{load}\n{code}", encoding="utf-8")
    done = subprocess.run(["node", tmp_path / "viewer.js"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_page_needs_nothing_from_outside():
    page = page_of()
    outside = r"https?:|\bsrc=|\bhref=|import\s*\(|fetch\s*\(|XMLHttpRequest|url\("
    assert not re.search(outside, page)
    assert "{{" not in page


def test_titles_are_text():
    page = page_of("</title><script>alert(1)</script> {{glb}} & Söhne")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{glb}} &amp; Söhne" in page
    assert page.count('id="model"') == 1


def test_its_code_reads_the_model(tmp_path):
    code = """
        model.image.arrayBuffer().then(image => console.log(JSON.stringify({
            positions: [...model.positions], normals: [...model.normals], uv: [...model.uv],
            indices: [...model.indices], png: [...new Uint8Array(image)].slice(0, 4), radius: extent(model.positions),
        })));
    """
    read, mesh = run_in_node(tmp_path, page_of(), code), small_mesh()
    torch.testing.assert_close(torch.tensor(read["positions"]).view(-1, 3), mesh.vertices)
    torch.testing.assert_close(torch.tensor(read["normals"]).view(-1, 3), mesh.normals)
    torch.testing.assert_close(torch.tensor(read["uv"]).view(-1, 2), mesh.uv)
    assert read["indices"] == mesh.faces.view(-1).tolist()
    assert bytes(read["png"]) == b"\x89PNG"
    assert read["radius"] == pytest.approx(0.5)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.0, 0.0), (40.0, 25.0), (-130.0, -50.0)])
def test_its_camera_is_ours(tmp_path, azimuth, elevation):
    code = f"""
        const view = requestedView("#azimuth={azimuth}&elevation={elevation}&distance=2&fovy=35&still", 0.5);
        console.log(JSON.stringify({{clip: [...camera(view, 1.5, 0.5).toClip], still: view.still}}));
    """
    answer = run_in_node(tmp_path, page_of(), code)
    assert answer["still"] is True
    vertices = small_mesh().vertices
    clip = torch.cat([vertices, torch.ones(4, 1)], dim=-1) @ torch.tensor(answer["clip"]).view(4, 4)
    screen = clip[:, :2] / clip[:, 3:]
    expected = project(vertices, orbit_cameras(*(torch.tensor([v]) for v in (azimuth, elevation, 2.0, 35.0))), 100, 150)
    torch.testing.assert_close((screen[:, 0] + 1) * 75, expected.xy[0, :, 0], atol=1e-3, rtol=0)
    torch.testing.assert_close((1 - screen[:, 1]) * 50, expected.xy[0, :, 1], atol=1e-3, rtol=0)
    torch.testing.assert_close(clip[:, 3], expected.depth[0])
    z = clip[:, 2] / clip[:, 3]
    assert (z > -1).all() and (z < 1).all()
    assert torch.equal(z.argsort(), clip[:, 3].argsort())  # nearer points in front
