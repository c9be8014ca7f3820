"""Messages say more than the text that they name."""

from __future__ import annotations

import pytest

import launch
from configs.sources import CONFIG_FOLDER
from settings.quoting import LONGEST, quoted


def test_what_is_short_or_no_text_is_shown_whole() -> None:
    assert quoted("a red mug") == "'a red mug'" and quoted([1, "x" * 200]) == repr([1, "x" * 200])


@pytest.mark.parametrize("text", ["word " * 300, "x" * 1000, "word\n" * 300])
def test_of_a_long_text_the_beginning_is_shown(text: str) -> None:
    shown = quoted(text)
    assert len(shown) < LONGEST + 10 and shown.endswith("[...]'") and shown[1:4] == text[:3]


@pytest.mark.parametrize("key", ["prior", "text.view_template", "guidance.loss"])
def test_a_message_does_not_repeat_three_hundred_words(key: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    config = str(CONFIG_FOLDER / "vsd-nerf.yaml")
    assert launch.main(["--config", config, f"{key}={'many words ' * 150}"]) == launch.MISTAKE
    assert f"error: {key}: 'many words" in (said := capsys.readouterr().err) and len(said) < 900
    assert launch.main(["--config", config, "many words " * 150]) == launch.MISTAKE
    assert len(capsys.readouterr().err) < 400
