"""Each family agrees with diffusers' own pipeline, asked through hooks what it feeds its network."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from configs.sources import CONFIG_FOLDER
from guidance.classifier_free import classifier_free_guidance, guide, predict
from guidance.config import EstimatorConfig, GuidanceConfig, TextConfig
from guidance.estimator import LoraEstimator
from guidance.families.flux import FluxPrior, pack, positions, unpack
from guidance.families.registry import FAMILIES
from guidance.families.registry import family as family_of
from guidance.families.sd3 import StableDiffusion3Prior
from guidance.families.sdxl import StableDiffusionXLPrior
from guidance.families.stable_diffusion import StableDiffusionPrior
from guidance.families.text import tokenize
from guidance.frozen_model import TextEmbeddings
from guidance.loading import load_prior
from guidance.prompts import embed_prompt
from guidance.score_distillation import ScoreDistillation, draw_noise
from tests.guidance.steps import noise_pred
from tests.rounding import assert_equal_to_rounding
from tests.tiny_priors import LATENT_CHANNELS, save_tiny_flux, save_tiny_sd3, save_tiny_sdxl

CLASSES = {"sdxl": StableDiffusionXLPrior, "sd3": StableDiffusion3Prior, "flux": FluxPrior}
SAVE = {"sdxl": save_tiny_sdxl, "sd3": save_tiny_sd3, "flux": save_tiny_flux}
SCALE = 3.0  # of classifier-free guidance


@dataclass(frozen=True)
class Call:
    """One step of a diffusers pipeline, as its network saw it."""

    x_t: torch.Tensor
    time: float
    unconditional: torch.Tensor
    conditional: torch.Tensor


@pytest.fixture(scope="module")
def pipelines(folders: dict[str, Path]) -> dict[str, DiffusionPipeline]:
    return {family: DiffusionPipeline.from_pretrained(folders[family]) for family in CLASSES}


@pytest.fixture(params=list(CLASSES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def sample(pipeline: DiffusionPipeline, family: str) -> tuple[list[Call], torch.Tensor]:
    """The calls of three steps, and the final latents."""
    seen = []
    network = pipeline.unet if family == "sdxl" else pipeline.transformer
    hook = network.register_forward_hook(
        lambda _, args, kwargs, out: seen.append((args, kwargs, out[0])), with_kwargs=True
    )
    scales = {"true_cfg_scale": SCALE, "negative_prompt": ""} if family == "flux" else {"guidance_scale": SCALE}
    levels = {} if family == "sdxl" else {"sigmas": [1.0, 0.75, 0.5]}
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    try:
        latents = pipeline(
            "a red mug",
            height=32,
            width=32,
            num_inference_steps=3,
            generator=generator,
            output_type="latent",
            **scales,
            **levels,
        ).images
    finally:
        hook.remove()
    if family != "flux":
        return [_pair(args, kwargs, output) for args, kwargs, output in seen], latents
    pairs = zip(seen[1::2], seen[::2], strict=True)  # conditional first, each in a call of its own
    calls = [
        Call(unpack(c["hidden_states"], 8), c["timestep"].item(), unpack(out_u, 8), unpack(out_c, 8))
        for (_, _, out_u), (_, c, out_c) in pairs
    ]
    return calls, unpack(latents, 8)


def _pair(args: tuple, kwargs: dict, output: torch.Tensor) -> Call:
    x_t, time = args if args else (kwargs["hidden_states"], kwargs["timestep"][0])
    return Call(x_t[:1], time.item(), *output.chunk(2))


def level_of(prior, family: str, call: Call) -> torch.Tensor:
    """The index of a pipeline's noise level in the prior's schedule."""
    if family == "sdxl":
        return torch.tensor([int(call.time)])
    sigma = call.time if family == "flux" else call.time / 1000
    distance = (prior.schedule.sigmas - sigma).abs()
    assert distance.min() < 1e-6, "the pipeline's level must be one of the schedule's"
    return distance.argmin()[None]


def test_steps_agree_with_the_diffusers_pipeline(folders, pipelines, family) -> None:
    """The pair of predictions at each level, and, put together, the pipeline's next step."""
    prior = load_prior(folders[family])
    assert type(prior) is CLASSES[family]
    calls, _ = sample(pipelines[family], family)
    conditional, unconditional = prior.encode_text(["a red mug"]), prior.encode_text([""])
    for call, following in zip(calls, [*calls[1:], None], strict=True):
        t = level_of(prior, family, call)
        found = predict(prior, call.x_t, t, {"unconditional": unconditional, "conditional": conditional})
        guided = guide(found, SCALE)
        torch.testing.assert_close(found["conditional"].output, call.conditional, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["unconditional"].output, call.unconditional, rtol=1e-4, atol=1e-5)
        expected = classifier_free_guidance(call.unconditional, call.conditional, SCALE)
        torch.testing.assert_close(guided.output, expected, rtol=1e-4, atol=1e-4)
        if following is not None:
            cleaner = prior.schedule.add_noise(guided.x_0, guided.epsilon, level_of(prior, family, following))
            torch.testing.assert_close(cleaner, following.x_t, rtol=1e-3, atol=1e-3)


