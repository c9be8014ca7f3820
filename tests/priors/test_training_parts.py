"""What the bundled networks' training stands on: the loop, the tokenizer, checksums, weights, captions."""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextModel

from files.checksums import verify_checksums, write_checksums
from priors.assemble import make_portable
from priors.caption_table import CaptionTable
from priors.evaluate import all_requests, diversity_requests, pairwise_distance
from priors.fitting import FitConfig, average_gradients, fit, lr_ratio
from priors.judge_model import JUDGE_SIZE, Judge, load_judge, save_judge
from priors.tokenizer import MAX_TOKENS, build_tokenizer
from priors.train_autoencoder import augment as augment_autoencoder
from priors.train_autoencoder import build_autoencoder, start_from_half_size
from priors.train_diffusion import (
    LatentPool,
    build_scheduler,
    build_text_encoder,
    build_unet,
    loss_weight,
    tokenize,
)
from priors.train_judge import augment as augment_judge
from priors.train_judge import away_from_view_borders, contrastive_loss, shrink
from priors.world.appearance import COLORS, PATTERNS
from priors.world.captions import ATTRIBUTES, all_captions, compose, sample_caption, vocabulary
from priors.world.classes import CLASSES
from priors.world.dataset import render_dataset
from renderers.config import VIEW_WORDS
from tests.tiny_priors import save_tiny_stable_diffusion


def _regression(tmp_path, steps, name, **overrides):
    torch.manual_seed(0)
    module = nn.Linear(4, 1)
    weights = torch.tensor([[1.0, -2.0, 0.5, 3.0]])

    def loss_of(generator):
        x = torch.randn(32, 4, generator=generator)
        return (module(x).float() - x @ weights.T).square().mean(), {}

    config = FitConfig(steps, 32, 0.1, warmup_steps=5, ema_decay=0.9, save_every=10, log_every=10, **overrides)
    average = fit(module, loss_of, config, tmp_path / name, "test")
    return module, average, weights


def test_fit_learns_and_averages(tmp_path):
    module, average, weights = _regression(tmp_path, 200, "a.pt")
    assert (module.weight - weights).abs().max() < 0.05
    assert (average.weight - weights).abs().max() < 0.05
    assert not average.weight.requires_grad


def test_fit_resumes_to_the_same_weights_bit_for_bit(tmp_path):
    whole, whole_average, _ = _regression(tmp_path, 40, "whole.pt")
    _regression(tmp_path, 40, "parts.pt", max_minutes=0.0)  # stops after one step
    assert torch.load(tmp_path / "parts.pt")["step"] == 1
    resumed, resumed_average, _ = _regression(tmp_path, 40, "parts.pt")
    for name in ("whole", "parts"):  # a row for every ten steps, whether interrupted or not
        table = (tmp_path / f"{name}.csv").read_text().splitlines()
        assert table[0] == "step,loss" and [row.split(",")[0] for row in table[1:]] == ["10", "20", "30", "40"]
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole_average.weight, resumed_average.weight)


def test_learning_rate_rises_then_falls():
    config = FitConfig(100, 1, 1.0, warmup_steps=10, final_lr_ratio=0.1)
    ratios = [lr_ratio(step, config) for step in range(101)]
    assert ratios[0] == pytest.approx(0.1) and ratios[9] == ratios[10] == pytest.approx(1.0)
    assert ratios[10:] == sorted(ratios[10:], reverse=True) and ratios[100] == pytest.approx(0.1)
    by_clock = FitConfig(10**9, 1, 1.0, warmup_steps=10, final_lr_ratio=0.1, minutes=8.0)
    assert [lr_ratio(500, by_clock, minutes) for minutes in (0.0, 4.0, 8.0, 9.0)] == pytest.approx([1, 0.55, 0.1, 0.1])


def test_fit_ends_by_the_clock_and_reports_a_loss_that_is_not_finite(tmp_path):
    _regression(tmp_path, 10**9, "clock.pt", minutes=0.0)
    state = torch.load(tmp_path / "clock.pt")
    assert state["step"] == 1 and state["minutes"] >= 0
    module = nn.Linear(1, 1)
    config = FitConfig(20, 1, 0.1, log_every=5)
    with pytest.raises(FloatingPointError, match="isn't finite at step 4"):
        fit(module, lambda _: (module.weight.sum() * torch.nan, {}), config, tmp_path / "nan.pt", "test")
    assert not (tmp_path / "nan.pt").exists()


