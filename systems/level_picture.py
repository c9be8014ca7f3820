"""The picture that says where stage 2 starts: why at this level of the density, and what that surface looks like."""

from __future__ import annotations

import io

from renderers.output import RenderOutput
from systems.mesh_level import RayExtremes, silhouette_overlaps
from systems.outputs.pictures import Picture, column, read_png, row


def level_picture(views: RenderOutput, surface: RenderOutput, rays: RayExtremes, level: float, caption: str) -> Picture:
    """Above the radiance field in colours, as opacity, and the surface's normals; below the choice of the level."""
    rows = [views.rgb, views.opacity.expand(-1, -1, -1, 3), surface.normal / 2 + 0.5]
    pictures = [row(list(images)) for images in rows]
    return column([*pictures, level_curve(rays, level, caption, width=pictures[0].shape[1])])


def level_curve(rays: RayExtremes, level: float, caption: str, width: int) -> Picture:
    """How well the silhouettes agree, by level, with the chosen one marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, 2.2), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.set_xscale("log")
    if (rays.opacity > 0.5).any():
        levels, overlaps = (values.cpu().numpy() for values in silhouette_overlaps(rays))
        shown = (levels > 0) & (overlaps >= 0)
        axes.plot(levels[shown], overlaps[shown])
    axes.axvline(level, color="tab:red")
    axes.set_title(caption, fontsize=8)
    axes.set_xlabel("density of the surface", fontsize=8)
    axes.set_ylabel("agreement of\nsilhouettes (IoU)", fontsize=8)
    axes.tick_params(labelsize=7)
    picture = io.BytesIO()
    canvas.print_png(picture)
    return read_png(picture)
