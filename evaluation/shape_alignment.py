"""The similarity that lays one shape onto another: a turn about the up axis, a uniform scale and a shift.

It maximises an estimate of the volume IoU: points in the one shape look up how much of them the other covers. A
sweep over azimuths, with the centres of volume in one place and the sizes equal, finds where to start; the simplex
search of Nelder and Mead (1965) goes on from there in all five parameters. Nothing is ever reflected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import minimum_filter
from scipy.optimize import minimize

from evaluation.occupancy import Grid, coverage

CELLS = 80  # of the longest side of the moved shape's box, where its coverage is looked up
COARSE_POINTS, FINE_POINTS = 2500, 25_000  # of the resting shape's inside
AZIMUTHS = 36  # of the sweep
STARTS = 3  # azimuths that the search goes on from

Pose = Float[np.ndarray, "5"]  # azimuth in rad, logarithm of the scale, shift from centre to centre in scene units


@dataclass(frozen=True)
class Similarity:
    """p -> scale R p + translation, where R turns about y, from +z towards +x, as azimuths grow."""

    azimuth_deg: float
    scale: float
    translation: Float[np.ndarray, "3"]

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale: {self.scale:g} must be positive")

    @property
    def rotation(self) -> Float[np.ndarray, "3 3"]:
        cosine, sine = math.cos(math.radians(self.azimuth_deg)), math.sin(math.radians(self.azimuth_deg))
        return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])

    def apply(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        return self.scale * points @ self.rotation.T + self.translation

    def undo(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        return (points - self.translation) @ self.rotation / self.scale


@dataclass(frozen=True)
class RestingShape:
    """What is aligned to: points all over its inside, in random order."""

    inside: Float[np.ndarray, "n 3"]
    volume: float  # scene units^3
    center: Float[np.ndarray, "3"]  # of the volume
    extent: float  # root mean square distance of the volume from its centre, scene units

    @classmethod
    def of(cls, inside: Float[np.ndarray, "n 3"], volume: float) -> RestingShape:
        center = inside.mean(axis=0)
        return cls(inside, volume, center, math.sqrt(np.square(inside - center).sum(axis=1).mean()))


@dataclass(frozen=True)
class MovedShape:
    """What is moved: the share of each cell that it fills."""

    share: Float[np.ndarray, "nx ny nz"]  # float32; 0 in the outermost cells
    grid: Grid
    volume: float
    center: Float[np.ndarray, "3"]
    extent: float

    @classmethod
    def of(cls, vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]) -> MovedShape:
        """The inside of a closed surface.

        Raises:
            ValueError: it has next to no inside.
        """
        lowest, highest = vertices.min(axis=0), vertices.max(axis=0)
        grid = Grid.around(lowest, highest, float((highest - lowest).max()) / CELLS)
        share = coverage(vertices, faces, grid)
        weight, centers = share.reshape(-1).astype(np.float64), grid.centers()
        if weight.sum() < 1:
            raise ValueError(f"mesh: it encloses {weight.sum():.2g} cells of {grid.cell:.2g}: too thin to be compared")
        center = weight @ centers / weight.sum()
        extent = math.sqrt(weight @ np.square(centers - center).sum(axis=1) / weight.sum())
        return cls(share, grid, weight.sum() * grid.cell**3, center, extent)

    def buried(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
        """Whether points of the surface lie more than a cell deep inside, where nobody sees them."""
        deep = minimum_filter(self.share, 3) > 0.999
        cells = ((points - self.grid.lowest) / self.grid.cell).astype(int)
        return deep[tuple(cells.T)]


@dataclass(frozen=True)
class Alignment:
    """Where a moved shape lies on a resting one."""

    pose: Pose
    iou: float  # as estimated from points and coverage

    def similarity(self, moved: MovedShape, resting: RestingShape) -> Similarity:
        azimuth_deg, scale = math.degrees(self.pose[0]) % 360, math.exp(self.pose[1])
        turned = Similarity(azimuth_deg, scale, np.zeros(3)).apply(moved.center)
        return Similarity(azimuth_deg, scale, resting.center + self.pose[2:] - turned)


def align(moved: MovedShape, resting: RestingShape) -> Alignment:
    """The best alignment from all azimuths; to about a hundredth of the resting shape's extent."""
    loss = _negative_iou(moved, resting, COARSE_POINTS)
    poses = np.zeros((AZIMUTHS, 5))
    poses[:, 0] = np.arange(AZIMUTHS) * (2 * math.pi / AZIMUTHS)
    poses[:, 1] = math.log(resting.extent / moved.extent)
    losses = np.array([loss(pose) for pose in poses])
    minima = np.flatnonzero((losses <= np.roll(losses, 1)) & (losses <= np.roll(losses, -1)))
    starts = poses[minima[np.argsort(losses[minima])][:STARTS]]
    steps = np.array([0.1, 0.05, *[0.08 * resting.extent] * 3])
    return max((_search(loss, start, steps, 120) for start in starts), key=lambda found: found.iou)