def test_every_word_is_one_token_and_captions_fit():
    tokenizer = build_tokenizer(vocabulary())
    for word in vocabulary():
        assert len(tokenizer(word)["input_ids"]) == 3, word
    rng = np.random.default_rng(0)
    captions = [sample_caption("television", "orange", "striped", "overhead", rng) for _ in range(200)]
    captions.append(compose("television", "orange", "striped", "overhead", "picture"))
    assert max(len(tokenizer(caption)["input_ids"]) for caption in captions) <= MAX_TOKENS
    assert len(tokenizer("zebra")["input_ids"]) > 3  # an unknown word falls apart
    assert tokenize(tokenizer, ["", "a mug"]).shape == (2, MAX_TOKENS)


def test_a_table_draws_the_captions_that_the_grammar_draws():
    words = ("mug", "red", "striped", "side")
    choices = all_captions(*words)
    assert sum(share for _, share in choices) == pytest.approx(1.0)
    assert len({len(all_captions(c, "red", p, "top")) for c in CLASSES for p in PATTERNS}) == 1
    rng = np.random.default_rng(0)
    drawn = [sample_caption(*words, rng) for _ in range(4000)]
    assert set(drawn) <= {caption for caption, _ in choices}
    for caption, share in sorted(choices, key=lambda choice: -choice[1])[:6]:
        assert drawn.count(caption) / 4000 == pytest.approx(share, abs=4 * (share / 4000) ** 0.5)
    judge = Judge()
    table = CaptionTable(judge.tokenize, torch.device("cpu"))
    label = torch.tensor([ATTRIBUTES[name].index(word) for name, word in zip(ATTRIBUTES, words, strict=True)])
    tokens = table.draw(label.expand(4000, -1), torch.Generator().manual_seed(0))
    counts = {tuple(row): 0 for row in judge.tokenize([caption for caption, _ in choices]).tolist()}
    longest = tokens.shape[1]
    counts = {(*row, *[-1] * (longest - len(row))): 0 for row in counts}
    for row in tokens.tolist():
        counts[tuple(row)] += 1
    for (_, share), count in zip(choices, counts.values(), strict=True):
        assert count / 4000 == pytest.approx(share, abs=4 * (share / 4000) ** 0.5 + 1e-3)


def test_contrastive_loss_shares_equal_captions_and_skips_empty_ones():
    torch.manual_seed(0)
    pictures, texts = (F.normalize(torch.randn(4, 8), dim=-1) for _ in range(2))
    tokens = torch.tensor([[0, 1], [2, 3], [4, -1], [-1, -1]])
    scale = torch.tensor(3.0)
    similarity = scale * pictures[:3] @ texts[:3].T
    plain = (F.cross_entropy(similarity, torch.arange(3)) + F.cross_entropy(similarity.T, torch.arange(3))) / 2
    torch.testing.assert_close(contrastive_loss(pictures, texts, tokens, scale), plain)
    same = torch.tensor([[0, 1], [0, 1]])
    loss = contrastive_loss(pictures[:1].expand(2, -1), texts[:1].expand(2, -1), same, scale)
    assert loss.item() == pytest.approx(np.log(2), abs=1e-5)  # both captions are as likely


def test_latents_are_taken_up_while_others_render(tmp_path, monkeypatch):
    saved = tmp_path / "vae"
    build_autoencoder().save_pretrained(saved)
    monkeypatch.setattr("priors.world.dataset.SHARD", 2)
    pool = LatentPool(tmp_path / "world", 4, saved, torch.device("cpu"))
    pool.refresh()
    assert len(pool) == 0
    _, labels = render_dataset(tmp_path / "world", 2, processes=1)
    pool.refresh()
    assert pool.latents.shape == (2, 8, 16, 16)
    assert pool.labels.tolist() == [[row[name] for name in ATTRIBUTES] for row in labels]
    before = pool.latents.clone()
    render_dataset(tmp_path / "world", 4, processes=1)
    with torch.autocast("cpu", torch.bfloat16):  # as in the training loop
        pool.refresh()
    pool.refresh()  # nothing is taken twice
    assert len(pool) == 4 and torch.equal(pool.latents[:2], before)