def test_texts_agree_with_the_diffusers_pipeline(folders, pipelines, family) -> None:
    prior, pipeline = load_prior(folders[family]), pipelines[family]
    text = prior.encode_text(["a red mug", ""])
    if family == "flux":
        tokens, pooled, _ = pipeline.encode_prompt(["a red mug", ""], device="cpu")
    else:
        more = {"sdxl": {}, "sd3": {"prompt_2": None, "prompt_3": None}}[family]
        # Without a negative prompt diffusers takes the unconditional text: zeros (SDXL), or that of "".
        tokens, negative, pooled, negative_pooled = pipeline.encode_prompt("a red mug", device="cpu", **more)
        tokens, pooled = torch.cat([tokens, negative]), torch.cat([pooled, negative_pooled])
    assert_equal_to_rounding(text.tokens, tokens)
    assert_equal_to_rounding(text.pooled, pooled)
    assert (tokens[0] != tokens[1]).any() and (pooled[0] != pooled[1]).any()


def test_images_agree_with_the_diffusers_pipeline(folders, pipelines, family) -> None:
    prior, pipeline = load_prior(folders[family]), pipelines[family]
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    latents = prior.encode_images(images)
    assert latents.shape == (2, *prior.latent_shape) and prior.image_size == 32
    posterior = pipeline.vae.encode(images * 2 - 1).latent_dist
    config = pipeline.vae.config
    assert_equal_to_rounding(latents / config.scaling_factor + (config.shift_factor or 0), posterior.mean)
    assert (config.shift_factor is None) == (family == "sdxl")
    decoded = pipeline.vae.decode(posterior.mean).sample
    assert_equal_to_rounding(prior.decode_latents(latents), pipeline.image_processor.denormalize(decoded))


def test_pictures_have_to_fit_the_patches(folders) -> None:
    for family in ("sd3", "flux"):
        with pytest.raises(ValueError, match="34x34 pixels are no multiple of the autoencoder's 4"):
            load_prior(folders[family]).encode_images(torch.rand(1, 3, 34, 34))


def test_flow_schedules_are_the_schedulers(folders, pipelines) -> None:
    """SD3: shifted by a constant; FLUX: by the number of patches, 8x8 here."""
    sd3, flux = load_prior(folders["sd3"]), load_prior(folders["flux"])
    fresh = {family: type(p.scheduler).from_config(p.scheduler.config) for family, p in pipelines.items()}
    torch.testing.assert_close(sd3.schedule.sigmas.flip(0), fresh["sd3"].sigmas)
    scheduler = fresh["flux"]
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1e-3, 1000).tolist(), mu=calculate_shift(64))
    torch.testing.assert_close(flux.schedule.sigmas.flip(0), scheduler.sigmas[:-1])
    for prior in (sd3, flux):
        torch.testing.assert_close(prior.schedule.alphas, 1 - prior.schedule.sigmas)


def test_sd3_without_t5(tmp_path) -> None:
    prior = load_prior(save_tiny_sd3(tmp_path, t5=False))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path, text_encoder_3=None, tokenizer_3=None)
    tokens, _, pooled, _ = pipeline.encode_prompt("a red mug", None, None, device="cpu")
    text = prior.encode_text(["a red mug"])
    assert_equal_to_rounding(text.tokens[:, : tokens.shape[1]], tokens)  # diffusers 0.35 adds 16 zeros, later ones 256
    assert_equal_to_rounding(text.pooled, pooled)
    assert text.tokens.shape[1] == 16 + 256 and (text.tokens[:, 16:] == 0).all()


