"""Runs that go wrong stop, say why, and leave a checkpoint from before."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from configs.fields import run_policies
from configs.schema import CollapseConfig
from guidance.score_distillation import ScoreDistillation
from renderers.output import RenderOutput
from runs.train import train
from systems.base import MAX_OVERFLOWS
from systems.callbacks.collapse import CollapseDetection
from systems.collapse import OVERFLOW_ADVICE, CollapseError, measure, require_finite
from systems.image import Pictures
from systems.nerf import NeRFParticles, NeRFSystem
from systems.stages import SYSTEMS
from tests.systems.tiny_runs import load, with_output


def views(opacity: float, rgb: float) -> RenderOutput:
    opacity = torch.full((1, 4, 4, 1), opacity)
    return RenderOutput(torch.full((1, 4, 4, 3), rgb), opacity)


def look(
    detection: CollapseDetection, seen: RenderOutput, particle: int = 0, times: int = 1, may_be_opaque: bool = False
) -> None:
    report = SimpleNamespace(particle=particle, views=seen)
    scene = SimpleNamespace(may_be_opaque=may_be_opaque)
    system = SimpleNamespace(report=report, iteration=9, scene=scene, advice=NeRFSystem.advice)
    for _ in range(times):
        detection.on_train_batch_end(SimpleNamespace(world_size=1), system)


@pytest.fixture
def detection(config) -> CollapseDetection:
    return CollapseDetection(CollapseConfig(patience=3))


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (views(0.0, 0.5), "particle 0 is empty: mean opacity 0 for 3 views in a row at iteration 9; try a lower"),
        (views(1.0, 0.5), "particle 0 is opaque: 100.0% of the pixels opaque"),
        (views(1.0, 1.0), "particle 0 is (opaque|saturated)"),
    ],
)
def test_dead_scenes_are_found_after_patience(detection, seen: RenderOutput, message: str) -> None:
    look(detection, seen, times=2)
    assert detection.suspicious
    with pytest.raises(CollapseError, match=message):
        look(detection, seen)


def test_colours_at_their_limits_count_where_the_object_is(detection) -> None:
    seen = views(1.0, 0.5)
    seen.opacity[:, :2] = 0.0  # half of the picture is background, in mid grey
    seen.rgb[:, 2:] = 1.0
    assert measure(seen).saturated == 1.0 and measure(seen).opaque == 0.5
    with pytest.raises(CollapseError, match=r"saturated: 100\.0% of the colour values at 0 or 1.*guidance_scale"):
        look(detection, seen, times=3)


def test_a_living_look_resets_and_particles_are_told_apart(detection) -> None:
    look(detection, views(0.0, 0.5), times=2)
    look(detection, views(0.0, 0.5), particle=1, times=2)
    look(detection, views(0.3, 0.5))
    look(detection, views(0.3, 0.5), particle=1)
    assert not detection.suspicious
    look(detection, views(0.0, 0.5), times=2)


def test_a_particle_that_another_rank_renders_is_found_beside_a_living_one(detection) -> None:
    """Its opacity isn't averaged with this rank's: together they would pass for alive."""
    others = torch.tensor([1.0, 0.0, 0.0, 0.0])  # particle, opacity, opaque, saturated
    strategy = SimpleNamespace(
        root_device=torch.device("cpu"), all_gather=lambda mine: torch.stack([mine, others.to(mine)])
    )
    report = SimpleNamespace(particle=0, views=views(0.3, 0.5))
    scene = SimpleNamespace(may_be_opaque=False)
    system = SimpleNamespace(report=report, iteration=9, scene=scene, advice=NeRFSystem.advice)
    with pytest.raises(CollapseError, match="particle 1 is empty: mean opacity 0 for 3 views in a row"):
        for _ in range(3):
            detection.on_train_batch_end(SimpleNamespace(world_size=2, strategy=strategy), system)


def test_what_is_meant_to_be_opaque_may_be(config) -> None:
    init = replace(config.scene.field.density_init, kind="scene", object_radius=0.1, scene_radius=0.5)
    scene = replace(config.scene, field=replace(config.scene.field, density_init=init))
    assert NeRFParticles(replace(config, scene=scene)).may_be_opaque
    assert not NeRFParticles(config).may_be_opaque
    impatient = CollapseDetection(CollapseConfig(patience=1))
    look(impatient, views(1.0, 0.5), times=9, may_be_opaque=True)
    look(CollapseDetection(CollapseConfig(enabled=False)), views(0.0, 0.0), times=99)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_advice_can_be_followed(system) -> None:
    """What it names may be changed of the run that collapsed, and has a meaning in that stage."""
    pictures = system.scenes_class is Pictures  # opaque everywhere, as they should be
    symptoms = {"saturated"} if pictures else {"empty", "opaque", "saturated"}
    assert symptoms <= system.advice.keys()
    for text in system.advice.values():
        for field in re.findall(r"[a-z_]+\.[a-z_]+", text.partition("(a new run)")[0]):
            assert run_policies()[field].may_change("resume")
            section, name = field.split(".")
            assert section != "regularizers" or name in system.regularizers


def test_a_dead_scene_stops_the_run_and_keeps_what_was_before(config, tmp_path) -> None:
    """Not even a whole second picture is full enough for this limit."""
    config = replace(config, collapse=CollapseConfig(min_opacity=1.0, patience=2))
    with pytest.raises(CollapseError, match=r"particle 0 is empty: .* at iteration 2; .* go on from .*000000\.ckpt"):
        train(with_output(config, checkpoint_every=1), tmp_path)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["000000.ckpt", "last.ckpt"]
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(value: float) -> None:
    with pytest.raises(CollapseError, match=f"loss/scene is {value} at iteration 3; try lower learning rates"):
        require_finite("loss/scene", value, 3, state_is_sound=True)
    require_finite("loss/scene", 1.0, 3, state_is_sound=True)


def test_a_nan_in_the_gradient_stops_the_run_with_the_state_from_before(config, tmp_path, monkeypatch) -> None:
    """In the third iteration; the checkpoint is of two whole ones, and holds no NaN."""
    gradient, calls = ScoreDistillation.gradient, []

    def poisoned(self, latents, *args):
        if latents.device.type != "meta":  # the estimate of memory goes through here too
            calls.append(latents)
        output = gradient(self, latents, *args)
        return replace(output, gradient=output.gradient * float("nan")) if len(calls) == 3 else output

    monkeypatch.setattr(ScoreDistillation, "gradient", poisoned)
    with pytest.raises(CollapseError, match=r"loss/scene is nan at iteration 2.*go on from .*000002\.ckpt") as error:
        train(config, tmp_path)
    checkpoint = load(error.value.checkpoint)
    assert checkpoint["run"]["iteration"] == 2
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    assert not (tmp_path / "summary.json").exists()


def test_a_nan_in_the_estimator_goes_back_to_the_last_whole_iteration(config, tmp_path, monkeypatch) -> None:
    """The scene has been updated by then, so nothing is written."""
    estimator_loss, calls = ScoreDistillation.estimator_loss, []

    def poisoned(self, latents, *args):
        if latents.device.type != "meta":  # the estimate of memory goes through here too
            calls.append(latents)
        return estimator_loss(self, latents, *args) * (float("inf") if len(calls) == 4 else 1)

    monkeypatch.setattr(ScoreDistillation, "estimator_loss", poisoned)
    with pytest.raises(CollapseError, match=r"loss/estimator is inf at iteration 3.*000002\.ckpt"):
        train(with_output(config, checkpoint_every=2), tmp_path)


def overflowing(system: NeRFSystem, precision: str = "16-mixed") -> tuple[SimpleNamespace, list[torch.optim.Optimizer]]:
    """Scene and estimator with gradients that one can set, as the hook of the loop sees them."""
    both = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))]) for _ in range(2)]
    wrapped = [SimpleNamespace(optimizer=optimizer) for optimizer in both]
    stub = SimpleNamespace(
        config=system.config, trainer=SimpleNamespace(precision=precision), _optimizers=lambda: wrapped
    )
    losses = {f"loss/{name}": torch.tensor(1.0) for name in ("scene", "estimator")}
    now = {"iteration": torch.tensor(7), "device": torch.device("cpu"), "figures": losses}
    return SimpleNamespace(**vars(stub), **now, _overflows={}), both


def step(loop: SimpleNamespace, optimizer: torch.optim.Optimizer, gradient: float, times: int = 1) -> None:
    optimizer.param_groups[0]["params"][0].grad = torch.tensor([1.0, gradient])
    for _ in range(times):
        NeRFSystem.on_before_optimizer_step(loop, optimizer)


@pytest.mark.parametrize(("index", "name"), [(0, "scene"), (1, "estimator")])
@pytest.mark.parametrize("gradient", [float("inf"), float("nan")])
def test_an_overflow_that_no_loss_scale_mends_stops_the_run(system, index: int, name: str, gradient: float) -> None:
    loop, both = overflowing(system)
    step(loop, both[index], gradient, MAX_OVERFLOWS - 1)
    step(loop, both[1 - index], 1.0)  # the other one's steps don't count
    message = rf"grad/{name} is {gradient} in fp16 for 20 steps in a row at iteration 7; try .*precision=32-true"
    with pytest.raises(CollapseError, match=message) as error:
        step(loop, both[index], gradient)
    assert error.value.state_is_sound == (index == 0)


def test_overflows_on_the_way_to_a_loss_scale_are_no_collapse(system) -> None:
    loop, both = overflowing(system)
    for _ in range(3):
        step(loop, both[0], float("inf"), MAX_OVERFLOWS - 1)
        step(loop, both[0], 1.0)
    loop, both = overflowing(system, "bf16-mixed")
    with pytest.raises(CollapseError, match="grad/scene is inf at iteration 7"):
        step(loop, both[0], float("inf"))


def test_advice_on_overflows_can_be_followed() -> None:
    fields = re.findall(r"[a-z_]+\.[a-z_]+", OVERFLOW_ADVICE)
    assert len(fields) == 3 and all(run_policies()[field].may_change("resume") for field in fields)
