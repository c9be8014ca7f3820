"""Curves of a run are what its logs say, over all of its parts."""

from __future__ import annotations

from pathlib import Path

from systems.outputs.plots import read_logs, training_curves


def write_log(folder: Path, version: int, text: str) -> None:
    path = folder / f"logs/version_{version}/metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")


def test_a_resumed_run_has_one_curve(tmp_path: Path) -> None:
    """Iterations that were done again after a resume count as the second time; a figure may be absent from a part."""
    write_log(tmp_path, 2, "loss/guidance,render/opacity,step\n5.0,,20\n6.0,0.5,30\n")
    write_log(tmp_path, 10, "loss/guidance,step\n9.0,30\n")
    write_log(tmp_path, 0, "loss/guidance,step\n1.0,10\n2.0,20\n")
    logs = read_logs(tmp_path)
    assert logs == {"loss/guidance": ([10, 20, 30], [1, 5, 9]), "render/opacity": ([30], [0.5])}
    picture = training_curves(logs)
    assert picture.ndim == 3 and picture.float().std() > 0


def test_nothing_logged_is_no_picture(tmp_path: Path) -> None:
    assert read_logs(tmp_path) == {} and training_curves({"schedule/entropy": ([1], [2])}) is None
