"""The models that leave the program: each particle's surface as GLB, OBJ, PLY and a page to look at.

One way for all stages: a stage gives a `Surface`, here it is simplified and baked. GLB, OBJ and the page show
one texture; PLY has colours at the vertices of the same, uncut mesh.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from configs.schema import ExportConfig, RunConfig
from models.chunks import in_chunks
from models.mesh import Mesh
from models.mesh_geometry import remove_floaters
from models.mesh_repair import without_cavities
from renderers.texture_baking import bake, simplify
from renderers.textured_export import write_obj, write_ply, write_textured_glb
from renderers.web_viewer import write_viewer
from systems.scenes import Scenes, Surface

logger = logging.getLogger(__name__)


def write_models(scene: Scenes, config: RunConfig, folder: Path) -> tuple[list[Path], list[str]]:
    """The files of each particle that has a surface, and for each that has none the reason.

    A scene without a surface doesn't take the other results with it.
    """
    paths, problems = [], []
    for particle in range(config.particles):
        path = numbered(folder, "mesh", particle, config)
        try:
            surface = visible_parts(scene.surface(particle), config.export.floater_share, scene.may_be_opaque)
            paths += write_model(surface, config.export, path, config.prompt)
        except ValueError as error:
            logger.warning("particle %d has no mesh: %s", particle, error)
            problems.append(f"particle {particle} has no mesh: {error}")
    return paths, problems


@torch.no_grad()
def visible_parts(surface: Surface, floater_share: float, seen_from_inside: bool) -> Surface:
    """Without floaters, nor the walls of cavities where cameras stand outside."""
    vertices, faces = surface.vertices, surface.faces
    if not seen_from_inside:
        vertices, faces = without_cavities(vertices, faces)
    vertices, faces = remove_floaters(vertices, faces, floater_share)
    return replace(surface, vertices=vertices, faces=faces)


@torch.no_grad()
def write_model(surface: Surface, config: ExportConfig, path: Path, title: str) -> list[Path]:
    """The surface in every configured format: ``path`` with each format's ending.

    Raises:
        ValueError: an empty surface, or colours that are not finite.
    """
    device, unit = surface.vertices.device, config.meters_per_unit
    baking = config.baking()
    vertices, faces = simplify(surface.vertices.float().cpu(), surface.faces.cpu(), baking.max_faces)
    paths = {ending: path.with_suffix(f".{ending}") for ending in config.formats}
    if "ply" in paths:
        colors = in_chunks(surface.color, vertices, device)
        write_ply(paths["ply"], Mesh(vertices, faces, colors.clamp(0, 1)), unit)
    if paths.keys() - {"ply"}:
        textured = bake(vertices.to(device), faces.to(device), surface.color, replace(baking, max_faces=0))
    if "glb" in paths:
        write_textured_glb(paths["glb"], textured, unit)
    if "obj" in paths:
        write_obj(paths["obj"], textured, unit)
    if "html" in paths:
        write_viewer(paths["html"], textured, title, unit)
    return list(paths.values())


def numbered(folder: Path, stem: str, particle: int, config: RunConfig) -> Path:
    """``stem``, or ``stem-<particle>`` where there are several; without an ending."""
    return folder / (stem if config.particles == 1 else f"{stem}-{particle}")
