"""What the judge sees in a finished run's scenes, from evenly spaced views.

For runs whose prompt names a class and a colour of the closed world; anything else has no truth to be
compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from configs.load import load_saved
from configs.schema import RunConfig
from priors.judge_model import Judge, Judgement
from priors.world.appearance import COLORS
from priors.world.captions import compose
from priors.world.classes import CLASSES
from renderers.cameras import Cameras, view_index
from renderers.config import VIEW_WORDS
from runs.checkpoint_files import find_checkpoint
from runs.from_checkpoint import load_scene
from systems.layout import CONFIG_FILE
from systems.scenes import Scenes

VIEWS = 8


@dataclass(frozen=True)
class JudgedRun:
    """Shares of views in which the judge agrees with the prompt, and what it saw."""

    prompt: str
    class_name: str
    class_right: float
    color_right: float
    r_precision: float  # against the captions of all pairs of class and colour
    view_right: float
    pictures: Float[Tensor, "particles views 3 size size"]
    features: Float[Tensor, "particles views width"]
    cameras: Cameras


def attributes_of(prompt: str) -> tuple[str, str]:
    """The class and the colour that a prompt names.

    Raises:
        ValueError: it doesn't name exactly one of each.
    """
    words = prompt.replace(",", " ").split()
    classes, colors = [w for w in words if w in CLASSES], [w for w in words if w in COLORS]
    if len(classes) != 1 or len(colors) != 1:
        raise ValueError(f"prompt: {prompt!r} must name one class and one colour of the world, such as 'a red mug'")
    return classes[0], colors[0]


@torch.no_grad()
def judge_run(folder: Path, judge: Judge) -> JudgedRun:
    """Render a run's last checkpoint from ``VIEWS`` azimuths and judge the pictures."""
    folder, checkpoint = find_checkpoint("--run", folder)
    _, config = load_saved(folder / CONFIG_FILE, {"trainer.accelerator": "auto"})  # wherever it was trained
    class_name, color = attributes_of(config.prompt)
    scene, _ = load_scene(config, checkpoint)
    cameras = judging_cameras(scene)
    rgb = [scene.render_views(particle, cameras, 128).rgb for particle in range(config.particles)]
    pictures = torch.stack(rgb).permute(0, 1, 4, 2, 3).cpu()
    judgement = judge(pictures.flatten(0, 1))
    expected_view = view_index(cameras.azimuth_deg, cameras.elevation_deg, config.text.view_thresholds)
    return JudgedRun(
        prompt=config.prompt,
        class_name=class_name,
        class_right=_share(judgement.words("class"), class_name),
        color_right=_share(judgement.words("color"), color),
        r_precision=_retrieved(judge, judgement, class_name, color),
        view_right=_views_right(judgement, expected_view, config),
        pictures=pictures,
        features=judgement.features.unflatten(0, pictures.shape[:2]),
        cameras=cameras,
    )


def judging_cameras(scene: Scenes) -> Cameras:
    """``VIEWS`` evenly spaced cameras from azimuth 22.5 degrees on, so that none is at the border of two view words.

    From azimuth 0 on, every second one would be, and the judge could agree with no more than 71% of the world's own
    objects; so it agrees with 98%.
    """
    return scene.orbit(2 * VIEWS)[torch.arange(1, 2 * VIEWS, 2)]


def _share(words: list[str], wanted: str) -> float:
    return sum(word == wanted for word in words) / len(words)


def _retrieved(judge: Judge, judgement: Judgement, class_name: str, color: str) -> float:
    pairs = [(name, tint) for name in CLASSES for tint in COLORS]
    captions = judge.embed_text([compose(name, tint) for name, tint in pairs])
    nearest = (judgement.embedding @ captions.T).argmax(dim=-1)
    return (nearest == pairs.index((class_name, color))).float().mean().item()


def _views_right(judgement: Judgement, expected: Tensor, config: RunConfig) -> float:
    seen = torch.tensor([VIEW_WORDS.index(word) for word in judgement.words("view")])
    return (seen == expected.repeat(config.particles)).float().mean().item()


def diversity(features: Float[Tensor, "particles views width"]) -> float:
    """Mean distance of features between pairs of particles seen by the same camera.

    Raises:
        ValueError: fewer than two particles.
    """
    count = len(features)
    if count < 2:
        raise ValueError(f"diversity needs at least 2 particles, not {count}")
    pairs = [(i, j) for i in range(count) for j in range(i)]
    return torch.stack([(features[i] - features[j]).norm(dim=-1).mean() for i, j in pairs]).mean().item()
