"""The one training loop of the bundled networks: resumable, seeded, averaged, with a progress bar.

Autoencoder, diffusion model and judge differ in their loss alone, so they share this loop. A batch
is a pure function of (seed, step, rank): a resumed run sees what the uninterrupted one would have seen.

Under ``torchrun`` every process draws its own batch and gradients are averaged. On a CPU, two
processes of one thread each are faster than one of two threads, whose many small parallel regions
wait for each other, and far faster where anything else runs on the machine:

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m priors.train_diffusion
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from files.whole_files import whole_file


@dataclass(frozen=True)
class FitConfig:
    """How long, how fast and where to keep the state."""

    steps: int
    batch_size: int  # of each process
    lr: float  # peak
    warmup_steps: int = 200
    final_lr_ratio: float = 0.02  # the cosine ends at lr times this
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    save_every: int = 250  # steps between two checkpoints
    log_every: int = 50  # steps between two rows of the table of losses
    minutes: float = math.inf  # of all calls together, after which training ends even if steps are left
    max_minutes: float = math.inf  # stop early (checkpointed), to go on in a later call


def progress(step: int, minutes: float, config: FitConfig) -> float:
    """How much of the training is done, in [0, 1]: by steps or by the clock, whichever is further."""
    by_steps = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return min(1.0, max(0.0, by_steps, minutes / config.minutes))


def lr_ratio(step: int, config: FitConfig, minutes: float = 0.0) -> float:
    """Learning rate over its peak: linear warm-up, then a half cosine of ``progress``."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    cosine = 0.5 * (1 + math.cos(math.pi * progress(step, minutes, config)))
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine


def join_processes() -> tuple[int, int]:
    """(rank, number of processes); joins the group where ``torchrun`` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@contextmanager
def first_process_first() -> Iterator[None]:
    """The block runs in the first process, then in the others, which find its files."""
    rank, processes = join_processes()
    if rank > 0:
        dist.barrier()
    yield
    if rank == 0 and processes > 1:
        dist.barrier()


def average_gradients(parameters: list[nn.Parameter], processes: int) -> None:
    """Replace each gradient by its mean over all processes, in one message of bfloat16."""
    if processes == 1:
        return
    flat = torch.cat([p.grad.reshape(-1).bfloat16() for p in parameters])
    dist.all_reduce(flat)
    flat /= processes
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad.copy_(part.view_as(parameter))


def _check_finite(smooth: dict[str, Tensor], title: str, step: int) -> None:
    """A loss that isn't finite stays in its smoothed value, so that a look now and then finds it."""
    if not torch.isfinite(smooth["loss"]):
        raise FloatingPointError(f"{title}: the loss isn't finite at step {step}; lower the learning rate")


def _out_of_time(minutes: float, limit: float, processes: int) -> bool:
    """Whether the first process has used its time; all processes must stop at the same step."""
    late = torch.tensor(float(minutes > limit))
    if processes > 1 and math.isfinite(limit):
        dist.broadcast(late, src=0)
    return bool(late)


def fit(
    module: nn.Module,
    loss_of: Callable[[torch.Generator], tuple[Tensor, dict[str, Tensor]]],
    config: FitConfig,
    checkpoint: Path,
    title: str,
) -> nn.Module:
    """Minimise ``loss_of``, which draws its own batch from the generator it is given, on the module's device.

    Nothing waits for a GPU except the rows of the table, every ``log_every`` steps: the next step is prepared while
    the last one runs. Returns the exponential moving average of ``module``. Goes on from ``checkpoint`` where there is
    one, which an interruption never leaves broken. Losses, smoothed over about 100 steps, go to a CSV
    table beside the checkpoint.
    """
    rank, processes = join_processes()
    device = next(module.parameters()).device
    torch.backends.cudnn.benchmark = True  # shapes are always the same
    average = copy.deepcopy(module).eval().requires_grad_(False)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    first, minutes_before = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        module.load_state_dict(state["module"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first, minutes_before = state["step"], state["minutes"]
    else:
        checkpoint.with_suffix(".csv").unlink(missing_ok=True)  # of a run whose checkpoint was deleted

    rows: list[list[float]] = []  # of the table of losses, since the last checkpoint
    table = checkpoint.with_suffix(".csv")

    def save(step: int) -> None:
        if rank > 0:
            return
        state = {"module": module.state_dict(), "average": average.state_dict()}
        state |= {"optimizer": optimizer.state_dict(), "step": step, "minutes": minutes}
        with whole_file(checkpoint) as unfinished:
            torch.save(state, unfinished)
        with open(table, "a", encoding="utf-8") as stream:
            if stream.tell() == 0:
                stream.write(",".join(["step", *smooth]) + "\n")
            stream.writelines(",".join(f"{value:.6g}" for value in row) + "\n" for row in rows)
        rows.clear()

    started, minutes = time.monotonic(), minutes_before
    smooth: dict[str, Tensor] = {}
    bar = tqdm(
        range(first, config.steps), initial=first, total=config.steps, desc=title, mininterval=5, disable=rank > 0
    )
    for step in bar:
        seed = (config.seed * 1_000_003 + step) * processes + rank
        generator = torch.Generator(device).manual_seed(seed)
        minutes = minutes_before + (time.monotonic() - started) / 60
        for group in optimizer.param_groups:
            group["lr"] = config.lr * lr_ratio(step, config, minutes)
        with torch.autocast(device.type, torch.bfloat16):
            loss, logs = loss_of(generator)
        loss.backward()
        average_gradients(parameters, processes)
        torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # Early averages forget the random initialisation quickly (Karras et al. 2022, appendix F.2).
        decay = min(config.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
        for name, value in {"loss": loss, **logs}.items():
            now = value.detach().float()
            smooth[name] = now if step < first + 10 else torch.lerp(smooth[name], now, 0.01)
        if (step + 1) % config.log_every == 0:
            _check_finite(smooth, title, step)
            rows.append([step + 1, *(value.item() for value in smooth.values())])
            bar.set_postfix({name: f"{value.item():.4f}" for name, value in smooth.items()}, refresh=False)
        ended = step + 1 == config.steps or _out_of_time(minutes, config.minutes, processes)
        paused = _out_of_time(minutes - minutes_before, config.max_minutes, processes)
        if (step + 1) % config.save_every == 0 or ended or paused:
            _check_finite(smooth, title, step)
            save(step + 1)
        if ended or paused:
            break
    return average
