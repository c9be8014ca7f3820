"""The web page in a real browser, opened from disk: it shows what our own renderer shows, and follows the mouse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from renderers.cameras import orbit_cameras
from renderers.config import BakingConfig
from renderers.mesh_renderer import MeshRenderer
from renderers.texture_baking import bake
from renderers.textured_export import sample_texture, textured_glb
from renderers.web_viewer import viewer_page
from tests.renderers.meshes import icosphere, join

SIZE = 256
VIEW = {"azimuth": 30.0, "elevation": 20.0, "distance": 3.0, "fovy": 40.0}
# Both sides filter the same 8-bit texture bilinearly; mipmaps, antialiasing and rounding (0.004 a level) make up the
# rest, 0.002 on average.
COLOR_TOLERANCE = 0.01


def lopsided():
    """A body with a nose to the front, an ear on its left and a stalk above: no two views are alike."""
    body, nose, ear, stalk = (icosphere(3, radius) for radius in (0.5, 0.2, 0.25, 0.15))
    return join(
        (body[0] * torch.tensor([1.0, 0.7, 0.8]), body[1]),
        (nose[0] + torch.tensor([0.0, 0.05, 0.55]), nose[1]),
        (ear[0] + torch.tensor([0.6, 0.15, 0.0]), ear[1]),
        (stalk[0] * torch.tensor([1.0, 3.0, 1.0]) + torch.tensor([-0.2, 0.6, -0.1]), stalk[1]),
    )


def colors(points):
    """Another colour everywhere, none of them near the page's white."""
    return 0.45 + 0.3 * torch.sin(4 * points + torch.tensor([0.0, 1.0, 2.0]))


@pytest.fixture(scope="module")
def mesh():
    return bake(*lopsided(), colors, BakingConfig(texture_size=512, max_faces=4000))


@pytest.fixture(scope="module")
def page(mesh, tmp_path_factory):
    path = tmp_path_factory.mktemp("viewer") / "lopsided thing.html"
    path.write_text(viewer_page(textured_glb(mesh), "a lopsided thing"), encoding="utf-8")
    return path


def ours(mesh, view, width=SIZE, height=SIZE):
    """Colours in front of white, and the silhouette."""
    cameras = orbit_cameras(*(torch.tensor([view[key]]) for key in ("azimuth", "elevation", "distance", "fovy")))
    seen = MeshRenderer().render(
        mesh.vertices,
        mesh.faces,
        lambda points: sample_texture(mesh, points.interpolate(mesh.uv)),
        cameras,
        height,
        width,
        torch.ones(1, 3),
    )
    return seen.rgb[0].detach().numpy(), seen.opacity[0, ..., 0].detach().numpy() > 0.5


def silhouette(screenshot):
    """Pixels that the object covers by half or more: its colours are below 0.75, the page is white."""
    return screenshot.min(axis=-1) < 0.8 * 255


def iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def fragment(view):
    return "&".join(f"{key}={value:g}" for key, value in view.items()) + "&still"


def assert_shows(screenshot, mesh, view):
    height, width = screenshot.shape[:2]
    rgb, covered = ours(mesh, view, width, height)
    shown = silhouette(screenshot)
    assert iou(shown, covered) >= 0.97  # antialiasing may differ by part of a pixel along the border
    errors = np.abs(screenshot / 255 - rgb)[shown & covered]
    assert errors.mean() < COLOR_TOLERANCE


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.0, 0.0), (30.0, 20.0), (-140.0, 60.0), (90.0, -35.0)])
def test_it_shows_what_our_renderer_shows(browser, page, mesh, azimuth, elevation):
    view = VIEW | {"azimuth": azimuth, "elevation": elevation}
    browser.open(page, fragment(view))
    screenshot = browser.screenshot()
    assert_shows(screenshot, mesh, view)
    # The comparison can fail: neither the mirrored picture nor the view from the other side passes.
    assert iou(silhouette(screenshot[:, ::-1]), ours(mesh, view)[1]) < 0.9
    opposite = ours(mesh, view | {"azimuth": azimuth + 180})
    assert np.abs(screenshot / 255 - opposite[0])[silhouette(screenshot)].mean() > 10 * COLOR_TOLERANCE


@pytest.mark.parametrize(("width", "height"), [(420, 240), (240, 360)])
def test_windows_need_not_be_square(browser, page, mesh, width, height):
    browser.open(page, fragment(VIEW), width, height)
    assert_shows(browser.screenshot(), mesh, VIEW)


def test_it_turns_by_itself_and_fits_into_the_window(browser, page):
    browser.open(page)
    browser.value("document.querySelectorAll('header, footer').forEach(element => element.remove())")
    pictures = []
    for _ in range(2):
        pictures.append(silhouette(browser.screenshot()))
        browser.value("new Promise(resolve => setTimeout(resolve, 1000))")
    assert iou(*pictures) < 0.999
    for covered in pictures:
        border = np.concatenate([covered[0], covered[-1], covered[:, 0], covered[:, -1]])
        assert covered.mean() > 0.1 and not border.any()


def test_dragging_turns_and_the_wheel_zooms(browser, page, mesh):
    browser.open(page, fragment(VIEW))
    browser.mouse("mousePressed", 100, 100, button="left", buttons=1, clickCount=1)
    browser.mouse("mouseMoved", 120, 130, button="left", buttons=1)
    browser.mouse("mouseMoved", 150, 150, button="left", buttons=1)
    browser.mouse("mouseReleased", 150, 150, button="left", clickCount=1)
    browser.mouse("mouseMoved", 20, 20)  # no button is down: nothing happens
    turned = VIEW | {"azimuth": VIEW["azimuth"] - 20, "elevation": VIEW["elevation"] + 20}  # 0.4 degrees a pixel
    assert_shows(browser.screenshot(), mesh, turned)
    browser.mouse("mouseWheel", 128, 128, deltaX=0, deltaY=250)
    zoomed = turned | {"distance": VIEW["distance"] * math.exp(0.25)}
    assert_shows(browser.screenshot(), mesh, zoomed)


def test_it_asks_for_nothing_but_itself(browser, page):
    browser.open(page, fragment(VIEW))
    browser.screenshot()
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith((page.as_uri(), "data:", "blob:")) for url in asked)
    assert not [e for e in browser.events if e["method"] == "Runtime.exceptionThrown"]
