"""What a checkpoint alone gives, without the prior that made it: films, views, figures, models."""

from __future__ import annotations

from pathlib import Path

from configs.load import find_device
from configs.schema import RunConfig
from guidance.config import GuidanceConfig
from guidance.image_text import ImageTextModel, load_image_text_model
from runs.devices import use_threads
from runs.frozen_model import find_prior
from systems.checkpoints import check_same_run, read_metadata
from systems.collapse import measure
from systems.outputs.pictures import write_png
from systems.outputs.reports import write_json
from systems.scenes import Scenes, restore
from systems.stages import system_class


def test(config: RunConfig, folder: Path, checkpoint: Path) -> dict:
    """Film, views and figures of a checkpoint's scenes, below ``folder``; returns the figures.

    ``similarity`` is the mean cosine between a particle's views and the prompt, by ``guidance.clip_model``; None where
    that model cannot read the prompt, for which ``without_similarity`` gives the reason.

    Raises:
        FileNotFoundError, ValueError: the checkpoint cannot be used, or a model that the configuration names in place
            of the default cannot be loaded.
    """
    scene, iteration = load_scene(config, checkpoint)
    judge, problem = _judge_of(config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    cameras = scene.test_cameras()
    particles = []
    for particle in range(config.particles):
        views = scene.render_views(particle, cameras, config.render.size)
        for azimuth, rgb in zip(cameras.azimuth_deg, views.rgb, strict=True):
            write_png(folder / "views" / f"{particle}-{azimuth:03.0f}.png", rgb)
        similarity = None
        if judge is not None:
            similarity = judge.similarity(views.rgb.permute(0, 3, 1, 2), config.prompt).mean().item()
        particles.append({**vars(measure(views)), "similarity": similarity})
    films = scene.write_films(folder)
    figures = {
        "checkpoint": str(checkpoint),
        "iteration": iteration,
        "prompt": config.prompt,
        "particles": particles,
        "files": [path.name for path in films],
    }
    if problem is not None:
        figures["without_similarity"] = problem
    write_json(folder / "test.json", figures)
    return figures


def export(config: RunConfig, folder: Path, checkpoint: Path) -> list[Path]:
    """Each of a checkpoint's scenes as a model, in the formats of ``config.export``.

    Raises:
        ValueError: a scene has no surface.
    """
    scene, _ = load_scene(config, checkpoint)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths, problems = scene.write_models(folder)
    if problems:
        raise ValueError("; ".join(problems))
    return paths


def load_scene(config: RunConfig, checkpoint: Path) -> tuple[Scenes, int]:
    """A checkpoint's scenes, on the configured device, and the iteration that it is of."""
    use_threads(config.trainer)
    metadata = read_metadata(checkpoint)
    check_same_run(checkpoint, metadata, config)
    scene = restore(system_class(config).scenes_class, config, checkpoint)
    return scene.to(find_device(config.trainer.accelerator)), metadata.iteration


def _judge_of(config: RunConfig) -> tuple[ImageTextModel | None, str | None]:
    """The image-text model that compares views with the prompt, or why it cannot.

    If the default model is missing, return the reason instead of raising.
    """
    path, default = config.guidance.clip_model, GuidanceConfig().clip_model
    try:
        model = load_image_text_model(find_prior(path, "guidance.clip_model"), find_device(config.trainer.accelerator))
    except (ValueError, FileNotFoundError) as error:
        if path != default:
            raise
        return None, str(error)
    try:
        model.encode_text([config.prompt])
    except ValueError as error:
        return None, str(error)
    return model, None
