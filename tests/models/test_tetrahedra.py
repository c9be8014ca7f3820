"""The tetrahedral lattice fills its cube; surfaces on it are closed, outward, in place, with true gradients."""

from __future__ import annotations

import math

import pytest
import torch

from models.config import SAFE_OFFSET
from models.mesh_geometry import mesh_edges, signed_volume
from models.tetrahedra import bcc_lattice, marching_tetrahedra


def volumes(vertices, tetrahedra):
    corners = vertices.double()[tetrahedra]
    return torch.linalg.det(corners[:, 1:] - corners[:, :1]) / 6


def ball(points, radius=0.6):
    return points.norm(dim=-1) - radius


def torus(points, ring=0.55, tube=0.22):
    return torch.stack([points[:, [0, 2]].norm(dim=-1) - ring, points[:, 1]], dim=-1).norm(dim=-1) - tube


def two_balls(points):
    apart = torch.tensor([0.45, 0.1, 0.0])
    return torch.minimum((points - apart).norm(dim=-1), (points + apart).norm(dim=-1)) - 0.3


def noise(points):
    return torch.randn(len(points), generator=torch.Generator().manual_seed(0))


def euler_characteristic(vertices, faces):
    return len(vertices) - len(mesh_edges(faces).vertices) + len(faces)


def half_edge_keys(faces):
    """Keys of the directed edges and of their reverses, sorted."""
    start, end = faces.reshape(-1), faces.roll(-1, dims=1).reshape(-1)
    size = int(faces.max()) + 1
    return (start * size + end).sort().values, (end * size + start).sort().values


def surface(function, cells=20, radius=1.0, offset=0.0):
    lattice = bcc_lattice(cells, radius)
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(lattice.vertices.shape, generator=generator), dim=-1)
    moved = lattice.vertices + offset * lattice.spacing * directions * ~lattice.on_boundary[:, None]
    sdf = torch.where(lattice.on_boundary, 1.0, function(moved))
    return marching_tetrahedra(moved, sdf, lattice.tetrahedra)


@pytest.mark.parametrize("cells", [2, 3, 6])
def test_tetrahedra_fill_the_cube_once(cells):
    lattice = bcc_lattice(cells, 0.7)
    sizes = volumes(lattice.vertices, lattice.tetrahedra)
    assert (sizes > 0).all()
    assert sizes.sum().item() == pytest.approx(1.4**3, rel=1e-6)
    assert len(lattice.tetrahedra) == 12 * cells**3 + 12 * cells**2
    # Inside all have the volume of the lattice, h^3 / 12; at the boundary half of it.
    shares = sizes / lattice.spacing**3 * 12
    assert ((shares - 1).abs().minimum((shares - 0.5).abs()) < 1e-5).all()


def test_faces_of_tetrahedra_meet_face_to_face():
    lattice = bcc_lattice(3, 1.0)
    triples = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    triangles = lattice.tetrahedra[:, triples].reshape(-1, 3).sort(-1).values
    triangles, counts = torch.unique(triangles, dim=0, return_counts=True)
    outside = lattice.on_boundary[triangles].all(-1)
    assert (counts[counts == 2].numel() + outside.sum()) == len(triangles)
    assert (counts[outside] == 1).all()


def test_the_boundary_is_the_cubes():
    lattice = bcc_lattice(4, 0.5)
    assert torch.equal(lattice.on_boundary, lattice.vertices.abs().amax(-1) == 0.5)
    used = torch.unique(lattice.tetrahedra)
    assert torch.equal(used, torch.arange(len(lattice.vertices)))


def test_vertices_moved_as_far_as_is_safe_invert_nothing():
    lattice = bcc_lattice(4, 1.0)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        corners = torch.randint(0, 2, lattice.vertices.shape, generator=generator) * 2.0 - 1
        directions = corners / math.sqrt(3) * ~lattice.on_boundary[:, None]
        moved = lattice.vertices + SAFE_OFFSET * lattice.spacing * directions
        assert (volumes(moved, lattice.tetrahedra) > 0).all()


@pytest.mark.parametrize(("function", "euler"), [(ball, 2), (torus, 0), (two_balls, 4)])
@pytest.mark.parametrize("offset", [0.0, SAFE_OFFSET])
def test_surfaces_have_the_right_topology(function, euler, offset):
    vertices, faces = surface(function, offset=offset)
    assert euler_characteristic(vertices, faces) == euler
    assert torch.equal(torch.unique(faces), torch.arange(len(vertices)))


