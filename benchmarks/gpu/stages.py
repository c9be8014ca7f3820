"""Iterations of a stage as training runs them, under Lightning, with a random frozen model of full size."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import lightning
import torch
from diffusers.utils import logging as diffusers_logging
from lightning import Callback, Trainer

from benchmarks.gpu.priors import build, model_of
from benchmarks.gpu.report import GB, Report
from benchmarks.gpu.sizes import SMALL
from benchmarks.gpu.timing import Parts
from benchmarks.step_cost import TERA, Model, Step, count_flops, guidance_of, prompts_of
from configs.load import load_config
from configs.schema import RunConfig
from configs.sources import CONFIG_FOLDER
from guidance.network_speed import speed_up
from guidance.score_distillation import ScoreDistillation
from runs.devices import chosen_precision
from runs.train import quieten_lightning
from systems.base import DistillationSystem
from systems.memory import run_memory
from systems.stages import system_class

PROMPT = "a red mug"
BALL = 0.5  # radius of the surface of the stages geometry and texture, scene units
WATCHED = 2  # iterations whose synchronisations are counted, and as many whose kernels are
PARTS = {  # of a training step, by the method that does it
    "prepare": "occupancy grid",
    "render_training_views": "rendering",
    "encode": "encoding",
    "_step_scene": "backward pass and step of the scene",
    "_step_estimator": "estimator's training",
}


@dataclass(frozen=True)
class Measured:
    """What a part runs."""

    stage: str = "nerf"
    preset: str = "sd21"  # of the prior
    settings: dict[str, str] = field(default_factory=dict)  # beside those


MEASURED = {
    "nerf": Measured(),
    "geometry": Measured("geometry"),
    "texture": Measured("texture"),
    "nerf:low": Measured(settings={"memory": "low"}),
    "nerf:graphs": Measured(settings={"prior.speed": "graphs"}),
    "nerf:channels_last": Measured(settings={"prior.speed": "channels_last"}),
    "nerf:compiled": Measured(settings={"prior.speed": "compiled"}),
    "sdxl": Measured(preset="sdxl"),
    "sdxl:graphs": Measured(preset="sdxl", settings={"prior.speed": "graphs"}),
    "sd35": Measured(preset="sd35"),
    "flux": Measured(preset="flux"),
}


def measure_stage(report: Report, part: str) -> None:
    """A part by its name in `MEASURED`."""
    diffusers_logging.set_verbosity_error()  # casts of weights worry it
    measured = MEASURED[part]
    model, config = model_of(measured.preset, report.sizes is SMALL), configuration(report, measured)
    system = build_system(report, config, model)
    report.add("model", model.name)
    report.add("view", f"{config.render.size} px, {config.guidance.loss}, {chosen_precision(config.trainer)}")
    report.add("backend", system.scene.backend(report.device))
    report.attempt("memory estimate", lambda: add_estimate(report, system))
    if report.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    watch = Watch(report, system)
    train(report, config, system, watch)
    watch.add_results()
    outline = guidance_of(model.build(), Step(measured.stage, config.guidance, config.estimator))
    report.attempt("share of the matrix rate", lambda: add_share(report, outline, model, watch))


def configuration(report: Report, measured: Measured) -> RunConfig:
    """The project's own for the stage, with everything else at the preset's default."""
    on = "cuda" if report.device.type == "cuda" else "cpu"
    values = {"prior": measured.preset, "prompt": PROMPT, "trainer.accelerator": on}
    if measured.stage == "nerf":
        values["render.occupancy_warmup"] = "0"  # as in most of a run, empty space is skipped
    return load_config(
        CONFIG_FOLDER / f"vsd-{measured.stage}.yaml", values | measured.settings | report.sizes.stage
    ).config


def build_system(report: Report, config: RunConfig, model: Model) -> DistillationSystem:
    """On the device, where a run is after the stage has begun: empty space known, or a ball as the surface."""
    prior, prompts = build(model, report.device), prompts_of(model, report.device)
    system = system_class(config)(config, prior, prompts)
    speed_up(system.guidance, config.prior.speed)
    system.scene.to(report.device)
    started = time.monotonic()
    if config.stage == "nerf":
        system.scene.update_occupancy(0)
    else:
        surfaces = system.scene.particles if config.stage == "geometry" else system.scene.surfaces
        surfaces[0].initialize(lambda points: torch.relu(1 - points.norm(dim=-1) / (2 * BALL)), 0.5)
        report.add("surface found, s", time.monotonic() - started)
    return system


def train(report: Report, config: RunConfig, system: DistillationSystem, watch: Watch) -> None:
    """Lightning's loop as runs/train.py sets it up, without what a run writes."""
    quieten_lightning()
    trainer = Trainer(
        accelerator="cuda" if report.device.type == "cuda" else "cpu",
        devices=1,
        precision=chosen_precision(config.trainer),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[watch],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(system)


class Watch(Callback):
    """Times iterations after a warm-up, then counts synchronisations, then kernels, then stops the run."""

    def __init__(self, report: Report, system: DistillationSystem) -> None:
        self.report, self.device = report, report.device
        self.parts = Parts(report.device)
        for method, name in PARTS.items():
            self.parts.wrap(system, method, name)
        self.parts.wrap(system.guidance, "gradient", "scores")
        self.timed = 0
        self.seconds: float | None = None
        self.peak = self.reserved = 0  # bytes
        self.figures: dict[str, float] = {}  # of the last iteration
        self.milliseconds: dict[str, float] = {}
        self.synchronisations: Counter[str] = Counter()
        self.kernels: list[tuple[str, int, float]] = []
        self._done = 0
        self._started = 0.0
        self._warnings: Any = None
        self._profiler: Any = None

    def on_train_batch_start(self, trainer: lightning.Trainer, system: Any, batch: Any, batch_idx: int) -> None:
        if self._done == self.report.sizes.warmup:
            self._synchronize()
            self.parts.forget()
            self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._done += 1
        if self._done <= self.report.sizes.warmup:
            return
        if self.seconds is None:
            self.timed += 1
            if self.timed < self.report.sizes.iterations and self._has_time():
                return
            self._synchronize()
            self.seconds = time.monotonic() - self._started
            if self.device.type == "cuda":  # before the profiler, which needs some
                self.peak, self.reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            self.milliseconds = self.parts.milliseconds(self.timed)
            self.figures = {
                name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("render/")
            }
            self._watched_from = self._done
            self.report.attempt("synchronisations", self._watch_synchronisations)
        elif self._done == self._watched_from + WATCHED:
            self.report.attempt("synchronisations", self._count_synchronisations)
            self.report.attempt("kernels", self._start_profiler)
        elif self._done == self._watched_from + 2 * WATCHED:
            self.report.attempt("kernels", self._count_kernels)
            trainer.should_stop = True

    def _has_time(self) -> bool:
        """Whether more iterations may be timed: a share of the time left, so that later parts have some."""
        return time.monotonic() - self._started < max(0.25 * self.report.seconds_left(), 1.0)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _watch_synchronisations(self) -> None:
        if self.device.type == "cuda":
            self._warnings = warnings.catch_warnings(record=True)
            self._recorded = self._warnings.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def _count_synchronisations(self) -> None:
        if self._warnings is not None:
            torch.cuda.set_sync_debug_mode("default")
            for each in self._recorded:
                if "synchroniz" in str(each.message):
                    self.synchronisations[f"{each.filename}:{each.lineno}"] += 1
            self._warnings.__exit__(None, None, None)
            self._warnings = None

    def _start_profiler(self) -> None:
        if self.device.type == "cuda":
            from torch.profiler import ProfilerActivity, profile

            self._profiler = profile(activities=[ProfilerActivity.CUDA])
            self._profiler.__enter__()

    def _count_kernels(self) -> None:
        if self._profiler is None:
            return
        self._synchronize()
        self._profiler.__exit__(None, None, None)
        averages = self._profiler.key_averages()
        self.kernels = [
            (each.key, each.count, each.self_device_time_total / 1e3)
            for each in averages
            if each.self_device_time_total > 0 and not each.key.startswith("ProfilerStep")
        ]

    def add_results(self) -> None:
        """Everything but memory and rates."""
        assert self.seconds is not None, "the run ended before it was timed"
        report = self.report
        report.add("timed iterations", self.timed)
        report.add("iterations/s", self.timed / self.seconds)
        report.add("ms an iteration", 1e3 * self.seconds / self.timed)
        for name, value in self.milliseconds.items():
            report.add(f"{name}, ms", value)
        report.add("the rest, ms", 1e3 * self.seconds / self.timed - sum(self.milliseconds.values()))
        for name, value in self.figures.items():
            report.add(name, value)
        if self.kernels:
            kernels = [each for each in self.kernels if not each[0].startswith(("Memcpy", "Memset"))]
            report.add("kernels an iteration", sum(count for _, count, _ in kernels) // WATCHED)
            busy = sum(milliseconds for *_, milliseconds in self.kernels) / WATCHED
            report.add("the GPU is busy, ms an iteration", busy)
            slowest = sorted(self.kernels, key=lambda each: -each[2])[:12]
            for name, count, milliseconds in slowest:
                report.add(f"`{name[:60]}`, ms", milliseconds / WATCHED, f"{milliseconds / WATCHED:.3g} ({count})")
        if self.device.type == "cuda":
            report.add("peak memory, GB", self.peak / GB)
            report.add("reserved memory, GB", self.reserved / GB)
            report.add("synchronisations an iteration", sum(self.synchronisations.values()) / WATCHED)
            for where, count in self.synchronisations.most_common(12):
                report.add(f"waits at {where[-60:]}", count / WATCHED)


def add_estimate(report: Report, system: DistillationSystem) -> None:
    """What the start of a run would say."""
    estimate = run_memory(system, report.device)
    report.add("estimate, GB", estimate.total / GB)
    for name in ("weights", "estimator", "scene", "iteration", "pictures"):
        report.add(f"estimate of {name}, GB", getattr(estimate, name) / GB)


def add_share(report: Report, guidance: ScoreDistillation, model: Model, watch: Watch) -> None:
    """The networks' operations over the whole iteration, relative to the matrix rate that was measured."""
    assert watch.seconds is not None, "the run was timed"
    flops = count_flops(guidance, prompts_of(model))
    report.add("networks, TFLOP an iteration", flops / TERA)
    rate = flops * watch.timed / watch.seconds / TERA
    report.add("networks, TFLOP/s", rate)
    best = report.results["parts"].get("machine", {}).get("bf16 TFLOP/s")
    if best:
        report.add("share of the bf16 matrix rate", rate / best)
