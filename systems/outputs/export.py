"""The models that leave the program: a surface as GLB, OBJ, PLY, STL and a page to look at.

Every stage gives a `Surface`; here it is simplified and baked. GLB, OBJ and the page show one texture. PLY has
colours at the vertices of the same, uncut mesh, and STL that mesh without colours. Up and front follow each format's
convention (`models/placement.py`): up is z in STL, and y in the others.

The object of a user's mesh returns to its file's place, axes and scale; the page alone shows it in the middle. What
the stage texture painted on such a mesh is the mesh itself, triangle by triangle (`own_mesh_files`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from configs.schema import ExportConfig
from files.whole_files import whole_file
from models.fields import in_chunks
from models.mesh import Mesh, Surface, TexturedMesh
from models.mesh_file import MeshFile
from models.mesh_geometry import remove_floaters
from models.mesh_repair import without_cavities
from models.placement import Origin, Placement, between_formats
from renderers.mesh_file_baking import bake_mesh_file, in_format, textured
from renderers.texture_baking import Atlas, Color, bake, simplify
from renderers.textured_export import colored_ply, plain_stl, textured_glb, textured_obj
from renderers.web_viewer import viewer_page

SCENE_SUFFIX = ".glb"  # a format whose axes are the scene's
WITHOUT_TEXTURE = {"ply", "stl"}
LARGE = 50_000  # faces, from which on an export's steps are told


@torch.no_grad()
def visible_parts(surface: Surface, floater_share: float, seen_from_inside: bool) -> Surface:
    """Without floaters, nor the walls of cavities where cameras stand outside."""
    vertices, faces = surface.vertices, surface.faces
    if not seen_from_inside:
        vertices, faces = without_cavities(vertices, faces)
    vertices, faces = remove_floaters(vertices, faces, floater_share)
    return replace(surface, vertices=vertices, faces=faces)


def write_model(contents: dict[str, bytes], formats: Sequence[str], path: Path) -> list[Path]:
    """Write the files of a model; returns ``path`` with each format's ending."""
    for name, content in contents.items():
        with whole_file(path.with_name(name)) as unfinished:
            unfinished.write_bytes(content)
    return [path.with_suffix(f".{ending}") for ending in formats]


@torch.no_grad()
def model_files(
    surface: Surface, config: ExportConfig, stem: str, title: str, origin: Origin | None = None
) -> dict[str, bytes]:
    """The files of all configured formats by name.

    Args:
        origin: of the file that the scene began with; None: the models have the scene's axes and place.

    Raises:
        ValueError: an empty surface, or colours that are not finite.
    """
    device = surface.vertices.device
    baking = config.baking()
    with told("simplifying", len(surface.faces)):
        vertices, faces = simplify(surface.vertices.float().cpu(), surface.faces.cpu(), baking.max_faces)
    colored = textured = None
    if set(config.formats) & WITHOUT_TEXTURE:
        colored = Mesh(vertices, faces, in_chunks(surface.color, vertices, device).clamp(0, 1))
    if set(config.formats) - WITHOUT_TEXTURE:
        with told("unwrapping and baking a texture", len(faces)):
            textured = bake(vertices.to(device), faces.to(device), surface.color, replace(baking, max_faces=0))
    return _files(config, stem, title, ModelInScene(colored, textured, origin), len(faces))


@torch.no_grad()
def own_mesh_files(
    mesh: MeshFile, placement: Placement, atlas: Atlas, color: Color, config: ExportConfig, stem: str, title: str
) -> dict[str, bytes]:
    """The files of all configured formats for a user's mesh, whose triangles they repeat one by one.

    Args:
        color: sRGB in [0, 1] at points in scene units on the CPU.

    Raises:
        ValueError: colours that are not finite.
    """
    with told("baking a texture", len(mesh.faces)):
        texture = bake_mesh_file(mesh, placement, atlas, color, config.baking())
    places = torch.from_numpy(placement.to_scene(mesh.vertices)).float()
    colors = in_chunks(color, places, "cpu").clamp(0, 1)
    return _files(config, stem, title, OwnModel(mesh, placement, atlas, texture, colors), len(mesh.faces))


