"""MVDream's weights as its authors name them, read and converted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from configs import load
from configs.sources import CONFIG_FOLDER
from guidance import convert_mvdream
from guidance.families import mvdream
from guidance.families.mvdream import port_config
from guidance.loading import load_prior, outline_prior, views_together
from guidance.model_files import ModelFiles
from settings.schedules import value_at
from tests.original_names import unet_name
from tests.tiny_priors import TEXT_WIDTH, save_tiny_stable_diffusion

LAYERS = 1
# As the port's config.json has them; two levels, of which the first has attention.
SETTINGS = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": LAYERS,
    "attention_resolutions": [1],
    "num_head_channels": 16,
    "context_dim": TEXT_WIDTH,
    "camera_dim": 16,
    "transformer_depth": 1,
}


@pytest.fixture(scope="module")
def top(tmp_path_factory) -> Path:
    """``base``, the port's folder ``port``, the authors' file ``mvdream.pt``, and ``unet`` as diffusers saves it."""
    top = tmp_path_factory.mktemp("mvdream")
    save_tiny_stable_diffusion(top / "base")
    shutil.copytree(top / "base", top / "port")
    (top / "port/unet/config.json").write_text(json.dumps(SETTINGS | {"_class_name": "MultiViewUNetModel"}))
    config = port_config(top / "port")
    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_config(config)
    unet.save_pretrained(top / "unet")
    published = {unet_name(name, LAYERS): value for name, value in unet.state_dict().items()}
    save_file(published, top / "port/unet/diffusion_pytorch_model.safetensors")
    index = json.loads((top / "base/model_index.json").read_text())
    (top / "port/model_index.json").write_text(json.dumps(index | {"_class_name": "MVDreamPipeline"}))
    whole = {f"model.diffusion_model.{name}": value for name, value in published.items()}
    torch.save(whole | {"cond_stage_model.logit_scale": torch.ones(())}, top / "mvdream.pt")
    shutil.rmtree(top / "base/unet")
    single = config | {"class_embed_type": None, "projection_class_embeddings_input_dim": None, "sample_size": 64}
    UNet2DConditionModel.from_config(single).save_pretrained(top / "base/unet")
    return top


@torch.no_grad()
def assert_same_network(found: UNet2DConditionModel, top: Path) -> None:
    """Of one view; that the views see each other is tested in test_multiview.py."""
    expected = UNet2DConditionModel.from_pretrained(top / "unet")
    x, t, text, camera = (
        torch.randn(4, 4, 8, 8),
        torch.tensor([7] * 4),
        torch.randn(4, 5, TEXT_WIDTH),
        torch.randn(4, 16),
    )
    plain = UNet2DConditionModel.from_config(found.config)
    plain.load_state_dict(found.state_dict())
    wanted = expected(x, t, text, class_labels=camera).sample
    torch.testing.assert_close(plain(x, t, text, class_labels=camera).sample, wanted)
    assert not torch.allclose(plain(x, t, text, class_labels=-camera).sample, wanted, atol=1e-4)


def test_a_folder_of_the_port_is_a_prior(top):
    prior = load_prior(top / "port")
    assert views_together(top / "port") == prior.views_together == 4
    assert prior.latent_shape == (4, 32, 32)
    assert_same_network(prior.network, top)
    assert outline_prior(top / "port").device.type == "meta"


@pytest.mark.parametrize("source", ["mvdream.pt", "port"])
def test_conversion(top, tmp_path, source, capsys):
    out = tmp_path / "out"
    arguments = [str(top / source), str(out), "--base", str(top / "base"), "--precision", "fp32"]
    assert convert_mvdream.main(arguments) == 0
    prior = load_prior(out)
    assert prior.views_together == 4 and prior.prediction_type == "epsilon" and prior.latent_shape == (4, 32, 32)
    assert_same_network(prior.network, top)
    assert convert_mvdream.main(arguments) == 2
    assert "is there already" in capsys.readouterr().err


def test_the_port_on_the_hub_is_fetched_when_it_is_needed(top, monkeypatch):
    """Its settings first, which tell ImageDream from MVDream; the weights of the UNet not for an outline."""
    fetched = []

    def snapshot_download(hub_id, revision, allow_patterns):
        assert revision == "v1"
        fetched.append((hub_id, *allow_patterns))
        return str(top / "port")

    monkeypatch.setattr(mvdream, "snapshot_download", snapshot_download)
    index = json.loads((top / "port/model_index.json").read_text())
    files = ModelFiles("owner/port", revision="v1")
    assert mvdream.MVDreamPrior.views_of(files, index) == 4
    what = (files, files, index)
    assert mvdream.MVDreamPrior.load_unet(*what, torch.device("meta"), torch.float32).device.type == "meta"
    assert set(fetched) == {("owner/port", "unet/config.json")}
    assert_same_network(mvdream.MVDreamPrior.load_unet(*what, torch.device("cpu"), torch.float32), top)
    assert fetched[-1] == ("owner/port", "unet/*")

    def no_network(hub_id, revision, allow_patterns):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(mvdream, "snapshot_download", no_network)
    with pytest.raises(FileNotFoundError, match=r"unet/config.json of 'owner/port' cannot be fetched: no route"):
        mvdream.MVDreamPrior.views_of(files, index)


@pytest.mark.parametrize("loss", ["sds", "vsd"])
def test_the_authors_settings(loss, monkeypatch):
    monkeypatch.setattr(load, "find_device", lambda accelerator: "cuda")
    config = load.load_config(CONFIG_FOLDER / "mvdream-nerf.yaml", {"guidance.loss": loss}).config
    assert (config.iterations, config.render.views, config.render.size) == (10_000, 4, 256)
    for iteration, t_min, t_max, scale in ((0, 0.98, 0.98, 0.25), (4000, 0.5, 0.74, 0.25), (9000, 0.02, 0.5, 1.0)):
        found = [value_at(knots, iteration) for knots in (config.noise.t_min, config.noise.t_max, config.render.scale)]
        assert found == pytest.approx([t_min, t_max, scale])
    guidance = config.guidance
    found = (guidance.guidance_scale, guidance.weighting, guidance.rescale)
    assert found == ((50.0, "x0", 0.5) if loss == "sds" else (7.5, "variance", 0.0))
    assert config.text.view_template == "{prompt}, 3d asset" and config.text.negative.count(",") == 18


def test_mvdreams_own_size(tmp_path):
    """The network whose sizes a port's config.json leaves out is SD 2.1's with a camera embedding."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text("{}")
    config = port_config(tmp_path)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    embedding = 16 * 1280 + 1280 + 1280 * 1280 + 1280
    assert sum(value.numel() for value in unet.parameters()) == 865_910_724 + embedding  # as published for SD 2.1
    assert config["attention_head_dim"] == [5, 10, 20, 20]


