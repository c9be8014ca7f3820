"""Stage 2's geometry: faithful to the density it starts from, closed whatever happens, clear when it can't start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from models.config import SAFE_OFFSET, SDFFieldConfig
from models.mesh_geometry import connected_parts, mesh_edges, signed_volume
from models.sdf_field import SDFField
from models.sdf_init import initial_sdf
from models.tetrahedra import bcc_lattice

CENTRE = torch.tensor([0.1, -0.05, 0.15])


def ball_density(points, radius=0.45, sharpness=200.0):
    """20 inside, almost 0 outside; with this sharpness it rises within a tenth of a cell."""
    return 20 * torch.sigmoid(-sharpness * ((points - CENTRE).norm(dim=-1) - radius))


def with_floaters(points):
    floater = 20.0 * ((points - torch.tensor([-0.6, 0.5, -0.3])).norm(dim=-1) < 0.1)
    return ball_density(points) + floater


def scattered(points):
    """Many equal blobs of density 5, joined by a thin fog of 0.3."""
    blobs = torch.sin(14 * points).prod(-1) > 0.4
    return 5.0 * blobs + 0.3 * (points.norm(dim=-1) < 0.7)


def field(cells=24, **options):
    return SDFField(SDFFieldConfig(cells=cells, **options), radius=1.0)


def assert_closed(faces):
    edges = mesh_edges(faces)
    assert edges.closed
    half_edges = torch.stack([faces, faces.roll(-1, dims=1)], dim=-1).view(-1, 2)
    assert len(torch.unique(half_edges, dim=0)) == len(half_edges)  # no direction twice


@pytest.mark.parametrize("level", [0.5, 10.0])
def test_it_starts_from_the_densitys_surface(level):
    geometry = field()
    geometry.initialize(ball_density, level)
    vertices, faces = geometry()
    radius = 0.45 - math.log(level / (20 - level)) / 200
    distance = (vertices - CENTRE).norm(dim=-1)
    assert (distance - radius).abs().max() < 0.12 * geometry.lattice.spacing
    assert signed_volume(vertices, faces).item() == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.03)
    assert_closed(faces)


def test_distances_are_distances():
    lattice = bcc_lattice(24, 1.0)
    sdf = initial_sdf(ball_density, lattice, 10.0, radius=1.0)
    true = ((lattice.vertices - CENTRE).norm(dim=-1) - 0.45).clamp(-4 * lattice.spacing, 4 * lattice.spacing)
    assert (sdf - true).abs().max() < 0.2 * lattice.spacing
    assert (sdf - true).abs().mean() < 0.1 * lattice.spacing


@pytest.mark.parametrize(("bounds", "volume"), [("ball", 2 / 3 * math.pi), ("box", 4.0)])
def test_what_reaches_beyond_the_bounds_is_closed_there(bounds, volume):
    geometry = field(cells=20)
    geometry.initialize(lambda points: 10.0 * (points[:, 1] < 0.0), 5.0, bounds=bounds)
    vertices, faces = geometry()
    assert_closed(faces)
    assert signed_volume(vertices, faces).item() == pytest.approx(volume, rel=0.15)
    assert vertices.abs().max() <= 1.0


def test_floaters_are_left_out_from_the_start():
    geometry = field()
    geometry.initialize(with_floaters, 10.0)
    _, faces = geometry()
    assert connected_parts(faces).max() == 0
    assert (geometry.sdf[(geometry.lattice.vertices - torch.tensor([-0.6, 0.5, -0.3])).norm(dim=-1) < 0.2] > 0).all()
    keeping = field(floater_share=0.0)
    keeping.initialize(with_floaters, 10.0)
    assert connected_parts(keeping()[1]).max() == 1


def test_floaters_that_grow_later_are_left_out_of_the_mesh():
    geometry = field(floater_share=0.1)
    near = (geometry.lattice.vertices - torch.tensor([0.75, 0.0, 0.0])).norm(dim=-1) < 0.12
    with torch.no_grad():
        geometry.sdf[near] = -0.02
    vertices, faces = geometry()
    assert_closed(faces)
    assert vertices.norm(dim=-1).max() < 0.6
    vertices.square().sum().backward()
    assert (geometry.sdf.grad[near] == 0).all() and geometry.sdf.grad.abs().max() > 0


def test_random_parameters_still_give_a_closed_outward_mesh():
    geometry = field(cells=10, floater_share=0.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        geometry.sdf.normal_(generator=generator)
        geometry.offsets.normal_(generator=generator).mul_(100)
    vertices, faces = geometry()
    assert_closed(faces)
    assert signed_volume(vertices, faces) > 0
    assert vertices.abs().max() <= 1.0
    moved = (geometry.deformed_vertices() - geometry.lattice.vertices).norm(dim=-1)
    assert moved.max() <= SAFE_OFFSET * geometry.lattice.spacing * (1 + 1e-5)


def test_an_optimiser_reaches_another_shape():
    """The volume of the surface is driven to a target through distances and offsets."""
    geometry = field(cells=16)
    optimizer = torch.optim.Adam(geometry.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = (signed_volume(*geometry()) - 0.35).square()
        loss.backward()
        optimizer.step()
    assert signed_volume(*geometry()).item() == pytest.approx(0.35, rel=0.02)
    assert geometry.offsets.abs().max() > 0


def test_an_empty_level_set_names_levels_that_work():
    with pytest.raises(ValueError, match=r"at 50 is empty; the density .* and 20: levels that would work: "):
        field().initialize(ball_density, 50.0)


def test_a_full_level_set_names_levels_that_work():
    match = r"at 0\.5 fills the whole lattice; the density lies between 1 and 21: levels that would work"
    with pytest.raises(ValueError, match=match):
        field(cells=12).initialize(lambda points: 1 + ball_density(points), 0.5, bounds="box")


def test_a_fragmented_level_set_names_levels_that_work():
    match = r"at 1 is fragmented: it falls into \d+ parts, .*levels that would work: "
    with pytest.raises(ValueError, match=match) as raised:
        field().initialize(scattered, 1.0)
    advised = [float(level) for level in str(raised.value).split("work: ")[1].split(", ")]
    assert max(advised) < 0.3
    for level in (advised[0], advised[-1]):
        field().initialize(scattered, level)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_density_without_an_object_says_so(value):
    with pytest.raises(ValueError, match=r"is empty; .* train the earlier stage further"):
        field(cells=8).initialize(lambda points: torch.full((len(points),), value), 1.0)


def test_a_vanished_surface_is_an_error():
    geometry = field(cells=4)
    with torch.no_grad():
        geometry.sdf.fill_(0.1)
    with pytest.raises(ValueError, match="sdf: the surface has vanished"):
        geometry()


def test_checkpoints_hold_the_parameters_only():
    assert set(field(cells=4).state_dict()) == {"sdf", "offsets"}


def test_unknown_bounds_are_an_error():
    with pytest.raises(ValueError, match="bounds: 'cone' is not one of ball, box"):
        field(cells=4).initialize(ball_density, 1.0, bounds="cone")


def test_several_surfaces_share_a_lattice_that_is_no_state():
    first, second = SDFField.several(SDFFieldConfig(cells=4), 1.0, 2)
    assert first.lattice is second.lattice and first.sdf is not second.sdf
    assert set(first.state_dict()) == {"sdf", "offsets"}
    moved = nn.ModuleList([first, second]).double()
    assert moved[0].lattice.vertices is moved[1].lattice.vertices and moved[1].lattice.vertices.dtype == torch.float64
