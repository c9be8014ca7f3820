"""The processes of a run: who started them, which one is the first, and where all of them write.

Lightning starts the others of a machine by the same command. Or a launcher has started all of them (torchrun, SLURM,
LSF, MPI, Kubeflow); Lightning's cluster environments know their variables. No other module reads such a variable.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from configs.schema import TrainerConfig

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments import ClusterEnvironment
    from torch.distributed import TCPStore

# Lightning gives the other processes a copy of this one's environment.
RUN_FOLDER_VARIABLE = "PROLIFICDREAMER_RUN_FOLDER"
FIRST_PROCESS_VARIABLE = "PROLIFICDREAMER_FIRST_PROCESS"  # its number in the operating system

# A launcher sets at least one of these. Without any, Lightning and PyTorch need not be imported to know that this
# process is the first.
TRACES = (
    *("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK"),
    *("SLURM_NTASKS", "JSM_NAMESPACE_RANK"),
    *("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MPI_LOCALRANKID"),
)
KUBEFLOW = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of its PyTorchJob
SECONDS_FOR_THE_FOLDER = 300  # that the others wait for the first process to name it


def cluster_environment() -> ClusterEnvironment | None:
    """Who started this process; None where nothing but this program has a part in it.

    The order is that of Lightning's Trainer. Lightning doesn't look for Kubeflow, which has no variable of its own.

    Raises:
        ConfigError: the launcher's variables are incomplete.
    """
    if not any(name in os.environ for name in TRACES):
        return None
    from lightning.fabric.plugins import environments

    try:
        if environments.TorchElasticEnvironment.detect():
            return environments.TorchElasticEnvironment()
        if environments.SLURMEnvironment.detect():
            _state_tasks_per_node()
            # This project saves and requeues by itself, at the end of an iteration.
            return environments.SLURMEnvironment(auto_requeue=False)
        if environments.LSFEnvironment.detect():
            return environments.LSFEnvironment()
        if environments.MPIEnvironment.detect():
            return environments.MPIEnvironment()
    except RuntimeError as error:  # tasks that the nodes don't share equally
        raise ConfigError(f"launcher: {error}") from error
    if "LOCAL_RANK" not in os.environ and all(name in os.environ for name in KUBEFLOW):
        return environments.KubeflowEnvironment()
    return environments.LightningEnvironment()


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    environment = cluster_environment()
    if environment is None:
        return True
    if _is_lightnings(environment):  # it has no rank yet
        return environment.node_rank() == 0 and environment.local_rank() == 0
    return environment.global_rank() == 0


def check_processes(config: TrainerConfig) -> None:
    """Raise a ConfigError where a launcher has started other processes than the configuration says."""
    environment = cluster_environment()
    if environment is None or _is_lightnings(environment):
        return
    devices, nodes, size = config.devices, config.num_nodes, environment.world_size()
    launcher = type(environment).__name__.removesuffix("Environment")
    if devices * nodes != size:
        raise ConfigError(
            f"trainer.devices: {devices} on each of trainer.num_nodes={nodes} makes {devices * nodes} process(es), but "
            f"the launcher ({launcher}) has started {size}; set trainer.devices to the processes of one machine and "
            "trainer.num_nodes to the machines, or start as many"
        )
    try:
        environment.validate_settings(devices, nodes)
    except ValueError as error:
        raise ConfigError(
            f"trainer.num_nodes: {nodes}, with trainer.devices={devices} on each; the launcher says otherwise: {error}"
        ) from error


def share_folder(folder: Path) -> None:
    """Tell the run's folder to the others, those that will be started and those that torchrun has started."""
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    os.environ[FIRST_PROCESS_VARIABLE] = str(os.getpid())
    store = _torchrun_store()
    if store is not None:
        store.set(_store_key(), str(folder))


def shared_folder() -> Path | None:
    """The folder that the first process told; None where it cannot tell."""
    folder = os.environ.get(RUN_FOLDER_VARIABLE)
    if not folder:
        store = _torchrun_store()
        folder = store.get(_store_key()).decode() if store is not None else None
    return Path(folder) if folder else None


def agreed_folder(folder: Path) -> Path:
    """The first process's folder, in all processes. Their own may differ: folders are named by date and time."""
    if is_first_process():
        share_folder(folder)
        return folder
    return shared_folder() or folder


def needs_a_name(config: TrainerConfig) -> bool:
    """Whether there are processes that the first one cannot tell its folder."""
    environment = cluster_environment()
    if environment is None or _is_lightnings(environment):
        return config.num_nodes > 1 or not is_first_process()
    return environment.world_size() > 1 and _torchrun_store() is None


def end_with_first_process(every: float = 2.0) -> None:
    """Where Lightning started this process, end it once the first one is gone, which nothing else would tell it.

    Args:
        every: seconds between looks.
    """
    first = os.environ.get(FIRST_PROCESS_VARIABLE)
    if sys.platform == "win32":  # where a virtual environment's Python has a process in between
        return
    if first in (None, "", str(os.getpid())):
        return

    def watch() -> None:
        while str(os.getppid()) == first:
            time.sleep(every)
        print("the first process of the run is gone; this one ends", file=sys.stderr, flush=True)
        os._exit(1)  # the other threads may wait for that process forever

    threading.Thread(target=watch, name="watch of the first process", daemon=True).start()


def slurm_job() -> str | None:
    """The number of the SLURM job; None outside SLURM, and in a shell on a node (``salloc``, ``srun --pty bash``)."""
    if "SLURM_JOB_ID" not in os.environ:
        return None
    from lightning.fabric.plugins.environments import SLURMEnvironment

    job = SLURMEnvironment.job_id()
    return None if job is None else str(job)


def slurm_run_name(arguments: Sequence[str]) -> str | None:
    """The name of a run in a SLURM job: the same in all its processes, and when the job has been requeued.

    The arguments tell the commands of one job apart.
    """
    job = slurm_job()
    digest = hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:6]
    return None if job is None else f"slurm-{job}-{digest}"


def was_requeued() -> bool:
    """Whether this is not the first start of its SLURM job."""
    return slurm_job() is not None and int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def requeue() -> str:
    """Put the SLURM job into its queue once more; returns what happened, for the user."""
    job = slurm_job()
    assert job is not None
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"`{' '.join(command)}` failed: {error}"
    if done.returncode != 0:
        return f"`{' '.join(command)}` failed: {done.stderr.strip()}"
    return f"SLURM job {job} is in the queue again, and will go on by itself"


def _state_tasks_per_node() -> None:
    """`srun --ntasks` leaves out a variable that Lightning demands; where nodes share the tasks equally, it follows."""
    tasks, nodes = (int(os.environ.get(name, "1")) for name in ("SLURM_NTASKS", "SLURM_NNODES"))
    if tasks % nodes == 0:
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(tasks // nodes))


def _is_lightnings(environment: ClusterEnvironment) -> bool:
    from lightning.fabric.plugins.environments import LightningEnvironment

    return isinstance(environment, LightningEnvironment)


def _torchrun_store() -> TCPStore | None:
    """The store that torchrun keeps for its processes; None where there is none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import TCPStore

    wait = timedelta(seconds=SECONDS_FOR_THE_FOLDER)
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=wait)


def _store_key() -> str:
    """A restarted group must not read what the one before has told."""
    return f"{RUN_FOLDER_VARIABLE}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
