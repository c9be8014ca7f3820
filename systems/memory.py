"""How much memory a run's iterations will need, told before the first of them.

| part | how it is known |
|---|---|
| the program | what the process holds already, libraries included; on a GPU its own share is not counted |
| weights, estimator, scene | sizes of their tensors, with the optimizers' two moments and gradients |
| networks in an iteration | a dry run on meta tensors (``guidance/memory.py``) |
| renders, and their backward pass | views are rendered for real, on the device, and followed |

Rays are alike, so that two small batches of them tell what a large one takes. Meshes are rendered at full size.
Until ``render.occupancy_warmup`` all of a radiance field's rays are sampled from end to end; later a scene is
assumed to take `OCCUPIED` of that. CUDA's context (about 0.5 GB) and its allocator's fragments (some 10%) are
not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

import psutil
import torch

from guidance.memory import (
    ADAM_MOMENTS,
    GB,
    LESS_MEMORY,
    LiveMemory,
    MemoryEstimate,
    device_memory,
    estimate_memory,
    size_of,
)
from guidance.score_distillation import ScoreDistillation
from renderers.output import RenderOutput
from renderers.volume import VolumeRenderer
from settings.schedules import highest
from systems.base import DistillationSystem
from systems.nerf import NeRFParticles, NeRFSystem
from systems.regularizers import REGULARIZERS, Rendered
from systems.scenes import DIAGNOSTIC_SAMPLES, PREVIEW_VIEWS, Scenes, Scenes3D

# Share of the samples inside the bounds that an object keeps once empty space is skipped. The bundled prior's objects
# fill 0.38 of the ball.
OCCUPIED = 0.4
GRADIENTS = 2  # of each parameter at once: their sum, and that of a chunk of rays which is added to it
SMALL_RAYS = (2**11, 2**13)  # of the two batches that stand for larger ones


@dataclass(frozen=True)
class Rendering:
    """Bytes that training views take beyond the scene's own."""

    held: int  # between the forward and the backward pass, while the networks run
    forward: int  # the most at once in the forward pass
    backward: int = 0  # and in the backward pass

    @property
    def peak(self) -> int:
        return max(self.forward, self.backward)


@dataclass(frozen=True)
class RunMemory:
    """Bytes."""

    program: int
    weights: int
    estimator: int
    scene: int
    iteration: int  # the most that an iteration adds
    pictures: int  # the most that a preview or the diagnostics add

    @property
    def total(self) -> int:
        return self.program + self.weights + self.estimator + self.scene + max(self.iteration, self.pictures)


def run_memory(system: DistillationSystem, device: torch.device) -> RunMemory:
    """Of a system that is ready to train; its scene is on the device."""
    guidance, scene = system.guidance, system.scene
    state = size_of(_state(scene))
    views = rendering_memory(system, device)
    if isinstance(guidance, ScoreDistillation):
        reconstructs = "reconstruction" in _regularizers(system)
        samples = DIAGNOSTIC_SAMPLES if guidance.views_together == 1 else guidance.views_together
        step = estimate_memory(guidance, system.prompts, system.config.render.views, reconstructs, samples)
    else:  # image-text models are small
        step = MemoryEstimate(weights=0, estimator=0, step=0)
    program = 0
    if device.type == "cpu":
        estimator = 0 if guidance.estimator is None else size_of(guidance.estimator.parameters())
        program = psutil.Process().memory_info().rss - step.weights - estimator - state
    return RunMemory(
        program=max(program, 0),
        weights=step.weights,
        estimator=step.estimator,
        scene=state + size_of(_trained(scene)) * (ADAM_MOMENTS + GRADIENTS),
        iteration=max(step.step + views.held, views.peak),
        pictures=max(step.pictures, _preview(system, device)),
    )


def memory_line(system: DistillationSystem, device: torch.device) -> str:
    """What iterations will need and what there is, in a line; as ``run_memory``.

    Raises:
        torch.OutOfMemoryError: not even the views have room.
    """
    try:
        return describe(run_memory(system, device), device_memory(device))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # training may run none the less, or says better what is wrong
        return f"no estimate ({' '.join(str(error).split()):.100})"


def describe(memory: RunMemory, available: int) -> str:
    """ "training needs about N GB (...), this device has M GB", and what to do where that is too little."""
    parts = ("program", "weights", "estimator", "scene", "iteration", "pictures")
    shares = ", ".join(f"{part} {size / GB:.1f}" for part in parts if (size := getattr(memory, part)) >= GB / 20)
    line = f"training needs about {memory.total / GB:.1f} GB ({shares}), this device has {available / GB:.1f} GB"
    return line if memory.total <= available else f"{line}: too little; {LESS_MEMORY}"