@pytest.mark.parametrize("function", [ball, torus, two_balls, noise, lambda points: points[:, 0] - 0.013])
def test_every_edge_has_two_faces_of_opposite_directions(function):
    """Noise too, and a half-space that runs out of the lattice: whatever the field, the mesh is closed."""
    _, faces = surface(function, cells=10, offset=SAFE_OFFSET)
    forward, backward = half_edge_keys(faces)
    assert len(forward) > 0
    assert len(torch.unique(forward)) == len(forward)  # each direction once
    assert torch.equal(forward, backward)
    assert mesh_edges(faces).closed


@pytest.mark.parametrize("function", [ball, noise])
def test_the_faces_at_a_vertex_form_one_fan(function):
    """Euler's formula of the vertex figures: as many edges as faces at every vertex, all connected."""
    vertices, faces = surface(function, cells=6, offset=0.1)
    for vertex in range(0, len(vertices), max(1, len(vertices) // 60)):
        beside = faces[(faces == vertex).any(-1)]
        rim = [tuple(face[face != vertex].tolist()) for face in beside]
        reached, frontier = set(), {rim[0][0]}
        while frontier:
            reached |= frontier
            frontier = {b for pair in rim if set(pair) & reached for b in pair} - reached
        assert reached == {end for pair in rim for end in pair}


@pytest.mark.parametrize(
    ("function", "volume"), [(ball, 4 / 3 * math.pi * 0.6**3), (torus, 2 * math.pi**2 * 0.55 * 0.22**2)]
)
def test_surfaces_enclose_their_volume_and_face_outward(function, volume):
    vertices, faces = surface(function, cells=32, offset=0.2)
    assert signed_volume(vertices, faces).item() == pytest.approx(volume, rel=0.02)
    assert function(vertices).abs().max() < 0.2 * 2 / 32


def test_exact_for_a_plane():
    vertices, _ = surface(lambda points: points @ torch.tensor([0.36, 0.48, 0.8]) - 0.1, cells=6, offset=0.2)
    inner = vertices[vertices.abs().amax(-1) < 0.6]
    distance = inner @ torch.tensor([0.36, 0.48, 0.8]) - 0.1
    torch.testing.assert_close(distance, torch.zeros_like(distance), atol=1e-6, rtol=0)


def test_one_sign_gives_an_empty_mesh():
    lattice = bcc_lattice(3, 1.0)
    sdf = torch.ones(len(lattice.vertices), requires_grad=True)
    vertices, faces = marching_tetrahedra(lattice.vertices, sdf, lattice.tetrahedra)
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)
    vertices.sum().backward()
    assert (sdf.grad == 0).all()


def test_gradients_equal_finite_differences():
    lattice = bcc_lattice(4, 1.0)
    points = lattice.vertices.double()
    sdf = torch.where(lattice.on_boundary, 1.0, ball(points) + 0.03 * torch.sin(7 * points).sum(-1))
    _, faces = marching_tetrahedra(points, sdf, lattice.tetrahedra)
    weight = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(points, sdf):
        vertices, _ = marching_tetrahedra(points, sdf, lattice.tetrahedra)
        return (vertices * weight[: len(vertices)]).sum() + signed_volume(vertices, faces)

    inputs = (points.requires_grad_(), sdf.requires_grad_())
    gradients = torch.autograd.grad(value(*inputs), inputs)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        step = [1e-6 * torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]
        ahead = value(*(x + d for x, d in zip(inputs, step, strict=True)))
        behind = value(*(x - d for x, d in zip(inputs, step, strict=True)))
        expected = sum((g * d).sum() for g, d in zip(gradients, step, strict=True))
        assert (ahead - behind).item() / 2 == pytest.approx(expected.item(), rel=1e-5)


def test_the_volume_of_a_ball_grows_by_its_area():
    lattice = bcc_lattice(24, 1.0)
    shift = torch.zeros((), requires_grad=True)
    sdf = ball(lattice.vertices) - shift  # outward by the shift
    signed_volume(*marching_tetrahedra(lattice.vertices, sdf, lattice.tetrahedra)).backward()
    assert shift.grad.item() == pytest.approx(4 * math.pi * 0.6**2, rel=0.02)


@pytest.mark.parametrize(("options", "match"), [((1, 1.0), "cells: 1"), ((4, 0.0), "radius: 0"), ((4, -1.0), "radius")])
def test_bad_lattices_are_errors(options, match):
    with pytest.raises(ValueError, match=match):
        bcc_lattice(*options)
