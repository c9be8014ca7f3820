"""Merging, typing and errors of configurations."""

import re

import pytest

from configs import sources
from configs.errors import ConfigError
from configs.fields import flatten, takes_text, type_of
from configs.load import build, from_plain, load_config, load_saved, read_overrides, to_yaml
from configs.schema import PriorConfig, RunConfig
from configs.sources import (
    CONFIG_FOLDER,
    PRESET_FOLDER,
    PriorChoice,
    Source,
    choose_prior,
    preset_names,
    read_yaml,
    split_overrides,
)
from runs.plan import device_remarks

VSD = CONFIG_FOLDER / "vsd-nerf.yaml"
PROMPTS = [
    "a red mug",
    "a mug, red, with a lid",
    'a "red" mug',
    "a 'red' mug's lid",
    "'quoted'",
    "mug: red",
    "[a, b]",
    "{a: b}",
    "a=b",
    "null",
    "true",
    "~",
    "1e3",
    "12:30",
    "- a mug",
    "# a mug",
    "a mug # red",
    "*mug &red !cup %x @y `z`",
    "${prompt}",
    "a ${oc.env:HOME} mug",
    "${",
    "\\${x} \\\\${y} \\",
    "???  mug",
    "ein grüner Becher, 日本語, 🍵",
    "???",
    "two\nlines\tand a tab\x07",
    "  spaces around  ",
    "x" * 5000,
]


