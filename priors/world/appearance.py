"""Colours, surface patterns and light of the closed world, and the renderer that shows them.

Rendering is sphere tracing of the solid's distance with Lambertian shading under one light from above
and a soft light from the whole sky, ambient occlusion, a plain background, and supersampling where
neighbouring pixels differ. Rays come from ``renderers/cameras.py``, so a world picture and a render of
a scene share every convention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float

from priors.world.classes import ACCENTS, DEFAULT_ACCENT
from priors.world.solids import Solid, solid_distance
from renderers.cameras import Cameras, camera_rays

#: sRGB of each captioned colour, before the instance's jitter.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.98, 0.50, 0.05),
    "yellow": (0.98, 0.85, 0.12),
    "green": (0.13, 0.60, 0.18),
    "cyan": (0.15, 0.82, 0.85),
    "blue": (0.12, 0.25, 0.85),
    "purple": (0.50, 0.14, 0.70),
    "pink": (0.98, 0.52, 0.72),
    "brown": (0.42, 0.24, 0.11),
    "white": (0.96, 0.96, 0.95),
    "gray": (0.52, 0.52, 0.53),
    "black": (0.11, 0.11, 0.12),
}
PATTERNS = ("plain", "striped", "dotted")
DARK_RGB, LIGHT_RGB = (0.10, 0.10, 0.11), (0.85, 0.90, 0.93)
#: What is dark on other things: on a black one it would not be seen.
DARK_ON_BLACK_RGB = (0.40, 0.40, 0.42)
STRIPE_AXIS = np.array([0.45, 0.75, 0.48]) / np.linalg.norm([0.45, 0.75, 0.48])


@dataclass(frozen=True)
class Appearance:
    """How one instance looks: everything but its shape and its camera."""

    palette: Float[np.ndarray, "6 3"]  # sRGB by Material, then the pattern's second colour
    pattern: str
    pattern_period: float  # scene units from stripe to stripe, or dot to dot
    pattern_phase: float  # in [0, 1), in periods
    light: Float[np.ndarray, "3"]  # unit vector towards the light, world axes
    ambient: float  # share of light that reaches every side, in (0, 1)
    background: Float[np.ndarray, "3"]  # sRGB


def sample_background(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """A plain, weakly saturated background colour (sRGB)."""
    hue, saturation, value = rng.uniform(0, 1), rng.uniform(0, 0.3), rng.uniform(0.3, 0.95)
    offsets = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return value * (1 - saturation + saturation * np.clip(offsets, 0, 1))


def sample_appearance(class_name: str, color: str, pattern: str, rng: np.random.Generator) -> Appearance:
    """Draw light, background and colour jitter for an instance of a class."""
    main = np.clip(np.asarray(COLORS[color]) + rng.uniform(-0.04, 0.04, 3), 0, 1)
    luminance = main @ np.array([0.2126, 0.7152, 0.0722])
    # The pattern's second colour contrasts with the first: cream on dark colours, charcoal on light ones.
    second = np.array([0.95, 0.93, 0.86]) if luminance < 0.55 else np.array([0.16, 0.16, 0.18])
    accent = np.clip(np.asarray(ACCENTS.get(class_name, DEFAULT_ACCENT)) + rng.uniform(-0.03, 0.03, 3), 0, 1)
    tilt, around = np.deg2rad(rng.uniform(0, 50)), rng.uniform(0, 2 * np.pi)
    light = np.array([math.sin(tilt) * math.sin(around), math.cos(tilt), math.sin(tilt) * math.cos(around)])
    dark = DARK_RGB if luminance > 0.2 else DARK_ON_BLACK_RGB
    return Appearance(
        palette=np.stack([main, dark, LIGHT_RGB, accent, main * 0.72, second]),
        pattern=pattern,
        pattern_period=float(rng.uniform(0.36, 0.46)),
        pattern_phase=float(rng.uniform(0, 1)),
        light=light,
        ambient=float(rng.uniform(0.58, 0.7)),
        background=sample_background(rng),
    )


def render(
    solid: Solid, appearance: Appearance, cameras: Cameras, size: int = 64, supersampling: int = 3
) -> Float[np.ndarray, "batch size size 3"]:
    """Pictures of a solid in sRGB, in [0, 1].

    One ray a pixel; where the result differs from a neighbouring pixel, ``supersampling`` squared rays.
    """
    rays_o, rays_d = camera_rays(cameras, size * supersampling, size * supersampling)
    return _trace(
        solid.table,
        rays_o[:, 0, 0].to(torch.float64).numpy(),
        rays_d.to(torch.float64).numpy(),
        appearance.palette,
        PATTERNS.index(appearance.pattern),
        appearance.pattern_period,
        appearance.pattern_phase,
        appearance.light,
        appearance.ambient,
        appearance.background,
        supersampling,
    )


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _pattern_is_second(pattern, period, phase, x, y, z, nx, ny, nz):
    """Whether a surface point shows the pattern's second colour."""
    if pattern == 1:
        u = (x * 0.45 + y * 0.75 + z * 0.48) / 0.99669 / period + phase
        return u - math.floor(u) < 0.4
    if pattern == 2:
        # Dots lie on a hexagonal lattice in the plane that the surface faces most.
        ax, ay, az = abs(nx), abs(ny), abs(nz)
        if ay >= ax and ay >= az:
            u, v = x, z
        elif ax >= az:
            u, v = z, y
        else:
            u, v = x, y
        row = v / (period * 0.866) + phase
        for k in range(2):
            r = math.floor(row) + k
            shift = 0.5 * (r - 2.0 * math.floor(r / 2.0))
            c = u / period + phase + shift
            du, dv = c - math.floor(c + 0.5), (row - r) * 0.866
            if du * du + dv * dv < 0.095:
                return True
    return False


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _ball_entry(ox, oy, oz, dx, dy, dz):
    """Where a ray enters and leaves the ball of radius 0.95 that holds every solid; (1, 0) if never."""
    b = ox * dx + oy * dy + oz * dz
    discriminant = b * b - (ox * ox + oy * oy + oz * oz - 0.95 * 0.95)
    if discriminant <= 0.0:
        return 1.0, 0.0
    half = math.sqrt(discriminant)
    return max(-b - half, 0.0), -b + half


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _tile_start(table, origin, directions):
    """Distance up to which no ray of a tile can hit the solid, by marching a cone around them all.

    Negative when the cone passes the solid by, which is what most of a picture does.
    """
    rows, columns = directions.shape[:2]
    cx, cy, cz = directions[rows // 2, columns // 2]
    cosine = 1.0
    for r in (0, rows - 1):
        for c in (0, columns - 1):
            d = directions[r, c]
            cosine = min(cosine, cx * d[0] + cy * d[1] + cz * d[2])
    spread = 1.05 * math.sqrt(max(1.0 - cosine * cosine, 0.0)) + 1e-6
    distance = math.sqrt(origin[0] ** 2 + origin[1] ** 2 + origin[2] ** 2)
    t = max(distance - 0.95, 0.0)
    while t < distance + 0.95:
        d, _m = solid_distance(table, origin[0] + t * cx, origin[1] + t * cy, origin[2] + t * cz)
        free = 0.85 * d - spread * t
        if free < 4e-3:
            return t
        t += free / (1.0 + spread)
    return -1.0


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _trace(table, origins, rays_d, palette, pattern, period, phase, light, ambient, background, fine):
    """``rays_d`` holds ``fine`` times ``fine`` rays a pixel; most are needed at edges only."""
    batch, height, width = rays_d.shape[0], rays_d.shape[1] // fine, rays_d.shape[2] // fine
    image = np.empty((batch, height, width, 3))
    tile, middle = 8, fine // 2
    starts = np.empty((height, width))
    for n in range(batch):
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                bottom, right = min(top + tile, height), min(left + tile, width)
                block = rays_d[n, top * fine : bottom * fine, left * fine : right * fine]
                start = _tile_start(table, origins[n], block)
                for r in range(top, bottom):
                    for c in range(left, right):
                        starts[r, c] = start
                        image[n, r, c] = background
                        if start >= 0.0:
                            _shade_ray(
                                image[n, r, c], table, origins[n], rays_d[n, r * fine + middle, c * fine + middle],
                                start, palette, pattern, period, phase, light, ambient,
                            )  # fmt: skip
        if fine > 1:
            _refine(
                image[n], starts, table, origins[n], rays_d[n], palette, pattern, period, phase, light, ambient,
                background, fine,
            )  # fmt: skip
    return image


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _differs(image, r, c):
    """Whether a pixel differs by more than 0.03 from one of its eight neighbours."""
    for i in range(max(r - 1, 0), min(r + 2, image.shape[0])):
        for j in range(max(c - 1, 0), min(c + 2, image.shape[1])):
            for k in range(3):
                if abs(image[i, j, k] - image[r, c, k]) > 0.03:
                    return True
    return False


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _refine(
    image, starts, table, origin, rays_d, palette, pattern, period, phase, light, ambient, background, fine
):  # fmt: skip
    """Replace pixels at edges by the mean of all their rays."""
    height, width = starts.shape
    edge = np.empty((height, width), dtype=np.bool_)
    for r in range(height):
        for c in range(width):
            edge[r, c] = starts[r, c] >= 0.0 and _differs(image, r, c)
    sample = np.empty(3)
    for r in range(height):
        for c in range(width):
            if edge[r, c]:
                total = np.zeros(3)
                for i in range(fine):
                    for j in range(fine):
                        sample[:] = background
                        _shade_ray(
                            sample, table, origin, rays_d[r * fine + i, c * fine + j], starts[r, c],
                            palette, pattern, period, phase, light, ambient,
                        )  # fmt: skip
                        total += sample
                image[r, c] = total / (fine * fine)


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _shade_ray(pixel, table, origin, direction, start, palette, pattern, period, phase, light, ambient):
    """Write the colour of the first hit into ``pixel``; leave it alone where nothing is hit."""
    ox, oy, oz = origin
    dx, dy, dz = direction
    enter, t_end = _ball_entry(ox, oy, oz, dx, dy, dz)
    if enter > t_end:
        return
    t, hit, material = max(enter, start), False, 0
    for _ in range(96):
        d, material = solid_distance(table, ox + t * dx, oy + t * dy, oz + t * dz)
        if d < 2e-3:
            hit = True
            break
        t += 0.85 * d
        if t > t_end:
            break
    if not hit:
        return
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    e = 2e-3
    # Normals from a tetrahedron of four samples around the point.
    nx = ny = nz = 0.0
    for k in range(4):
        sx = 1.0 if k == 0 or k == 3 else -1.0
        sy = 1.0 if k == 1 or k == 3 else -1.0
        sz = 1.0 if k == 2 or k == 3 else -1.0
        d, _m = solid_distance(table, x + e * sx, y + e * sy, z + e * sz)
        nx, ny, nz = nx + sx * d, ny + sy * d, nz + sz * d
    norm = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    nx, ny, nz = nx / norm, ny / norm, nz / norm
    # Ambient occlusion: how much of the way along the normal other surfaces take.
    occlusion, reach = 1.0, 0.05
    for _ in range(4):
        d, _m = solid_distance(table, x + reach * nx, y + reach * ny, z + reach * nz)
        occlusion -= 0.17 * min(max(1.0 - d / reach, 0.0), 1.0)
        reach *= 1.8
    lambert = max(nx * light[0] + ny * light[1] + nz * light[2], 0.0)
    shade = (ambient * (0.92 + 0.16 * ny) + (1.0 - ambient) * lambert) * occlusion
    slot = material
    if material == 0 and _pattern_is_second(pattern, period, phase, x, y, z, nx, ny, nz):
        slot = 5
    for c in range(3):
        pixel[c] = min(palette[slot, c] * shade, 1.0)
