from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from models.mesh_distance import lattice_distances, oriented, solid_of, without_doubles
from models.mesh_geometry import mesh_edges, signed_volume
from models.tetrahedra import bcc_lattice, marching_tetrahedra

POINTS = np.random.default_rng(0).uniform(-1, 1, (4000, 3))
HALF = np.array([0.6, 0.4, 0.5])


def box() -> tuple[np.ndarray, np.ndarray]:
    """A box with half sizes ``HALF``, its faces cut into small ones."""
    shape = trimesh.creation.box(2 * HALF).subdivide().subdivide().subdivide()
    return np.asarray(shape.vertices), np.asarray(shape.faces, np.int64)


def box_distance(points: np.ndarray) -> np.ndarray:
    beyond = np.abs(points) - HALF
    return np.linalg.norm(beyond.clip(min=0), axis=1) + beyond.max(axis=1).clip(max=0)


def outward(vertices: np.ndarray, faces: np.ndarray, centre: np.ndarray) -> np.ndarray:
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return (np.cross(b - a, c - a) * ((a + b + c) / 3 - centre)).sum(axis=1) > 0


def test_distance_of_a_box() -> None:
    found = solid_of(*box()).signed_distance(POINTS, largest=0.3)
    np.testing.assert_allclose(found, box_distance(POINTS).clip(-0.3, 0.3), atol=1e-6)


@pytest.mark.parametrize("damage", ["flipped", "inside out", "both sides", "fins", "degenerate", "unordered"])
def test_damages_that_cost_nothing(damage: str) -> None:
    vertices, faces = box()
    rng = np.random.default_rng(1)
    if damage == "flipped":
        faces = np.where(rng.random(len(faces))[:, None] < 0.4, faces[:, ::-1], faces)
    elif damage == "inside out":
        faces = faces[:, ::-1]
    elif damage == "both sides":
        faces = np.concatenate([faces, faces[:, ::-1]])
    elif damage == "fins":
        picked = faces[rng.choice(len(faces), 20)]
        tips = vertices[picked].mean(axis=1) * 1.05
        faces = np.concatenate([faces, np.column_stack([picked[:, :2], len(vertices) + np.arange(20)])])
        vertices = np.concatenate([vertices, tips])
    elif damage == "degenerate":
        faces = np.concatenate([faces, faces[:50][:, [0, 0, 1]], faces[:50][:, [2, 2, 2]]])
    else:
        faces = rng.permutation(faces)
    inside = solid_of(vertices, faces).signed_distance(POINTS, 1.0) < 0
    clear = np.abs(box_distance(POINTS)) > 0.02
    assert np.array_equal(inside[clear], box_distance(POINTS)[clear] < 0)


def test_a_hole_is_closed() -> None:
    vertices, faces = box()
    middles = vertices[faces].mean(axis=1)
    cut = (middles[:, 1] > 0.39) & (np.abs(middles[:, [0, 2]]) < 0.3).all(axis=1)
    assert 10 < cut.sum() < len(faces) / 6
    found = solid_of(vertices, faces[~cut]).signed_distance(POINTS, 1.0)
    wrong = (found < 0) != (box_distance(POINTS) < 0)
    assert wrong.mean() < 0.02
    assert (np.abs(found[~wrong]) >= np.abs(box_distance(POINTS))[~wrong] - 1e-6).all()  # no face where there is none


def test_overlapping_parts_are_their_union_whichever_way_they_turn() -> None:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    shift = np.array([0.2, 0, 0])
    vertices = np.concatenate([ball.vertices - shift, ball.vertices + shift])
    faces = np.concatenate([ball.faces, ball.faces[:, ::-1] + len(ball.vertices)])
    found = solid_of(vertices, faces).signed_distance(POINTS, 1.0) < 0
    distance = np.minimum(*(np.linalg.norm(POINTS - [x, 0, 0], axis=1) - 0.5 for x in (-0.2, 0.2)))
    clear = np.abs(distance) > 0.02
    assert np.array_equal(found[clear], distance[clear] < 0)


def test_solids_that_share_an_edge() -> None:
    cube = trimesh.creation.box([0.5, 0.5, 0.5])
    both = trimesh.util.concatenate([cube, cube.copy().apply_translation([0.5, 0.5, 0])])
    both.merge_vertices()
    assert len(both.vertices) == 14
    faces = np.where(np.arange(24)[:, None] % 3 == 0, both.faces[:, ::-1], both.faces)
    turned = oriented(np.asarray(both.vertices), faces.astype(np.int64))
    middles = both.vertices[turned].mean(axis=1)
    first = middles[:, 0] + middles[:, 1] < 0.5
    assert outward(both.vertices, turned[first], np.zeros(3)).all()
    assert outward(both.vertices, turned[~first], np.array([0.5, 0.5, 0])).all()


