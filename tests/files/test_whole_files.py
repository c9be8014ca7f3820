from __future__ import annotations

import os

import pytest

from files.whole_files import whole_file


def test_a_file_appears_whole_and_in_one_step(tmp_path) -> None:
    path = tmp_path / "new" / "a.json"
    with whole_file(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists() and unfinished.parent == path.parent
    assert path.read_text() == "first" and os.listdir(path.parent) == ["a.json"]
    with whole_file(path) as unfinished:
        unfinished.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interruption_leaves_what_was_there(tmp_path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(error), whole_file(path) as unfinished:
        unfinished.write_text("half")
        raise error
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_process_left_is_no_obstacle(tmp_path) -> None:
    (tmp_path / "a.json.part").write_text("a long half of something")
    with whole_file(tmp_path / "a.json") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "a.json").read_text() == "new" and os.listdir(tmp_path) == ["a.json"]
