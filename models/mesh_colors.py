"""The colours that a mesh file gives its surface, at any point: those of the nearest place on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from models.mesh_file import MeshFile, linear_from_srgb, srgb_from_linear

UNCOLORED = 0.5  # sRGB, of parts that the file says nothing about


@dataclass(frozen=True)
class MeshColors:
    """Textures, vertex colours and plain materials of a mesh file."""

    mesh: MeshFile

    def __call__(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """sRGB in [0, 1] at the places of the surface nearest to points, in the file's axes and units."""
        import igl

        points = np.ascontiguousarray(points, np.float64)
        vertices, faces = np.ascontiguousarray(self.mesh.vertices), np.ascontiguousarray(self.mesh.faces)
        _, face, nearest = igl.point_mesh_squared_distance(points, vertices, faces)
        face = face.astype(np.int64)  # libigl's integers have another name
        return self.at(face, barycentric(nearest, vertices[faces[face]]))

    def at(self, face: Int[np.ndarray, "n"], weights: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """sRGB in [0, 1] at places of faces, given by barycentric weights."""
        mesh = self.mesh
        light = np.ones((len(face), 3))
        if mesh.colors is not None:
            light = linear_from_srgb(np.clip((mesh.colors[face] * weights[..., None]).sum(axis=1), 0, 1))
        part = mesh.part[face]
        for number in np.unique(part).tolist():
            here = part == number
            light[here] *= linear_from_srgb(self._base_color(number, face[here], weights[here]))
        return srgb_from_linear(np.clip(light, 0, 1))

    def _base_color(self, part: int, face: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "n 3"]:
        mesh, material = self.mesh, self.mesh.parts[part].material
        if material is None:
            return np.full((len(face), 3), UNCOLORED if mesh.colors is None else 1.0)
        if material.texture is None or mesh.uv is None or np.isnan(mesh.uv[mesh.faces[face[0], 0], 0]):
            return np.tile(np.asarray(material.color), (len(face), 1))
        uv = (mesh.uv[mesh.faces[face]] * weights[..., None]).sum(axis=1)
        return sample_repeating(material.texture, uv)


def sample_repeating(
    texture: UInt8[np.ndarray, "height width 3"], uv: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 3"]:
    """Bilinear samples in [0, 1] of a texture that repeats outside [0, 1]; (0, 0) is its top left corner."""
    size = np.array([texture.shape[1], texture.shape[0]])
    place = uv * size - 0.5
    low = np.floor(place).astype(np.int64)
    share = place - low
    total = np.zeros((len(uv), 3))
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = (low[:, 0] + dx) % size[0], (low[:, 1] + dy) % size[1]
            weight = np.where(dx, share[:, 0], 1 - share[:, 0]) * np.where(dy, share[:, 1], 1 - share[:, 1])
            total += weight[:, None] * texture[row, column]
    return total / 255


def barycentric(points: Float[np.ndarray, "n 3"], triangles: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "n 3"]:
    """Weights, none negative, of the corners at points of triangles; the first corner's of triangles without area."""
    first, second = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    normal = np.cross(first, second)
    square = (normal**2).sum(axis=1)
    offset = points - triangles[:, 0]
    has_area = square > 0
    square = np.where(has_area, square, 1.0)
    b = np.where(has_area, (np.cross(offset, second) * normal).sum(axis=1) / square, 0.0)
    c = np.where(has_area, (np.cross(first, offset) * normal).sum(axis=1) / square, 0.0)
    weights = np.clip(np.stack([1 - b - c, b, c], axis=1), 0, None)
    return weights / weights.sum(axis=1, keepdims=True)
