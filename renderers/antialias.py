"""Antialiasing of silhouettes: what makes a rasterised image differentiable in where its outlines are.

After nvdiffrast (Laine et al., "Modular Primitives for High-Performance Differentiable Rendering", 2020,
section 3.6). A silhouette edge that crosses the line between the centres of two neighbouring pixels, at the
share t of the way from the pixel of the surface (inner) to the one beyond it (outer), moves colour between
the two: for t > 1/2 the outer pixel takes (t - 1/2) of the inner's, else the inner takes (1/2 - t) of the
outer's. Either way the pair's sum changes with t at the rate inner - outer, so the image's gradient is that
of the area which each side covers. Steep edges (closer to the vertical) count where they cross rows of pixel
centres, the others where they cross columns: each part of an outline counts once. Of several edges between
the same two pixels only the outermost is seen.

nvdiffrast looks for crossings among the edges of the face that a pixel shows. On fine meshes the silhouette
belongs to faces too small or too oblique to be seen, and most of the gradient is lost; here all silhouette
edges of the mesh are walked.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.mesh_geometry import MeshEdges
from renderers.rasterizer import ScreenVertices
from renderers.rasterizer_backends import NEAR, cross


@dataclass(frozen=True)
class Crossings:
    """Places where silhouette edges cross the lines between neighbouring pixels."""

    inner: Int[Tensor, "n"]  # pixel on the surface's side, place in the flattened [height, width]
    outer: Int[Tensor, "n"]  # its neighbour beyond the edge
    share: Float[Tensor, "n"]  # t, of the way from inner to outer, in [0, 1]; differentiable
    depth: Float[Tensor, "n"]  # of the edge, scene units
    counts: Bool[Tensor, "n"]  # whether an edge of that slope moves colour in this direction

    def keep(self, kept: Bool[Tensor, "n"]) -> Crossings:
        """Some of them. (The mask is read once: each time makes the host wait for the device.)"""
        places = kept.nonzero()[:, 0]
        return Crossings(**{field.name: getattr(self, field.name)[places] for field in fields(self)})

    @staticmethod
    def join(parts: list[Crossings]) -> Crossings:
        """All of several lists."""
        return Crossings(
            **{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Crossings)}
        )


def antialias(
    images: Float[Tensor, "batch height width channels"],
    depth: Float[Tensor, "batch height width"],
    screen: ScreenVertices,
    faces: Int[Tensor, "faces 3"],
    edges: MeshEdges,
) -> Float[Tensor, "batch height width channels"]:
    """Images with smooth silhouettes, differentiable in the images and in the screen's vertices.

    Args:
        depth: along the viewing direction, scene units, of what each pixel shows; infinite where empty.
    """
    height, width = images.shape[1:3]
    return torch.stack(
        [
            _antialias_view(images[view], depth[view], silhouette_crossings(screen, view, faces, edges, height, width))
            for view in range(len(images))
        ]
    )


def _antialias_view(
    image: Float[Tensor, "height width channels"], depth: Float[Tensor, "height width"], crossings: Crossings
) -> Float[Tensor, "height width channels"]:
    seen = _seen(crossings, depth.detach().view(-1))
    crossings = crossings.keep(_outermost(crossings, seen, depth.numel()) & crossings.counts)
    pixels = image.view(-1, image.shape[-1])
    outward = (crossings.share - 0.5)[:, None]
    flow = outward * (pixels[crossings.inner] - pixels[crossings.outer])
    taker = torch.where(crossings.share > 0.5, crossings.outer, crossings.inner)
    return pixels.index_add(0, taker, flow.to(pixels.dtype)).view_as(image)


def _seen(crossings: Crossings, depth: Float[Tensor, "pixels"]) -> Bool[Tensor, "n"]:
    """Whether the inner pixel shows a surface, and the outer one only what lies behind the edge.

    How far the inner surface lies from the edge says nothing: a round shape's curves away quickly there.
    """
    return depth[crossings.inner].isfinite() & (depth[crossings.outer] > crossings.depth)


def _outermost(crossings: Crossings, seen: Bool[Tensor, "n"], pixels: int) -> Bool[Tensor, "n"]:
    """Whether an edge is seen, and no other that is seen between the same two pixels is nearer to the outer one.

    On a rough surface edges of small folds crowd behind the outline; what one sees ends at the outermost.
    """
    step = crossings.outer - crossings.inner  # to a neighbour: 1, -1, a width or minus a width
    pair = 4 * crossings.inner + 2 * (step > 0) + (step.abs() == 1)
    share = crossings.share.detach().masked_fill(~seen, -1.0)
    greatest = torch.zeros(4 * pixels, dtype=share.dtype, device=share.device).scatter_reduce(0, pair, share, "amax")
    return share == greatest[pair]


def silhouette_crossings(
    screen: ScreenVertices, view: int, faces: Int[Tensor, "faces 3"], edges: MeshEdges, height: int, width: int
) -> Crossings:
    """Crossings of all silhouette edges of one view, hidden ones included."""
    xy, depth = screen.xy[view], screen.depth[view]
    with torch.no_grad():
        a, b, c = xy[faces].unbind(1)
        facing = cross(b - a, c - a).sign()
        first, second = edges.faces.unbind(-1)
        turns = (second < 0) | (facing[first] != facing[second])
        in_front = (depth[edges.vertices] >= NEAR).all(-1)
        chosen = (turns & in_front & (facing[first] != 0)).nonzero()[:, 0]
        side = facing[first[chosen]]
    start, end = edges.vertices[chosen].unbind(-1)
    a, b = xy[start], xy[end]
    nearness = 1 / depth[start].detach(), 1 / depth[end].detach()
    difference = (b - a).detach().abs()
    steep = difference[:, 1] >= difference[:, 0]
    rows, in_rows = _row_crossings(a, b, *nearness, side, steep, height, width)
    # Columns are the rows of the transposed image, in which left and right are exchanged.
    columns, in_columns = _row_crossings(a.flip(-1), b.flip(-1), *nearness, -side, ~steep, width, height)
    inner, outer = (pixel % height * width + pixel // height for pixel in (columns.inner, columns.outer))
    both = Crossings.join([rows, replace(columns, inner=inner, outer=outer)])
    return both.keep(torch.cat([in_rows, in_columns]))


def _row_crossings(
    start: Float[Tensor, "edges 2"],
    end: Float[Tensor, "edges 2"],
    start_nearness: Float[Tensor, "edges"],
    end_nearness: Float[Tensor, "edges"],
    side: Float[Tensor, "edges"],
    steep: Bool[Tensor, "edges"],
    height: int,
    width: int,
) -> tuple[Crossings, Bool[Tensor, "n"]]:
    """Crossings of edges with the rows of pixel centres, and whether they lie between two pixels of the image.

    Args:
        start_nearness: 1 / depth, which is linear along the edge.
        side: sign of the cross product of the edge and the way to its surface.
    """
    with torch.no_grad():
        top, bottom = torch.minimum(start, end)[:, 1], torch.maximum(start, end)[:, 1]
        # Rows whose centre lies in [top, bottom): one that passes through a vertex meets one of its two edges.
        first = (top - 0.5).ceil().clamp(0, height).long()
        counts = (bottom - 0.5).ceil().clamp(0, height).long() - first
        edge = torch.arange(len(start), device=start.device).repeat_interleave(counts)
        place = torch.arange(len(edge), device=start.device)
        row = first[edge] + place - (torch.cumsum(counts, 0) - counts)[edge]
    a, b = start[edge], end[edge]
    along = (row + 0.5 - a[:, 1]) / (b[:, 1] - a[:, 1])
    x = a[:, 0] + along * (b[:, 0] - a[:, 0])
    left = (x.detach() - 0.5).floor()
    share = x - 0.5 - left  # from left to right
    inner_left = (b[:, 1] > a[:, 1]) == (side[edge] > 0)
    pixel = row * width + left.long()
    nearness = torch.lerp(start_nearness[edge], end_nearness[edge], along.detach())
    crossings = Crossings(
        torch.where(inner_left, pixel, pixel + 1),
        torch.where(inner_left, pixel + 1, pixel),
        torch.where(inner_left, share, 1 - share),
        1 / nearness,
        steep[edge],
    )
    return crossings, (left >= 0) & (left < width - 1)