def from_command_line(*arguments):
    return build([read_overrides(split_overrides(arguments))])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_survives_the_command_line_and_the_saved_file(prompt, tmp_path):
    config = load_config(VSD, split_overrides([f"prompt={prompt}"])).config
    assert config.prompt == prompt
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    saved, wanted = load_saved(tmp_path / "config.yaml", {})
    assert saved == config == wanted


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A configuration and a preset that set some fields at several levels."""
    (tmp_path / "mini.yaml").write_text(
        "prior: {path: here}\nrender: {size: 20, views: 20, occupancy_every: 20}\nseed: 20\n"
        "by_stage: {nerf: {render: {views: 25, occupancy_every: 25}, particles: 25}, image: {seed: 97}}\n"
        "by_loss: {csd: {render: {views: 30, occupancy_every: 30}}, sds: {seed: 99}}\n"
        "by_particles: {several: {render: {views: 35, occupancy_every: 35}}, one: {seed: 96}}\n"
        "by_device: {cpu: {render: {occupancy_every: 40}}, cuda: {seed: 98}}\n"
        "by_memory: {low: {render: {occupancy_every: 45}}, full: {iterations: 45}}\n"
    )
    (tmp_path / "defaults.yaml").write_text(
        "by_stage: {nerf: {render: {size: 5, occupancy_resolution: 5}}}\n"
        "by_loss: {csd: {render: {occupancy_resolution: 6, occupancy_warmup: 6}}}\n"
    )
    monkeypatch.setattr(sources, "PRESET_FOLDER", tmp_path)
    monkeypatch.setattr(sources, "DEFAULTS_FILE", tmp_path / "defaults.yaml")
    monkeypatch.setattr(sources.CONFIG_FOLDER.__class__, "cwd", lambda: tmp_path)
    job = tmp_path / "job.yaml"
    job.write_text("prior: mini\nguidance: {loss: csd}\nparticles: 50\nseed: 50\n")
    return job


def test_later_sources_win(files):
    """Schema < defaults < preset: body, by stage, loss, particles, device, memory < YAML < command line."""
    config = load_config(files, {"trainer.accelerator": "cpu", "seed": "60"}).config
    render = config.render
    assert config.iterations == 45
    assert load_config(files, {"trainer.accelerator": "cpu", "memory": "low"}).config.render.occupancy_every == 45
    assert (render.occupancy_resolution, render.occupancy_warmup) == (6, 6)
    assert (render.size, render.views, render.occupancy_every) == (20, 35, 40)
    assert (config.particles, config.seed, config.name, config.prior.path) == (50, 60, "job", "here")


def test_a_part_within_a_part_holds_where_both_do(files, tmp_path):
    """Such as values for several particles of one stage and loss, which no other stage is to have."""
    (tmp_path / "mini.yaml").write_text(
        "by_stage: {nerf: {seed: 1, by_loss: {csd: {seed: 2, by_particles: {several: {seed: 3}}}}}}\n"
    )
    files.write_text("prior: mini\n")

    def seed(**overrides):
        return load_config(files, {key.replace("_", "."): value for key, value in overrides.items()}).config.seed

    assert seed(guidance_loss="csd", particles="4") == 3
    assert seed(guidance_loss="csd", particles="1") == 2
    assert seed(guidance_loss="vsd", particles="4") == 1
    assert seed(guidance_loss="csd", particles="4", stage="image") == RunConfig().seed


def test_fields_of_the_prior_beside_a_preset(files):
    files.write_text("prior: {path: mine, precision: bf16}\n")
    assert load_config(files, {}).config.prior == PriorConfig("mine", preset="mini", precision="bf16")
    assert load_config(files, {"prior": "mini"}).config.prior == PriorConfig("here", preset="mini", precision="bf16")
    files.write_text("prior: {preset: sd3}\n")
    with pytest.raises(ConfigError, match="prior: 'sd3' is no preset"):
        load_config(files, {})


def test_values_that_only_the_preset_makes_valid(files, tmp_path):
    """What is checked is the result, not a stage on the way to it."""
    (tmp_path / "mini.yaml").write_text("scene: {field: {grid: {base_resolution: 4}}}")
    assert load_config(files, {"scene.field.grid.finest_resolution": "8"}).config.scene.field.grid.levels == 16


@pytest.mark.parametrize("key", [key for key, value in flatten(RunConfig()).items() if type(value) is int])
def test_a_whole_number_may_have_an_exponent(key, files):
    default = flatten(RunConfig())[key]
    read = flatten(load_config(files, {key: f"{default:.6e}"}).config)[key]
    assert read == default and type(read) is int
    with pytest.raises(ConfigError, match=f"^{re.escape(key)}: .* must be "):
        load_config(files, {key: "2.5"})


@pytest.mark.parametrize("key", [key for key in flatten(RunConfig()) if not takes_text(type_of(key, ""))])
def test_a_wrong_type_is_refused_under_its_full_key(key):
    for wrong in ("word", "{a: 1}", "[[[x]]]"):
        with pytest.raises(ConfigError, match=f"^{re.escape(key)}: .* in the command line: must be "):
            from_command_line(f"{key}={wrong}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("render.size=0", r"render\.size: 0 in the command line: must be a positive whole number; the default is 512$"),
        ("scene.field.grid.levels=0", r"scene\.field\.grid\.levels: 0 in the command line: must be a positive whole"),
        ("scene.field.grid.features=3", r"scene\.field\.grid\.features: 3 .*: must be one of 1, 2, 4, 8"),
        ("guidance.loss=foo", r"guidance\.loss: 'foo'"),
        ("noise.t_max=[[0, 2]]", r"noise\.t_max: \[\[0, 2\]\] in the command line: values must lie in \[0, 1\]"),
        ("noise.t_min=[[0, 0.6]]", r"noise\.t_min and noise\.t_max: at iteration 5000 the range .* 0.6 is above 0.5"),
        ("noise.t_min=[[0, 0], [4000, 1], [4000, 0]]", r"noise\.t_min and noise\.t_max: at iteration 4000 the range"),
        ("optimizer.lr_grid=[[5, 1], [2, 1]]", r"optimizer\.lr_grid: .*: iterations must not decrease"),
        ("optimizer.lr_grid=[[0.5, 1]]", r"optimizer\.lr_grid: .*: iterations must be whole numbers"),
        ("optimizer.lr_mlp=[[0, -1]]", r"optimizer\.lr_mlp: .*: values must be 0 or more"),
        ("optimizer.lr_mlp=[[0, .nan]]", r"optimizer\.lr_mlp: .*: must be a list of \[iteration, value\] pairs"),
        ("optimizer.lr_mlp=[]", r"optimizer\.lr_mlp: .*: must be a list of \[iteration, value\] pairs"),
        ("optimizer.betas=[2, 3]", r"optimizer\.betas: .*: must be a list of 2, each a number in \[0, 1\)"),
        ("estimator_optimizer.lr=.inf", r"estimator_optimizer\.lr: inf .*: must be a positive number"),
        ("estimator_optimizer.weight_decay=.nan", r"estimator_optimizer\.weight_decay: nan .*: must be a number"),
        ("cameras.distance=[.nan, .nan]", r"cameras\.distance: .*: must be a list of 2, each a positive number"),
        ("regularizers.entropy=[[0, -1]]", r"regularizers\.entropy: .*: values must be 0 or more"),
        ("output.mesh_resolution=1", r"output\.mesh_resolution: 1 .*: must be a whole number from 2 on"),
        ("optimizer.lr_grid=[[0, 1, 2]]", r"optimizer\.lr_grid: .*: must be a list of \[iteration, value\] pairs"),
        ("cameras.fovy_deg=[50, 40]", r"cameras\.fovy_deg: .*: the range \[50, 40\] is empty"),
        ("prior.precision=fp61", r"prior.precision: 'fp61' .*: must be one of auto, .*; did you mean 'fp16'\?$"),
        (
            "scene.field.density_init.kind=scene",
            r"scene.field.density_init.kind and scene.field.radius: 'scene' is dense beyond scene_radius 2.5",
        ),
        ("text.view_template={view} view", r"text\.view_template: '\{view\} view' .*must contain \{prompt\}"),
        ("text.embedded_guidance=-1", r"text\.embedded_guidance: -1"),
        (
            "text.view_thresholds.bottom_deg=80",
            r"text\.view_thresholds\.bottom_deg and text\.view_thresholds\.overhead",
        ),
        ("text.view_thresholds.front_deg=170", r"text\.view_thresholds\.front_deg and text\.view_thresholds\.back_deg"),
        ("render.background_low=1.5", r"render\.background_low: 1\.5 .*: must be a number in \[0, 1\]"),
        ("trainer.accelerator=tpu", r"trainer\.accelerator: 'tpu' .*: must be one of auto, cpu, cuda"),
        ("output.run=../x", r"output\.run: '\.\./x' .*: must be a folder name"),
        ("name=../x", r"name: '\.\./x' .*: must be a folder name"),
        ("seed=-1", r"seed: -1 .*: must be a whole number from 0 on"),
        ("prompt= ", r"prompt: ' ' .*: must say what to make"),
    ],
)
def test_a_value_out_of_range_is_refused_under_its_full_key(argument, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        from_command_line(argument)


def test_a_negative_prompt_that_no_score_reads_is_refused():
    with pytest.raises(ConfigError, match=r"text\.negative: 'ugly' would never be read: at guidance\.guidance_scale 1"):
        from_command_line("text.negative=ugly", "guidance.guidance_scale=1")
    for reads in ("guidance.loss=csd", "guidance.loss=ism", "guidance.perp_neg.front=1"):
        from_command_line("text.negative=ugly", "guidance.guidance_scale=1", reads)


@pytest.mark.parametrize(
    "asks", ["guidance.perp_neg.front=1", "text.debiasing.back=[face]", "text.debiasing.model=bert"]
)
def test_what_reads_view_words_needs_them(asks):
    """Priors that see several views at once read none."""
    without = ({"text.view_template": "{prompt}"}, {"prior": "mini-mv"}, {"prior": "mvdream"})
    for overrides in without:
        with pytest.raises(ConfigError, match=r"text\.view_template: names no \{view\}, but .*add \{view\}"):
            load_config(VSD, split_overrides([asks]) | overrides)
    from_command_line(asks)


def test_clip_guidance_has_no_autoencoder():
    with pytest.raises(ConfigError, match=r"regularizers\.reconstruction: the loss 'clip' reads images without"):
        from_command_line("guidance.loss=clip", "regularizers.reconstruction=[[0, 1]]")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("render.sze=3", "render.sze: unknown key in the command line; did you mean 'size'?"),
        ("promt=x", "promt: unknown key in the command line; did you mean 'prompt'?"),
        ("zzz.size=3", "zzz: unknown key in the command line; allowed: appearance, cameras, "),
        ("render.size.x=3", "render.size.x: unknown key in the command line; render.size is a field"),
        ("render=3", "render: 3 in the command line, but render is a section; set one of its fields: render.size"),
        ("render.size=[1", "render.size: '[1' in the command line: must be a positive whole number"),
        ("render.size=${seed}", "render.size: '${seed}' in the command line: must be a positive whole number"),
        (
            "cameras.distance=[1, 2, 3]",
            "cameras.distance: [1, 2, 3] in the command line: must be a list of 2, each a positive number",
        ),
        ("prompt=\udcff", "prompt: '\\udcff' holds bytes that are not UTF-8"),
    ],
)
def test_a_key_or_value_that_makes_no_sense(argument, message):
    with pytest.raises(ConfigError) as raised:
        from_command_line(argument)
    assert str(raised.value).startswith(message)


def test_null_is_none_where_a_field_may_be_left_out():
    config = from_command_line("output.run=null", "optimizer.clip_norm=null", "estimator_optimizer.clip_norm=2")
    assert (config.output.run, config.optimizer.clip_norm, config.estimator_optimizer.clip_norm) == (None, None, 2.0)
    with pytest.raises(ConfigError, match=r"render\.size: None"):
        from_command_line("render.size=null")


def test_numbers_and_lists_on_the_command_line():
    config = from_command_line("optimizer.eps=1e-8", "scene.field.hidden=[]", "noise.t_max=[[0, 1], [50, 0.5]]")
    assert config.optimizer.eps == 1e-8
    assert config.scene.field.hidden == ()
    assert config.noise.t_max == [[0.0, 1.0], [50.0, 0.5]]


@pytest.mark.parametrize("value", ["yes", "1e3", "12", "null", "[a, b]"])
def test_yaml_that_reads_a_text_as_something_else_is_refused(value, tmp_path):
    (tmp_path / "job.yaml").write_text(f"prompt: {value}")
    with pytest.raises(ConfigError, match=r"prompt: .*job\.yaml: must be a text; put it in quotes"):
        load_config(tmp_path / "job.yaml", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt: x\nrender: {size: 64\nseed: 1", r"job\.yaml: line \d+, column \d+: not valid YAML"),
        ("seed: 1\nseed: 2", r"job\.yaml: line 2, column 1: not valid YAML: found duplicate key"),
        ("seed:\t1\n\tx: 2", r"job\.yaml: line 2"),
        ("- a\n- b", r"job\.yaml: holds a list"),
        ("42", r"job\.yaml: holds a single value"),
        ("prompt: ${sed}", r"job\.yaml: .*'sed' not found.*literal"),
        ("prompt: 'a ${b c'", r"job\.yaml: .*literal"),
        ("render:\n", r"render: None in .*job\.yaml, but render is a section"),
        ("rendr: {size: 3}", r"rendr: unknown key in .*job\.yaml; did you mean 'render'"),
        (
            "prior: mnii",
            r"prior: 'mnii' is no preset.* did you mean 'mini'\? allowed: flux, mini, mini-mv, mvdream, sd15, sd21, ",
        ),
    ],
)
def test_a_broken_file_is_named_with_the_place(content, message, tmp_path):
    (tmp_path / "job.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "job.yaml", {})


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "job.yaml").write_bytes(b"prompt: \xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"job\.yaml: not UTF-8"):
        load_config(tmp_path / "job.yaml", {})


def test_a_prior_by_folder_or_hub_id_takes_the_custom_preset(tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    by_folder = load_config(VSD, {"prior": "models/mine"})
    assert by_folder.config.prior.path == str(tmp_path / "models" / "mine")  # wherever the run goes on later
    assert by_folder.prior.preset == "custom"
    (tmp_path / "models" / "mine.safetensors").touch()
    by_file = load_config(VSD, {"prior": "models/mine.safetensors"})
    assert by_file.config.prior.path == str(tmp_path / "models" / "mine.safetensors")
    assert load_config(VSD, {"prior": "owner/name"}).config.prior.path == "owner/name"
    # A preset's settings with another copy of its model.
    copied = load_config(VSD, {"prior": "mini", "prior.path": "elsewhere"}).config
    assert copied.prior.path == "elsewhere" and copied.render.size == 128


@pytest.mark.parametrize("preset", preset_names())
def test_the_path_of_a_presets_model_brings_the_preset(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = read_yaml(PRESET_FOLDER / f"{preset}.yaml")["prior"]["path"]
    assert choose_prior(path) == PriorChoice(preset, path)


def test_a_presets_model_as_a_folder(tmp_path, monkeypatch):
    (tmp_path / "black-forest-labs" / "FLUX.1-dev").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for choice in ("black-forest-labs/FLUX.1-dev", "./black-forest-labs/FLUX.1-dev/"):
        assert choose_prior(choice) == PriorChoice("flux", str(tmp_path / "black-forest-labs" / "FLUX.1-dev"))
    config = load_config(VSD, {"prior": "black-forest-labs/FLUX.1-dev"}).config
    assert (config.prior.preset, config.guidance.guidance_scale) == ("flux", 1.0)
    assert config.prior.path == str(tmp_path / "black-forest-labs" / "FLUX.1-dev")


@pytest.mark.parametrize("choice", ["", "sd3", "custom", "a/b/c", "~no-such-user/x/y", "/no/such/folder", "./no"])
def test_an_unknown_prior_lists_the_presets(choice):
    names = "flux, mini, mini-mv, mvdream, sd15, sd21, sd35, sdxl"
    with pytest.raises(ConfigError, match=rf"^prior: .* is no preset, .*allowed: {names}, or a path"):
        load_config(VSD, {"prior": choice})


@pytest.mark.parametrize("arguments", [["prompt"], ["=3"], ["a b=3"], ["-x=3"], ["render..size=3"], [""]])
def test_an_argument_that_is_no_key_and_value(arguments):
    with pytest.raises(ConfigError, match="is not of the form key=value"):
        split_overrides(arguments)


def test_a_key_given_twice():
    with pytest.raises(ConfigError, match="seed is given twice, as '1' and '2'"):
        split_overrides(["seed=1", "seed=2"])
    with pytest.raises(ConfigError, match="render is set as a whole"):
        from_command_line("render.size=3", "render={size: 4}")


def test_an_accelerator_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"trainer\.accelerator: 'cuda'.*accelerator=cpu"):
        load_config(VSD, {"trainer.accelerator": "cuda"})


def test_a_loss_scale_needs_cuda():
    """On a CPU Lightning would take bfloat16, and fp16 weights would be trained through without a scale."""
    for precision in ("fp16", "auto"):
        with pytest.raises(ConfigError, match=r"trainer\.precision: '16-mixed' has a loss scale on CUDA only"):
            values = {"prior.precision": precision, "trainer.precision": "16-mixed", "trainer.accelerator": "cpu"}
            load_config(VSD, values)


def test_an_error_names_the_last_place_that_set_the_value():
    places = [Source("a.yaml", {"render": {"size": 5}}), Source("b.yaml", {"render": {"size": -1}})]
    with pytest.raises(ConfigError, match=r"^render\.size: -1 in b\.yaml: must be a positive whole number"):
        build(places)
    values = {"render": {"background_low": 0.8}}
    with pytest.raises(ConfigError) as raised:
        build([Source("a.yaml", values), Source("b.yaml", {"render": {"background_high": 0.5}}), places[0]])
    first, *rest = str(raised.value).splitlines()
    assert first.startswith("render.background_low and render.background_high: need low <= high")
    assert rest == ["render.background_low is set in a.yaml", "render.background_high is set in b.yaml"]


def test_all_wrong_values_are_told_at_once():
    with pytest.raises(ConfigError) as raised:
        from_command_line("render.size=0", "estimator_optimizer.lr=x", "seed=1")
    assert [line.split(":")[0] for line in str(raised.value).splitlines()] == [
        "render.size",
        "estimator_optimizer.lr",
    ]


def test_a_wrong_value_in_a_file_is_told_before_the_device_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("configs.load.find_device", lambda accelerator: pytest.fail("PyTorch was imported"))
    (tmp_path / "job.yaml").write_text("render: {size: big}\n")
    with pytest.raises(ConfigError, match=r"render\.size: 'big' in .*job\.yaml"):
        load_config(tmp_path / "job.yaml", {})
    with pytest.raises(ConfigError, match=r"render\.siz: unknown key"):
        load_config(VSD, {"render.siz": "3"})


OLD = {
    "surface": {"field": {"radius": 2.0, "cells": 8}},
    "appearance": {"field": {"radius": 2.0}},
    "guidance": {"one_batch": None},
}


@pytest.mark.parametrize("stage", ["nerf", "geometry", "texture"])
def test_a_saved_configuration_of_before_is_read(stage):
    """Its three radii are one field now."""
    found = from_plain({"stage": stage, "scene": {"field": {"radius": 2.0}}, **OLD}, "old.yaml")
    assert found.scene.field.radius == 2.0 and found.surface.field.cells == 8


@pytest.mark.parametrize(("stage", "key"), [("geometry", "surface"), ("texture", "surface"), ("nerf", None)])
def test_radii_that_differ_are_refused_where_a_stage_read_them(stage, key):
    values = {"stage": stage, "scene": {"field": {"radius": 1.0}}, **OLD}
    if key is None:
        assert from_plain(values, "old.yaml").scene.field.radius == 1.0
        return
    with pytest.raises(
        ConfigError, match=rf"^{key}\.field\.radius: 2\.0 in old\.yaml, but scene\.field\.radius is 1\.0"
    ):
        from_plain(values, "old.yaml")


def test_a_field_that_is_gone_names_the_one_that_took_its_place():
    with pytest.raises(ConfigError, match=r"surface\.field\.radius: is no field any more.*set scene\.field\.radius"):
        from_command_line("surface.field.radius=1")


def test_what_is_added_to_a_prior_is_found_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("style.safetensors", "cat.pt"):
        (tmp_path / name).touch()
    asked = {"prior.loras": "[style.safetensors:0.5, owner/name, style.safetensors]", "prior.embeddings": "[cat.pt]"}
    prior = load_config(VSD, asked).config.prior
    style = str(tmp_path / "style.safetensors")
    assert prior.loras == (f"{style}:0.5", "owner/name", style) and prior.embeddings == (str(tmp_path / "cat.pt"),)
    assert load_config(VSD, {"prior.config": "priors/mini"}).config.prior.config == "priors/mini"


def test_apples_gpu(monkeypatch):
    """Where it is there; without float64 it draws no meshes."""
    mps = {"trainer.accelerator": "mps"}
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ConfigError, match="'mps' is asked for, but PyTorch sees no GPU of Apple's here"):
        load_config(VSD, mps)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    config = load_config(VSD, mps).config
    assert config.trainer.accelerator == "mps" and device_remarks(config)[0].startswith("trainer.accelerator=mps was")
    for wrong, reason in {
        ("stage", "geometry"): "'mps' has no float64, in which meshes are placed and drawn",
        ("trainer.devices", "2"): "trainer.devices: 2, but mps is one device",
        ("trainer.precision", "16-mixed"): "'16-mixed' has a loss scale on CUDA only",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            load_config(VSD, mps | dict([wrong]))
