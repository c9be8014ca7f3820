"""Occupancy grid and ray marching."""

import math

import pytest
import torch

from renderers.cameras import camera_rays, turntable_cameras
from renderers.config import OccupancyConfig
from renderers.ray_marching import (
    OccupancyGrid,
    intersect_ball,
    intersect_box,
    march_numba,
    march_rays,
    march_reference,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rays(size=24, distance=2.5):
    cameras = turntable_cameras(3, elevation_deg=20, distance=distance, fovy_deg=60)
    return tuple(tensor.reshape(-1, 3) for tensor in camera_rays(cameras, size, size))


def ball(centre, radius):
    """Density 50 within a ball, 0 outside."""
    return lambda points: 50.0 * ((points - torch.tensor(centre)).norm(dim=-1) < radius)


def updated(density, **options):
    grid = OccupancyGrid(OccupancyConfig(**options))
    grid.update(density, generator())
    return grid


def test_ball_intersections_lie_on_the_sphere_or_are_empty():
    rays_o, rays_d = rays()
    t_near, t_far = intersect_ball(rays_o, rays_d, 1.0)
    hit = t_far > t_near
    assert 0.1 < hit.float().mean() < 0.9
    for t in (t_near, t_far):
        distance = (rays_o + t[:, None] * rays_d)[hit].norm(dim=-1)
        torch.testing.assert_close(distance, torch.ones_like(distance), atol=1e-4, rtol=0)
    nearest = (rays_o - (rays_o * rays_d).sum(-1, keepdim=True) * rays_d).norm(dim=-1)
    assert torch.equal(hit, nearest < 1)


def test_box_intersections_lie_on_the_faces_and_hold_the_ball():
    rays_o, rays_d = rays()
    t_near, t_far = intersect_box(rays_o, rays_d, 1.0)
    hit = t_far > t_near
    for t in (t_near, t_far):
        reach = (rays_o + t[:, None] * rays_d)[hit].abs().amax(-1)
        torch.testing.assert_close(reach, torch.ones_like(reach), atol=1e-5, rtol=0)
    ball_near, ball_far = intersect_ball(rays_o, rays_d, 1.0)
    inside = ball_far > ball_near
    assert (t_near <= ball_near + 1e-5)[inside].all() and (t_far >= ball_far - 1e-5)[inside].all()


@pytest.mark.parametrize("intersect", [intersect_ball, intersect_box])
def test_rays_from_inside_start_at_once_and_rays_away_miss(intersect):
    origins = torch.tensor([[0.0, 0, 0], [0, 0, 3], [1.5, 0, 0]])
    directions = torch.tensor([[0.0, 0, 1], [0, 0, 1], [0, 1, 0]])  # two of them along an axis, off the box
    t_near, t_far = intersect(origins, directions, 1.0)
    assert t_near[0] == 0 and t_far[0] == pytest.approx(1.0)
    assert (t_near == t_far)[1:].all()


@pytest.mark.parametrize("bounds", ["ball", "box"])
def test_intervals_of_a_full_grid_cover_the_way_without_gaps(bounds):
    rays_o, rays_d = rays()
    first_step = 1 - torch.rand(len(rays_o), generator=generator())
    grid = OccupancyGrid(OccupancyConfig())
    samples = march_rays(rays_o, rays_d, grid, bounds=bounds, step=0.05, first_step=first_step)
    t_near, t_far = {"ball": intersect_ball, "box": intersect_box}[bounds](rays_o, rays_d, 1.0)
    covered = torch.zeros(len(rays_o)).index_add(0, samples.ray_indices, samples.t_ends - samples.t_starts)
    torch.testing.assert_close(covered, t_far - t_near, atol=1e-5, rtol=0)
    same_ray = samples.ray_indices[1:] == samples.ray_indices[:-1]
    torch.testing.assert_close(samples.t_starts[1:][same_ray], samples.t_ends[:-1][same_ray])
    assert (samples.ray_indices.diff() >= 0).all()
    assert (samples.t_ends - samples.t_starts).max() <= 0.05 + 1e-5


def test_numba_equals_the_reference():
    rays_o, rays_d = rays(size=40)
    grid = updated(ball((0.3, -0.1, 0.2), 0.4), resolution=32)
    first_step = 1 - torch.rand(len(rays_o), generator=generator())
    arguments = (rays_o, rays_d, *intersect_box(rays_o, rays_d, 1.0), first_step, grid, 0.03, 150)
    got, expected = march_numba(*arguments), march_reference(*arguments)
    assert torch.equal(got.ray_indices, expected.ray_indices) and len(got.ray_indices) > 1000
    torch.testing.assert_close(got.t_starts, expected.t_starts)
    torch.testing.assert_close(got.t_ends, expected.t_ends)
    torch.testing.assert_close(
        got.points(rays_o, rays_d), rays_o[got.ray_indices] + got.t_middles[:, None] * rays_d[got.ray_indices]
    )


def test_jitter_moves_samples_and_is_reproducible():
    rays_o, rays_d = rays()
    grid = OccupancyGrid(OccupancyConfig())

    def march(first_step):
        return march_rays(rays_o, rays_d, grid, bounds="ball", step=0.1, first_step=first_step).t_middles

    jitter = 1 - torch.rand(len(rays_o), generator=generator(3))
    assert torch.equal(march(jitter), march(jitter.clone()))
    assert march(jitter).shape != march(torch.ones(len(rays_o))).shape


def test_grid_is_full_before_the_first_update():
    assert OccupancyGrid(OccupancyConfig()).occupied(torch.rand(50, 3) * 2 - 1).all()


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (0.6, -0.3, 0.1), (-0.95, 0.9, 0.97)])
def test_an_occupied_region_is_never_skipped(centre):
    density = ball(centre, 0.15)
    grid = updated(density, resolution=32)
    points = torch.rand(200_000, 3, generator=generator(1)) * 2 - 1
    dense = density(points) > 0
    assert dense.sum() > 50
    assert grid.occupied(points)[dense].all()
    far = (points - torch.tensor(centre)).norm(dim=-1) > 0.15 + 3 * math.sqrt(3) * 2 / 32
    assert not grid.occupied(points)[far].any()
    assert grid.occupied_fraction < 0.1


