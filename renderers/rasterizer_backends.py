"""The rasteriser's backends, all with one signature: which face does each pixel of one view show?

Every face lies in front of the camera, farther away than ``NEAR``. The result is the number of a face, or -1 where a
pixel shows none. Packages are imported on first use: numba is slow to load, nvdiffrast and kaolin are optional.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.numba_threads import match_torch_threads

NEAR = 0.01  # scene units; faces with a nearer vertex are not drawn
CANDIDATES_PER_CHUNK = 2**21  # pairs of a face and a pixel that the reference holds at once
EMPTY = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class ScreenMesh:
    """The faces of a mesh that lie in front of one camera, as it sees them: what a backend is asked about."""

    xy: Float[Tensor, "vertices 2"]  # pixels, as in `renderers.rasterizer`; float32
    depth: Float[Tensor, "vertices"]  # along the viewing direction, scene units
    faces: Int[Tensor, "faces 3"]
    height: int  # of the image, pixels
    width: int


def opposite_areas(xy: Float[Tensor, "n 3 2"], points: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Twice the signed area between a point and the side opposite each vertex."""
    start, end = xy.roll(-1, dims=1), xy.roll(-2, dims=1)
    return cross(end - start, points[:, None] - start)


def cross(a: Float[Tensor, "*n 2"], b: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
    """The third component of the cross product of two vectors of the plane."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def visible_faces_reference(view: ScreenMesh) -> Int[Tensor, "height width"]:
    """Visible face of every pixel of one view, in plain PyTorch: the oracle of the other backends.

    Decided in float64, so that no pixel falls through between two faces; depths are compared in float32.
    """
    faces, height, width = view.faces, view.height, view.width
    corners, nearness = view.xy.double()[faces], 1 / view.depth.double()[faces]
    # Pixels whose centres lie in the bounding box: from `first` on, `counts` of them.
    limit = torch.tensor([width, height], device=faces.device)
    first = (corners.amin(1) - 0.5).ceil().clamp(min=0).minimum(limit).long()
    last = (corners.amax(1) - 0.5).floor().clamp(min=-1).minimum(limit - 1).long()
    extent = (last - first + 1).clamp(min=0)
    counts = extent.prod(-1)
    keys = torch.full((height * width,), EMPTY, device=faces.device)
    for chunk in _chunks(counts):
        face = chunk.repeat_interleave(counts[chunk])
        place = torch.arange(len(face), device=faces.device)
        place -= (torch.cumsum(counts[chunk], 0) - counts[chunk]).repeat_interleave(counts[chunk])
        column = first[face, 0] + place % extent[face, 0]
        row = first[face, 1] + place // extent[face, 0]
        areas = opposite_areas(corners[face], torch.stack([column, row], dim=-1) + 0.5)
        total = areas.sum(-1)
        inside = ((areas * total.sign()[:, None] >= 0).all(-1)) & (total != 0)
        face, pixel, areas = face[inside], (row * width + column)[inside], areas[inside]
        share = areas * nearness[face]
        surface_depth = (areas.sum(-1) / share.sum(-1)).float()
        # Positive floats are ordered as their bits are.
        key = (surface_depth.view(torch.int32).long() << 32) | face
        keys.scatter_reduce_(0, pixel, key, "amin")
    return torch.where(keys == EMPTY, -1, keys & 0xFFFFFFFF).view(height, width)


def _chunks(counts: Int[Tensor, "faces"]) -> list[Int[Tensor, "chunk"]]:
    """Numbers of faces that cover pixels, in runs of about `CANDIDATES_PER_CHUNK` candidates."""
    faces = counts.nonzero()[:, 0]
    run = torch.cumsum(counts[faces], 0) // CANDIDATES_PER_CHUNK
    _, lengths = torch.unique_consecutive(run, return_counts=True)
    return list(faces.split(lengths.tolist()))


def visible_faces_numba(view: ScreenMesh) -> Int[Tensor, "height width"]:
    """A z-buffer on the CPU; bands of rows run in parallel."""
    from renderers import rasterizer_kernels as kernels

    match_torch_threads()
    visible = np.full((view.height, view.width), -1, np.int64)
    nearest = np.full((view.height, view.width), np.inf, np.float32)
    corners = view.xy.double()[view.faces].contiguous().numpy()
    nearness = (1 / view.depth.double()[view.faces]).contiguous().numpy()
    kernels.fill_z_buffer(corners, nearness, torch.get_num_threads(), nearest, visible)
    return torch.from_numpy(visible)


def visible_faces_triton(view: ScreenMesh) -> Int[Tensor, "height width"]:
    """A z-buffer on CUDA."""
    from renderers.rasterizer_triton import visible_faces  # needs triton

    return visible_faces(view)


@functools.cache
def _nvdiffrast_context(device: torch.device):
    """nvdiffrast's CUDA rasteriser, one for each device: it keeps buffers."""
    import nvdiffrast.torch as nvdiffrast

    return nvdiffrast.RasterizeCudaContext(device=device)


def visible_faces_nvdiffrast(view: ScreenMesh) -> Int[Tensor, "height width"]:
    """nvdiffrast takes clip space and numbers faces from 1; its row 0 is where clip y is -1, so y needs no flip."""
    import nvdiffrast.torch as nvdiffrast

    xy, depth = view.xy, view.depth
    scale = torch.tensor([2 / view.width, 2 / view.height], device=xy.device)
    # z / w = 1 - 2 near / depth runs from -1 at the near plane to 1 at infinity.
    clip = torch.cat([(xy * scale - 1) * depth[:, None], (depth - 2 * NEAR)[:, None], depth[:, None]], dim=-1)
    size = (view.height, view.width)
    image, _ = nvdiffrast.rasterize(
        _nvdiffrast_context(xy.device), clip[None].contiguous(), view.faces.int().contiguous(), size
    )
    return image[0, ..., 3].long() - 1


def visible_faces_kaolin(view: ScreenMesh) -> Int[Tensor, "height width"]:
    """kaolin takes coordinates in [-1, 1] with y up, z negative in front of the camera, and features to interpolate."""
    from kaolin.render.mesh import rasterize

    scale = torch.tensor([2 / view.width, -2 / view.height], device=view.xy.device)
    shift = torch.tensor([-1.0, 1.0], device=view.xy.device)
    corners, z = (view.xy * scale + shift)[view.faces][None], -view.depth[view.faces][None]
    features = torch.zeros_like(z)[..., None]
    _, visible = rasterize(view.height, view.width, z.contiguous(), corners.contiguous(), features)
    return visible[0].long()


VISIBLE_FACES = {
    "torch": visible_faces_reference,
    "numba": visible_faces_numba,
    "triton": visible_faces_triton,
    "nvdiffrast": visible_faces_nvdiffrast,
    "kaolin": visible_faces_kaolin,
}