@runtime_checkable
class Model(Protocol):
    """A model, as files of each format have it; the suffix None asks for it in scene units."""

    def colored(self, suffix: str) -> Mesh: ...

    def textured(self, suffix: str | None) -> TexturedMesh: ...


@dataclass(frozen=True)
class ModelInScene:
    """A model whose vertices are in scene units."""

    of_vertices: Mesh | None
    with_texture: TexturedMesh | None
    origin: Origin | None  # None: files have the scene's axes and place

    def colored(self, suffix: str) -> Mesh:
        assert self.of_vertices is not None, "a PLY or STL is asked for"
        return replace(self.of_vertices, vertices=self._points(self.of_vertices.vertices, suffix))

    def textured(self, suffix: str | None) -> TexturedMesh:
        mesh = self.with_texture
        assert mesh is not None, "a file with a texture is asked for"
        if self.origin is None or suffix is None:
            return mesh
        normals = torch.from_numpy(self.origin.directions(mesh.normals.double().numpy(), suffix)).float()
        return replace(mesh, vertices=self._points(mesh.vertices, suffix), normals=normals)

    def _points(self, points: Tensor, suffix: str) -> Tensor:
        if self.origin is None:
            rotation = torch.from_numpy(between_formats(SCENE_SUFFIX, suffix)).to(points)
            return points @ rotation.T
        return torch.from_numpy(self.origin.points(points.double().numpy(), suffix)).float()


@dataclass(frozen=True)
class OwnModel:
    """A user's mesh with new colours; its coordinates are the file's, not what a way to the scene and back left."""

    mesh: MeshFile
    placement: Placement
    atlas: Atlas
    texture: UInt8[Tensor, "size size 3"]
    colors: Float[Tensor, "vertices 3"]  # of the file's vertices

    def colored(self, suffix: str) -> Mesh:
        vertices = in_format(self.mesh, self.mesh.vertices, suffix)
        return Mesh(vertices, torch.from_numpy(self.mesh.faces.copy()), self.colors)

    def textured(self, suffix: str | None) -> TexturedMesh:
        if suffix is not None:
            return textured(self.mesh, self.atlas, self.texture, suffix)
        source, rotation = self.atlas.source.numpy(), self.placement.rotation
        vertices = torch.from_numpy(self.placement.to_scene(self.mesh.vertices[source])).float()
        normals = torch.from_numpy(self.mesh.normals[source] @ rotation.T).float()
        return TexturedMesh(vertices, self.atlas.faces, normals, self.atlas.uv, self.texture)


def _files(config: ExportConfig, stem: str, title: str, model: Model, faces: int) -> dict[str, bytes]:
    """The bytes of each configured format."""
    unit = config.meters_per_unit
    writers: dict[str, Callable[[], dict[str, bytes]]] = {
        "ply": lambda: {f"{stem}.ply": colored_ply(model.colored(".ply"), unit)},
        "glb": lambda: {f"{stem}.glb": textured_glb(model.textured(".glb"), unit, config.unlit)},
        "obj": lambda: textured_obj(stem, model.textured(".obj"), unit),
        "stl": lambda: {f"{stem}.stl": plain_stl(model.colored(".stl"), unit)},
        # In the middle of the page, wherever the file's object stands.
        "html": lambda: {f"{stem}.html": viewer_page(textured_glb(model.textured(None), unit), title).encode()},
    }
    files: dict[str, bytes] = {}
    asked = [name for name in writers if name in config.formats]
    for number, name in enumerate(asked, start=1):
        with told(f"writing {name}, {number} of {len(asked)},", faces):
            files |= writers[name]()
    return files


@contextmanager
def told(step: str, faces: int) -> Iterator[None]:
    """For a mesh so large that a step can take minutes, says which it is, and afterwards how long it took."""
    if faces <= LARGE:
        yield
        return
    started = time.monotonic()
    print(f"export: {step} {faces:,} faces", end=" ...", flush=True)
    yield
    print(f" {time.monotonic() - started:.0f} s", flush=True)
