"""The loop: what it updates, what it draws, and that a resumed run is the uninterrupted one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.schema import EstimatorOptimizerConfig, NoiseConfig, RegularizerConfig
from guidance.config import EstimatorConfig, GuidanceConfig, NfsdConfig
from guidance.score_distillation import ScoreDistillation
from runs.frozen_model import build_prompts
from runs.train import build_trainer, quieten_lightning, train
from systems.base import DistillationSystem, IterationNumbers
from systems.nerf import NeRFSystem
from systems.regularizers import REGULARIZERS
from systems.scenes import training_background
from systems.seeding import Purpose, pick_particles, stream
from tests.guidance.steps import LATENT_LOSSES
from tests.systems.tiny_runs import assert_same_state, load, with_output


def fit(config, prior, folder: Path, resume: Path | None = None) -> NeRFSystem:
    """A run without films and meshes."""
    quieten_lightning()
    system = NeRFSystem(config, prior, build_prompts(config, prior))
    trainer = build_trainer(config, folder)
    trainer.callbacks = [callback for callback in trainer.callbacks if type(callback).__name__ != "Results"]
    trainer.fit(system, ckpt_path=resume, weights_only=True)
    return system


def test_two_iterations_and_two_more_equal_four_bit_for_bit(config, prior, tmp_path) -> None:
    """Particles, occupancy updates, regularisers and K = 2 included."""
    k = EstimatorOptimizerConfig(steps_per_iteration=2)
    config = replace(config, particles=2, iterations=2, estimator_optimizer=k)
    config = with_output(config, checkpoint_every=2, keep_checkpoints=3)
    torch.manual_seed(1)
    fit(config, prior, tmp_path / "whole")
    torch.manual_seed(2)
    fit(config, prior, tmp_path / "resumed", tmp_path / "whole/checkpoints/000002.ckpt")
    whole, resumed = (load(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "resumed"))
    assert whole["run"]["iteration"] == 4
    assert_same_state(whole, resumed)
    halfway = load(tmp_path / "whole/checkpoints/000002.ckpt")
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same_state({**halfway, "run": whole["run"]}, whole)


def test_one_iteration_moves_scene_and_estimator_and_leaves_the_prior_alone(config, prior, tmp_path) -> None:
    frozen = {name: p.clone() for name, p in prior.network.named_parameters()}
    config = replace(config, render=replace(config.render, random_background=0.0))
    before = NeRFSystem(config, prior, build_prompts(config, prior)).state_dict()
    after = fit(replace(config, iterations=1), prior, tmp_path).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"iteration", "scene.particles.0.field.grid.table", "scene.particles.0.background.mlp.0.weight"} <= moved
    assert any("lora_B" in name for name in moved)
    assert "guidance.estimator.camera_embedding.out.weight" in moved
    assert all(torch.equal(p, frozen[name]) for name, p in prior.network.named_parameters())


def test_mixed_precision_rounds_neither_the_renderers_gradient_nor_the_priors_weights(
    config, prior, tmp_path, monkeypatch
) -> None:
    """What ran in float32 forwards must do so backwards, and the prior runs in the format that was chosen for it."""
    seen = {"forward": [], "backward": [], "network": []}
    render, run_network = NeRFSystem.render_training_views, type(prior).run_network

    def watched_render(self, *arguments):
        views = render(self, *arguments)
        views.rgb.register_hook(lambda _: seen["backward"].append(torch.is_autocast_enabled("cpu")))
        seen["forward"].append(torch.is_autocast_enabled("cpu"))
        return views

    def watched_network(self, *arguments):
        seen["network"].append(torch.is_autocast_enabled("cpu"))
        return run_network(self, *arguments)

    monkeypatch.setattr(NeRFSystem, "render_training_views", watched_render)
    monkeypatch.setattr(type(prior), "run_network", watched_network)
    fit(replace(config, iterations=1, trainer=replace(config.trainer, precision="bf16-mixed")), prior, tmp_path)
    assert seen["forward"] == [True] and seen["backward"] == [False]
    assert len(seen["network"]) == 3 and not any(seen["network"])


def test_k_is_the_number_of_estimator_steps(config, prior, tmp_path) -> None:
    config = replace(config, iterations=3, estimator_optimizer=EstimatorOptimizerConfig(steps_per_iteration=2))
    system = fit(config, prior, tmp_path)
    scene, estimator = (optimizer.optimizer.state for optimizer in system._optimizers())
    assert scene[system.scene.particles[0].field.grid.table]["step"] == 3
    assert {int(state["step"]) for state in estimator.values()} == {6}


OTHER_LOSSES = [GuidanceConfig(loss=loss, nfsd=NfsdConfig("ugly")) for loss in LATENT_LOSSES if loss != "vsd"]


@pytest.mark.parametrize("guidance", [*OTHER_LOSSES, GuidanceConfig(shared_pass=True)], ids=lambda each: each.loss)
def test_the_loop_serves_other_losses(config, prior, tmp_path, guidance) -> None:
    config = replace(config, guidance=guidance, iterations=2, regularizers=RegularizerConfig(entropy=[[0, 0.0]]))
    prompts = build_prompts(config, prior)
    before = NeRFSystem(config, prior, prompts).scene.state_dict()
    system = fit(config, prior, tmp_path)
    assert int(system.iteration) == 2
    assert any(not torch.equal(tensor, before[name]) for name, tensor in system.scene.state_dict().items())
    assert len(system._optimizers()) == (2 if guidance.trains_estimator else 1)


def test_only_the_picked_particle_moves(config, prior, tmp_path) -> None:
    config = replace(config, particles=3, iterations=1)
    before = NeRFSystem(config, prior, build_prompts(config, prior)).state_dict()
    config = with_output(config, checkpoint_every=1, keep_checkpoints=5)
    fit(config, prior, tmp_path)
    after = load(tmp_path / "checkpoints/000001.ckpt")["state_dict"]
    tables = [f"scene.particles.{index}.field.grid.table" for index in range(3)]
    moved = [index for index, name in enumerate(tables) if not torch.equal(before[name], after[name])]
    assert moved == pick_particles(config.seed, 0, 3)


def test_schedules_stretch_with_the_particles(config, prior, prompts) -> None:
    one = NeRFSystem(config, prior, prompts)
    two = NeRFSystem(replace(config, particles=2), prior, prompts)
    assert one.noise_range(1) == (0.02, 0.98) and one.noise_range(2) == (0.02, 0.5)
    assert two.noise_range(3) == (0.02, 0.98) and two.noise_range(4) == (0.02, 0.5)
    assert (one.iterations, two.iterations) == (4, 8)


def test_the_noise_range_of_the_iteration_reaches_the_guidance(config, prior, tmp_path, monkeypatch) -> None:
    """Stretched by the particles: the jump at iteration 1 comes at 2."""
    noise = NoiseConfig(t_min=[[0, 0.1]], t_max=[[0, 0.9], [1, 0.9], [1, 0.4]])
    ranges, gradient = [], ScoreDistillation.gradient

    def spy(self, latents, prompts, cameras, t_range, generator):
        ranges.append(t_range)
        return gradient(self, latents, prompts, cameras, t_range, generator)

    monkeypatch.setattr(ScoreDistillation, "gradient", spy)
    fit(replace(config, particles=2, iterations=2, noise=noise), prior, tmp_path)
    assert ranges == [(0.1, 0.9), (0.1, 0.9), (0.1, 0.4), (0.1, 0.4)]


def test_renders_of_another_size_reach_the_prior_at_its_own(system, prior) -> None:
    latents = system.encode(torch.rand(2, 16, 16, 3))
    assert latents.shape == (2, *prior.latent_shape)


def test_a_gradient_limit_holds(config, prior, tmp_path, monkeypatch) -> None:
    norms = []
    hook = DistillationSystem.on_before_optimizer_step

    def spied(self, optimizer) -> None:
        hook(self, optimizer)
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat([grad.flatten() for grad in grads]).norm().item())

    monkeypatch.setattr(NeRFSystem, "on_before_optimizer_step", spied)
    limits = {"optimizer": replace(config.optimizer, clip_norm=1e-3)}
    limits["estimator_optimizer"] = replace(config.estimator_optimizer, clip_norm=1e-2)
    fit(replace(config, iterations=2, **limits), prior, tmp_path)
    assert norms == pytest.approx([1e-3, 1e-2, 1e-3, 1e-2], rel=1e-3)


def test_reconstruction_pulls_views_to_what_the_autoencoder_makes_of_them(config, prior, tmp_path, monkeypatch) -> None:
    """With nothing else to pull: the decoder says white, and the scene becomes brighter; no gradient enters it."""
    targets = []

    def white(latents: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        targets.append(latents.shape)
        return torch.ones(len(latents), 3, 32, 32)  # renders have 16 pixels a side

    monkeypatch.setattr(prior, "decode_latents", white)
    alone = RegularizerConfig(entropy=[[0, 0.0]], reconstruction=[[0, 1e6]])
    config = replace(config, iterations=20, regularizers=alone)
    scene = NeRFSystem(config, prior, build_prompts(config, prior)).scene
    cameras = scene.orbit(2)
    before = scene.render_views(0, cameras, 16)
    after = fit(config, prior, tmp_path).scene.render_views(0, cameras, 16)
    assert len(targets) == 20 and after.rgb.mean() > before.rgb.mean() + 0.01, (before.rgb.mean(), after.rgb.mean())


def test_regularisers_of_weight_zero_are_not_computed(config, prior, tmp_path, monkeypatch) -> None:
    asked = []
    for name in REGULARIZERS:
        watched = lambda seen, name=name: asked.append(name) or seen.views.opacity.mean()  # noqa: E731
        monkeypatch.setitem(REGULARIZERS, name, watched)
    off = RegularizerConfig(entropy=[[0, 0.0], [1, 0.0], [1, 2.0]])
    fit(replace(config, iterations=2, regularizers=off), prior, tmp_path)
    assert asked == ["entropy"]  # in the second iteration


def test_the_rendering_part_is_reproducible_and_in_range(system) -> None:
    cameras = system.draw_cameras(0)
    first = system.render_training_views(0, 0, cameras)
    assert torch.equal(first.rgb, system.render_training_views(0, 0, cameras).rgb)
    assert not torch.equal(first.rgb, system.render_training_views(1, 0, cameras).rgb)
    assert first.rgb.shape == (1, 16, 16, 3) and first.rgb.min() >= 0 and first.rgb.max() <= 1
    assert first.rgb.requires_grad


def test_views_are_coarse_until_the_scale_says_otherwise(config, prior, prompts) -> None:
    render = replace(config.render, scale=[[0, 0.5], [2, 0.5], [2, 1.0]])
    system = NeRFSystem(replace(config, render=render, particles=2), prior, prompts)
    views = [system.render_training_views(iteration, 0, system.draw_cameras(iteration)) for iteration in (0, 3, 4)]
    assert [view.rgb.shape[1] for view in views] == [8, 8, 16]  # two particles double the iterations


def test_random_backgrounds_have_their_probability_and_range(config, prior, prompts) -> None:
    def backgrounds(probability: float) -> torch.Tensor:
        render = replace(
            config.render, views=64, random_background=probability, background_low=0.6, background_high=0.8
        )
        system = NeRFSystem(replace(config, render=render), prior, prompts)
        generator = stream(config.seed, 0, Purpose.BACKGROUND)
        background = system.scene.particles[0].background
        return training_background(render, background, system.draw_cameras(0), render.size, generator).detach()

    solid = backgrounds(1.0)
    assert (solid == solid[:, :1, :1]).all() and solid.min() >= 0.6 and solid.max() <= 0.8
    share = (backgrounds(0.5) == solid).flatten(1).all(1).float().mean().item()
    assert 0.25 < share < 0.75
    assert not (backgrounds(0.0) == solid).flatten(1).all(1).any()


def test_the_data_is_what_is_left() -> None:
    numbers = IterationNumbers(3, 6)
    assert list(numbers) == [3, 4, 5] and len(numbers) == 3
    assert len(IterationNumbers(6, 6)) == 0


def test_checkpoints_hold_no_frozen_weight(config, prior, tmp_path) -> None:
    config = replace(config, iterations=1, estimator=EstimatorConfig(rank=1))
    fit(with_output(config, checkpoint_every=1), prior, tmp_path)
    names = load(tmp_path / "checkpoints/last.ckpt")["state_dict"]
    assert {name.split(".")[0] for name in names} == {"iteration", "scene", "guidance"}
    assert all(name.startswith("guidance.estimator.") for name in names if name.startswith("guidance"))


def test_a_finished_run_resumes_into_its_results(config, prior, tmp_path) -> None:
    fit(config, prior, tmp_path / "run")
    train(config, tmp_path / "again", tmp_path / "run/checkpoints/last.ckpt")
    assert (tmp_path / "again/summary.json").is_file() and (tmp_path / "again/turntable.mp4").is_file()
    summary = json.loads((tmp_path / "again/summary.json").read_text())
    assert summary["final_losses"] == {} and summary["peak_rss_mb"] > 100
    # What a summary knows of the training, later processes don't.
    known = {"final_losses": {"loss/scene": 0.5}, "peak_rss_mb": 12.5, "peak_memory_mb": 34.5}
    (tmp_path / "again/summary.json").write_text(json.dumps(summary | known | {"files": []}))
    train(config, tmp_path / "again", tmp_path / "run/checkpoints/last.ckpt")
    assert json.loads((tmp_path / "again/summary.json").read_text()) == summary | known
    (tmp_path / "again/summary.json").write_text(json.dumps(summary | known | {"iterations": 9}))  # of another length
    train(config, tmp_path / "again", tmp_path / "run/checkpoints/last.ckpt")
    assert json.loads((tmp_path / "again/summary.json").read_text())["final_losses"] == {}
    with pytest.raises(ValueError, match="is at iteration 4, beyond this run's 3; raise iterations"):
        train(replace(config, iterations=3), tmp_path / "third", tmp_path / "run/checkpoints/last.ckpt")