def assert_the_same_but_for_t5(prior, text, long: str) -> None:
    """CLIP's part is that of the text it had room for; T5's is not."""
    short = prior.encode_text([long.removesuffix(" mug chair")])
    assert torch.equal(text.pooled, short.pooled)
    clip = 16 if text.tokens.shape[1] == 16 + 256 else 0  # tokens of CLIP among those that the network reads
    assert torch.equal(text.tokens[:, :clip], short.tokens[:, :clip])
    assert not torch.equal(text.tokens[:, clip:], short.tokens[:, clip:])


def test_the_encoder_that_a_prompt_does_not_fit_is_named(folders, tmp_path, family) -> None:
    """Where a T5 reads all of the text, CLIP's part is cut, and the words that it misses are named."""
    long = "a red mug " * 5 + "chair"
    takes = r"18 tokens, .* CLIP text encoder takes 16 \([^)]*\)"
    if family in ("sd3", "flux"):
        prior = load_prior(folders[family])
        with pytest.warns(UserWarning, match=rf"{takes} and misses 'mug chair'; its T5 reads all of it"):
            text = prior.encode_text([long])
        assert_the_same_but_for_t5(prior, text, long)
    else:
        with pytest.raises(ValueError, match=rf"{takes}; shorten"):
            load_prior(folders[family]).encode_text([long])
    if family == "sd3":
        with pytest.raises(ValueError, match=r"CLIP text encoder takes 16 \([^)]*\); shorten"):
            load_prior(save_tiny_sd3(tmp_path, t5=False)).encode_text([long])
    if family != "sdxl":
        tokenizer = load_prior(folders[family]).tokenizers[-1]
        with pytest.raises(ValueError, match=r"17 tokens, the model's T5 text encoder takes 16 \([^)]*\); shorten"):
            tokenize(tokenizer, [long], 16, is_alone=False)


def test_sdxl_reads_the_sizes_of_the_picture(folders) -> None:
    prior = load_prior(folders["sdxl"])
    assert prior.time_ids(torch.zeros(2, 4, 16, 24)).tolist() == [[32, 48, 0, 0, 32, 48]] * 2


def test_sdxl_takes_only_an_empty_prompt_as_none(folders, tmp_path) -> None:
    text = load_prior(folders["sdxl"]).encode_text(["", "a"])
    assert (text.tokens[0] == 0).all() and (text.pooled[0] == 0).all() and (text.tokens[1] != 0).any()
    folder = Path(shutil.copytree(folders["sdxl"], tmp_path / "prior"))
    edit_index(folder, force_zeros_for_empty_prompt=False)
    assert (load_prior(folder).encode_text([""]).tokens != 0).any()


def test_fp16_keeps_the_autoencoder_in_fp32(folders, tmp_path, family) -> None:
    """Where its configuration says so, which it does unless it says otherwise."""
    prior = load_prior(folders[family], dtype=torch.float16)
    assert prior.network.dtype == torch.float16
    assert prior.frozen_autoencoder.module.dtype == torch.float32
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = prior.encode_images(images)
    exact = load_prior(folders[family]).encode_images(images)
    assert torch.equal(latents, exact), "neither the network's dtype nor autocast may reach it"

    folder = Path(shutil.copytree(folders[family], tmp_path / "prior"))
    edit_json(folder / "vae" / "config.json", force_upcast=False)
    assert load_prior(folder, dtype=torch.float16).frozen_autoencoder.module.dtype == torch.float16


def test_flux_tokens_are_packed_rows_first() -> None:
    latents = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    tokens = pack(latents)
    assert tokens.shape == (2, 2 * 3, 3 * 4)
    assert torch.equal(tokens[1, 4], latents[1, :, 2:4, 2:4].flatten())  # row 1, column 1
    assert torch.equal(unpack(tokens, 2), latents)
    assert positions(2, 3, torch.device("cpu"))[4].tolist() == [0, 1, 1]


def test_embedded_guidance_is_the_frozen_scores_alone(folders) -> None:
    prior = load_prior(folders["flux"])
    usual = embed_prompt(prior, "a red mug")
    assert usual.views.guidance.tolist() == [3.5] * 5
    assert usual.negative.guidance.tolist() == [3.5] and usual.plain.guidance.tolist() == [1.0]
    assert embed_prompt(prior, "a red mug", TextConfig(embedded_guidance=2.0)).views.guidance.tolist() == [2.0] * 5


