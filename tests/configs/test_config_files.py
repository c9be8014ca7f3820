"""Every YAML of configs/ loads, with every prior and on every device."""

from dataclasses import asdict

import pytest

from configs import load, sources
from configs.errors import ConfigError
from configs.schema import STAGES
from configs.sources import CONFIG_FOLDER, PRESET_FOLDER, config_files, preset_names, read_yaml
from renderers.cameras import ViewThresholds

PRESETS = sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))
CONFIGS = [path.stem for path in config_files()]


def loaded(config="vsd-nerf", prior="mini", device="cpu", monkeypatch=None, **overrides):
    if monkeypatch is not None:
        monkeypatch.setattr(load, "find_device", lambda accelerator: device)
        monkeypatch.setattr(load.torch.cuda, "device_count", lambda: 1)
    return load.load_config(CONFIG_FOLDER / f"{config}.yaml", {"prior": prior, **overrides}).config


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("prior", [*preset_names(), "owner/name"])
@pytest.mark.parametrize("config", CONFIGS)
def test_every_file_loads(config, prior, device, monkeypatch):
    result = loaded(config, prior, device, monkeypatch)
    assert result.name == config
    assert result.trainer.accelerator == device  # what was found is written down


def test_no_file_is_left_out():
    assert {"vsd-nerf", "sds-nerf"} <= set(CONFIGS)
    assert {"flux", "mini", "sd15", "sd21", "sd35", "sdxl"} == set(preset_names())
    assert set(PRESETS) == {*preset_names(), "custom"}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_part_of_a_preset_is_used(preset):
    """A part under the name of no stage, configuration or device would be ignored."""
    values = read_yaml(PRESET_FOLDER / f"{preset}.yaml")
    assert set(values.get("by_stage", {})) <= set(STAGES)
    assert set(values.get("by_config", {})) <= set(CONFIGS)
    assert set(values.get("by_device", {})) <= {"cpu", "cuda"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_papers_settings_go_with_stable_diffusion(device, monkeypatch):
    result = loaded("vsd-nerf", "sd21", device, monkeypatch)
    assert result.render.size == 512 and result.guidance.guidance_scale == 7.5
    assert result.noise.t_max == [[0, 0.98], [5000, 0.98], [5000, 0.5]]
    assert (result.iterations == 25_000) == (device == "cuda")  # on a CPU that would take weeks
    assert loaded("sds-nerf", "sd21", device, monkeypatch).guidance.guidance_scale == 100


def test_the_bundled_prior_gets_the_views_it_was_trained_on():
    result = loaded("vsd-nerf", "mini")
    assert result.text.view_thresholds == ViewThresholds()
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


def test_a_device_that_does_not_exist_is_no_silent_nothing(tmp_path, monkeypatch):
    (tmp_path / "mini.yaml").write_text("by_device: {gpu: {iterations: 3}}")
    monkeypatch.setattr(sources, "PRESET_FOLDER", tmp_path)
    with pytest.raises(ConfigError, match=r"by_device: gpu.*cpu, cuda"):
        loaded()
