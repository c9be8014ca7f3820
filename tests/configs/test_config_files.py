"""Every YAML of configs/ loads, with every prior and on every device."""

import itertools
from dataclasses import asdict

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from configs import load, sources
from configs.errors import ConfigError
from configs.fields import flatten, leaves
from configs.schema import STAGES, RunConfig
from configs.sources import (
    BASE_KEY,
    CONFIG_FOLDER,
    DEFAULTS_FILE,
    PRESET_FOLDER,
    Case,
    PriorChoice,
    config_files,
    default_sources,
    preset_names,
    preset_sources,
    read_yaml,
)
from guidance.families.flow import flow_schedule
from guidance.registry import LOSSES
from guidance.schedule import NoiseSchedule
from priors.world.dataset import THRESHOLDS

PRESETS = sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))
CONFIGS = [path.stem for path in config_files()]


def loaded(config="vsd-nerf", prior="mini", device="cpu", monkeypatch=None, **overrides):
    if monkeypatch is not None:
        monkeypatch.setattr(load, "find_device", lambda accelerator: device)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    return load.load_config(CONFIG_FOLDER / f"{config}.yaml", {"prior": prior, **overrides}).config


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("prior", [*preset_names(), "owner/name"])
@pytest.mark.parametrize("config", CONFIGS)
def test_every_file_loads(config, prior, device, monkeypatch):
    result = loaded(config, prior, device, monkeypatch)
    assert result.name == config
    assert result.trainer.accelerator == device  # what was found is written down
    # Several checkpoints and looks at what the prior believes; but of 50 iterations of a large model on a CPU one such
    # look, a dozen calls of each network, is as much as they are worth.
    output = result.output
    assert result.iterations // output.checkpoint_every >= (3 if prior == "mini" else 2)
    assert result.iterations // output.diagnostics_every >= (1 if result.iterations == 50 else 2)


def test_no_file_is_left_out():
    assert {"vsd-nerf", "sds-nerf"} <= set(CONFIGS)
    assert {"flux", "mini", "mini-mv", "mvdream", "sd15", "sd21", "sd35", "sdxl"} == set(preset_names())
    assert set(PRESETS) == {*preset_names(), "custom"}


NAMES_OF_PARTS = {
    "by_stage": {*STAGES},
    "by_loss": set(LOSSES),
    "by_start": {"prompt", "mesh", "run"},
    "by_particles": {"one", "several"},
    "by_device": {"cpu", "cuda", "mps"},
    "by_memory": {"full", "low"},
}


def parts_of_a_preset(values):
    """Its body and its parts, which may hold parts in turn, and under which heading and name each stands."""
    yield {key: value for key, value in values.items() if key not in NAMES_OF_PARTS}, None, None
    for heading in NAMES_OF_PARTS.keys() & values.keys():
        for name, part in values[heading].items():
            (own, _, _), *inner = parts_of_a_preset(part)
            yield own, heading, name
            yield from inner


PRESET_FILES = [DEFAULTS_FILE, *sorted(PRESET_FOLDER.rglob("*.yaml"))]


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_every_part_of_a_preset_is_used(path):
    """A part under the name of no stage, loss, number or device would be ignored."""
    for _, heading, name in parts_of_a_preset(read_yaml(path)):
        assert heading is None or name in NAMES_OF_PARTS[heading]


STARTS = ("prompt", "mesh")  # nothing goes with a run
MEMORIES = ("full", "low")
CASES = [Case(*parts) for parts in itertools.product(STAGES, LOSSES, (1, 4), STARTS, ("cpu", "cuda"), MEMORIES)]


@pytest.mark.parametrize("preset", PRESETS)
def test_files_state_only_what_differs(preset):
    """Each value of a preset, its bases and the defaults changes the outcome of some case."""
    needed, stated = set(), set()
    for case in CASES:
        values = flatten(RunConfig())
        places = dict.fromkeys(values, None)
        for source in [*default_sources(case), *preset_sources(PriorChoice(preset), case)]:
            for key, value in leaves(source.values, source.where):
                stated.add((source.where, key))
                before = values[key]
                value = tuple(value) if isinstance(before, tuple) else value
                if value != before:
                    places[key] = source.where
                values[key] = value
        needed |= {(place, key) for key, place in places.items()}
    superfluous = {(place, key) for place, key in stated - needed if preset in place}
    assert superfluous <= {(f"configs/prior/{preset}.yaml", "prior.preset"), ("configs/prior/mini.yaml", "prior.path")}


