"""The object classes of the closed world: one short function each, drawn from a generator.

Every class has a front that looks along +z and can be told from its side and its back, because
view words are part of the captions. Shape parameters vary from instance to instance, so that one
prompt names a distribution of things. Coordinates are arbitrary: ``Solid.from_parts`` scales them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from priors.world.solids import Kind, Material, Op, Part, Solid, rotation_about, rotation_to

Vec3 = tuple[float, float, float]
MAIN, DARK, LIGHT, ACCENT, TRIM = Material

#: Fixed colour (sRGB) of each class's ``Material.ACCENT``.
ACCENTS: dict[str, Vec3] = {
    "duck": (0.95, 0.55, 0.10),
    "chair": (0.45, 0.28, 0.16),
    "snowman": (0.95, 0.50, 0.10),
    "cactus": (0.72, 0.40, 0.25),
    "turtle": (0.55, 0.62, 0.30),
    "guitar": (0.36, 0.22, 0.14),
    "train": (0.75, 0.15, 0.12),
    "clock": (0.80, 0.65, 0.25),
    "car": (0.80, 0.10, 0.10),
    "windmill": (0.40, 0.30, 0.25),
    "lamp": (0.98, 0.90, 0.55),
    "shoe": (0.93, 0.93, 0.88),
}
DEFAULT_ACCENT: Vec3 = (0.6, 0.6, 0.6)


def ball(center: Vec3, radii: float | Vec3, material: Material = MAIN, **kwargs) -> Part:
    size = (radii,) * 3 if isinstance(radii, (int, float)) else radii
    return Part(Kind.ELLIPSOID, center, size, material, **kwargs)


def box(center: Vec3, half: Vec3, material: Material = MAIN, rounding: float = 0.03, **kwargs) -> Part:
    return Part(Kind.BOX, center, half, material, min(rounding, 0.9 * min(half)), **kwargs)


def rod(start: Vec3, end: Vec3, radii: float | tuple[float, float], material: Material = MAIN, **kwargs) -> Part:
    """Cylinder or cone from ``start`` to ``end``."""
    a, b = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    first, last = (radii, radii) if isinstance(radii, (int, float)) else radii
    middle, half = tuple((a + b) / 2), float(np.linalg.norm(b - a)) / 2
    rounding = kwargs.pop("rounding", min(0.02, 0.5 * half, 0.5 * max(first, last)))
    size = (first, last, half)
    return Part(Kind.CONE, middle, size, material, rounding, rotation=rotation_to(tuple(b - a)), **kwargs)


def ring(center: Vec3, radius: float, tube: float, axis: Vec3, material: Material = MAIN, **kwargs) -> Part:
    return Part(Kind.TORUS, center, (radius, tube, 0.0), material, rotation=rotation_to(axis), **kwargs)


def both(part_of: Callable[[float], Part]) -> list[Part]:
    """A part and its mirror image: ``part_of(side)`` for side -1 and +1."""
    return [part_of(-1.0), part_of(1.0)]


Uniform = Callable[[float, float], float]


def duck(u: Uniform) -> list[Part]:
    length, head, lift = u(0.62, 0.8), u(0.27, 0.34), u(0.48, 0.62)
    return [
        ball((0, 0, 0), (0.45, 0.38, length)),
        rod((0, 0.1, length * 0.5), (0, lift, length * 0.62), 0.17, blend=0.15),
        ball((0, lift + 0.12, length * 0.68), head, blend=0.08),
        rod((0, 0.1, -length * 0.75), (0, u(0.3, 0.45), -length - 0.15), (0.22, 0.05), blend=0.15),
        *both(lambda s: ball((s * 0.42, 0.06, -0.1), (0.1, 0.22, 0.42), TRIM)),
        ball((0, lift + 0.06, length * 0.68 + head * 1.15), (0.16, 0.07, u(0.2, 0.27)), ACCENT),
        *both(lambda s: ball((s * 0.17, lift + 0.22, length * 0.68 + head * 0.78), 0.065, DARK)),
        *both(lambda s: ball((s * 0.2, -0.42, 0.12), (0.13, 0.07, 0.24), ACCENT)),
    ]


def car(u: Uniform) -> list[Part]:
    length, width, cabin = u(0.95, 1.15), u(0.44, 0.52), u(0.42, 0.6)
    wheel, back = u(0.2, 0.25), u(-0.25, -0.1)
    parts = [
        box((0, 0, 0), (width, 0.2, length), rounding=0.12),
        box((0, 0.3, back), (width * 0.84, 0.22, cabin), LIGHT, rounding=0.1),
        box((0, 0.5, back), (width * 0.8, 0.06, cabin * 0.82), rounding=0.05),
        *both(lambda s: ball((s * width * 0.62, 0.03, length), (0.13, 0.1, 0.05), LIGHT)),
        box((0, -0.1, length), (width * 0.9, 0.06, 0.06), DARK),
        *both(lambda s: box((s * width * 0.66, 0.04, -length), (0.12, 0.09, 0.03), ACCENT)),
    ]
    for z in (-0.6 * length, 0.6 * length):
        parts += both(lambda s, z=z: rod((s * (width - 0.1), -0.2, z), (s * (width + 0.06), -0.2, z), wheel, DARK))
    return parts


def chair(u: Uniform) -> list[Part]:
    width, depth, legs, back = u(0.42, 0.52), u(0.4, 0.5), u(0.5, 0.7), u(0.55, 0.8)
    parts = [
        box((0, 0, 0), (width, 0.08, depth), rounding=0.05),
        box((0, back * 0.55, -depth + 0.05), (width, back * 0.5, 0.07), rounding=0.05),
    ]
    for z in (-depth + 0.08, depth - 0.08):
        parts += both(lambda s, z=z: rod((s * (width - 0.08), -legs, z), (s * (width - 0.08), 0, z), 0.07, ACCENT))
    return parts


def mug(u: Uniform) -> list[Part]:
    radius, half, handle = u(0.42, 0.55), u(0.42, 0.6), u(0.24, 0.32)
    return [
        rod((0, -half, 0), (0, half, 0), (radius * u(0.82, 1.0), radius), rounding=0.05),
        rod((0, -half + 0.1, 0), (0, half + 0.2, 0), radius - 0.09, LIGHT, op=Op.SUBTRACT),
        ring((0, 0, -radius - handle * 0.45), handle, 0.085, (1, 0, 0), TRIM),
        # The handle must not show inside the cup.
        rod((0, -half + 0.1, 0), (0, half + 0.2, 0), radius - 0.09, LIGHT, op=Op.SUBTRACT),
    ]


def teapot(u: Uniform) -> list[Part]:
    wide, tall = u(0.52, 0.62), u(0.4, 0.5)
    return [
        ball((0, 0, 0), (wide, tall, wide)),
        rod((0, -0.1, wide * 0.75), (0, u(0.28, 0.4), wide + 0.42), (0.15, 0.08), blend=0.1),
        ring((0, 0.05, -wide - 0.12), 0.27, 0.07, (1, 0, 0), TRIM),
        rod((0, tall - 0.08, 0), (0, tall + 0.02, 0), wide * 0.52, TRIM),
        ball((0, tall + 0.1, 0), 0.11, DARK),
        rod((0, -tall - 0.04, 0), (0, -tall + 0.08, 0), wide * 0.5, TRIM),
    ]


def house(u: Uniform) -> list[Part]:
    width, tall, depth, roof = u(0.55, 0.7), u(0.4, 0.55), u(0.5, 0.7), u(0.45, 0.65)
    top = tall + roof / 2 - 0.02
    pane = u(0.11, 0.14)
    return [
        box((0, 0, 0), (width, tall, depth)),
        Part(Kind.PRISM, (0, top, 0), (width + 0.14, roof, depth + 0.1)),
        box((0, tall + roof * 0.98, 0), (0.06, 0.03, depth + 0.1), TRIM),
        box((u(0.2, 0.3), tall + roof * 0.6, -depth * 0.5), (0.1, 0.3, 0.1), DARK),
        box((0, -tall * 0.4, depth), (0.16, tall * 0.6, 0.05), DARK),
        *both(lambda s: box((s * width * 0.64, tall * 0.25, depth), (pane, pane + 0.03, 0.04), LIGHT)),
        *both(lambda s: box((s * width, 0.05, 0), (0.04, 0.17, 0.22), LIGHT)),
    ]


def robot(u: Uniform) -> list[Part]:
    body, tall, head = u(0.36, 0.44), u(0.36, 0.44), u(0.32, 0.38)
    neck = tall + head + 0.06
    return [
        box((0, 0, 0), (body, tall, 0.28), rounding=0.06),
        box((0, neck, 0), (head * 1.2, head, 0.27), rounding=0.06),
        box((0, neck, 0.27), (head * 0.95, head * 0.62, 0.03), LIGHT),
        *both(lambda s: ball((s * head * 0.45, neck + 0.06, 0.3), 0.1, DARK)),
        box((0, neck - head * 0.38, 0.29), (head * 0.5, 0.04, 0.03), DARK),
        box((0, 0.08, 0.28), (body * 0.55, tall * 0.4, 0.03), DARK),
        rod((0, neck + head, 0), (0, neck + head + u(0.15, 0.3), 0), 0.035, DARK),
        ball((0, neck + head + 0.26, 0), 0.08, LIGHT),
        *both(lambda s: rod((s * (body + 0.12), tall * 0.7, 0), (s * (body + 0.16), -tall * 0.7, 0.1), 0.1, TRIM)),
        *both(lambda s: ball((s * (body + 0.17), -tall * 0.8, 0.12), 0.13, DARK)),
        *both(lambda s: rod((s * 0.2, -tall - u(0.4, 0.5), 0), (s * 0.2, -tall, 0), 0.12, TRIM)),
        *both(lambda s: box((s * 0.2, -tall - 0.5, 0.08), (0.15, 0.08, 0.24), DARK)),
        box((0, 0.05, -0.36), (body * 0.7, tall * 0.6, 0.12), DARK),
    ]


def airplane(u: Uniform) -> list[Part]:
    length, span, body = u(0.85, 1.0), u(0.9, 1.05), u(0.22, 0.28)
    wing = u(-0.02, 0.12)
    return [
        ball((0, 0, 0), (body, body, length)),
        box((0, -0.02, wing), (span, 0.06, u(0.24, 0.32)), rounding=0.05),
        box((0, 0.05, -length * 0.84), (0.44, 0.05, 0.17), rounding=0.04),
        box((0, 0.28, -length * 0.84), (0.05, 0.28, 0.18), TRIM, rounding=0.04),
        ball((0, body * 0.75, length * 0.45), (body * 0.6, 0.1, 0.2), LIGHT),
        rod((0, 0, length - 0.1), (0, 0, length + 0.05), (0.13, 0.05), DARK),
        box((0, 0, length + 0.02), (0.06, 0.36, 0.04), DARK, rounding=0.03, rotation=rotation_about("z", u(0, 180))),
        *both(lambda s: rod((s * span * 0.5, -0.1, wing - 0.16), (s * span * 0.5, -0.1, wing + 0.38), 0.1, DARK)),
    ]


def sailboat(u: Uniform) -> list[Part]:
    length, width, mast, boom = u(0.75, 0.88), u(0.38, 0.46), u(1.1, 1.3), u(35, 50)
    turn = rotation_about("y", 90 - boom)  # the wind has swung the sail out, so that it shows from all sides
    back = np.array([np.sin(np.deg2rad(boom)), 0.0, -np.cos(np.deg2rad(boom))])  # along the boom

    def along(distance: float, y: float) -> Vec3:
        return (float(distance * back[0]), y, float(0.15 + distance * back[2]))

    return [
        ball((0, 0, 0), (width, 0.46, length)),
        box((0, 0.5, 0), (1.0, 0.5, 2.0), TRIM, op=Op.SUBTRACT),
        box((0, -0.5, -length - 0.25), (1.0, 1.0, 0.5), DARK, op=Op.SUBTRACT),
        rod((0, -0.05, 0.15), (0, mast + 0.06, 0.15), 0.05, DARK),
        # Half of a thin prism: its other half is cut off at the mast.
        Part(Kind.PRISM, along(0, 0.16 + mast * 0.42), (0.72, mast * 0.84, 0.05), rotation=turn),
        box(along(-0.52, 0.12 + mast), (0.5, mast, 0.3), DARK, op=Op.SUBTRACT, rotation=turn),
        rod((0, -0.05, 0.15), (0, mast + 0.06, 0.15), 0.05, DARK),
        rod(along(0, 0.14), along(0.7, 0.14), 0.04, DARK),
        box((0, 0.06, 0.42), (width * 0.45, 0.1, 0.18), LIGHT, rounding=0.05),
        box((0, mast, 0.02), (0.025, 0.09, 0.15), ACCENT, rounding=0.02),
    ]


def fish(u: Uniform) -> list[Part]:
    length, tall, thick = u(0.72, 0.88), u(0.4, 0.52), u(0.2, 0.28)
    fan = {"rotation": rotation_about("x", 45)}
    return [
        ball((0, 0, 0), (thick, tall, length)),
        box((0, 0.0, -length - 0.12), (0.045, u(0.2, 0.28), 0.25), TRIM, **fan),
        ball((0, tall, -0.05), (0.05, 0.2, u(0.3, 0.42)), TRIM),
        *both(lambda s: ball((s * thick * 0.95, -0.12, 0.15), (0.14, 0.05, 0.18), TRIM)),
        *both(lambda s: ball((s * thick * 0.72, 0.12, length * 0.6), (0.08, 0.13, 0.13), LIGHT)),
        *both(lambda s: ball((s * (thick * 0.72 + 0.06), 0.12, length * 0.62), 0.07, DARK)),
        ball((0, -0.08, length * 0.95), (0.1, 0.07, 0.1), DARK),
    ]


def _face(y: float, z: float, gap: float, eye: float = 0.055) -> list[Part]:
    """Two dark eyes at height ``y``, depth ``z``, ``gap`` from the middle."""
    return both(lambda s: ball((s * gap, y, z), eye, DARK))


def rabbit(u: Uniform) -> list[Part]:
    body, head, ear, spread = u(0.4, 0.48), u(0.3, 0.36), u(0.32, 0.46), u(0.04, 0.16)
    top = body + head * 0.75
    return [
        ball((0, 0, 0), (body * 0.9, body * 1.05, body * 0.9)),
        ball((0, top, 0.06), head, blend=0.05),
        *both(lambda s: ball((s * (0.14 + spread), top + head + ear * 0.7, 0), (0.1, ear, 0.07))),
        *both(lambda s: ball((s * (0.14 + spread), top + head + ear * 0.72, 0.05), (0.055, ear * 0.75, 0.04), LIGHT)),
        *_face(top + 0.08, head * 0.92 + 0.04, 0.14, 0.06),
        ball((0, top - 0.05, head + 0.04), (0.12, 0.09, 0.08), LIGHT),
        ball((0, top - 0.01, head + 0.12), 0.045, DARK),
        ball((0, -body * 0.5, -body * 0.95), 0.19, LIGHT),
        *both(lambda s: ball((s * 0.24, -body * 0.9, 0.28), (0.14, 0.1, 0.28))),
        *both(lambda s: ball((s * 0.26, 0.05, body * 0.78), (0.09, 0.2, 0.1), TRIM)),
        ball((0, -0.06, body * 0.72), (0.2, 0.26, 0.14), LIGHT),
    ]


def bear(u: Uniform) -> list[Part]:
    body, head, ear = u(0.42, 0.5), u(0.33, 0.4), u(0.12, 0.16)
    top = body + head * 0.8
    return [
        ball((0, 0, 0), (body * 0.95, body * 1.05, body * 0.85)),
        ball((0, top, 0.04), (head * 1.08, head, head), blend=0.04),
        *both(lambda s: ball((s * head * 0.85, top + head * 0.8, 0), (ear, ear, 0.08))),
        ball((0, top - 0.08, head * 0.95), (0.17, 0.13, 0.14), LIGHT),
        ball((0, top - 0.03, head * 0.95 + 0.14), (0.07, 0.05, 0.04), DARK),
        *_face(top + 0.1, head * 0.92, 0.15, 0.065),
        ball((0, -0.02, body * 0.52), (0.27, 0.3, 0.2), LIGHT),
        *both(lambda s: rod((s * body * 0.8, 0.22, 0.05), (s * (body + 0.2), u(-0.2, 0.05), 0.28), (0.15, 0.13))),
        *both(lambda s: rod((s * 0.24, -body * 0.75, 0.1), (s * 0.32, -body * 0.9, 0.55), 0.17)),
        *both(lambda s: ball((s * 0.32, -body * 0.9, 0.56), (0.12, 0.12, 0.05), TRIM)),
        ball((0, -body * 0.6, -body * 0.85), 0.11, TRIM),
    ]


def snowman(u: Uniform) -> list[Part]:
    low, middle, head = u(0.46, 0.52), u(0.35, 0.4), u(0.3, 0.34)
    y1 = low + middle * 0.6
    y2 = y1 + middle * 0.6 + head * 0.7
    return [
        ball((0, 0, 0), low),
        ball((0, y1, 0), middle),
        ball((0, y2, 0), head),
        rod((0, y2 - 0.02, head * 0.8), (0, y2 - 0.04, head + u(0.2, 0.3)), (0.08, 0.02), ACCENT),
        *_face(y2 + 0.09, head * 0.88, 0.13, 0.065),
        *[ball((x, y2 - 0.13 + 0.25 * abs(x), head * 0.88), 0.035, DARK) for x in (-0.14, -0.05, 0.05, 0.14)],
        *[ball((0, y1 + dy, middle * 0.96), 0.06, DARK) for dy in (-0.14, 0.1)],
        *both(lambda s: rod((s * middle * 0.8, y1, 0), (s * (middle + 0.38), y1 + u(0.1, 0.35), 0.05), 0.05, DARK)),
        rod((0, y2 + head * 0.68, 0), (0, y2 + head * 0.8, 0), head * 1.1, DARK),
        rod((0, y2 + head * 0.75, 0), (0, y2 + head + u(0.2, 0.3), 0), head * 0.75, DARK),
        ring((0, y2 - head * 0.85, 0), head * 0.85, 0.07, (0, 1, 0), ACCENT),
        box((0.05, y1 - 0.05, -middle - 0.02), (0.1, 0.25, 0.05), ACCENT),
    ]


def cactus(u: Uniform) -> list[Part]:
    radius, tall = u(0.22, 0.28), u(0.55, 0.75)
    left, right = u(-0.05, 0.25), u(-0.2, 0.15)
    parts = [
        rod((0, -0.9, 0), (0, -0.45, 0), (0.28, 0.42), ACCENT),
        rod((0, -0.5, 0), (0, tall, 0), radius, rounding=radius * 0.95),
    ]
    for s, y in ((-1.0, left), (1.0, right)):
        out = s * (radius + 0.28)
        parts += [
            rod((s * 0.1, y, 0), (out, y, 0), 0.12, rounding=0.1, blend=0.05),
            rod((out, y - 0.08, 0), (out, y + u(0.3, 0.45), 0), 0.12, rounding=0.11, blend=0.05),
        ]
    eyes = tall - 0.3
    return [
        *parts,
        *_face(eyes, radius * 0.95, 0.11, 0.06),
        box((0, eyes - 0.16, radius * 0.98), (0.09, 0.03, 0.04), DARK, rounding=0.02),
        ball((0.08, tall + 0.04, 0), (0.12, 0.08, 0.12), LIGHT),
    ]


def lamp(u: Uniform) -> list[Part]:
    tall, reach, drop = u(0.95, 1.15), u(0.35, 0.5), u(0.1, 0.22)
    return [
        rod((0, -0.6, 0), (0, -0.48, 0), u(0.36, 0.44)),
        rod((0, -0.5, 0), (0, -0.5 + tall * 0.55, -0.32), 0.055, DARK),
        rod((0, -0.5 + tall * 0.55, -0.32), (0, -0.5 + tall, 0.05), 0.055, DARK),
        ball((0, -0.5 + tall * 0.55, -0.32), 0.09, DARK),
        rod((0, -0.5 + tall + 0.06, -0.02), (0, -0.5 + tall - drop, reach), (0.13, 0.36)),
        ball((0, -0.5 + tall - drop - 0.02, reach + 0.03), (0.24, 0.24, 0.13), ACCENT),
    ]


def guitar(u: Uniform) -> list[Part]:
    low, high, thick, neck = u(0.44, 0.52), u(0.32, 0.38), u(0.13, 0.17), u(0.7, 0.85)
    waist = low * 0.75
    return [
        rod((0, 0, -thick), (0, 0, thick), low, rounding=0.06),
        rod((0, waist, -thick), (0, waist, thick), high, rounding=0.06, blend=0.12),
        rod((0, waist * 0.55, 0), (0, waist * 0.55, thick + 0.015), 0.15, DARK),
        box((0, waist + neck * 0.5, thick * 0.5), (0.075, neck * 0.62, 0.06), ACCENT),
        box((0, waist + neck * 1.12, thick * 0.4), (0.13, 0.17, 0.06), ACCENT),
        box((0, -low * 0.4, thick + 0.02), (0.18, 0.05, 0.03), DARK),
        box((0, waist * 0.9, thick + 0.06), (0.03, neck * 0.8, 0.02), LIGHT, rounding=0.01),
    ]


def camera(u: Uniform) -> list[Part]:
    width, tall, depth, lens = u(0.68, 0.82), u(0.4, 0.48), u(0.22, 0.28), u(0.27, 0.33)
    reach = depth + u(0.25, 0.45)
    return [
        box((0, 0, 0), (width, tall, depth), rounding=0.08),
        rod((0, -0.03, depth - 0.05), (0, -0.03, reach), lens, DARK),
        rod((0, -0.03, reach - 0.05), (0, -0.03, reach + 0.03), lens * 0.66, LIGHT),
        box((0, tall + 0.06, 0), (0.22, 0.12, depth * 0.7), TRIM, rounding=0.05),
        box((0, tall + 0.06, depth * 0.7), (0.14, 0.07, 0.03), LIGHT),
        rod((-width * 0.65, tall - 0.02, 0), (-width * 0.65, tall + 0.1, 0), 0.1, DARK),
        box((0, 0, -depth), (width * 0.6, tall * 0.65, 0.03), DARK),
    ]


def windmill(u: Uniform) -> list[Part]:
    base, top, tall, blade, turn = u(0.42, 0.5), u(0.27, 0.33), u(0.68, 0.8), u(0.62, 0.72), u(0, 90)
    hub_z = top + 0.18

    def sail(angle: float) -> Part:
        return box((0, tall * 0.75, hub_z), (blade, 0.13, 0.04), LIGHT, 0.03, rotation=rotation_about("z", angle))

    return [
        rod((0, -tall, 0), (0, tall, 0), (base, top)),
        rod((0, tall, 0), (0, tall + 0.32, 0), (top + 0.06, 0.06), ACCENT),
        sail(turn),
        sail(turn + 90),
        rod((0, tall * 0.75, 0), (0, tall * 0.75, hub_z + 0.08), 0.1, DARK),
        box((0, -tall + 0.2, base * 0.92), (0.14, 0.24, 0.08), DARK),
        box((0, 0.1, -(base + top) / 2 + 0.02), (0.1, 0.14, 0.06), DARK),
    ]


def train(u: Uniform) -> list[Part]:
    length, boiler, cab = u(0.5, 0.62), u(0.27, 0.33), u(0.36, 0.44)
    wheel = u(0.18, 0.22)
    parts = [
        rod((0, 0, -0.3), (0, 0, length + 0.2), boiler),
        rod((0, 0, length + 0.15), (0, 0, length + 0.24), boiler * 0.85, DARK),
        ball((0, 0.05, length + 0.25), 0.1, LIGHT),
        box((0, 0.18, -0.55), (cab, 0.5, 0.3), rounding=0.04),
        box((0, 0.71, -0.55), (cab + 0.08, 0.06, 0.38)),
        *both(lambda s: box((s * cab, 0.4, -0.55), (0.03, 0.14, 0.16), LIGHT)),
        box((0, 0.42, -0.86), (0.2, 0.13, 0.03), DARK),
        rod((0, 0.2, length - 0.1), (0, u(0.58, 0.72), length - 0.1), (0.09, 0.14), DARK),
        ball((0, boiler, 0.15), 0.14, ACCENT),
        box((0, -boiler - 0.04, 0), (0.3, 0.07, length + 0.2), DARK),
        box((0, -boiler - 0.1, length + 0.28), (0.36, 0.14, 0.1), ACCENT, rotation=rotation_about("x", -25)),
    ]
    for z in (-0.6, 0.0, length * 0.8):
        parts += both(lambda s, z=z: rod((s * 0.26, -boiler - 0.12, z), (s * 0.38, -boiler - 0.12, z), wheel, DARK))
    return parts


def clock(u: Uniform) -> list[Part]:
    radius, thick, hour, minute = u(0.52, 0.62), u(0.2, 0.26), u(0, 360), u(0, 360)

    def hand(angle: float, length: float, wide: float) -> Part:
        radians = np.deg2rad(angle)
        tip = (length * np.sin(radians), length * np.cos(radians), thick + 0.05)
        return rod((0, 0, thick + 0.05), tip, wide, DARK)

    return [
        rod((0, 0, -thick), (0, 0, thick), radius, rounding=0.06),
        rod((0, 0, thick - 0.05), (0, 0, thick + 0.025), radius * 0.8, LIGHT),
        hand(minute, radius * 0.65, 0.04),
        hand(hour, radius * 0.42, 0.05),
        *both(lambda s: ball((s * radius * 0.62, radius * 0.95, 0), (0.2, 0.15, 0.2), ACCENT)),
        *both(lambda s: rod((s * radius * 0.5, -radius * 0.7, 0), (s * radius * 0.72, -radius - 0.2, 0), 0.07, TRIM)),
        rod((0, 0, -thick - 0.12), (0, 0, -thick + 0.05), 0.13, DARK),
        ring((0, radius + 0.2, 0), 0.13, 0.04, (0, 0, 1), DARK),
    ]


def turtle(u: Uniform) -> list[Part]:
    shell, tall, head = u(0.55, 0.65), u(0.34, 0.46), u(0.17, 0.22)
    neck = shell + u(0.18, 0.28)
    parts = [
        ball((0, 0, 0), (shell * 0.88, tall, shell)),
        box((0, -0.6, 0), (2, 0.5, 2), ACCENT, op=Op.SUBTRACT),
        rod((0, -0.02, shell * 0.7), (0, 0.12, neck), 0.12, ACCENT),
        ball((0, 0.16, neck + 0.05), (head, head * 0.9, head * 1.15), ACCENT),
        *both(lambda s: ball((s * head * 0.7, 0.24, neck + 0.14), 0.06, DARK)),
        rod((0, -0.05, -shell * 0.85), (0, -0.1, -shell - 0.2), (0.09, 0.03), ACCENT),
    ]
    for z in (-shell * 0.6, shell * 0.6):
        parts += both(
            lambda s, z=z: rod((s * shell * 0.5, -0.02, z), (s * shell * 0.85, -0.28, z * 1.15), 0.14, ACCENT)
        )
    return parts


def helicopter(u: Uniform) -> list[Part]:
    body, tail, rotor, turn = u(0.46, 0.52), u(0.95, 1.1), u(0.72, 0.84), u(0, 180)
    return [
        ball((0, 0, 0), (body * 0.9, body * 0.92, body * 1.2)),
        ball((0, 0.04, body * 0.62), (body * 0.68, body * 0.66, body * 0.66), LIGHT),
        rod((0, 0.08, -body * 0.6), (0, 0.16, -tail), (0.2, 0.1), blend=0.08),
        box((0, 0.32, -tail), (0.05, 0.24, 0.15), TRIM, rounding=0.03),
        box((0.11, 0.28, -tail), (0.03, 0.22, 0.06), DARK, 0.02, rotation=rotation_about("x", u(0, 90))),
        rod((0, body * 0.8, 0), (0, body + 0.16, 0), 0.07, DARK),
        box((0, body + 0.16, 0), (rotor, 0.035, 0.07), DARK, 0.03, rotation=rotation_about("y", turn)),
        box((0, body + 0.16, 0), (rotor, 0.035, 0.07), DARK, 0.03, rotation=rotation_about("y", turn + 90)),
        *both(lambda s: rod((s * 0.3, -body - 0.16, -0.45), (s * 0.3, -body - 0.16, 0.5), 0.055, DARK)),
        *both(lambda s: rod((s * 0.3, -body - 0.16, 0.1), (s * 0.2, -body * 0.6, 0.1), 0.05, DARK)),
    ]


def television(u: Uniform) -> list[Part]:
    width, tall, depth = u(0.62, 0.75), u(0.46, 0.55), u(0.28, 0.36)
    screen = width * 0.66
    return [
        box((0, 0, 0), (width, tall, depth), rounding=0.07),
        box((-width * 0.2, 0.0, depth), (screen, tall * 0.74, 0.03), LIGHT, rounding=0.03),
        *[rod((width * 0.72, y, depth), (width * 0.72, y, depth + 0.06), 0.08, DARK) for y in (-0.02, 0.24)],
        box((0, -0.02, -depth - 0.06), (width * 0.62, tall * 0.62, 0.14), DARK, rounding=0.05),
        *both(lambda s: rod((s * 0.05, tall, -0.05), (s * u(0.35, 0.5), tall + u(0.4, 0.5), -0.05), 0.03, DARK)),
        *both(lambda s: rod((s * width * 0.6, -tall, 0), (s * width * 0.72, -tall - 0.22, 0), 0.06, TRIM)),
    ]


def shoe(u: Uniform) -> list[Part]:
    length, wide, shaft = u(0.68, 0.8), u(0.25, 0.3), u(0.5, 0.75)
    heel = -length + 0.36
    return [
        ball((0, -0.05, length * 0.35), (wide, 0.26, length * 0.62)),
        box((0, -0.02, -length * 0.3), (wide * 0.9, 0.24, length * 0.5), rounding=0.15, blend=0.15),
        rod((0, 0, heel), (0, shaft, heel - 0.02), (wide * 0.95, wide * 1.12), rounding=0.06, blend=0.12),
        box((0, -0.78, 0), (2, 0.5, 2), DARK, op=Op.SUBTRACT),
        rod((0, 0.25, heel), (0, shaft + 0.3, heel - 0.02), wide * 0.85, DARK, op=Op.SUBTRACT),
        box((0, -0.3, 0), (wide * 0.98, 0.07, length * 0.93), DARK, rounding=0.06),
        ball((0, -0.12, length * 0.78), (wide * 0.9, 0.16, 0.24), ACCENT),
        *[box((0, 0.2 + 0.12 * i, heel + wide * 1.1 - 0.02), (0.15, 0.03, 0.05), LIGHT) for i in range(3)],
    ]


#: Name of each class and the function that builds an instance; the order is the class index.
CLASSES: dict[str, Callable[[Uniform], list[Part]]] = {
    build.__name__: build
    for build in (
        duck, car, chair, mug, teapot, house, robot, airplane, sailboat, fish, rabbit, bear,
        snowman, cactus, lamp, guitar, camera, windmill, train, clock, turtle, helicopter, television, shoe,
    )
}  # fmt: skip


def build_solid(name: str, rng: np.random.Generator) -> Solid:
    """Draw an instance of a class.

    Raises:
        ValueError: ``name`` is not one of ``CLASSES``.
    """
    if name not in CLASSES:
        raise ValueError(f"class: {name!r} is not in the world; it has {', '.join(CLASSES)}")
    return Solid.from_parts(CLASSES[name](lambda low, high: float(rng.uniform(low, high))))
