from __future__ import annotations

import os

import pytest

from files.disk import DISK_ERRORS
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


@pytest.mark.parametrize("number", DISK_ERRORS)
def test_a_full_disk_is_named_whatever_a_library_makes_of_it(tmp_path, number: int) -> None:
    with pytest.raises(OSError) as caught, whole_file(tmp_path / "a.ckpt"):
        try:
            raise OSError(number, "as the system says")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904  (as PyTorch's zip writer)
    assert caught.value.errno == number and caught.value.filename == str(tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == []


def test_another_error_stays_what_it_is(tmp_path) -> None:
    error = RuntimeError("a bug")
    with pytest.raises(RuntimeError) as caught, whole_file(tmp_path / "a.json"):
        raise error
    assert caught.value is error
