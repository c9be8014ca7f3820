"""The models that leave the program: a surface as GLB, OBJ, PLY and a page to look at.

Every stage gives a `Surface`; here it is simplified and baked. GLB, OBJ and the page show one texture. PLY has
colours at the vertices of the same, uncut mesh.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from configs.schema import ExportConfig
from files.whole_files import whole_file
from models.fields import in_chunks
from models.mesh import Mesh, Surface
from models.mesh_geometry import remove_floaters
from models.mesh_repair import without_cavities
from renderers.texture_baking import bake, simplify
from renderers.textured_export import colored_ply, textured_glb, textured_obj
from renderers.web_viewer import viewer_page


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
    contents = model_files(surface, config, path.name, title)
    for name, content in contents.items():
        with whole_file(path.with_name(name)) as unfinished:
            unfinished.write_bytes(content)
    return [path.with_suffix(f".{ending}") for ending in config.formats]


def model_files(surface: Surface, config: ExportConfig, stem: str, title: str) -> dict[str, bytes]:
    """The files of all configured formats by name; raises as `write_model`."""
    device, unit = surface.vertices.device, config.meters_per_unit
    baking = config.baking()
    vertices, faces = simplify(surface.vertices.float().cpu(), surface.faces.cpu(), baking.max_faces)
    files: dict[str, bytes] = {}
    if "ply" in config.formats:
        colors = in_chunks(surface.color, vertices, device)
        files[f"{stem}.ply"] = colored_ply(Mesh(vertices, faces, colors.clamp(0, 1)), unit)
    if set(config.formats) <= {"ply"}:
        return files
    textured = bake(vertices.to(device), faces.to(device), surface.color, replace(baking, max_faces=0))
    glb = textured_glb(textured, unit)
    if "glb" in config.formats:
        files[f"{stem}.glb"] = glb
    if "obj" in config.formats:
        files |= textured_obj(stem, textured, unit)
    if "html" in config.formats:
        files[f"{stem}.html"] = viewer_page(glb, title).encode()
    return files