def test_sides_that_do_not_touch_keep_their_orientation() -> None:
    """A box of six separate sheets, one of which has a flipped triangle: a sheet alone has no inside."""
    shape = trimesh.creation.box(2 * HALF)
    corners = shape.triangles.copy()
    order = np.lexsort(np.round(shape.face_normals, 3).T)
    corners = corners[order].reshape(6, 2, 3, 3)
    corners += 0.001 * shape.face_normals[order].reshape(6, 2, 1, 3)
    vertices, faces = np.unique(corners.reshape(-1, 3).round(6), axis=0, return_inverse=True)
    faces = faces.reshape(-1, 3).astype(np.int64)
    assert len(vertices) == 24 and outward(vertices, faces, np.zeros(3)).all()
    assert outward(vertices, oriented(vertices, faces), np.zeros(3)).all()
    found = solid_of(vertices, faces).signed_distance(POINTS, 1.0) < 0
    clear = np.abs(box_distance(POINTS)) > 0.03
    assert np.array_equal(found[clear], box_distance(POINTS)[clear] < 0)


def test_an_open_bowl_turns_outward() -> None:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    lower = ball.faces[ball.triangles_center[:, 1] < 0][:, ::-1]
    assert outward(ball.vertices, oriented(np.asarray(ball.vertices), lower), np.zeros(3)).all()


def test_sheets_have_no_inside() -> None:
    sheet = trimesh.creation.box([1, 1, 1]).subdivide().subdivide()
    flat = sheet.faces[np.abs(sheet.triangles_center[:, 1] - 0.5) < 1e-6]
    with pytest.raises(ValueError, match=r"only \d+% of the surface bounds a volume.*Solidify.*stage texture"):
        solid_of(np.asarray(sheet.vertices), flat)
    bent = np.asarray(sheet.vertices) + 0.05 * np.asarray(sheet.vertices)[:, :1] ** 2 * [0, 1, 0]
    with pytest.raises(ValueError, match=r"only \d+% of the surface bounds a volume"):
        solid_of(bent, flat)
    with pytest.raises(ValueError, match="none has an area"):
        solid_of(np.asarray(sheet.vertices), flat[:, [0, 0, 1]])


def test_doubles() -> None:
    faces = np.array([[0, 1, 2], [3, 4, 5], [2, 0, 1], [1, 0, 2], [4, 4, 6], [5, 6, 7]])
    assert without_doubles(faces).tolist() == [[0, 1, 2], [3, 4, 5], [5, 6, 7]]


def test_scale_and_place_do_not_matter() -> None:
    vertices, faces = box()
    found = solid_of(1e3 * vertices + 1e5, faces).signed_distance(1e3 * POINTS + 1e5, 300.0)
    np.testing.assert_allclose(found, 1e3 * box_distance(POINTS).clip(-0.3, 0.3), atol=1e-3)


def test_the_surface_on_the_lattice_is_the_mesh() -> None:
    lattice = bcc_lattice(16, 1.0)
    vertices, faces = marching_tetrahedra(
        lattice.vertices, lattice_distances(solid_of(*box()), lattice), lattice.tetrahedra
    )
    assert mesh_edges(faces).closed
    assert signed_volume(vertices, faces).item() == pytest.approx(float(8 * HALF.prod()), rel=0.06)
    assert np.abs(box_distance(vertices.double().numpy())).max() < 0.5 * lattice.spacing


def test_a_mesh_in_the_corner_of_the_lattice_stays_closed() -> None:
    lattice = bcc_lattice(8, 0.3)
    distances = lattice_distances(solid_of(*box()), lattice)  # larger than the lattice
    assert (distances[lattice.on_boundary] > 0).all() and (distances[~lattice.on_boundary] < 0).all()


def test_a_mesh_thinner_than_a_cell_is_refused() -> None:
    vertices, faces = box()
    solid = solid_of(vertices * [1, 0.06, 1] + [0, 0.06, 0], faces)
    with pytest.raises(ValueError, match=r"thinner than a cell of the lattice \(0.25 scene units\)"):
        lattice_distances(solid, bcc_lattice(8, 1.0))
    assert torch.isfinite(lattice_distances(solid, bcc_lattice(24, 1.0))).all()
