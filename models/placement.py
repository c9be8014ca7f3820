"""Where a mesh file's object stands in the scene: axes, size and place, and the way back.

Scene axes are those of `renderers.cameras`: y up, the front looks along +z. A file's axes are given by the direction
that is up and the direction that its front looks along. Each format has a convention:

| format | up | front | why |
|---|---|---|---|
| glTF, GLB | y | z | the glTF 2.0 specification, section 3.4 |
| OBJ | y | z | no specification; what Blender, Maya and ZBrush write by default |
| PLY | y | z | no specification; our own PLY files and the Stanford models |
| STL | z | -y | no specification; CAD programs and printers' slicers, which look at the front along +y |

Blender names its default for OBJ "forward -Z": its own +y axis becomes -z. Its front view looks along +y, so what
faces the viewer there faces +z in the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from models.bounding_sphere import bounding_sphere
from models.config import Axis, SourceMeshConfig

AXES: dict[str, tuple[Axis, Axis]] = {  # by suffix: up, front
    ".glb": ("y", "z"),
    ".gltf": ("y", "z"),
    ".obj": ("y", "z"),
    ".ply": ("y", "z"),
    ".stl": ("z", "-y"),
}
SUFFIXES = tuple(AXES)


def is_mesh_name(name: str) -> bool:
    """Whether a path ends as a mesh file does, rather than as a run's folder or checkpoint."""
    return name.lower().endswith(SUFFIXES)


def chosen_axes(suffix: str, config: SourceMeshConfig) -> tuple[Axis, Axis]:
    """Up and front of a file: as configured, else by convention.

    Raises:
        ValueError: both lie on one axis.
    """
    up = AXES[suffix][0] if config.up is None else config.up
    front = config.front
    if front is None:
        front = "-y" if up[-1] == "z" else "z"  # as in `AXES`
    axes_rotation(up, front)
    return up, front


def axes_rotation(up: Axis, front: Axis) -> Float[np.ndarray, "3 3"]:
    """The rotation that takes a file's axes to the scene's: ``R @ up = y`` and ``R @ front = z``.

    Raises:
        ValueError: two that are not perpendicular.
    """
    y, z = _direction(up), _direction(front)
    if y @ z != 0:
        raise ValueError(f"from.up and from.front: {up!r} and {front!r} lie on one axis; choose two different ones")
    return np.stack([np.cross(y, z), y, z])


def _direction(axis: Axis) -> Float[np.ndarray, "3"]:
    direction = np.zeros(3)
    direction["xyz".index(axis[-1])] = -1.0 if axis.startswith("-") else 1.0
    return direction


@dataclass(frozen=True)
class Placement:
    """A similarity: ``x_scene = scale * rotation @ (x_file - centre)``."""

    rotation: Float[np.ndarray, "3 3"]
    scale: float  # scene units per unit of the file
    centre: Float[np.ndarray, "3"]  # of the object, in the file's axes and units

    @classmethod
    def fit(cls, points: Float[np.ndarray, "n 3"], up: Axis, front: Axis, radius: float) -> Placement:
        """Move and scale points so that their bounding sphere has a radius, in scene units, around the scene's centre.

        Raises:
            ValueError: all points are one, or the axes lie on one line.
        """
        middle = points.mean(axis=0)  # a file may be far from its origin
        centre, sphere = bounding_sphere(points - middle)
        if not sphere > 0:
            raise ValueError("vertices: all are at one place, so the mesh has no size; export the model again")
        return cls(axes_rotation(up, front), radius / sphere, centre + middle)

    def to_scene(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Points of the file, in scene units."""
        return self.scale * ((points - self.centre) @ self.rotation.T)

    def to_file(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Points of the scene, in the file's axes and units: the inverse of `to_scene`."""
        return (np.asarray(points, np.float64) @ self.rotation) / self.scale + self.centre

    def directions_to_file(self, directions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Unit vectors of the scene, such as normals, in the file's axes."""
        return np.asarray(directions, np.float64) @ self.rotation


@dataclass(frozen=True)
class Origin:
    """Where the object of a scene came from: a file's axes, units and place, to which models of it return."""

    placement: Placement
    suffix: str  # of the file

    def points(self, points: Float[np.ndarray, "n 3"], written: str) -> Float[np.ndarray, "n 3"]:
        """Points of the scene as a file of another suffix has them."""
        return self.placement.to_file(points) @ between_formats(self.suffix, written).T

    def directions(self, directions: Float[np.ndarray, "n 3"], written: str) -> Float[np.ndarray, "n 3"]:
        """Unit vectors of the scene, such as normals, as a file of another suffix has them."""
        return self.placement.directions_to_file(directions) @ between_formats(self.suffix, written).T


def between_formats(read: str, written: str) -> Float[np.ndarray, "3 3"]:
    """The rotation from the convention of one suffix to that of another, so that an object stands as it stood.

    The identity for all pairs but those with STL: a file of the same convention gets the coordinates that were read.
    """
    return axes_rotation(*AXES[written]).T @ axes_rotation(*AXES[read])
