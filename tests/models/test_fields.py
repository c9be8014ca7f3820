"""The radiance field: where it starts dense, its ranges and normals."""

import pytest
import torch

from models.config import DensityInitConfig, HashGridConfig, RadianceFieldConfig
from models.fields import MLP, RadianceField, VolumeField, density_bias

GRID = HashGridConfig(levels=4, log2_hashmap_size=12, base_resolution=4, finest_resolution=32)


def make_field(rough=False, **options):
    field = RadianceField(RadianceFieldConfig(grid=GRID, **options), torch.Generator().manual_seed(0))
    if rough:  # features large enough for the network to shape the field
        with torch.no_grad():
            field.grid.table.mul_(3e3)
    return field


def on_axis(*distances):
    """Points at distances from the origin, along a direction that is no axis."""
    direction = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
    return torch.tensor(distances, dtype=torch.float64)[:, None] * direction


@pytest.mark.parametrize(("kind", "crossing", "at_origin"), [("object", 0.5, 10.0), ("scene", 2.5, -10.0)])
def test_bias_crosses_zero_at_the_papers_radius(kind, crossing, at_origin):
    bias = density_bias(on_axis(0.0, crossing - 0.01, crossing, crossing + 0.01), DensityInitConfig(kind=kind))
    assert bias[0].item() == pytest.approx(at_origin)
    assert bias[2].abs() < 1e-9
    assert bias[1].sign() == -bias[3].sign() == torch.sign(torch.tensor(at_origin))


def test_centred_object_is_continuous_at_five_sixths_and_takes_both_forms():
    config = DensityInitConfig(kind="centred_object")
    assert config.switch_radius == pytest.approx(5 / 6)
    below, above = density_bias(on_axis(5 / 6 - 1e-9, 5 / 6 + 1e-9), config)
    assert below.item() == pytest.approx(above.item(), abs=1e-6) == pytest.approx(-20 / 3, abs=1e-6)
    inside, outside = on_axis(0.0, 0.3, 0.8), on_axis(0.9, 2.5, 4.0)
    torch.testing.assert_close(density_bias(inside, config), density_bias(inside, DensityInitConfig(kind="object")))
    torch.testing.assert_close(density_bias(outside, config), density_bias(outside, DensityInitConfig(kind="scene")))


def test_what_begins_inside_the_cube_is_allowed():
    for kind in ("scene", "centred_object"):
        RadianceFieldConfig(radius=3.0, density_init=DensityInitConfig(kind))
        RadianceFieldConfig(density_init=DensityInitConfig(kind, scene_radius=0.9))


def test_initial_density_is_softplus_of_the_bias_and_colour_is_grey():
    samples = make_field()(on_axis(0.0, 0.5, 0.9).float())
    expected = torch.nn.functional.softplus(torch.tensor([10.0, 0.0, -8.0]))
    torch.testing.assert_close(samples.sigmas, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(samples.rgb, torch.full((3, 3), 0.5), atol=1e-3, rtol=0)


def test_density_equals_the_forward_pass_and_ranges_hold():
    field = make_field(rough=True)
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) * 3 - 1.5  # the cube and around it
    samples = field(points)
    assert torch.equal(samples.sigmas, field.density(points))
    assert (samples.sigmas >= 0).all() and (samples.rgb > 0).all() and (samples.rgb < 1).all()
    assert samples.rgb.std() > 0.01
    assert field(torch.zeros(0, 3)).rgb.shape == (0, 3)


@pytest.mark.parametrize("normals", ["finite_difference", "analytic"])
def test_normals_of_the_initial_ball_point_outwards(normals):
    points = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    with torch.no_grad():
        got = make_field(normals=normals).normals(points * 0.5)
    torch.testing.assert_close(got, points, atol=2e-2, rtol=0)
    torch.testing.assert_close(got.norm(dim=-1), torch.ones(50))


def test_both_kinds_of_normals_agree_on_a_rough_field():
    points = torch.rand(300, 3, generator=torch.Generator().manual_seed(3)) * 1.6 - 0.8
    difference = make_field(rough=True, normal_step=1e-3, normals="finite_difference").normals(points)
    analytic = make_field(rough=True, normals="analytic").normals(points)
    # The interpolation has kinks at cell borders, where finite differences average: so the bulk is compared.
    assert (difference * analytic).sum(-1).quantile(0.1) > 0.999
    assert (analytic - torch.nn.functional.normalize(points, dim=-1)).norm(dim=-1).mean() > 0.05


def test_a_loss_on_finite_difference_normals_reaches_the_parameters():
    field = make_field(rough=True)
    field.normals(torch.full((3, 3), 0.3))[:, 0].sum().backward()
    assert field.grid.table.grad.abs().sum() > 0


def test_state_dict_round_trip():
    field = make_field(rough=True)
    other = RadianceField(field.config, torch.Generator().manual_seed(5))
    other.load_state_dict(field.state_dict())
    points = torch.rand(20, 3)
    assert torch.equal(field(points).rgb, other(points).rgb)


def test_mlp_has_no_bias_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    mlp = MLP([3, 8, 2], torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())
    assert [tuple(p.shape) for p in mlp.parameters()] == [(8, 3), (2, 8)]
    assert (mlp(torch.zeros(4, 3)) == 0).all()


class Onion(VolumeField):
    """A green ball of radius 0.5 with a blue core below 0.49, in red air without density; the bias grows inwards."""

    def outputs(self, points):
        radius = (2 * points - 1).norm(dim=-1)
        layers = torch.stack([radius > 0.5, (radius <= 0.5) & (radius > 0.49), radius <= 0.49], dim=-1).float()
        density = torch.where(radius > 0.5, -100.0, self.sigma)
        return torch.cat([density[:, None], 40 * layers - 20], dim=-1)


@pytest.mark.parametrize("normals", ["finite_difference", "analytic"])
@pytest.mark.parametrize("depth", [0.49, 0.505, 0.52])
def test_surface_colours_are_those_that_views_show(depth, normals):
    """Whatever depth the surface was found at: of the first matter, and of what shines through it."""
    field = Onion(RadianceFieldConfig(normals=normals))
    point = on_axis(depth).float()
    with torch.no_grad():
        field.sigma = 1e4
        torch.testing.assert_close(field.surface_colors(point), torch.tensor([[0.0, 1.0, 0.0]]), atol=1e-3, rtol=0)
        field.sigma = 20.0
        red, green, blue = field.surface_colors(point)[0]
        assert red < 1e-3 and green > 0.1 and blue > 0.1
        field.sigma = -100.0
        assert field.surface_colors(point).isfinite().all()
    assert field.surface_colors(torch.zeros(0, 3)).shape == (0, 3)
