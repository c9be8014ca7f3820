"""What a run says while it trains."""

from types import SimpleNamespace

import pytest
import torch

from systems.callbacks.notices import LOOK_EVERY, LOOKS, MEASURED, WARM_UP, EstimatorWatch, Forecast, in_words


def _run(callback, iterations, ratio=None, first=0, sizes=lambda at: 64):
    trainer = SimpleNamespace(callback_metrics={}, is_global_zero=True)
    system = SimpleNamespace(iterations=1000, training_size=sizes)
    for iteration in range(first + 1, first + iterations + 1):
        system.iteration = torch.tensor(iteration)
        if ratio is not None:
            trainer.callback_metrics["estimator/error_ratio"] = torch.tensor(ratio(iteration))
        callback.on_train_batch_end(trainer, system)


def test_the_forecast_comes_once_and_names_what_is_left(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr("systems.callbacks.notices.time.monotonic", lambda: float(next(clock)))
    _run(Forecast(), 60, first=500, sizes=lambda at: 64 if at < 900 else 128)
    said = capsys.readouterr().out
    left = 1000 - 500 - (1 + WARM_UP + MEASURED)
    assert said.count("\n") == 2 and f"the remaining {left} iterations: about 40 minutes" in said
    assert "once views have 128 instead of 64 pixels a side" in said


def test_durations_in_words():
    assert in_words(0.1) == "about 1 seconds" and in_words(80) == "about 80 seconds"
    assert in_words(200) == "about 3 minutes" and in_words(3 * 3600) == "about 3.0 hours"


def test_an_estimator_that_learns_nothing_is_named_once():
    enough = 2 * LOOKS * LOOK_EVERY
    with pytest.warns(UserWarning, match="still 0.99 of the frozen network's") as caught:
        _run(EstimatorWatch(), 2 * enough, ratio=lambda _: 0.99)
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ratio", [None, lambda at: 1.0 if at <= LOOKS * LOOK_EVERY else 0.9])
def test_one_that_learns_is_not(ratio):
    _run(EstimatorWatch(), 3 * LOOKS * LOOK_EVERY, ratio=ratio)
