"""Randomly initialised image-text models and a language model, small enough for tests, saved as real ones are."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
)

from priors.judge_model import Judge, save_judge
from priors.tokenizer import MAX_TOKENS, build_tokenizer
from renderers.config import VIEW_WORDS
from tests.tiny_priors import WORDS

CLIP_SIZE = 16  # pixels a side


def save_tiny_clip(folder: Path) -> Path:
    """Two layers on each side, and a normalisation of its own."""
    tokenizer = build_tokenizer(WORDS)
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_TOKENS, **layers, **marks)
    vision = CLIPVisionConfig(image_size=CLIP_SIZE, patch_size=8, **layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": CLIP_SIZE}, crop_size=CLIP_SIZE, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]
    ).save_pretrained(folder)
    return folder


def save_tiny_judge(folder: Path) -> Path:
    """The judge is small already; its weights are random here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_judge(Judge(), folder, {})
    return folder


def save_tiny_language_model(folder: Path, words: tuple[str, ...] = (*VIEW_WORDS, "smiling", "mug", "red")) -> Path:
    """A masked language model that has a single token for each view word."""
    folder.mkdir(parents=True, exist_ok=True)
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*marks, "this", "image", "is", "depicting", "a", "view", "of", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # Weights so large that words make a difference.
        BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), initializer_range=1.0, **sizes)).save_pretrained(folder)
    return folder
