"""Whole runs through the functions that the command line uses, and the files that they leave."""

from __future__ import annotations

import csv
import errno
import gc
import hashlib
import json
import os
import signal
import weakref
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import trimesh
from lightning import Callback
from PIL import Image

from configs.schema import PriorConfig
from guidance import memory
from guidance.building import preset_remark
from guidance.loading import load_prior
from runs import devices, from_checkpoint, frozen_model
from runs import train as run
from runs.processes import RUN_FOLDER_VARIABLE, agreed_folder
from systems.nerf import NeRFParticles, NeRFSystem
from systems.outputs import reports
from systems.outputs.loggers import wandb_id
from systems.outputs.pictures import write_video
from systems.signals import stop_signals
from tests.systems.tiny_runs import assert_same_state, load, tiny_config, with_output
from tests.tiny_priors import save_tiny_flux, save_tiny_sd3


@pytest.fixture(scope="module")
def finished(prior_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two particles with all its outputs."""
    config = tiny_config(prior_folder, particles=2, iterations=2)
    folder = tmp_path_factory.mktemp("finished")
    return run.train(with_output(config, preview_every=2, diagnostics_every=4), folder)


@pytest.fixture
def two(config):
    return replace(config, particles=2, iterations=2)


def test_a_run_leaves_its_results(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["iterations"] == 4 and summary["training_seconds"] > 0 and summary["peak_rss_mb"] > 100
    assert summary["files"] == ["turntable-0.mp4", "turntable-1.mp4", "mesh-0.glb", "mesh-1.glb"]
    assert not summary["problems"]
    assert {"loss/scene", "loss/estimator", "loss/guidance", "loss/entropy"} <= summary["final_losses"].keys()
    for name in summary["files"]:
        assert (finished / name).stat().st_size > 0
    mesh = trimesh.load(finished / "mesh-0.glb", force="mesh")
    assert len(mesh.faces) > 10 and np.abs(mesh.vertices).max() <= 1.0
    assert not list(finished.rglob("*.part"))


@pytest.mark.parametrize(("save", "preset"), [(save_tiny_sd3, "sd35"), (save_tiny_flux, "flux")])
def test_a_flow_under_a_preset_for_other_models_is_told(save, preset, tmp_path) -> None:
    prior = load_prior(save(tmp_path))

    def remark(name: str) -> str | None:
        return preset_remark(prior, name, "mine")

    for other in ("custom", "sd21"):
        assert f"{other!r}" in remark(other) and f"prior={preset} prior.path=mine brings" in remark(other)
    assert remark("sd35") is None and remark("flux") is None


def test_a_model_that_is_no_flow_needs_no_remark(prior) -> None:
    assert preset_remark(prior, "custom", "mine") is None


def test_films_play_everywhere(finished: Path) -> None:
    reader = imageio.get_reader(finished / "turntable-0.mp4")
    data = reader.get_meta_data()
    assert data["codec"] == "h264" and data["pix_fmt"].startswith("yuv420p")
    assert data["size"] == (16, 16)  # 15 rounded up to even
    assert sum(1 for _ in reader) == 4


def test_previews_and_diagnostics_show_all(finished: Path) -> None:
    assert sorted(os.listdir(finished / "previews")) == ["000002.png", "000004.png"]
    assert Image.open(finished / "previews/000004.png").size == (2 * 3 * 12, 2 * 12)  # views x kinds, particles
    assert sorted(os.listdir(finished / "diagnostics")) == ["000004-samples.png", "000004-x0.png"]
    assert Image.open(finished / "diagnostics/000004-samples.png").size == (4 * 32, 2 * 32)
    assert Image.open(finished / "diagnostics/000004-x0.png").size == (6 * 32, 2 * 32)


def test_the_csv_is_grouped_and_counts_iterations(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "logs/version_0/metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    columns = set(rows[0]) - {"step"}
    assert {name.split("/")[0] for name in columns} == {"loss", "grad", "schedule", "render", "perf", "estimator"}
    t_max = [float(row["schedule/t_max"]) for row in rows]
    assert t_max == pytest.approx([0.98, 0.98, 0.98, 0.98])  # the jump comes at 2 x 2 particles
    for name in ("loss/scene", "grad/scene", "grad/estimator", "render/opacity", "perf/iterations_per_second"):
        assert all(np.isfinite(float(row[name])) for row in rows), name


def test_test_and_export_need_the_checkpoint_alone(finished: Path, two, tmp_path) -> None:
    config = replace(two, prior=PriorConfig(str(tmp_path / "gone")))
    checkpoint = finished / "checkpoints/last.ckpt"
    figures = from_checkpoint.test(config, tmp_path / "test", checkpoint)
    assert figures["iteration"] == 4 and 0 < figures["particles"][0]["opacity"] < 1
    assert -1 <= figures["particles"][0]["similarity"] <= 1 and "without_similarity" not in figures
    assert len(os.listdir(tmp_path / "test/views")) == 16
    assert json.loads((tmp_path / "test/test.json").read_text()) == figures
    paths = from_checkpoint.export(config, tmp_path / "export", checkpoint)
    assert [path.read_bytes() for path in paths] == [(finished / path.name).read_bytes() for path in paths]


def test_a_prompt_that_the_judge_cannot_read_takes_the_similarity_alone(finished: Path, two, tmp_path) -> None:
    checkpoint = load(finished / "checkpoints/last.ckpt")
    checkpoint["run"]["config"]["prompt"] = "a corgi"
    torch.save(checkpoint, tmp_path / "corgi.ckpt")
    figures = from_checkpoint.test(replace(two, prompt="a corgi"), tmp_path / "test", tmp_path / "corgi.ckpt")
    assert [particle["similarity"] for particle in figures["particles"]] == [None, None]
    assert "doesn't know ['corgi']" in figures["without_similarity"] and figures["files"]
    assert reports.test_lines(figures)[-1].startswith("no similarity: caption 'a corgi': the judge")


def test_a_model_for_similarities_that_was_named_must_load(finished: Path, two, tmp_path) -> None:
    other = replace(two, guidance=replace(two.guidance, clip_model=str(tmp_path)))
    with pytest.raises(ValueError, match="a 'clip' is needed"):
        from_checkpoint.test(other, tmp_path / "test", finished / "checkpoints/last.ckpt")
    assert not (tmp_path / "test").exists()


def test_the_default_model_for_similarities_may_be_absent(finished: Path, two, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(frozen_model, "REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path)
    figures = from_checkpoint.test(two, tmp_path / "test", finished / "checkpoints/last.ckpt")
    assert "'priors/judge' is neither in the current folder" in figures["without_similarity"]


def test_a_scene_without_a_surface_keeps_its_film(finished: Path, two, tmp_path) -> None:
    config = with_output(two, mesh_level=1e9)
    with pytest.raises(ValueError, match="particle 0 has no mesh: level: the density never crosses 1e"):
        from_checkpoint.export(config, tmp_path / "export", finished / "checkpoints/last.ckpt")
    folder = run.train(config, tmp_path / "run", finished / "checkpoints/last.ckpt")
    summary = json.loads((folder / "summary.json").read_text())
    assert len(summary["problems"]) == 2 and summary["files"] == ["turntable-0.mp4", "turntable-1.mp4"]


def test_renders_of_a_checkpoint_equal_those_of_the_system(finished: Path, two) -> None:
    first, _ = from_checkpoint.load_scene(two, finished / "checkpoints/last.ckpt")
    second = NeRFParticles(replace(two, seed=77))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.turntable(1), second.turntable(1))
    assert not torch.equal(first.turntable(0), first.turntable(1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_the_iteration_saves_and_can_be_resumed(
    config, tmp_path, monkeypatch, number, hearing_hangups
) -> None:
    build_trainer, handler = run.build_trainer, signal.getsignal(number)

    class Interrupt(Callback):
        def on_train_batch_start(self, trainer, system, batch, batch_idx) -> None:
            if batch == 1:
                os.kill(os.getpid(), number)

    def interrupted(config, folder):
        trainer = build_trainer(config, folder)
        trainer.callbacks.insert(0, Interrupt())
        return trainer

    monkeypatch.setattr(run, "build_trainer", interrupted)
    last = tmp_path / "stopped/checkpoints/last.ckpt"
    with pytest.raises(run.Interrupted, match=f"stopped after iteration 2; go on with --resume {last}"):
        run.train(config, tmp_path / "stopped")
    assert signal.getsignal(number) is handler
    assert load(last)["run"]["iteration"] == 2
    if number is signal.SIGINT:
        monkeypatch.undo()
        run.train(config, tmp_path / "stopped", last)
        run.train(config, tmp_path / "whole")
        assert_same_state(*(load(tmp_path / name / "checkpoints/last.ckpt") for name in ("stopped", "whole")))
        assert sorted(os.listdir(tmp_path / "stopped/logs")) == ["version_0", "version_1"]


def test_nothing_keeps_a_runs_networks_alive(config, tmp_path, monkeypatch) -> None:
    """A pipeline's next stage needs their memory."""
    alive, build_prior = [], run.build_prior

    def watched(*args):
        prior = build_prior(*args)
        alive.append(weakref.ref(prior.network))
        return prior

    monkeypatch.setattr(run, "build_prior", watched)
    before = {number: signal.getsignal(number) for number in stop_signals()}
    run.train(replace(config, iterations=1), tmp_path)
    gc.collect()
    assert len(alive) == 1 and alive[0]() is None
    assert {number: signal.getsignal(number) for number in stop_signals()} == before


def test_the_id_on_wandb_moves_with_the_folder(tmp_path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    found = wandb_id(first)
    assert found == wandb_id(first) != wandb_id(second)
    first.rename(tmp_path / "moved")
    assert wandb_id(tmp_path / "moved") == found
    (tmp_path / "older/wandb").mkdir(parents=True)  # its id followed from its path
    path = str((tmp_path / "older").resolve())
    assert wandb_id(tmp_path / "older") == hashlib.sha256(path.encode()).hexdigest()[:16]


def test_wandb_runs_offline_without_an_account(config, tmp_path, monkeypatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    import wandb

    figures, configs, log = set(), [], wandb.Run.log

    def spy(self, data, *args, **kwargs) -> None:
        figures.update(data)
        configs.append(dict(self.config))
        log(self, data, *args, **kwargs)

    monkeypatch.setattr(wandb.Run, "log", spy)
    config = with_output(replace(config, logger="wandb", iterations=1), preview_every=1, diagnostics_every=1)
    run.train(config, tmp_path)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    media = {path.suffix for path in (folder / "files/media").rglob("*") if path.is_file()}
    assert {".png", ".mp4", ".glb"} <= media
    assert {"loss/scene", "loss/estimator", "grad/scene", "grad/estimator", "schedule/t_max"} <= figures
    assert {f"media/{name}" for name in ("preview", "samples", "x0", "turntable", "mesh")} <= figures
    assert configs[-1]["prompt"] == config.prompt and configs[-1]["noise"]["t_max"] == config.noise.t_max
    assert (tmp_path / "logs/version_0/metrics.csv").is_file()


def test_gradients_on_a_cpu_do_not_depend_on_the_order_of_threads() -> None:
    """Points that many faces share; summed by atomics, twenty gradients of these were twenty different ones."""
    generator = torch.Generator().manual_seed(0)
    faces = torch.randint(0, 20_000, (100_000, 3), generator=generator)
    weights = torch.randn(100_000, 3, 3, generator=generator)

    def gradient() -> torch.Tensor:
        vertices = torch.zeros(20_000, 3, requires_grad=True)
        (vertices[faces] * weights).sum().backward()
        return vertices.grad

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with devices.ordered_sums("cpu"):
            first = gradient()
            assert all(torch.equal(first, gradient()) for _ in range(10))
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(before)


def test_training_runs_with_ordered_sums(config, tmp_path, monkeypatch) -> None:
    seen = []
    prepare = NeRFSystem.prepare

    def spy(self, iteration: int) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        prepare(self, iteration)

    monkeypatch.setattr(NeRFSystem, "prepare", spy)
    run.train(replace(config, iterations=1), tmp_path)
    assert seen == [True]


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_number_formats_by_device(config, monkeypatch, has_bf16, precision) -> None:
    """GPUs before Ampere multiply fp16 only."""
    assert devices.chosen_precision(config.trainer) == "32-true"
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    on_cuda = replace(config, trainer=replace(config.trainer, accelerator="cuda"))
    assert devices.chosen_precision(on_cuda.trainer) == precision
    asked = replace(on_cuda, trainer=replace(on_cuda.trainer, precision="32-true"))
    assert devices.chosen_precision(asked.trainer) == "32-true"


def test_too_little_memory_is_told_before_anything_is_loaded(config, tmp_path, monkeypatch, capsys) -> None:
    def load(*_):
        raise MemoryError

    monkeypatch.setattr(frozen_model, "load_model", load)
    monkeypatch.setattr(memory, "device_memory", lambda device: 1000)
    with pytest.raises(MemoryError):
        run.train(config, tmp_path)
    assert (
        "memory: guidance needs about 0.0 GB (weights 0.0, estimator 0.0, a step 0.0; text" in capsys.readouterr().out
    )


def test_the_need_for_memory_is_told_before_the_first_iteration(config, tmp_path, capsys) -> None:
    run.train(config, tmp_path)
    assert "memory: training needs about " in capsys.readouterr().out


def test_bundled_priors_are_found_from_everywhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(frozen_model, "REPOSITORY", tmp_path / "repository")
    with pytest.raises(FileNotFoundError, match=r"'priors/mini' is neither in the current folder nor .* none"):
        frozen_model.find_prior("priors/mini")
    (tmp_path / "repository/priors/mini").mkdir(parents=True)
    assert frozen_model.find_prior("priors/mini") == str(tmp_path / "repository/priors/mini")
    (tmp_path / "priors/mini").mkdir(parents=True)
    assert frozen_model.find_prior("priors/mini") == "priors/mini"
    assert frozen_model.find_prior("owner/name") == "owner/name"


def test_ranks_agree_on_the_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, "old")
    assert agreed_folder(tmp_path / "12-00-00") == tmp_path / "12-00-00"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert agreed_folder(tmp_path / "12-00-01") == tmp_path / "12-00-00"


def test_odd_films_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="15x16 pixels must be even"):
        write_video(tmp_path / "a.mp4", torch.zeros(2, 16, 15, 3))


@pytest.mark.parametrize("frames", [2, 60])
def test_a_film_on_a_full_disk_is_an_error_of_the_disk_and_leaves_the_old_one(tmp_path, frames: int) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, torch.zeros(4, 16, 16, 3))
    before = path.read_bytes()
    (tmp_path / "a.mp4.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="could not write the whole film") as caught:
        write_video(path, torch.rand(frames, 64, 64, 3))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.mp4"]