def test_wrong_files_are_errors_and_write_nothing(top, tmp_path):
    weights = torch.load(top / "mvdream.pt")
    of_camera = {name: value for name, value in weights.items() if "camera_embed" in name}
    last = "model.diffusion_model.out.2.weight"
    cases = {
        "has no camera embedding": {name: value for name, value in weights.items() if name not in of_camera},
        "is an ImageDream": weights | {"model.diffusion_model.image_embed.proj.weight": torch.ones(2)},
        "1 missing, such as conv_out.weight": {name: value for name, value in weights.items() if name != last},
        "1 unknown or of another shape, such as conv_out.weight": weights | {last: torch.ones(4, 3, 3, 3)},
        "of which are known": weights | {"model.diffusion_model.extra.weight": torch.ones(2)},
        "holds no table of weights": {"epoch": 3},
    }
    for number, (message, held) in enumerate(cases.items()):
        torch.save(held, tmp_path / f"{number}.pt")
        with pytest.raises(ValueError, match=message):
            convert_mvdream.convert_mvdream(tmp_path / f"{number}.pt", tmp_path / "out", str(top / "base"))
    whole = (top / "mvdream.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated or no file of weights"):
        convert_mvdream.convert_mvdream(tmp_path / "short.pt", tmp_path / "out", str(top / "base"))
    with pytest.raises(FileNotFoundError, match="is no file"):
        convert_mvdream.convert_mvdream(tmp_path / "none.pt", tmp_path / "out", str(top / "base"))
    with pytest.raises(ValueError, match="not a port of MVDream"):
        convert_mvdream.convert_mvdream(top / "base", tmp_path / "out", str(top / "base"))
    with pytest.raises(ValueError, match="is a MVDreamPipeline; give the"):
        convert_mvdream.convert_mvdream(top / "mvdream.pt", tmp_path / "out", str(top / "port"))
    assert not (tmp_path / "out").exists()


def test_a_base_on_the_hub_is_fetched_after_the_file_has_passed(top, tmp_path, monkeypatch):
    fetched = []

    def snapshot_download(base, allow_patterns):
        fetched.append(allow_patterns)
        return top / "base"

    monkeypatch.setattr(convert_mvdream, "find_index", lambda base: top / "base/model_index.json")
    monkeypatch.setattr(convert_mvdream, "snapshot_download", snapshot_download)
    weights = torch.load(top / "mvdream.pt")
    torch.save({name: value for name, value in weights.items() if "camera_embed" not in name}, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match="has no camera embedding"):
        convert_mvdream.convert_mvdream(tmp_path / "wrong.pt", tmp_path / "out", "owner/base")
    assert fetched == [["unet/config.json"]]
    convert_mvdream.convert_mvdream(top / "mvdream.pt", tmp_path / "out", "owner/base")
    assert (
        len(fetched) == 3 and "vae/*model.safetensors" in fetched[2] and (tmp_path / "out/model_index.json").is_file()
    )


def test_a_wrong_port_is_an_error(top, tmp_path):
    port = tmp_path / "port"
    shutil.copytree(top / "port", port)
    file = port / "unet/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or no file of weights"):
        load_prior(port)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"has none of diffusion_pytorch_model\.safetensors"):
        load_prior(port)
    (port / "unet/config.json").write_text(json.dumps(SETTINGS | {"ip_dim": 16}))
    with pytest.raises(ValueError, match="is an ImageDream"):  # told from the settings: no weights are there
        views_together(port)