def test_vsd_with_embedded_guidance_begins_as_its_effect(folders, cameras) -> None:
    """w(t) (eps(g) - eps(1)) at guidance_scale 1, where the network runs on no pair."""
    prior = load_prior(folders["flux"])
    prompts = embed_prompt(prior, "a red mug")
    prompts = replace(prompts, views=prompts.plain.expand(5).with_guidance(3.5))
    estimator = LoraEstimator(prior, EstimatorConfig(), torch.Generator().manual_seed(0))
    guidance = ScoreDistillation(prior, estimator, GuidanceConfig(guidance_scale=1.0))
    latents = torch.randn(3, *prior.latent_shape, generator=torch.Generator().manual_seed(7))
    output = guidance.gradient(latents, prompts, cameras, (0.1, 0.9), torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    t = prior.schedule.sample_t(3, (0.1, 0.9), generator, "cpu")
    x_t = prior.schedule.add_noise(latents, draw_noise(latents, generator), t)
    plain = prompts.plain.expand(3)
    change = noise_pred(prior, x_t, t, plain.with_guidance(3.5)) - noise_pred(prior, x_t, t, plain)
    torch.testing.assert_close(output.gradient, prior.schedule.weight(t) * change, rtol=1e-4, atol=1e-5)
    assert output.gradient.abs().max() > 1e-3


def test_a_model_without_embedded_guidance(tmp_path, epsilon_prior) -> None:
    prior = load_prior(save_tiny_flux(tmp_path, guidance_embeds=False))
    text = prior.encode_text(["a red mug"])
    assert text.guidance is None and text.with_guidance(2.0) is text
    assert torch.isfinite(prior.predict(torch.zeros(1, *prior.latent_shape), torch.tensor([500]), text).output).all()
    for without in (prior, epsilon_prior):
        with pytest.raises(ValueError, match=r"embedded_guidance: 2 was given, but this model has no such input"):
            embed_prompt(without, "a red mug", TextConfig(embedded_guidance=2.0))
    with pytest.raises(ValueError, match=r"embedded_guidance\n.* greater than or equal to 0"):
        TextConfig(embedded_guidance=-1.0)


def test_rows_keep_all_that_belongs_to_them() -> None:
    text = TextEmbeddings(torch.rand(3, 2, 4), torch.rand(3, 5), torch.tensor([1.0, 2.0, 3.0]))
    both = TextEmbeddings.concatenate([text[2:], text[:2].to("cpu")])
    assert len(both) == 3 and both.guidance.tolist() == [3, 1, 2]
    assert torch.equal(both.tokens[1:], text.tokens[:2]) and torch.equal(both.pooled[0], text.pooled[2])


def test_lora_is_on_the_attention_alone(prior) -> None:
    """Also on both kinds of tokens of a transformer, but not on queries that nothing reads."""
    names = {name.rpartition("/lora_")[0] for name in LoraEstimator(prior, EstimatorConfig(), torch.Generator()).lora}
    assert names and all("attn" in name for name in names)
    attentions = {name for name, module in prior.network.named_modules() if hasattr(module, "to_q")}
    for projection in ("to_q", "to_k", "to_v"):
        assert {f"{name.replace('.', '/')}/{projection}" for name in attentions} <= names
    if isinstance(prior, StableDiffusion3Prior):
        assert "transformer_blocks/0/attn/add_q_proj" in names
        assert "transformer_blocks/1/attn/add_k_proj" in names
        assert "transformer_blocks/1/attn/add_q_proj" not in names


def edit_index(folder: Path, **entries) -> None:
    edit_json(folder / "model_index.json", **entries)


def edit_json(file: Path, **entries) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | entries), encoding="utf-8")


def test_a_missing_component_is_named(folders, tmp_path, family) -> None:
    folder = Path(shutil.copytree(folders[family], tmp_path / "prior"))
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    components = [name for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None]
    assert len(components) in (7, 9)
    for name in components:
        (folder / name).rename(folder / "hidden")
        with pytest.raises(FileNotFoundError, match=f"lacks the component '{name}'"):
            load_prior(folder)
        (folder / "hidden").rename(folder / name)
    load_prior(folder)


