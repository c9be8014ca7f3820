"""Cameras: geometry, view words, and the distribution that they are drawn from."""

import math

import pytest
import torch

from renderers.cameras import camera_rays, orbit_cameras, sample_cameras, turntable_cameras, view_index
from renderers.config import VIEW_WORDS, CameraSampling, ViewThresholds


def cameras(azimuth, elevation, distance=2.0, fovy=50.0):
    return orbit_cameras(*(torch.tensor([float(value)]) for value in (azimuth, elevation, distance, fovy)))


def drawn(count=500, seed=0, sampling=CameraSampling()):
    return sample_cameras(count, sampling, torch.Generator().manual_seed(seed))


def test_every_camera_looks_at_the_origin_upright():
    batch = drawn()
    rotation, position = batch.c2w[:, :3, :3], batch.c2w[:, :3, 3]
    torch.testing.assert_close(-rotation[:, :, 2] * batch.distance[:, None], -position)
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand(500, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(500))
    torch.testing.assert_close(rotation[:, 1, 0], torch.zeros(500), atol=1e-6, rtol=0)  # no roll
    assert (rotation[:, 1, 1] > 0).all()


@pytest.mark.parametrize(
    ("azimuth", "elevation", "position"),
    [
        (0, 0, (0, 0, 2)),
        (90, 0, (2, 0, 0)),
        (180, 0, (0, 0, -2)),
        (-90, 0, (-2, 0, 0)),
        (360, 0, (0, 0, 2)),
        (0, 30, (0, 1, 3**0.5)),
    ],
)
def test_spherical_coordinates(azimuth, elevation, position):
    torch.testing.assert_close(
        cameras(azimuth, elevation).c2w[0, :3, 3], torch.tensor(position).float(), atol=1e-5, rtol=0
    )


def test_the_central_ray_hits_the_origin():
    batch = drawn(20)
    rays_o, rays_d = camera_rays(batch, 5, 7)
    centre = rays_o[:, 2, 3] + batch.distance[:, None] * rays_d[:, 2, 3]
    torch.testing.assert_close(centre, torch.zeros(20, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(rays_d.norm(dim=-1), torch.ones(20, 5, 7))


def test_pixels_run_right_and_down_and_span_the_field_of_view():
    height, width = 40, 60
    _, rays_d = camera_rays(cameras(0, 0, fovy=60), height, width)
    assert rays_d[0, 0, 0, 0] < 0 < rays_d[0, 0, -1, 0]  # seen from the front, +x is right
    assert rays_d[0, 0, 0, 1] > 0 > rays_d[0, -1, 0, 1]
    slopes = rays_d[0] / -rays_d[0, ..., 2:]
    edge = torch.tan(torch.deg2rad(torch.tensor(30.0)))
    torch.testing.assert_close(slopes[0, 0, 1], edge * (height - 1) / height)  # pixel centres
    torch.testing.assert_close(slopes[0, -1, 0], edge * (width - 1) / height)  # pixels are square


def test_poles_are_rejected():
    with pytest.raises(ValueError, match=r"elevation_deg: \|90\|"):
        cameras(0, 90)


QUADRANTS = ViewThresholds(front_deg=45.0, back_deg=45.0, overhead_deg=60.0, bottom_deg=-5.0)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "word"),
    [
        (0, 0, "front"),
        (44, 0, "front"),
        (46, 0, "side"),
        (-90, 0, "side"),
        (136, 0, "back"),
        (180, 10, "back"),
        (-180, 10, "back"),
        (725, 0, "front"),
        (0, 61, "overhead"),
        (180, -6, "bottom"),
        (0, -4, "front"),
    ],
)
def test_view_words(azimuth, elevation, word):
    index = view_index(torch.tensor([float(azimuth)]), torch.tensor([float(elevation)]), QUADRANTS)
    assert VIEW_WORDS[index.item()] == word


def test_view_thresholds_move_the_words():
    azimuth, level = torch.tensor([40.0]), torch.zeros(1)
    assert VIEW_WORDS[view_index(azimuth, level, QUADRANTS).item()] == "front"
    assert VIEW_WORDS[view_index(azimuth, level, ViewThresholds(front_deg=30, back_deg=30)).item()] == "side"


def test_draws_stay_in_range_and_fill_it():
    sampling, batch = CameraSampling(), drawn()
    for name in ("azimuth_deg", "elevation_deg", "distance", "fovy_deg"):
        (low, high), values = getattr(sampling, name), getattr(batch, name)
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high >= values.max() > high - 0.05 * (high - low)


def test_relative_distances_keep_the_objects_size_in_the_view():
    sampling = CameraSampling(distance=(0.8, 0.8), relative_distance=True, fovy_deg=(15.0, 60.0))
    batch = drawn(sampling=sampling)
    torch.testing.assert_close(batch.distance * torch.tan(torch.deg2rad(batch.fovy_deg) / 2), torch.full((500,), 0.8))
    distance, fovy_deg = sampling.middle
    assert distance * math.tan(math.radians(fovy_deg) / 2) == pytest.approx(0.8) and fovy_deg == 37.5
    assert CameraSampling().middle == (1.25, 55.0)


def test_azimuths_are_stratified():
    strata = ((drawn(8).azimuth_deg + 180) / 45).floor()
    assert sorted(strata.tolist()) == list(range(8))


def test_draws_depend_on_the_generator_alone():
    torch.manual_seed(0)
    first = drawn(4)
    torch.manual_seed(1)
    assert torch.equal(first.c2w, drawn(4).c2w)
    assert not torch.equal(first.c2w, drawn(4, seed=1).c2w)


def test_turntable_starts_in_front_and_goes_round():
    batch = turntable_cameras(4, elevation_deg=10, distance=2, fovy_deg=40)
    assert batch.azimuth_deg.tolist() == [0, 90, 180, 270]
    assert len(batch) == 4 and len(batch[:2]) == 2
    torch.testing.assert_close(batch.c2w[:, 1, 3], batch.c2w[:1, 1, 3].expand(4))