@pytest.mark.parametrize(("base", "message"), [("512", "did you mean '512px'"), ("a", "base: 'a' is no other base")])
def test_a_base_that_is_not_there(base, message, tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/512px.yaml").write_text("seed: 3\n")
    (tmp_path / "base/a.yaml").write_text("base: a\n")
    (tmp_path / "mini.yaml").write_text(f"base: {base!r}\n")
    monkeypatch.setattr(sources, "PRESET_FOLDER", tmp_path)
    with pytest.raises(ConfigError, match=message):
        loaded()


def test_each_of_several_radiance_fields_gets_fewer_iterations():

    def settings(config, particles):
        result = loaded(config, particles=particles)
        return result.iterations, result.guidance.guidance_scale, result.estimator.rank

    assert settings("vsd-nerf", "1") == (640, 7.5, 8)
    assert settings("vsd-nerf", "4") == (480, 7.5, 8)
    assert settings("image", "4") == settings("image", "1")


def fields_of_a_preset(path):
    """The full keys that it sets in any case."""
    values = {key: value for key, value in read_yaml(path).items() if key != BASE_KEY}
    return {key for part, _, _ in parts_of_a_preset(values) for key, _ in leaves(part, str(path))}


def test_the_projects_configurations_state_nothing_that_a_preset_adapts():
    """What is stated wins, so a copy would hold on to the value."""
    adapted = set().union(*map(fields_of_a_preset, PRESET_FILES))
    for path in config_files():
        values = {key: value for key, value in read_yaml(path).items() if key != "prior"}
        stated = {key for key, _ in leaves(values, str(path))}
        # Where no view words are read, a multi-view prior's preset says what such a configuration says.
        assert not adapted & stated - {"text.view_template"}, path


def copied(tmp_path, config, prior="mini", **changes):
    """The resolved fields of a configuration's copy under another name, with other values for some fields."""
    lines = [f"{key}: {value}" for key, value in changes.items()]
    (tmp_path / "my own.yaml").write_text(
        (CONFIG_FOLDER / f"{config}.yaml").read_text() + "\n".join(["name: mine", *lines])
    )
    return flatten(load.load_config(tmp_path / "my own.yaml", {"prior": prior}).config)


def differences(one, other):
    return {key for key in one if one[key] != other[key]}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_renamed_copy_is_the_same_job(config, tmp_path):
    assert differences(copied(tmp_path, config), flatten(loaded(config))) == {"name"}


@pytest.mark.parametrize(
    ("config", "prior", "key", "value"),
    [
        ("vsd-nerf", "mini", "iterations", 2000),
        ("vsd-geometry", "mini", "iterations", 2000),
        ("vsd-texture", "flux", "iterations", 2000),
        ("image", "mini", "noise", "{t_max: [[0, 0.9]]}"),
        ("dreamfields-nerf", "mini", "seed", 5),
        ("csd-nerf", "sd21", "render", "{size: 256}"),
    ],
)
def test_a_copy_with_a_line_more_differs_in_that_field_alone(config, prior, key, value, tmp_path):
    changed = differences(copied(tmp_path, config, prior, **{key: value}), flatten(loaded(config, prior)))
    assert len(changed) == 2 and "name" in changed and any(each.startswith(key) for each in changed)


@pytest.mark.parametrize("config", ["sds-nerf", "vsd-geometry"])
def test_a_copys_guidance_scale_is_the_one_that_it_states(config, tmp_path):
    text = (CONFIG_FOLDER / f"{config}.yaml").read_text().replace("loss: sds", "loss: sds\n  guidance_scale: 33")
    (tmp_path / f"{config}.yaml").write_text(text)
    result = flatten(load.load_config(tmp_path / f"{config}.yaml", {}).config)
    assert result["guidance.guidance_scale"] == 33
    assert differences(result, flatten(loaded(config))) == {"guidance.guidance_scale"}


@pytest.mark.parametrize("prior", ["mini", "sd21"])
@pytest.mark.parametrize("loss", ["sds", "nfsd", "sdi"])
def test_a_loss_on_the_command_line_brings_what_goes_with_it(loss, prior):
    switched = loaded("vsd-nerf", prior, **{"guidance.loss": loss})
    assert differences(flatten(switched), flatten(loaded(f"{loss}-nerf", prior))) == {"name"}


@pytest.mark.parametrize("prior", ["mini", "sd35", "owner/name"])
def test_a_runs_own_configuration_is_one_too(prior, tmp_path):
    run = loaded("sds-nerf", prior, **{"iterations": "7"})
    (tmp_path / "config.yaml").write_text(load.to_yaml(run))
    again = load.load_config(tmp_path / "config.yaml", {})
    assert again.config == run and again.prior.preset == run.prior.preset


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_papers_settings_go_with_stable_diffusion(device, monkeypatch):
    result = loaded("vsd-nerf", "sd21", device, monkeypatch)
    assert result.render.size == 512 and result.guidance.guidance_scale == 7.5
    assert result.noise.t_max == [[0, 0.98], [5000, 0.98], [5000, 0.5]]
    assert (result.iterations == 25_000) == (device == "cuda")  # on a CPU that would take weeks
    assert loaded("sds-nerf", "sd21", device, monkeypatch).guidance.guidance_scale == 100


@pytest.mark.parametrize(
    ("prior", "t_max"),
    [
        *((prior, [[0, 0.98], [500, 0.98], [500, 0.5]]) for prior in ("sd15", "sd21", "sdxl", "owner/name")),
        ("sd35", [[0, 0.81], [500, 0.81], [500, 0.35]]),
        ("flux", [[0, 0.8], [500, 0.8], [500, 0.34]]),
        ("mini", [[0, 0.98], [200, 0.98], [200, 0.5]]),
    ],
)
def test_the_playground_is_short_with_every_prior(prior, t_max, monkeypatch):
    config = loaded("image", prior, "cuda", monkeypatch)
    assert config.noise.t_max == t_max and config.iterations == 2 * t_max[1][0]


def test_the_bundled_prior_gets_the_views_it_was_trained_on():
    result = loaded("vsd-nerf", "mini")
    assert result.text.view_thresholds == THRESHOLDS
    # The annealing of the noise lies inside the run.
    assert result.noise.t_max[-1][0] < result.iterations


@pytest.mark.parametrize("loss", ["sds", "csd", "nfsd", "ism", "sdi"])
def test_the_jobs_differ_only_in_the_loss(loss):
    vsd, other = (asdict(loaded(name, "mini")) for name in ("vsd-nerf", f"{loss}-nerf"))
    assert {key for key in vsd if vsd[key] != other[key]} == {"name", "guidance"}
    assert other["guidance"]["loss"] == loss


def test_dream_fields_pull_by_clip_with_room_around_the_object():
    result = loaded("dreamfields-nerf", "mini")
    assert result.guidance.loss == "clip" and result.guidance.guidance_scale == 1
    assert result.regularizers.transmittance == [[0, 0.5]] and result.text.view_template == "{prompt}"


@pytest.mark.parametrize(("prior", "scale"), [("sdxl", 5.0), ("sd35", 4.5), ("sd21", 7.5), ("flux", 1.0)])
def test_ordinary_guidance_scales_are_those_of_the_model(prior, scale):
    for loss in ("vsd", "nfsd", "ism", "sdi"):
        guidance = loaded(f"{loss}-nerf", prior).guidance
        assert guidance.guidance_scale == scale
        if loss != "vsd":
            assert guidance.inversion.guidance_scale == (-scale if loss == "sdi" else 0.0)


STABLE_DIFFUSION = NoiseSchedule.variance_preserving(
    DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
)
SHIFTS = {  # of the models' scheduler_config.json
    "sd35": {"shift": 3.0},
    "flux": {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
}


@pytest.mark.parametrize("prior", SHIFTS)
def test_noise_levels_of_flows_are_as_noisy_as_stable_diffusions(prior):
    """At 1024 pixels, which are 4096 patches."""
    flow = flow_schedule(FlowMatchEulerDiscreteScheduler(**SHIFTS[prior]), patches=4096)
    config, usual = loaded("nfsd-nerf", prior), loaded("nfsd-nerf", "sd21", monkeypatch=None)
    pairs = [(config.guidance.nfsd.nearly_clean, usual.guidance.nfsd.nearly_clean)]
    pairs += [(config.noise.t_min[0][1], usual.noise.t_min[0][1])]
    pairs += [(mine[1], theirs[1]) for mine, theirs in zip(config.noise.t_max, usual.noise.t_max, strict=True)]
    for mine, theirs in pairs:
        levels = ((STABLE_DIFFUSION, theirs), (flow, mine))
        ratios = [schedule.sigmas[round(t * 1000)] / schedule.alphas[round(t * 1000)] for schedule, t in levels]
        assert ratios[1] == pytest.approx(ratios[0].item(), rel=0.08)
    share = (config.noise.t_max[0][1] - config.noise.t_min[0][1]) / 0.96
    assert loaded("ism-nerf", prior).guidance.inversion.interval == pytest.approx(0.05 * share, abs=0.001)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("by_device: {gpu: {iterations: 3}}", r"by_device: gpu.*cpu, cuda, mps"),
        ("by_stage: {nerf: {by_particles: {4: {iterations: 3}}}}", r"by_particles: 4: the names are one, several"),
    ],
)
def test_a_part_of_no_device_or_number_is_no_silent_nothing(tmp_path, monkeypatch, preset, message):
    (tmp_path / "mini.yaml").write_text(preset)
    monkeypatch.setattr(sources, "PRESET_FOLDER", tmp_path)
    with pytest.raises(ConfigError, match=message):
        loaded()