def test_networks_fit_together_and_stay_small():
    tokenizer = build_tokenizer(vocabulary())
    unet, text_encoder = build_unet(6), build_text_encoder(tokenizer)
    with torch.no_grad():
        text = text_encoder(tokenize(tokenizer, ["a red mug"])).last_hidden_state
        out = unet(torch.randn(1, 6, 16, 16), torch.tensor([5]), text).sample
    assert out.shape == (1, 6, 16, 16)
    assert sum(p.numel() for m in (unet, text_encoder) for p in m.parameters()) * 2 < 46 * 2**20


def test_noise_schedule_is_stable_diffusions():
    schedule = build_scheduler()
    assert schedule.config.clip_sample is False
    assert schedule.alphas_cumprod[0] == pytest.approx(0.99915, abs=1e-5)
    assert schedule.alphas_cumprod[-1] == pytest.approx(0.0047, abs=1e-4)
    weights = loss_weight(schedule.alphas_cumprod)
    assert (weights.diff() >= -1e-6).all() and weights[0] < 0.01
    late = schedule.alphas_cumprod < 0.5  # where the signal is the weaker part: 1 / alpha alone
    torch.testing.assert_close(weights[late], schedule.alphas_cumprod[late].rsqrt())


def test_augmentation_permutes_whole_channels_only():
    images = torch.arange(8 * 3 * 4 * 4.0).view(8, 3, 4, 4)
    out = augment_autoencoder(images, torch.Generator().manual_seed(0))
    for before, after in zip(images, out, strict=True):
        candidates = [before, before.flip(-1)]
        assert any(sorted(c.sum((1, 2)).tolist()) == sorted(after.sum((1, 2)).tolist()) for c in candidates)
        assert {tuple(row) for row in after.flatten(1).sort(-1).values.tolist()} == {
            tuple(row) for row in before.flatten(1).sort(-1).values.tolist()
        }


def _half_size_autoencoder():
    torch.manual_seed(0)
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    return network.eval()


@torch.no_grad()
def test_an_autoencoder_of_half_the_size_gives_the_latents():
    half, network = _half_size_autoencoder(), build_autoencoder().eval()
    start_from_half_size(network, half)
    small = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    large = small.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    expected, found = half.encode(small).latent_dist, network.encode(large).latent_dist
    # No approximation where 2x2 pixels are equal, borders included.
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logvar, expected.logvar, atol=1e-4, rtol=1e-4)
    decoded = network.decode(expected.mean).sample
    assert decoded.shape == large.shape
    difference = F.avg_pool2d(decoded, 2) - half.decode(expected.mean).sample
    assert difference.square().mean() < 0.25 * half.decode(expected.mean).sample.var()


def test_judge_sees_larger_pictures_averaged():
    torch.manual_seed(0)
    judge, images = Judge().eval(), torch.randint(0, 256, (2, 128, 128, 3), dtype=torch.uint8)
    small = shrink(images)
    assert small.shape == (2, 3, JUDGE_SIZE, JUDGE_SIZE) and small.dtype == torch.uint8
    with torch.no_grad():
        large = judge(images.permute(0, 3, 1, 2) / 255).features
        torch.testing.assert_close(large, judge(small / 255).features, atol=0.02, rtol=0.02)


def test_pairwise_distance_and_its_requests():
    points = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    assert pairwise_distance(points) == pytest.approx((10 / 3 + 0) / 2)
    with pytest.raises(ValueError, match="at least 2"):
        pairwise_distance(points[:, :1])
    requests = diversity_requests(3)
    assert len(requests) == 3 * len(CLASSES) and len({r.prompt for r in requests}) == len(CLASSES)
    assert requests[0] == requests[2] != requests[3]