def _regularizers(system: DistillationSystem) -> list[str]:
    """Those that have a weight at any time."""
    config = system.config.regularizers
    return [name for name in system.regularizers if any(weight for _, weight in getattr(config, name))]


def rendering_memory(system: DistillationSystem, device: torch.device) -> Rendering:
    """The most over the run's schedule."""
    render, last = system.config.render, max(system.config.iterations - 1, 0)
    cameras = system.draw_cameras(0).to(device)

    def follow(views: Callable[[], RenderOutput]) -> Rendering:
        """Render, apply the regularisers, and go back."""
        with LiveMemory(device) as memory:
            memory.ignore(_state(system.scene))
            memory.ignore_gradients(_trained(system.scene))
            seen = views()
            held, forward = memory.now, memory.peak
            memory.peak = held
            # The decoder's part in the reconstruction counts as the networks'.
            rendered = Rendered(seen, transmittance_target=0.0, autoencode=lambda: seen.rgb.detach())
            terms = [REGULARIZERS[name](rendered) for name in _regularizers(system)]
            torch.stack([seen.rgb.mean(), *terms]).sum().backward()
            system.scene.zero_grad()
        return Rendering(held, forward, memory.peak)

    if not isinstance(system, NeRFSystem):
        return follow(lambda: system.render_training_views(0, 0, cameras))

    def follow_rays(size: int) -> Rendering:
        return follow(lambda: system.jittered_views(0, 0, cameras, size))

    warmup = min(render.occupancy_warmup, last)
    phases = ((highest(render.scale, warmup), 1.0), (highest(render.scale, last), _kept(system)))
    found = [
        _from_few_rays(system.scene, len(cameras), max(round(render.size * scale), 1), kept, follow_rays)
        for scale, kept in phases
    ]
    return Rendering(*map(max, *map(astuple, found)))


def _preview(system: DistillationSystem, device: torch.device) -> int:
    """The most that a preview of a particle takes at once."""
    scene, output, render = system.scene, system.config.output, system.config.render
    if not isinstance(scene, Scenes3D) or output.preview_every > system.iterations:
        return 0
    size = output.preview_size or render.size

    def follow(size: int) -> Rendering:
        with LiveMemory(device) as memory:
            memory.ignore(_state(scene))
            scene.render_views(0, scene.orbit(PREVIEW_VIEWS), size, normals=True)
        return Rendering(0, memory.peak)

    if not isinstance(system, NeRFSystem):
        return follow(size).peak
    kept = 1.0 if output.preview_every <= render.occupancy_warmup else _kept(system)
    return _from_few_rays(system.scene, PREVIEW_VIEWS, size, kept, follow).peak


def _from_few_rays(
    scene: NeRFParticles, views: int, size: int, kept: float, follow: Callable[[int], Rendering]
) -> Rendering:
    """What views of so many pixels a side take, from two small ones in as many chunks of rays.

    Args:
        kept: share of the samples that empty space leaves.
    """
    renderer = scene.renderer
    volume, wanted = renderer.config, views * size**2

    def of_batch(rays: int) -> tuple[int, Rendering]:
        side = min(math.ceil(math.sqrt(rays / views)), size)
        rays = views * side**2
        chunk = max(round(volume.rays_per_chunk * rays / wanted), 1)
        scene.renderer = VolumeRenderer(replace(volume, rays_per_chunk=chunk))
        return rays, follow(side)

    try:
        (few, low), (many, high) = map(of_batch, SMALL_RAYS)
    finally:
        scene.renderer = renderer
    growth = (wanted * kept - many) / max(many - few, 1)
    small = zip(astuple(low), astuple(high), strict=True)
    return Rendering(*(round(of_many + (of_many - of_few) * growth) for of_few, of_many in small))


def _kept(system: NeRFSystem) -> float:
    """Share of the samples that are left once empty space is skipped."""
    return OCCUPIED if system.config.scene.field.density_init.kind == "object" else 1.0


def _trained(scene: Scenes) -> list[torch.Tensor]:
    return [parameter for parameter in scene.parameters() if parameter.requires_grad]


def _state(scene: Scenes) -> list[torch.Tensor]:
    return [*scene.parameters(), *scene.buffers()]