@pytest.mark.parametrize(
    ("family", "channels", "message"),
    [
        ("sdxl", 9, "the UNet of .* takes 9 channels, the latents have 4: it is an inpainting"),
        ("sd3", 9, "the transformer of .* takes 9 channels, the latents have 4: it is an inpainting"),
        ("flux", 36, "the transformer of .* takes 36 channels, the latents have 16: it is an inpainting"),
    ],
)
def test_a_network_that_also_reads_a_picture(tmp_path, family, channels, message) -> None:
    assert LATENT_CHANNELS == 4
    with pytest.raises(ValueError, match=message):
        load_prior(SAVE[family](tmp_path, in_channels=channels))


def test_a_network_of_another_family(folders, tmp_path) -> None:
    folder = Path(shutil.copytree(folders["sdxl"], tmp_path / "prior"))
    shutil.rmtree(folder / "unet")
    shutil.copytree(folders["sd3"] / "transformer", folder / "unet")
    with pytest.raises(ValueError, match=r"'unet' of .* is a SD3Transformer2DModel, .* needs a UNet2DConditionModel"):
        load_prior(folder)
    shutil.rmtree(folder / "unet")
    shutil.copytree(folders["epsilon"] / "unet", folder / "unet")
    with pytest.raises(ValueError, match=r"the UNet of .* has addition_embed_type None"):
        load_prior(folder)
    (folder / "unet").rename(folder / "transformer")
    edit_index(folder, unet=[None, None], transformer=["diffusers", "SD3Transformer2DModel"])
    with pytest.raises(FileNotFoundError, match="lacks the component 'unet': its entry in model_index"):
        load_prior(folder)


@pytest.mark.parametrize(
    ("family", "scheduler", "message"),
    [
        ("sd3", "DDIMScheduler", "a FlowMatchEulerDiscreteScheduler is needed"),
        ("sdxl", "FlowMatchEulerDiscreteScheduler", "supported with the variance-preserving noise"),
        ("sdxl", "EDMDPMSolverMultistepScheduler", "supported with the variance-preserving noise"),
    ],
)
def test_a_scheduler_of_another_family(folders, tmp_path, family, scheduler, message) -> None:
    folder = Path(shutil.copytree(folders[family], tmp_path / "prior"))
    edit_index(folder, scheduler=["diffusers", scheduler])
    with pytest.raises(ValueError, match=f"the scheduler of .* is {scheduler}; .*{message}"):
        load_prior(folder)


def test_half_of_t5(folders, tmp_path) -> None:
    folder = Path(shutil.copytree(folders["sd3"], tmp_path / "prior"))
    edit_index(folder, text_encoder_3=[None, None])
    with pytest.raises(FileNotFoundError, match="lacks the component 'text_encoder_3'"):
        load_prior(folder)


def test_a_t5_tokenizer_without_its_files(folders, tmp_path) -> None:
    folder = Path(shutil.copytree(folders["flux"], tmp_path / "prior"))
    (folder / "tokenizer_2" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"the tokenizer_2 of .* lacks its words"):
        load_prior(folder)


@pytest.fixture
def toy_family():
    """A family from outside of the package: one class with its declaration."""

    @family_of("ToyPipeline", preset="custom")
    class ToyPrior(StableDiffusionPrior):
        """Stable Diffusion that reads texts in capitals."""

        def _embed(self, prompts: list[str]) -> TextEmbeddings:
            return super()._embed([prompt.lower() for prompt in prompts])

    yield ToyPrior
    del FAMILIES["ToyPipeline"]


def test_a_family_is_one_declared_class(folders, tmp_path, toy_family) -> None:
    folder = Path(shutil.copytree(folders["epsilon"], tmp_path / "prior"))
    edit_index(folder, _class_name="ToyPipeline")
    prior = load_prior(folder)
    assert type(prior) is toy_family and prior.preset == "custom"
    loud, plain = prior.encode_text(["A RED MUG"]), load_prior(folders["epsilon"]).encode_text(["a red mug"])
    assert torch.equal(loud.tokens, plain.tokens)
    with pytest.raises(ValueError, match="ToyPrior: FluxPrior already loads a FluxPipeline"):
        family_of("FluxPipeline", preset="custom")(toy_family)


def test_every_family_names_a_preset_that_is_there() -> None:
    presets = {path.stem for path in (CONFIG_FOLDER / "prior").glob("*.yaml")}
    assert {family.preset for family in FAMILIES.values()} <= presets
