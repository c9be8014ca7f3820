"""The configuration of the tests' runs, and comparisons of what they leave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from configs.schema import (
    AppearanceConfig,
    ExportConfig,
    NoiseConfig,
    OutputConfig,
    PriorConfig,
    RegularizerConfig,
    RenderConfig,
    RunConfig,
    SurfaceConfig,
    TrainerConfig,
)
from models.config import (
    BackgroundConfig,
    HashGridConfig,
    NeRFSceneConfig,
    RadianceFieldConfig,
    SDFFieldConfig,
    TextureFieldConfig,
)
from renderers.config import CameraSampling, VolumeRendererConfig


def tiny_config(prior: Path, **fields: Any) -> RunConfig:
    """A whole run in seconds: 16 px, a few samples a ray; outputs off unless a test asks for them."""
    grid = HashGridConfig(levels=3, log2_hashmap_size=9, base_resolution=4, finest_resolution=16)
    config = RunConfig(
        prompt="a red mug",
        iterations=4,
        prior=PriorConfig(str(prior)),
        noise=NoiseConfig(t_max=[[0, 0.98], [2, 0.98], [2, 0.5]]),
        scene=NeRFSceneConfig(RadianceFieldConfig(grid=grid, hidden=(8,)), BackgroundConfig(hidden=(8,))),
        surface=SurfaceConfig(SDFFieldConfig(cells=8)),
        appearance=AppearanceConfig(TextureFieldConfig(grid=grid, hidden=(8,))),
        cameras=CameraSampling(distance=(2.5, 3.0)),
        render=RenderConfig(
            size=16,
            volume=VolumeRendererConfig(samples_per_ray=16),
            occupancy_resolution=8,
            occupancy_every=2,
            occupancy_warmup=2,
        ),
        regularizers=RegularizerConfig(sparsity=[[0, 0.1]], opacity_binary=[[0, 0.1]]),
        output=OutputConfig(
            preview_every=1000,
            diagnostics_every=1000,
            checkpoint_every=1000,
            turntable_frames=4,
            preview_size=12,
            turntable_size=15,
            mesh_resolution=12,
        ),
        export=ExportConfig(formats=("glb",), texture_size=32),
        trainer=TrainerConfig(accelerator="cpu"),
    )
    return replace(config, **fields)


def with_output(config: RunConfig, **fields: Any) -> RunConfig:
    return replace(config, output=replace(config.output, **fields))


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def part(checkpoint: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors below a prefix, named without it."""
    state = load(checkpoint)["state_dict"]
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def assert_same_state(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Scene, occupancy, estimator and both optimizers are equal to the last bit."""
    assert first["run"]["iteration"] == second["run"]["iteration"]
    for name in ("state_dict", "optimizer_states"):
        tensors, others = tensors_of(first[name]), tensors_of(second[name])
        assert tensors.keys() == others.keys() and tensors
        different = [key for key, tensor in tensors.items() if not torch.equal(tensor, others[key])]
        assert not different, different


def tensors_of(tree: Any, path: str = "") -> dict[str, torch.Tensor]:
    """All tensors and numbers of nested containers, by their path."""
    if isinstance(tree, torch.Tensor):
        return {path: tree}
    if isinstance(tree, (bool, int, float)):
        return {path: torch.tensor(tree, dtype=torch.float64)}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    return {key: leaf for name, part in items for key, leaf in tensors_of(part, f"{path}/{name}").items()}
