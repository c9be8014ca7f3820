"""Rasterisation: which face of a mesh does each pixel's centre see, and at which place of it.

Backends decide on the visible face alone: the nearest one whose projection covers the pixel's centre, seen
from either side; of equally near ones that with the smallest number. Where on the face the pixel lies is
computed from the face by `barycentrics`, the same differentiable code for all of them:

- ``torch``: the reference, any device. Every face's bounding box is expanded into pixels, which compete by
  ``scatter_reduce amin`` on 64-bit keys of depth and face.
- ``numba``: a z-buffer on the CPU; equal to the reference bit by bit.
- ``triton``: a z-buffer on CUDA, with the reference's roundings.
- ``nvdiffrast`` (Laine et al. 2020) and ``kaolin``: CUDA, where installed.

Screen coordinates are in pixels: x to the right, y downwards, (0, 0) the top left corner of the image, pixel
(row i, column j) has its centre at (j + 0.5, i + 0.5). Depth is the distance along the viewing direction in
scene units; 1 / depth is linear on the screen, which is what makes interpolation perspective-correct. Faces
with a vertex nearer than ``NEAR`` are left out.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.backends import NUMBA, TORCH, TRITON, Backend, BackendChoice, package_obstacle
from renderers.cameras import Cameras
from renderers.config import RasterizerConfig
from renderers.rasterizer_backends import NEAR, VISIBLE_FACES, ScreenMesh, opposite_areas

# The first that works on a device is taken. nvdiffrast and kaolin decide on pixels at edges by rules of their own.
BACKENDS = (
    NUMBA,
    TRITON,
    Backend("nvdiffrast", "cuda", lambda device: package_obstacle("nvdiffrast.torch")),
    Backend("kaolin", "cuda", lambda device: package_obstacle("kaolin.render.mesh")),
    TORCH,
)
SMALLEST_AREA = 1e-9  # pixels^2, below which a face counts as seen edge-on


@dataclass(frozen=True)
class ScreenVertices:
    """A mesh's vertices as cameras see them."""

    xy: Float[Tensor, "batch vertices 2"]  # pixels; means nothing where the depth is below NEAR
    depth: Float[Tensor, "batch vertices"]  # along the viewing direction, scene units

    def faces_in_front(self, view: int, faces: Int[Tensor, "faces 3"]) -> Int[Tensor, "kept"]:
        """Numbers of the faces that lie in front of a camera as a whole."""
        return (self.depth[view][faces] >= NEAR).all(-1).nonzero()[:, 0]


@dataclass(frozen=True)
class Fragments:
    """Pixels that show a face, as one list over all views, in the order of [batch, height, width]."""

    pixels: Int[Tensor, "n"]  # place in the flattened [batch, height, width]
    views: Int[Tensor, "n"]
    faces: Int[Tensor, "n"]
    barycentrics: Float[Tensor, "n 3"]  # perspective-correct weights of the face's vertices

    def interpolate(
        self, values: Float[Tensor, "vertices channels"], faces: Int[Tensor, "faces 3"]
    ) -> Float[Tensor, "n channels"]:
        """Values at vertices, at the fragments."""
        return (values[faces[self.faces]] * self.barycentrics[..., None]).sum(1)


def project(vertices: Float[Tensor, "vertices 3"], cameras: Cameras, height: int, width: int) -> ScreenVertices:
    """Perspective projection; differentiable in the vertices."""
    offsets = vertices - cameras.c2w[:, None, :3, 3]
    x, y, z = torch.einsum("bvi,bij->bvj", offsets, cameras.c2w[:, :3, :3]).unbind(-1)
    depth = -z  # cameras look along their own -z
    pixels_per_slope = height / 2 / torch.tan(torch.deg2rad(cameras.fovy_deg) / 2)
    scale = pixels_per_slope[:, None] / depth.clamp(min=NEAR)
    return ScreenVertices(torch.stack([width / 2 + x * scale, height / 2 - y * scale], dim=-1), depth)


class Rasterizer:
    """Chooses a backend for the device and runs it; holds no state but what it has announced."""

    def __init__(self, config: RasterizerConfig = RasterizerConfig()) -> None:
        """Check that the configured backend is there.

        Raises:
            ImportError: it isn't installed.
        """
        self.config = config
        self._backend = BackendChoice("rasterizer", "rasterizer.backend", config.backend, BACKENDS)
        if config.backend not in ("auto", "torch") and not _installed(config.backend):
            raise ImportError(
                f"rasterizer.backend: {config.backend!r} is not installed; docs/install.md says how to get it, "
                "or set the backend to 'auto'"
            )

    def backend_on(self, device: torch.device) -> str:
        """The backend that runs on a device.

        Raises:
            ValueError: the configured backend doesn't run there.
        """
        return self._backend.on(device)

    @torch.no_grad()
    def visible_faces(
        self, screen: ScreenVertices, faces: Int[Tensor, "faces 3"], height: int, width: int
    ) -> Int[Tensor, "batch height width"]:
        """Number of the face that each pixel shows, int64, -1 where it shows none."""
        backend = self.backend_on(screen.xy.device)
        images = []
        for view in range(len(screen.xy)):
            kept = screen.faces_in_front(view, faces)
            if len(kept) == 0:
                images.append(torch.full((height, width), -1, device=faces.device))
                continue
            xy, depth = screen.xy[view], screen.depth[view]
            found = VISIBLE_FACES[backend](ScreenMesh(xy.float(), depth.float(), faces[kept], height, width))
            images.append(torch.where(found >= 0, kept[found.clamp(min=0)], -1))
        return torch.stack(images)

    def fragments(self, screen: ScreenVertices, faces: Int[Tensor, "faces 3"], height: int, width: int) -> Fragments:
        """The covered pixels; their barycentrics are differentiable in the screen's vertices."""
        visible = self.visible_faces(screen, faces, height, width).view(-1)
        pixels = (visible >= 0).nonzero()[:, 0]
        views, place = pixels // (height * width), pixels % (height * width)
        centres = torch.stack([place % width, place // width], dim=-1).to(screen.xy) + 0.5
        corners = faces[visible[pixels]]
        weights = barycentrics(screen.xy[views[:, None], corners], screen.depth[views[:, None], corners], centres)
        return Fragments(pixels, views, visible[pixels], weights)


def _installed(backend: str) -> bool:
    """Whether a backend's package is there; PyPI's kaolin is a placeholder without anything in it."""
    if not importlib.util.find_spec(backend):
        return False
    return backend != "kaolin" or importlib.util.find_spec("kaolin.render") is not None


def barycentrics(
    xy: Float[Tensor, "n 3 2"], depth: Float[Tensor, "n 3"], points: Float[Tensor, "n 2"]
) -> Float[Tensor, "n 3"]:
    """Perspective-correct barycentric coordinates of points on the screen in triangles.

    With screen-space coordinates s_i (ratios of areas), b_i = (s_i / depth_i) / sum_j (s_j / depth_j).
    """
    areas = opposite_areas(xy, points)
    total = areas.sum(-1, keepdim=True)
    edge_on = total.detach().abs() < SMALLEST_AREA
    # Without an area there are no coordinates: the middle stands for all of the face.
    shares = torch.where(edge_on, 1 / 3, areas / torch.where(edge_on, 1.0, total)) / depth
    return shares / shares.sum(-1, keepdim=True)
