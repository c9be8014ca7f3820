"""Views' prompts go without the words that contradict them, listed by hand or found by a language model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from guidance.config import DebiasingConfig, TextConfig
from guidance.debiasing import ViewLanguageModel, contradicting_words, find_contradictions, without_words
from guidance.prompts import embed_prompt
from renderers.config import VIEW_WORDS
from tests.rounding import assert_equal_to_rounding
from tests.tiny_image_text import save_tiny_language_model


@pytest.mark.parametrize(
    ("text", "words", "left"),
    [
        ("a smiling dog", ("smiling",), "a dog"),
        ("a Smiling, happy dog", ("smiling", "HAPPY"), "a, dog"),
        ("a dog, smiling", ("smiling",), "a dog"),
        ("smiling, a dog", ("smiling",), "a dog"),
        ("a dog, smiling, red", ("smiling",), "a dog, red"),
        ("a smile, smiling-like", ("smiling", "smil"), "a smile, smiling-like"),
        ("a dog with a big face", ("with a big face",), "a dog"),
        ("a  dog", (), "a  dog"),
    ],
)
def test_whole_words_go_and_leave_no_hole(text: str, words: tuple[str, ...], left: str) -> None:
    assert without_words(text, words) == left


def test_a_list_changes_its_own_view_alone(epsilon_prior) -> None:
    text = TextConfig(debiasing=DebiasingConfig(back=("red",)))
    found = embed_prompt(epsilon_prior, "a red mug", text)
    views = [f"a red mug, {word} view" for word in VIEW_WORDS]
    views[VIEW_WORDS.index("back")] = "a mug, back view"
    expected = epsilon_prior.encode_text([*views, "a red mug"])
    assert_equal_to_rounding(found.views.tokens, expected.tokens[:5])
    assert_equal_to_rounding(found.plain.tokens, expected.tokens[5:])  # the estimator reads all of it


def likelihoods(sentences: list[str]) -> torch.Tensor:
    """As if "smiling" made front views three times and "flat" bottom views four times as likely."""
    rows = torch.ones(len(sentences), len(VIEW_WORDS))
    for row, sentence in zip(rows, sentences, strict=True):
        row[VIEW_WORDS.index("front")] *= 3 if "smiling" in sentence else 1
        row[VIEW_WORDS.index("bottom")] *= 4 if "flat" in sentence else 1
    return rows / rows.sum(dim=1, keepdim=True)


def test_a_word_contradicts_the_views_that_it_makes_unlikely() -> None:
    """Without "smiling" every other view is 10/8 as likely, without "flat" 10/7: only its view gains by a word."""
    prompt, words = "a smiling flat dog", ("a", "smiling", "flat", "dog")
    others = {view: ("smiling", "flat") for view in ("side", "back", "overhead")}
    found = find_contradictions(prompt, words, likelihoods, threshold=0.85)
    assert found == {"front": ("flat",), "bottom": ("smiling",), **others}
    strict = find_contradictions(prompt, words, likelihoods, threshold=0.75)
    assert strict == {"front": ("flat",), "bottom": (), **{view: ("flat",) for view in others}}
    assert find_contradictions(prompt, ("dog",), likelihoods, 0.85) == {view: () for view in VIEW_WORDS}
    assert not any(find_contradictions(prompt, words, likelihoods, 0.5).values())


def test_a_language_model_is_asked_for_the_view_words_alone(tmp_path) -> None:
    folder = save_tiny_language_model(tmp_path)
    found = ViewLanguageModel(str(folder))(["a red mug", "a smiling red mug"])
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    sentence = tokenizer("this image is depicting a [MASK] view of a smiling red mug", return_tensors="pt")
    logits = model(**sentence).logits[0, 6]  # [CLS] this image is depicting a [MASK]
    expected = logits[tokenizer.convert_tokens_to_ids(list(VIEW_WORDS))].softmax(dim=0)
    assert_equal_to_rounding(found[1], expected)
    assert found.shape == (2, 5) and not torch.allclose(found[0], found[1])


def test_model_and_lists_add_up(tmp_path) -> None:
    folder = save_tiny_language_model(tmp_path)
    prompt = "a smiling red mug"
    model = ViewLanguageModel(str(folder))
    judged = find_contradictions(prompt, ("smiling",), model, 0.99)
    config = DebiasingConfig(str(folder), threshold=0.99, candidates=("smiling",), side=("red",))
    found = contradicting_words(prompt, config)
    assert found == {view: (("red",) if view == "side" else ()) + judged[view] for view in VIEW_WORDS}
    assert any(judged.values()) and not all(judged.values())


def test_errors_say_what_to_do(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"the back view's prompt would lose all its words \(a, mug\)"):
        contradicting_words("a mug", DebiasingConfig(back=("a", "mug")))
    with pytest.raises(FileNotFoundError, match=r"text\.debiasing\.model: .* list the words by hand"):
        contradicting_words("a mug", DebiasingConfig(model=str(tmp_path / "none")))
    folder = save_tiny_language_model(tmp_path, words=("front", "back", "mug"))
    with pytest.raises(ValueError, match="has no single token for side, overhead, bottom"):
        contradicting_words("a mug", DebiasingConfig(model=str(folder)))
    with pytest.raises(ValueError, match=r"threshold\n.* less than 1"):
        DebiasingConfig(threshold=1.0)


@pytest.mark.parametrize("name", ["back", "candidates"])
def test_a_listed_word_must_be_in_the_prompt(name: str) -> None:
    with pytest.raises(ValueError, match=rf"text.debiasing.{name}: 'smilling' not in the prompt 'a smiling dog'; "):
        contradicting_words("a smiling dog", DebiasingConfig(**{name: ("smiling", "smilling")}))
