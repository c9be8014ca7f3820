"""How much of a surface's look an exported model keeps: fewer faces, and a texture in place of a field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from models.mesh import Surface
from renderers.cameras import Cameras
from renderers.mesh_renderer import MeshRenderer
from renderers.textured_export import read_textured_glb, sample_texture

SIZE = 256  # pixels a side


@dataclass(frozen=True)
class BakeFidelity:
    """PSNR in dB of the model's renders against the surface's, before white."""

    whole: float  # over all pixels: outline and colour
    inside: float  # over those that both cover wholly: colour alone


@torch.no_grad()
def bake_fidelity(surface: Surface, glb: Path, cameras: Cameras) -> BakeFidelity:
    """Compare a GLB (of one metre a scene unit) with the surface that it was made from."""
    renderer, white = MeshRenderer(), torch.ones(len(cameras), 3)
    mesh = read_textured_glb(glb)
    surface = Surface(surface.vertices.float(), surface.faces, surface.color)
    expected = renderer.render(
        surface.vertices, surface.faces, lambda points: surface.color(points.positions), cameras, SIZE, SIZE, white
    )
    got = renderer.render(
        mesh.vertices,
        mesh.faces,
        lambda points: sample_texture(mesh, points.interpolate(mesh.uv)),
        cameras,
        SIZE,
        SIZE,
        white,
    )
    both = (got.opacity[..., 0] == 1) & (expected.opacity[..., 0] == 1)
    return BakeFidelity(_psnr(got.rgb, expected.rgb), _psnr(got.rgb[both], expected.rgb[both]))


def _psnr(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Of values in [0, 1]."""
    return -10 * (got - expected).square().mean().log10().item()
