"""Sections refuse wrong values, alone and beside each other, and name the fields at fault."""

import pytest
from pydantic import ValidationError

from models.config import (
    BackgroundConfig,
    DensityInitConfig,
    HashGridConfig,
    ImageConfig,
    RadianceFieldConfig,
    SDFFieldConfig,
    TextureFieldConfig,
)
from renderers.config import (
    BakingConfig,
    CameraSampling,
    OccupancyConfig,
    RasterizerConfig,
    ViewThresholds,
    VolumeRendererConfig,
)
from settings.fields import Conflict, Policy, policies, section, setting


def at_fault(make, values):
    """The fields that a section names when it refuses values."""
    with pytest.raises(ValidationError) as raised:
        make(**values)
    (problem,) = raised.value.errors()
    own = problem.get("ctx", {}).get("error")
    return own.names if isinstance(own, Conflict) else (problem["loc"][0],)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (HashGridConfig, {"backend": "cuda"}),
        (HashGridConfig, {"levels": 0}),
        (HashGridConfig, {"features": 3}),
        (HashGridConfig, {"log2_hashmap_size": 40}),
        (DensityInitConfig, {"kind": "blob"}),
        (DensityInitConfig, {"scene_strength": 1.0}),
        (RadianceFieldConfig, {"radius": 0.0}),
        (RadianceFieldConfig, {"radius": float("inf")}),
        (RadianceFieldConfig, {"normals": "sobel"}),
        (RadianceFieldConfig, {"hidden": (0,)}),
        (BackgroundConfig, {"kind": "sky"}),
        (BackgroundConfig, {"color": (1.0, 2.0, 0.0)}),
        (BackgroundConfig, {"frequencies": -1}),
        (SDFFieldConfig, {"cells": 1}),
        (SDFFieldConfig, {"max_offset": 0.3}),
        (SDFFieldConfig, {"floater_share": 1.5}),
        (TextureFieldConfig, {"hidden": (0,)}),
        (ImageConfig, {"spread": -0.1}),
        (CameraSampling, {"distance": (2.0, 1.0)}),
        (CameraSampling, {"distance": (0.0, 1.0)}),
        (CameraSampling, {"elevation_deg": (-90.0, 0.0)}),
        (CameraSampling, {"fovy_deg": (40.0, 180.0)}),
        (OccupancyConfig, {"resolution": 0}),
        (OccupancyConfig, {"decay": 1.0}),
        (OccupancyConfig, {"threshold": -1.0}),
        (VolumeRendererConfig, {"samples_per_ray": 0}),
        (VolumeRendererConfig, {"bounds": "cone"}),
        (VolumeRendererConfig, {"rays_per_chunk": 0}),
        (RasterizerConfig, {"backend": "opengl"}),
        (BakingConfig, {"texture_size": 8}),
        (BakingConfig, {"max_faces": 3}),
        (BakingConfig, {"padding": -1}),
        (BakingConfig, {"pading": 2}),
    ],
)
def test_a_wrong_value_is_refused_under_its_name(make, values):
    assert at_fault(make, values) == tuple(values)


@pytest.mark.parametrize(
    ("make", "values", "names"),
    [
        (HashGridConfig, {"finest_resolution": 2}, ("base_resolution", "finest_resolution")),
        (DensityInitConfig, {"object_radius": 3.0}, ("object_radius", "scene_radius")),
        (RadianceFieldConfig, {"normal_step": 2.0}, ("normal_step", "radius")),
        (RadianceFieldConfig, {"density_init": DensityInitConfig("scene")}, ("density_init.kind", "radius")),
        (RadianceFieldConfig, {"density_init": DensityInitConfig("centred_object")}, ("density_init.kind", "radius")),
        (ViewThresholds, {"front_deg": 100.0, "back_deg": 100.0}, ("front_deg", "back_deg")),
        (ViewThresholds, {"overhead_deg": -70.0}, ("bottom_deg", "overhead_deg")),
        (BakingConfig, {"texture_size": 16, "padding": 8}, ("padding", "texture_size")),
    ],
)
def test_values_that_contradict_each_other_are_both_named(make, values, names):
    assert at_fault(make, values) == names


@section
class Inner:
    plain: int = 1
    own: int = setting(2, change="never", inherit="no")
    here: int = setting(3, change="anywhere")


@section
class Outer:
    inner: Inner = setting(factory=Inner, change="resume", inherit="always", state=True, stage="first")
    schedule: list[list[float]] = setting([[0, 1.0]])


def test_a_field_has_its_sections_policy_unless_it_states_another():
    found = policies(Outer)
    assert found["inner.plain"] == Policy("resume", "always", True, "first")
    assert found["inner.own"] == Policy("never", "no", True, "first")
    assert found["inner.here"] == Policy("anywhere")  # how a run is computed is no part of what is inherited
    assert found["schedule"] == Policy()


def test_a_default_list_is_no_ones_but_the_configurations_own():
    first, second = Outer(), Outer()
    first.schedule[0][1] = 5.0
    assert second.schedule == [[0, 1.0]]
