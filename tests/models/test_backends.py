"""Which code computes a thing: what works there, what is said where something doesn't, and what is an error."""

from __future__ import annotations

import importlib
import importlib.util
import logging

import pytest
import torch

from models import backends
from models.backends import NUMBA, TORCH, TRITON, Backend, BackendChoice, package_obstacle, triton_obstacle

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


def choice(*candidates: Backend, configured: str = "auto") -> BackendChoice:
    return BackendChoice("hash grid", "hash_grid.backend", configured, candidates)


def broken(name: str, reason: str) -> Backend:
    return Backend(name, "cuda", lambda device: reason)


@pytest.fixture
def fresh():
    """What was found out about Triton is forgotten, before and after."""
    backends._device_obstacle.cache_clear()
    yield
    backends._device_obstacle.cache_clear()


def test_auto_takes_the_first_that_works_and_says_once_why_others_do_not(caplog):
    chosen = choice(NUMBA, broken("triton", "no compiler"), broken("tinycudann", "it is broken"), TORCH)
    with caplog.at_level(logging.INFO, logger="models.backends"):
        assert [chosen.on(CUDA), chosen.on(CUDA)] == ["torch", "torch"]
    assert [record.getMessage() for record in caplog.records] == [
        "hash grid: torch is used on cuda: no triton, because no compiler; no tinycudann, because it is broken",
        "hash grid: backend torch on cuda (configured: auto)",
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_auto_says_nothing_of_what_was_not_made_for_the_device(caplog):
    with caplog.at_level(logging.WARNING, logger="models.backends"):
        assert choice(broken("triton", "no compiler"), TORCH).on(CPU) == "torch"
        assert choice(NUMBA, Backend("triton", "cuda"), TORCH).on(CUDA) == "triton"
    assert caplog.records == []


def test_a_named_backend_runs_or_is_an_error(monkeypatch):
    monkeypatch.setattr(backends, "triton_interpreted", lambda: False)
    with pytest.raises(ValueError, match=r"hash_grid.backend: 'triton' runs on cuda, not on cpu; set it to 'auto'"):
        choice(Backend("triton", "cuda"), TORCH, configured="triton").on(CPU)
    with pytest.raises(ValueError, match=r"'triton' cannot be used: no compiler; docs/install.md says what it needs"):
        choice(broken("triton", "no compiler"), TORCH, configured="triton").on(CUDA)
    assert choice(broken("triton", "no compiler"), TORCH, configured="torch").on(CUDA) == "torch"


def test_missing_and_broken_packages(monkeypatch):
    assert package_obstacle("no_such_package") == "no_such_package is not installed"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def fail(name):
        raise OSError("libcudart.so.11: cannot open shared object file\nand more")

    monkeypatch.setattr(importlib, "import_module", fail)
    expected = "kaolin cannot be loaded (OSError: libcudart.so.11: cannot open shared object file)"
    assert package_obstacle("kaolin") == expected


def test_old_gpus_are_named_by_their_capability(monkeypatch, fresh):
    monkeypatch.setattr(backends, "package_obstacle", lambda package: None)
    monkeypatch.setattr(backends, "triton_interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert triton_obstacle(CUDA) == "compute capability 6.1 is below 7.0"


def test_a_kernel_that_cannot_be_compiled_is_told_in_one_line(monkeypatch, fresh):
    def fail(device):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nTraceback")

    monkeypatch.setattr(backends, "package_obstacle", lambda package: None)
    monkeypatch.setattr(backends, "_trial_succeeds", fail)
    expected = "a trial kernel failed (RuntimeError: Failed to find C compiler. Please specify via CC environment"
    assert triton_obstacle(CPU).startswith(expected) and "\n" not in triton_obstacle(CPU)
    backends._device_obstacle.cache_clear()
    monkeypatch.setattr(backends, "_trial_succeeds", lambda device: False)
    assert triton_obstacle(CPU) == "a trial kernel computed a wrong sum"


def test_without_triton_a_gpu_falls_back_to_the_reference(monkeypatch, fresh, caplog):
    monkeypatch.setattr(backends, "package_obstacle", lambda package: f"{package} is not installed")
    assert choice(NUMBA, TRITON, TORCH).on(CUDA) == "torch"
    assert "no triton, because triton is not installed" in caplog.text
