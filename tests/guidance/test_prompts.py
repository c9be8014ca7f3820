"""Each camera gets the embedding of its own view's prompt."""

from __future__ import annotations

import pytest
import torch

from guidance.config import TextConfig
from guidance.prompts import embed_prompt, view_prompt
from renderers.cameras import Cameras, orbit_cameras
from renderers.config import VIEW_WORDS, ViewThresholds
from tests.rounding import assert_equal_to_rounding


def cameras_at(*directions: tuple[float, float]) -> Cameras:
    azimuth, elevation = torch.tensor(directions, dtype=torch.float32).T
    return orbit_cameras(azimuth, elevation, torch.ones(len(directions)), torch.full((len(directions),), 40.0))


def test_views_pick_their_own_prompt(epsilon_prior) -> None:
    embeddings = embed_prompt(epsilon_prior, "a red mug", TextConfig(negative="a blue chair"))
    around = cameras_at((0, 10), (90, 10), (180, 10), (30, 80), (30, -80), (-90, 0))
    batch = embeddings.for_cameras(around)
    words = [*VIEW_WORDS, "side"]
    expected = epsilon_prior.encode_text([f"a red mug, {word} view" for word in words])
    assert_equal_to_rounding(batch.conditional.tokens, expected.tokens)
    plain, negative = (epsilon_prior.encode_text([text] * 6).tokens for text in ("a red mug", "a blue chair"))
    assert_equal_to_rounding(batch.plain.tokens, plain)
    assert_equal_to_rounding(batch.unconditional.tokens, negative)
    assert (expected.tokens[0] - expected.tokens[1]).abs().max() > 0, "views must differ for this test to mean much"


def test_thresholds_and_template_are_the_callers(epsilon_prior) -> None:
    text = TextConfig(view_template="{view} view, {prompt}", view_thresholds=ViewThresholds(10, 10))
    batch = embed_prompt(epsilon_prior, "a red mug", text).for_cameras(cameras_at((20, 0)))
    assert_equal_to_rounding(batch.conditional.tokens, epsilon_prior.encode_text(["side view, a red mug"]).tokens)


def test_the_text_encoder_is_freed_unless_kept(epsilon_prior) -> None:
    embed_prompt(epsilon_prior, "a red mug", release_text_encoder=False)
    assert epsilon_prior._text_encoders
    embed_prompt(epsilon_prior, "a red mug")
    assert not epsilon_prior._text_encoders


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt(epsilon_prior, prompt: str) -> None:
    with pytest.raises(ValueError, match=r"prompt: '' is empty; say what to make"):
        embed_prompt(epsilon_prior, prompt)


@pytest.mark.parametrize("template", ["{view} view", "{prompt}, {vew} view", "{prompt}, {", "{prompt} {}"])
def test_a_bad_template(template: str) -> None:
    with pytest.raises(ValueError, match=r"view_template\n.* must contain \{prompt\}"):
        TextConfig(view_template=template)


def test_braces_in_a_prompt_are_text() -> None:
    assert view_prompt(TextConfig(), "a {red} mug", "side") == "a {red} mug, side view"
