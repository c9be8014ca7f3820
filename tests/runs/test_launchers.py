"""Runs whose processes a launcher starts: real processes with the variables that SLURM and torchrun set."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import launch
from configs.load import to_yaml
from configs.sources import CONFIG_FOLDER
from runs import processes
from tests.systems.tiny_runs import load, tiny_config, with_output

VSD = str(CONFIG_FOLDER / "vsd-nerf.yaml")
RUNS = "outputs/vsd-nerf/a-red-mug"
LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "JSM_", "OMPI_", "PMI", "PROLIFICDREAMER_RUN", "PROLIFICDREAMER_FIRST")
NAMES = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def clean() -> dict[str, str]:
    """This environment without a launcher."""
    return {key: text for key, text in os.environ.items() if key not in NAMES and not key.startswith(LAUNCHERS)}


def slurm(rank: int, tasks: int, **more: str) -> dict[str, str]:
    """The variables of a task of ``srun --ntasks``, without those that only some of its options set."""
    task = {"PROCID": rank, "LOCALID": rank, "NODEID": 0, "NTASKS": tasks, "NNODES": 1, "JOB_ID": 4242, "JOB_NAME": "a"}
    return {f"SLURM_{name}": str(value) for name, value in task.items()} | more


@pytest.fixture
def alone(monkeypatch) -> pytest.MonkeyPatch:
    """No launcher but the one that the test makes up; what the program sets in the environment ends with the test."""
    for key in set(os.environ) - set(clean()):
        monkeypatch.delenv(key)
    for name in (processes.RUN_FOLDER_VARIABLE, processes.FIRST_PROCESS_VARIABLE, "SLURM_NTASKS_PER_NODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture
def start(prior_folder: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a process of a tiny run in the test's folder; kills it at the end."""
    config = with_output(tiny_config(prior_folder), checkpoint_every=1)
    (tmp_path / "tiny.yaml").write_text(to_yaml(config))
    begun: list[subprocess.Popen] = []

    def start(environment: dict[str, str], *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen:
        command = [sys.executable, *before, str(CONFIG_FOLDER.parent / "launch.py"), "--config", "tiny.yaml"]
        command += [f"prior={prior_folder}", "trainer.accelerator=cpu", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        begun.append(subprocess.Popen(command, cwd=tmp_path, env=clean() | environment, **pipes))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def ended(*group: subprocess.Popen, status: int = 0, within: float = 300) -> list[str]:
    """What processes said until they ended with a status."""
    said = [process.communicate(timeout=within)[0] for process in group]
    assert [process.returncode for process in group] == [status] * len(group), "\n".join(text[-3000:] for text in said)
    return said


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise TimeoutError(str(path))


def run_of(place: Path) -> Path:
    """The one folder below a prompt's."""
    (folder,) = (place / RUNS).iterdir()
    return folder


@pytest.mark.slow
def test_slurm_tasks_make_one_run_and_a_requeued_job_goes_on(start, tmp_path) -> None:
    """SIGUSR1 reaches one task; both stop at the same iteration, and the first one puts the job into the queue."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin/scontrol"
    scontrol.write_text('#!/bin/sh\necho "$@" >> requeued\n')
    scontrol.chmod(0o755)
    shared = {"PATH": f"{scontrol.parent}:{os.environ['PATH']}", "MASTER_PORT": free_port()}
    count = ("trainer.devices=2", "iterations=2000")
    first, second = (start(slurm(rank, 2, **shared), *count) for rank in (0, 1))
    wait_for(tmp_path / RUNS, first)
    folder = run_of(tmp_path)
    assert folder.name.startswith("slurm-4242-")
    wait_for(folder / "checkpoints/000001.ckpt", first)
    second.send_signal(signal.SIGUSR1)
    said, _ = ended(first, second, status=launch.INTERRUPTED)
    assert "x 2, precision" in said and "SLURM job 4242 is in the queue again" in said
    assert (tmp_path / "requeued").read_text() == "requeue 4242\n"
    stopped = load(folder / "checkpoints/last.ckpt")["run"]["iteration"]
    assert 0 < stopped < 2000

    again = shared | {"SLURM_RESTART_COUNT": "1", "MASTER_PORT": free_port()}
    first, second = (start(slurm(rank, 2, **again), *count) for rank in (0, 1))
    wait_for(folder / f"checkpoints/{stopped + 1:06d}.ckpt", first)
    assert run_of(tmp_path) == folder
    first.send_signal(signal.SIGTERM)  # of `scancel`, after which a job must not come back
    said, _ = ended(first, second, status=launch.INTERRUPTED)
    assert "go on    " in said and (tmp_path / "requeued").read_text() == "requeue 4242\n"


@pytest.mark.slow
def test_when_the_first_task_is_killed_the_others_end(start, tmp_path) -> None:
    port = {"MASTER_PORT": free_port()}
    count = ("trainer.devices=2", "iterations=100000")
    first, second = (start(slurm(rank, 2, **port), *count) for rank in (0, 1))
    wait_for(tmp_path / RUNS, first)
    wait_for(run_of(tmp_path) / "checkpoints/000001.ckpt", first)
    first.kill()
    second.communicate(timeout=30)
    assert second.returncode != 0


@pytest.mark.slow
def test_when_the_process_that_started_the_others_is_killed_they_end(start, tmp_path) -> None:
    """Also while they prepare, when nothing connects the processes yet."""
    first = start({}, "trainer.devices=2", "iterations=100000", "output.run=mine")
    wait_for(tmp_path / RUNS / "mine/logs", first)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
    if not children.exists():
        pytest.skip("the system doesn't list children")
    for _ in range(600):
        found = [int(number) for number in children.read_text().split()]
        found = [number for number in found if b"launch.py" in Path(f"/proc/{number}/cmdline").read_bytes()]
        if found:
            break
        time.sleep(0.1)
    first.kill()
    (second,) = found
    for _ in range(300):
        if not Path(f"/proc/{second}").exists():
            return
        time.sleep(0.1)
    os.kill(second, signal.SIGKILL)
    raise AssertionError("the second process lives on")


@pytest.mark.slow
def test_torchrun_makes_one_run_with_a_dated_name(start, tmp_path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    (said,) = ended(start({}, "trainer.devices=2", "iterations=1", before=torchrun))
    assert said.count("x 2, precision") == said.count("done     1 iterations") == 1
    folder = run_of(tmp_path)
    assert folder.name.startswith("20") and load(folder / "checkpoints/last.ckpt")["run"]["iteration"] == 1


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        (slurm(0, 2), True),
        (slurm(1, 2), False),
        (slurm(1, 2) | {"SLURM_JOB_NAME": "interactive"}, True),
        (slurm(1, 2) | {"SLURM_JOB_NAME": "bash"}, True),
        ({"TORCHELASTIC_RUN_ID": "none", "RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, False),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, False),  # Kubeflow
    ],
)
def test_lightnings_environments_know_the_first_process(variables, first, alone) -> None:
    for name, text in variables.items():
        alone.setenv(name, text)
    assert processes.is_first_process() is first


def test_a_shell_in_a_slurm_job_gives_dated_names(alone) -> None:
    alone.setenv("SLURM_JOB_ID", "4242")
    assert processes.slurm_run_name(["seed=1"]) != processes.slurm_run_name(["seed=2"])
    alone.setenv("SLURM_JOB_NAME", "interactive")
    assert processes.slurm_run_name(["seed=1"]) is None


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        (slurm(0, 2), [], r"trainer.devices: 1 on each of trainer.num_nodes=1 .*\(SLURM\) has started 2; set"),
        (slurm(0, 2), ["trainer.devices=1", "trainer.num_nodes=2"], "trainer.num_nodes: 2, with trainer.devices=1 on"),
        (slurm(0, 2) | {"SLURM_NNODES": "3"}, ["trainer.devices=2"], "launcher: You set `--ntasks=2`"),
        (
            {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"},
            ["trainer.devices=2"],
            r"trainer.devices: 2 .* makes 2 process.*\(TorchElastic\) has started 4",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            ["trainer.num_nodes=2"],
            "output.run: the processes that the launcher has started cannot agree",
        ),
        ({}, ["trainer.num_nodes=2"], "output.run: the processes that the launcher has started cannot agree"),
    ],
)
def test_a_launcher_that_contradicts_the_configuration_is_one_message(
    variables, arguments, message, alone, run, capsys, tmp_path
) -> None:
    for name, text in variables.items():
        alone.setenv(name, text)
    assert launch.main(["--config", VSD, *arguments]) == launch.MISTAKE
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and re.search(message, said)
    assert not run.calls and not list(tmp_path.iterdir())