def refine(start: Alignment, moved: MovedShape, resting: RestingShape) -> Alignment:
    """The alignment nearby, to about a thousandth of the resting shape's extent."""
    steps = np.array([0.03, 0.015, *[0.025 * resting.extent] * 3])
    return _search(_negative_iou(moved, resting, FINE_POINTS), start.pose, steps, 300)


def _search(loss: Callable[[Pose], float], start: Pose, steps: Pose, evaluations: int) -> Alignment:
    simplex = np.vstack([start, start + np.diag(steps)])
    options = {"initial_simplex": simplex, "maxfev": evaluations, "xatol": 1e-4, "fatol": 1e-5}
    found = minimize(loss, start, method="Nelder-Mead", options=options)
    return Alignment(found.x, -float(found.fun))


def _negative_iou(moved: MovedShape, resting: RestingShape, points: int) -> Callable[[Pose], float]:
    """Minus the estimated IoU, as a function of the pose."""
    inside = resting.inside[:points].astype(np.float32)
    inside = inside[np.lexsort(inside.T)]  # neighbours look up the same memory

    def loss(pose: Pose) -> float:
        scale = math.exp(pose[1])
        shift = resting.center + pose[2:]
        covered = _mean_share(
            moved.share, moved.grid.lowest, moved.grid.cell, moved.center, inside, pose[0], scale, shift
        )
        shared = covered * resting.volume
        return -shared / (resting.volume + moved.volume * scale**3 - shared)

    return loss


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _mean_share(share, lowest, cell, center, points, azimuth, scale, shift):
    """Mean share at points taken back through a similarity; trilinear, 0 beyond the grid."""
    up = 1.0 / (scale * cell)
    cosine, sine = math.cos(azimuth) * up, math.sin(azimuth) * up
    ox, oy, oz = (center - lowest) / cell - 0.5
    nx, ny, nz = share.shape
    total = 0.0
    for n in range(len(points)):
        x, y, z = points[n, 0] - shift[0], points[n, 1] - shift[1], points[n, 2] - shift[2]
        u, v, w = cosine * x - sine * z + ox, up * y + oy, sine * x + cosine * z + oz
        if u < 0.0 or v < 0.0 or w < 0.0 or u >= nx - 1 or v >= ny - 1 or w >= nz - 1:
            continue
        i, j, k = int(u), int(v), int(w)
        a, b, c = u - i, v - j, w - k
        near = (1 - b) * ((1 - c) * share[i, j, k] + c * share[i, j, k + 1])
        near += b * ((1 - c) * share[i, j + 1, k] + c * share[i, j + 1, k + 1])
        far = (1 - b) * ((1 - c) * share[i + 1, j, k] + c * share[i + 1, j, k + 1])
        far += b * ((1 - c) * share[i + 1, j + 1, k] + c * share[i + 1, j + 1, k + 1])
        total += (1 - a) * near + a * far
    return total / len(points)