def test_marching_keeps_every_sample_with_density():
    rays_o, rays_d = rays()
    density, first_step = ball((0.2, 0.3, -0.2), 0.3), torch.ones(len(rays_o))
    options = {"bounds": "ball", "step": 0.02, "first_step": first_step}
    full = march_rays(rays_o, rays_d, OccupancyGrid(OccupancyConfig()), **options)
    skipped = march_rays(rays_o, rays_d, updated(density, resolution=32), **options)
    totals = []
    for samples in (full, skipped):
        mass = density(samples.points(rays_o, rays_d)) * (samples.t_ends - samples.t_starts)
        totals.append(torch.zeros(len(rays_o)).index_add(0, samples.ray_indices, mass))
    torch.testing.assert_close(totals[1], totals[0])
    assert len(skipped.t_starts) < 0.3 * len(full.t_starts)


def test_density_decays_until_a_cell_is_free_again():
    first, second, centre = ball((0.0, 0.0, 0.0), 0.3), ball((0.7, 0.7, 0.7), 0.3), torch.zeros(1, 3)
    grid = updated(first, resolution=16, decay=0.5, threshold=0.1)
    occupied = []
    for i in range(10):  # 50 * 0.5^9 < 0.1 < 50 * 0.5^8
        grid.update(second, generator(i))
        occupied.append(grid.occupied(centre).item())
    assert occupied == [True] * 8 + [False] * 2
    grid.update(first, generator())
    assert grid.occupied(centre).item()


def test_a_faint_scene_is_not_thrown_away():
    grid = updated(lambda points: 1e-3 * (points[:, 0] > 0), threshold=1.0, resolution=16)
    assert grid.occupied(torch.tensor([0.5, 0, 0])) and not grid.occupied(torch.tensor([-0.5, 0, 0]))


def test_state_dict_round_trip_and_reproducible_update():
    density = ball((0.1, 0.2, 0.3), 0.4)
    first, second = updated(density, resolution=16), OccupancyGrid(OccupancyConfig(resolution=16))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.binary, second.binary)
    for grid in (first, second):
        grid.update(ball((-0.3, 0.0, 0.0), 0.3), generator(5))
    assert torch.equal(first.density, second.density) and torch.equal(first.binary, second.binary)
    assert not list(first.parameters())
