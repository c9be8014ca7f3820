"""Priors that see several views of one object at once."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file

from configs.load import load_config
from configs.sources import CONFIG_FOLDER
from guidance import classifier_free
from guidance.config import EstimatorConfig, GuidanceConfig
from guidance.estimator import LoraEstimator
from guidance.families.multiview import MultiViewPrior
from guidance.loading import load_prior, outline_prior, views_together
from guidance.prompts import embed_prompt
from guidance.schedule import NoiseSchedule
from guidance.score_distillation import ScoreDistillation
from priors.multiview_network import DEFAULT_MULTIVIEW, WEIGHTS, camera_condition, join_views, multiview_unet
from priors.world.dataset import sample_group
from renderers.cameras import orbit_cameras, sample_cameras
from renderers.config import CameraSampling
from runs.frozen_model import check_views
from runs.train import train
from systems.stages import system_class
from tests.rounding import assert_equal_to_rounding
from tests.systems.tiny_runs import tiny_config
from tests.tiny_priors import save_tiny_multiview

VIEWS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_multiview(tmp_path_factory.mktemp("multiview"), VIEWS)


@pytest.fixture
def prior(folder) -> MultiViewPrior:
    return load_prior(folder)


def cameras(count: int):
    return sample_cameras(count, CameraSampling(), torch.Generator().manual_seed(0), together=VIEWS)


def predict(prior, x_t, views):
    texts = embed_prompt(prior, "a red mug", release_text_encoder=False).for_cameras(views).conditional
    return prior.predict(x_t, torch.full((len(x_t),), 300), texts).output


def test_with_one_view_and_no_camera_it_is_the_plain_network(folder):
    plain = load_prior(folder.parent / "base")
    unet = multiview_unet(plain.network)
    join_views(unet, 1, AttnProcessor())
    x, t, text = torch.randn(3, 4, 16, 16), torch.tensor([5, 300, 900]), torch.randn(3, 7, 16)
    with torch.no_grad():
        expected = plain.network(x, t, text).sample
        assert torch.equal(unet(x, t, text, class_labels=torch.randn(3, 16)).sample, expected)
        join_views(unet, 3, AttnProcessor())
        assert not torch.allclose(unet(x, t, text, class_labels=torch.zeros(3, 16)).sample, expected, atol=1e-4)


@torch.no_grad()
def test_objects_are_apart_and_views_of_an_object_are_a_set(prior):
    x_t, views = torch.randn(2 * VIEWS, *prior.latent_shape), cameras(2 * VIEWS)
    whole = predict(prior, x_t, views)
    for order in ([2, 3, 0, 1], [1, 0, 2, 3]):  # other objects first; other views first
        index = torch.tensor(order)
        assert_equal_to_rounding(predict(prior, x_t[index], views[index]), whole[index])
    assert_equal_to_rounding(predict(prior, x_t[:VIEWS], views[:VIEWS]), whole[:VIEWS])
    split = torch.tensor([0, 2, 1, 3])
    assert not torch.allclose(predict(prior, x_t[split], views[split]), whole[split], atol=1e-3)
    turned = orbit_cameras(views.azimuth_deg + 40, views.elevation_deg, views.distance, views.fovy_deg)
    assert not torch.allclose(predict(prior, x_t, turned), whole, atol=1e-3)


def test_what_the_camera_embedding_reads():
    view = orbit_cameras(*(torch.tensor([v]) for v in (90.0, 0.0, 3.0, 40.0)))  # at +x, y up
    matrix = camera_condition(view.c2w).view(4, 4)
    expected = [[0.0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]  # z up, at distance 1
    torch.testing.assert_close(matrix, torch.tensor(expected), atol=1e-6, rtol=0)


def test_groups_of_cameras():
    drawn = sample_cameras(8, CameraSampling(), torch.Generator().manual_seed(1), together=4)
    for group in (drawn[:4], drawn[4:]):
        assert group.elevation_deg.unique().numel() == group.distance.unique().numel() == 1
        torch.testing.assert_close(group.azimuth_deg.diff(), torch.full((3,), 90.0))
        assert group.azimuth_deg.min() >= -180 and group.azimuth_deg.max() <= 180
    assert drawn.elevation_deg.unique().numel() == 2


def test_a_group_has_one_noise_level_and_whole_groups_are_needed(prior, monkeypatch):
    estimator = LoraEstimator(prior, EstimatorConfig(camera_dropout=0.5), torch.Generator().manual_seed(0))
    guidance = ScoreDistillation(prior, estimator, GuidanceConfig())
    prompts = embed_prompt(prior, "a red mug")
    seen = []
    original = NoiseSchedule.add_noise
    monkeypatch.setattr(NoiseSchedule, "add_noise", lambda *given: seen.append(given[-1]) or original(*given))
    views, latents = cameras(2 * VIEWS), torch.randn(2 * VIEWS, *prior.latent_shape)
    guidance.gradient(latents, prompts, views, (0.0, 1.0), torch.Generator().manual_seed(0))
    guidance.estimator_loss(latents, prompts, views, torch.Generator().manual_seed(0)).backward()
    for t in seen:
        assert t[0] == t[1] and t[2] == t[3] and t[0] != t[2]
    assert any(parameter.grad.abs().sum() > 0 for parameter in estimator.parameters())
    with pytest.raises(ValueError, match="3 views are no whole number of groups of 2"):
        guidance.gradient(latents[:3], prompts, views[:3], (0.0, 1.0), torch.Generator().manual_seed(0))


def test_a_group_stays_whole_among_texts_and_processes(prior, folder, monkeypatch):
    views = cameras(2 * VIEWS)
    texts = embed_prompt(prior, "a red mug", release_text_encoder=False).for_cameras(views)
    asked = {"unconditional": texts.unconditional, "conditional": texts.conditional}
    x_t, t = torch.randn(2 * VIEWS, *prior.latent_shape), torch.tensor([300, 300, 700, 700])
    together = classifier_free.predict(prior, x_t, t, asked)
    for name, text in asked.items():
        for group in (slice(0, VIEWS), slice(VIEWS, None)):
            alone = prior.predict(x_t[group], t[group], text[group]).output
            assert_equal_to_rounding(together[name].output[group], alone)
    config = tiny_config(folder)
    config = replace(config, render=replace(config.render, views=2 * VIEWS))
    system = system_class(config)(config, prior, embed_prompt(prior, "a red mug"))
    seen = []
    for rank in (0, 1):
        monkeypatch.setattr(type(system), "global_rank", rank)
        seen.append(system.draw_cameras(5).elevation_deg)
        assert (seen[-1].view(2, VIEWS).diff(dim=1) == 0).all()
    assert torch.cat(seen).unique().numel() == 4  # every group has its own


@pytest.mark.parametrize("loss", ["vsd", "sds"])
def test_a_run_trains_and_ends(folder, tmp_path, loss):
    config = tiny_config(folder, guidance=GuidanceConfig(loss=loss), iterations=2)
    config = replace(config, render=replace(config.render, views=VIEWS))
    config = replace(config, output=replace(config.output, diagnostics_every=1))
    train(config, tmp_path / "run")
    assert (tmp_path / "run/mesh.glb").exists()
    names = {path.name for path in (tmp_path / "run/diagnostics").iterdir()}
    assert names == {"000001-samples.png", "000002-samples.png"}  # no view can be shown alone


def test_what_does_not_go_together_is_an_error(folder, tmp_path):
    config = tiny_config(folder)
    with pytest.raises(ValueError, match=r"render.views: 1 is no multiple of the 2 views .* set render.views=2"):
        check_views(config)
    with pytest.raises(ValueError, match="the stage image needs a prior that sees one view"):
        check_views(replace(config, stage="image"))
    single = replace(config, prior=replace(config.prior, path=str(folder.parent / "base"), views=4, preset="mini-mv"))
    with pytest.raises(ValueError, match=r"'mini-mv' is for a model that sees 4 views .* sees one view"):
        check_views(single)
    for name, changes, message in (
        ("no-views", {"views": None}, "must say how many views"),
        ("no-camera", {"base": None}, "has no camera embedding"),
    ):
        other = tmp_path / name
        shutil.copytree(folder.parent / "base", other)
        index = json.loads((folder / "model_index.json").read_text()) | changes
        (other / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if v is not None}))
        with pytest.raises(ValueError, match=message):
            load_prior(other)
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    save_file({"conv_in.weight": torch.zeros(1)}, damaged / WEIGHTS)
    with pytest.raises(ValueError, match="truncated or altered"):
        load_prior(damaged)
    (damaged / "checksums.json").unlink()
    index = json.loads((folder / "model_index.json").read_text()) | {"base": str(folder.parent / "base")}
    (damaged / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"conv_in\.weight with shape"):
        load_prior(damaged)


def test_the_outline_reads_no_weights(folder):
    outline = outline_prior(folder)
    assert outline.device.type == "meta" and outline.views_together == VIEWS


def test_the_bundled_one():
    assert sum(path.stat().st_size for path in DEFAULT_MULTIVIEW.iterdir()) < 12 * 2**20
    assert views_together(DEFAULT_MULTIVIEW) == 4
    config = load_config(CONFIG_FOLDER / "vsd-nerf.yaml", {"prior": "mini-mv"}).config
    assert config.render.views % 4 == 0 and config.text.view_template == "{prompt}"
    check_views(config)
    group = sample_group(seed=0, index=5, views=4)
    assert {view.class_name for view in group} == {group[0].class_name}
    azimuths = sorted(float(view.cameras.azimuth_deg) for view in group)
    assert [b - a for a, b in itertools.pairwise(azimuths)] == pytest.approx([90] * 3, abs=1e-3)
    assert {view.view for view in group} <= {"front", "side", "back"} or len({view.view for view in group}) == 1