def test_a_saved_pipeline_names_no_folder_and_keeps_its_text_encoder(tmp_path):
    folder = save_tiny_stable_diffusion(tmp_path / "tiny")
    before = CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "_name_or_path": "somewhere/here"}))
    for _ in range(2):  # the second time changes nothing
        make_portable(folder)
        saved = load_file(folder / "text_encoder" / "model.safetensors")
        assert all(name.startswith("text_model.") and "text_model.text_model." not in name for name in saved)
    assert json.loads((folder / "unet" / "config.json").read_text()) == config
    for path in folder.rglob("*config.json"):
        assert not {"_name_or_path", "is_local", "local_files_only"} & json.loads(path.read_text()).keys()
    model, report = CLIPTextModel.from_pretrained(folder / "text_encoder", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    # The files that older versions of transformers read say the same as the one of newer versions.
    tokenizer = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]
    assert json.loads((folder / "tokenizer" / "vocab.json").read_text()) == tokenizer["vocab"]
    merges = (folder / "tokenizer" / "merges.txt").read_text().splitlines()[1:]
    assert [line.split(" ") for line in merges] == [list(pair) for pair in tokenizer["merges"]]


def test_judge_round_trip_and_damage(tmp_path):
    torch.manual_seed(0)
    judge = Judge().eval()
    save_judge(judge, tmp_path / "judge", {"accuracy": 0.5})
    again = load_judge(tmp_path / "judge")
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(judge(x).features, again(x).features, atol=1e-2, rtol=1e-2)
    weights = tmp_path / "judge" / "judge.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"judge\.safetensors.*truncated or altered"):
        load_judge(tmp_path / "judge")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"judge\.safetensors: missing"):
        load_judge(tmp_path / "judge")


def test_judge_text_is_additive_and_names_unknown_words():
    judge = Judge()
    a, b = judge.embed_text(["a red mug"]), judge.embed_text(["mug a red"])
    torch.testing.assert_close(a, b)
    assert a.norm().item() == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="zebra"):
        judge.embed_text(["a zebra"])
    with pytest.raises(ValueError, match="at least one word"):
        judge.embed_text(["a mug", " "])


def test_judge_augmentation_shifts_the_batch_by_up_to_three_pixels():
    pictures = torch.zeros(64, 3, JUDGE_SIZE, JUDGE_SIZE)
    pictures[..., 32, 32] = 1.0
    seen = set()
    for seed in range(40):
        shown = augment_judge(pictures, torch.Generator().manual_seed(seed))
        assert shown.shape == pictures.shape
        sharp = shown[shown.flatten(1).amax(dim=1) == 1]
        seen |= {(row, column) for _, _, row, column in sharp.nonzero().tolist()}
    rows, columns = {row for row, _ in seen}, {column for _, column in seen}
    assert rows == set(range(29, 36)) and columns == set(range(28, 36))  # the mirrored ones start at 31


def test_checksums_ignore_prose_and_catch_changes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "weights.bin").write_bytes(b"1234")
    (tmp_path / "README.md").write_text("card")
    write_checksums(tmp_path)
    (tmp_path / "README.md").write_text("another card")
    verify_checksums(tmp_path)
    (tmp_path / "a" / "weights.bin").write_bytes(b"1235")
    with pytest.raises(ValueError, match=r"weights\.bin"):
        verify_checksums(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        verify_checksums(tmp_path / "none")


def test_requests_cover_every_prompt_with_balanced_patterns():
    requests = all_requests()
    assert len(requests) == len(CLASSES) * len(COLORS) * len(VIEW_WORDS)
    assert len({r.prompt for r in requests}) == len(requests)
    for view in VIEW_WORDS:
        counts = [sum(r.pattern == p and r.view == view for r in requests) for p in PATTERNS]
        assert max(counts) - min(counts) <= 1
    assert list(ATTRIBUTES["view"]) == list(VIEW_WORDS)


def test_view_borders_are_left_out():
    rows = [
        {"azimuth_deg": a, "elevation_deg": e} for a, e in ((0, 20), (44, 20), (-136, 20), (44, 75), (0, 58), (0, -3))
    ]
    assert away_from_view_borders(rows).tolist() == [True, False, False, True, False, False]


def _average_in_a_process(rank: int, folder: str, processes: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=processes)
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(5))]
    parameters[0].grad = torch.full((2, 3), float(rank))
    parameters[1].grad = torch.arange(5.0) * (rank + 1)
    average_gradients(parameters, processes)
    torch.save([p.grad for p in parameters], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_gradients_are_averaged_over_processes(tmp_path):
    torch.multiprocessing.spawn(_average_in_a_process, (str(tmp_path), 2), nprocs=2)
    for rank in range(2):
        first, second = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(first, torch.full((2, 3), 0.5))
        assert torch.equal(second, torch.arange(5.0) * 1.5)
