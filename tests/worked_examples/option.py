"""The option of docs/architecture.md: ``--mode test`` looks at as many views, and may change the number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from configs.fields import run_policies
from configs.schema import OutputConfig, RunConfig
from runs import from_checkpoint
from runs.train import train
from tests.systems.tiny_runs import with_output


@pytest.mark.parametrize("views", [1, 3])
def test_a_test_judges_that_many_views(config: RunConfig, tmp_path: Path, views: int) -> None:
    train(replace(config, iterations=1), tmp_path / "run")
    config = with_output(config, test_views=views)
    from_checkpoint.test(config, tmp_path / "test", tmp_path / "run/checkpoints/last.ckpt")
    assert len([*(tmp_path / "test/views").iterdir()]) == views


@pytest.mark.parametrize("views", [0, 361])
def test_a_number_out_of_range_is_refused(views: int) -> None:
    with pytest.raises(ValueError, match="test_views"):
        OutputConfig(test_views=views)


def test_another_number_than_in_training_is_allowed() -> None:
    assert run_policies()["output.test_views"].may_change("test")
