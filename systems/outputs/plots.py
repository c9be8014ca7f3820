"""Plots, drawn by matplotlib: the curves of a run's CSV logs, and how the level of a mesh was chosen."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from systems.outputs.pictures import Picture, read_png

if TYPE_CHECKING:  # matplotlib is slow to load
    from matplotlib.figure import Figure

DPI = 100
COLUMNS = 3  # panels side by side
#: Title of a panel, and what it shows of the logs. Panels of which the logs have nothing are left out.
PANELS = {
    "losses": ("loss/guidance", "loss/estimator", "loss/clip"),
    "gradient at latents (RMS)": ("grad/latents", "grad/latents_guidance", "grad/latents_residual", "grad/images"),
    "estimator's error, frozen network's = 1": ("estimator/error_ratio",),
    "gradient norms of parameters": ("grad/scene", "grad/estimator"),
    "noise levels (share of the schedule)": ("schedule/t", "schedule/t_min", "schedule/t_max"),
    "renders (means)": ("render/opacity", "render/brightness", "render/occupied"),
    "iterations a second": ("perf/iterations_per_second",),
}
LOGARITHMIC = ("losses", "gradient norms of parameters")

Curve = tuple[list[float], list[float]]  # iterations and values


def read_logs(folder: Path) -> dict[str, Curve]:
    """Every figure of a run's logs by iteration; where a resumed run went over one again, its value counts."""
    found: dict[str, dict[float, float]] = {}
    for path in sorted(folder.glob("logs/version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:])):
        with open(path, encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                for name, text in row.items():
                    if text and name != "step":
                        found.setdefault(name, {})[float(row["step"])] = float(text)
    curves = {name: sorted(values.items()) for name, values in found.items()}
    return {name: ([at for at, _ in points], [value for _, value in points]) for name, points in curves.items()}


def training_curves(logs: dict[str, Curve]) -> Picture | None:
    """A panel for each group of figures; None where the logs hold none of them."""
    shown = {title: [name for name in names if name in logs] for title, names in PANELS.items()}
    shown = {title: names for title, names in shown.items() if names}
    if not shown:
        return None
    rows = -(-len(shown) // COLUMNS)
    figure = _figure(4 * COLUMNS, 2.6 * rows)
    for number, (title, names) in enumerate(shown.items(), 1):
        axes = figure.add_subplot(rows, COLUMNS, number)
        for name in names:
            axes.plot(*logs[name], linewidth=0.9, label=name.partition("/")[2])
        if title in LOGARITHMIC and all(value > 0 for name in names for value in logs[name][1]):
            axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("iteration", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7)
    return _picture(figure)


def level_curve(
    levels: Float[Tensor, "n"], overlaps: Float[Tensor, "n"], level: float, caption: str, width: int
) -> Picture:
    """How well the silhouettes of a mesh agree with the renders, by level, with the chosen level marked.

    Args:
        levels: densities; those that are not positive have no place on a logarithmic axis.
        overlaps: intersection over union in [0, 1]; negative ones are left out.
        width: pixels.
    """
    figure = _figure(width / DPI, 2.2)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    shown = (levels > 0) & (overlaps >= 0)
    axes.plot(levels[shown].cpu().numpy(), overlaps[shown].cpu().numpy())
    axes.axvline(level, color="tab:red")
    axes.set_title(caption, fontsize=8)
    axes.set_xlabel("density of the surface", fontsize=8)
    axes.set_ylabel("agreement of\nsilhouettes (IoU)", fontsize=8)
    axes.tick_params(labelsize=7)
    return _picture(figure)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, that no window shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _picture(figure: Figure) -> Picture:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return read_png(picture)
