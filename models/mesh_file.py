"""A user's mesh as a file holds it: triangles in the file's axes and units, with their materials.

trimesh reads GLB, glTF, OBJ, PLY and STL. Node transforms are applied, and an instance becomes a part of its own, so
one list of triangles holds the scene. Nothing is merged, removed or reordered: degenerate and doubled faces stay, and
vertices that a file repeats, for normals or texture coordinates, stay apart (`MeshFile.welded` joins them).

Colours are sRGB in [0, 1]. Texture coordinates have (0, 0) at the top left corner, as in glTF. A colour is the
texture times the vertex colour times the material's factor, multiplied as light (linear); in OBJ and MTL a texture
replaces the factor ``Kd``, as in Blender. Textures repeat outside [0, 1].
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
from jaxtyping import Float, Int, UInt8

from models.config import Axis
from models.gltf_header import check_header, read_header
from models.placement import AXES, SUFFIXES

if TYPE_CHECKING:
    import trimesh

MANY_FACES = 1_000_000  # above, a note says what they cost
# Of one core, for a new atlas of a sphere with noise on it: 33.4 s for 327,680 faces in pieces (xatlas 0.0.11). The
# smooth sphere took 0.3 s.
UNWRAP_SECONDS_PER_FACE = 33.4 / 327_680


@dataclass(frozen=True)
class Material:
    """What colours a part."""

    name: str
    color: tuple[float, float, float]  # sRGB, where there is no texture
    texture: UInt8[np.ndarray, "height width 3"] | None  # sRGB, the material's factor multiplied in


@dataclass(frozen=True)
class Part:
    """An instance of a file's geometry."""

    name: str
    material: Material | None  # None: the file gives it none


@dataclass(frozen=True)
class MeshFile:
    """The triangles of a file, node transforms applied, in the file's axes and units."""

    path: Path
    vertices: Float[np.ndarray, "vertices 3"]  # float64
    faces: Int[np.ndarray, "faces 3"]  # int64, counter-clockwise seen from outside if the file's are
    normals: Float[np.ndarray, "vertices 3"]  # unit length; the file's, else the mean of the faces' around
    parts: tuple[Part, ...]
    part: Int[np.ndarray, "faces"]  # the part of each face, in rising order
    uv: Float[np.ndarray, "vertices 2"] | None  # NaN in parts without; None where no part has any
    colors: Float[np.ndarray, "faces 3 3"] | None  # of corners; 1 in parts without; None where no part has any
    notes: tuple[str, ...] = field(default=())  # what was left out, or takes long, in words

    @property
    def convention(self) -> tuple[Axis, Axis]:
        """Up and front by the format's convention."""
        return AXES[self.path.suffix.lower()]

    @property
    def is_colored(self) -> bool:
        """Whether the file says anything about colours."""
        return self.colors is not None or any(part.material is not None for part in self.parts)

    @cached_property
    def welded(self) -> tuple[Float[np.ndarray, "places 3"], Int[np.ndarray, "faces 3"]]:
        """The surface without its seams: vertices at one place are one; the faces' order stays.

        Places are equal to a millionth of the mesh's size.
        """
        size = float(np.ptp(self.vertices[self.faces.ravel()], axis=0).max())
        keys = np.round((self.vertices - self.vertices.min(axis=0)) / size * 1e6).astype(np.int64)
        order = np.lexsort(keys.T)
        is_new = np.append(True, (np.diff(keys[order], axis=0) != 0).any(axis=1))
        place = np.empty(len(keys), np.int64)
        place[order] = np.cumsum(is_new) - 1
        return self.vertices[order[is_new]], place[self.faces]


def read_mesh_file(path: Path) -> MeshFile:
    """Read a mesh; the file and those that it names are left as they are.

    Raises:
        FileNotFoundError: the file, or one that it names (materials, textures, buffers), is not there.
        ValueError: a folder, an unknown format, an unreadable file, no faces, or vertices that are not finite.
    """
    path = Path(path)
    _check_path(path)
    notes = check_header(path, read_header(path)) if path.suffix.lower() in (".glb", ".gltf") else ()
    scene = _load(path)
    shapes = _triangles(scene)
    if len(shapes) == 0:
        raise ValueError(f"{path}: {_contents(scene)}; export a model of triangles")
    unfit = sum(int((~np.isfinite(shape.vertices).all(axis=1)).sum()) for shape in shapes.values())
    if unfit:
        count = sum(len(shape.vertices) for shape in shapes.values())
        raise ValueError(
            f"{path}: {unfit} of {count} vertices are not finite (NaN or infinite); "
            "repair the model, or export it again"
        )
    mesh = _joined(path, _pieces(path, scene, shapes), notes)
    if not np.ptp(mesh.vertices[mesh.faces.ravel()], axis=0).max() > 0:
        raise ValueError(f"{path}: all vertices lie at one place, the mesh has no size; export the model again")
    return mesh


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name a mesh in it, one of {', '.join(SUFFIXES)}")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: the format {path.suffix!r} is not one of {', '.join(SUFFIXES)}; convert the model")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.suffix.lower() == ".obj" and re.search(rb"^f\s[^\n#]*-", path.read_bytes(), re.MULTILINE):
        raise ValueError(f"{path}: faces count their vertices backwards (negative numbers); save it again as OBJ")


class _Beside:
    """Files that a mesh names, relative to it, as trimesh asks for them; remembers those that are not there."""

    def __init__(self, path: Path) -> None:
        self.file_name = path.name
        self.folder = path.parent
        self.missing: list[str] = []

    def get(self, name: str) -> bytes:
        name = name.strip()
        for spelling in (name, unquote(name), name.replace("\\", "/")):
            if (self.folder / spelling).is_file():
                return (self.folder / spelling).read_bytes()
        self.missing.append(name)
        raise FileNotFoundError(name)

    __getitem__ = get


def _load(path: Path) -> trimesh.Scene:
    """trimesh's scene; raises as `read_mesh_file` where trimesh cannot read, or would go on without a file."""
    import trimesh

    beside = _Beside(path)
    # Faces keep the file's order in OBJ alone by these options.
    options = {"maintain_order": True, "group_material": False} if path.suffix.lower() == ".obj" else {}
    try:
        with path.open("rb") as file:
            scene = trimesh.load_scene(
                file, file_type=path.suffix[1:].lower(), resolver=beside, process=False, **options
            )
    except Exception as error:  # whatever a broken file makes a parser stumble over
        if not beside.missing:
            raise ValueError(
                f"{path}: cannot be read as {path.suffix[1:].upper()} ({type(error).__name__}: {error}); "
                "is it complete, not encrypted, and of this format?"
            ) from error
    if beside.missing:
        raise FileNotFoundError(
            f"{path}: names {', '.join(map(repr, beside.missing))}, which is not there; put it beside the mesh, "
            "or export the model without materials"
        )
    return scene


@dataclass(frozen=True)
class _Piece:
    """One instance of a geometry, in the file's axes."""

    part: Part
    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    normals: Float[np.ndarray, "vertices 3"]
    uv: Float[np.ndarray, "vertices 2"] | None
    colors: Float[np.ndarray, "faces 3 3"] | None


def _triangles(scene: trimesh.Scene) -> dict[str, trimesh.Trimesh]:
    """The geometries that an instance shows and that have faces, by name."""
    import trimesh

    shown = {scene.graph[node][1] for node in scene.graph.nodes_geometry}
    shapes = {name: shape for name, shape in scene.geometry.items() if name in shown}
    return {name: shape for name, shape in shapes.items() if isinstance(shape, trimesh.Trimesh) and len(shape.faces)}


def _pieces(path: Path, scene: trimesh.Scene, shapes: dict[str, trimesh.Trimesh]) -> list[_Piece]:
    """The scene's triangles, an instance after the other."""
    is_linear = path.suffix.lower() in (".glb", ".gltf")
    nodes = list(scene.graph.nodes_geometry)
    if path.suffix.lower() == ".obj":
        nodes.reverse()  # trimesh takes materials from the end
    pieces = []
    for node in nodes:
        transform, name = scene.graph[node]
        if name in shapes:
            pieces.append(_piece(shapes[name], str(node), np.asarray(transform), is_linear))
    return pieces


def _piece(shape: trimesh.Trimesh, name: str, transform: np.ndarray, is_linear: bool) -> _Piece:
    linear, offset = transform[:3, :3], transform[:3, 3]
    vertices, faces = np.asarray(shape.vertices, np.float64), np.asarray(shape.faces, np.int64)
    normals = np.asarray(shape.vertex_normals, np.float64)
    if not np.array_equal(transform, np.eye(4)):
        vertices = vertices @ linear.T + offset
        cofactors = np.cross(
            np.roll(linear, -1, axis=0), np.roll(linear, -2, axis=0)
        )  # det(M) M^-T, also where det = 0
        normals = normals @ cofactors.T
    if np.linalg.det(linear) < 0:
        faces = faces[:, ::-1]  # a mirror turns faces inside out; glTF 2.0, section 3.7.4, turns them back
        normals = -normals
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(lengths > 0, normals / np.where(lengths > 0, lengths, 1), [0.0, 1.0, 0.0])
    material, uv, colors = _visual(shape, is_linear)
    if colors is not None and np.linalg.det(linear) < 0:
        colors = colors[:, ::-1]
    return _Piece(Part(name, material), vertices, faces, normals, uv, colors)


def _visual(shape: trimesh.Trimesh, is_linear: bool) -> tuple[Material | None, Any, Any]:
    """Material, texture coordinates and corner colours of trimesh's visual."""
    visual = shape.visual
    kind = getattr(visual, "kind", None)
    if kind == "texture":
        uv = None if visual.uv is None else np.asarray(visual.uv, np.float64) * [1, -1] + [0, 1]
        colors = visual.vertex_attributes.get("color")
        colors = None if colors is None else _as_srgb(np.asarray(colors)[shape.faces], is_linear)
        return _material(visual.material, is_linear), uv, colors
    if kind == "vertex":
        return None, None, _as_srgb(np.asarray(visual.vertex_colors)[shape.faces], is_linear)
    if kind == "face":
        return None, None, _as_srgb(np.asarray(visual.face_colors)[:, None].repeat(3, axis=1), is_linear)
    return None, None, None


def _as_srgb(colors: np.ndarray, is_linear: bool) -> Float[np.ndarray, "*n 3"]:
    """Colours of any type without their opacity; glTF's vertex colours are linear (section 3.7.2.1)."""
    scale = np.iinfo(colors.dtype).max if np.issubdtype(colors.dtype, np.integer) else 1.0
    colors = np.clip(colors[..., :3].astype(np.float64) / scale, 0, 1)
    return srgb_from_linear(colors) if is_linear else colors


def _material(material: Any, is_linear: bool) -> Material | None:
    """Base colour of trimesh's two kinds of materials."""
    if is_linear:
        factor = material.baseColorFactor
        factor = np.ones(3) if factor is None else np.asarray(factor, np.float64)[:3] / 255
        texture = _pixels(material.baseColorTexture)
        if texture is not None and (factor != 1).any():
            texture = (srgb_from_linear(linear_from_srgb(texture / 255) * factor) * 255).round().astype(np.uint8)
        color = srgb_from_linear(factor)
    else:
        texture = _pixels(getattr(material, "image", None))
        color = np.asarray(material.main_color, np.float64)[:3] / 255
    return Material(getattr(material, "name", None) or "material", tuple(color.tolist()), texture)


def _pixels(image: Any) -> UInt8[np.ndarray, "height width 3"] | None:
    return None if image is None else np.array(image.convert("RGB"))


def _joined(path: Path, pieces: list[_Piece], notes: tuple[str, ...]) -> MeshFile:
    firsts = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
    uv = colors = None
    if any(piece.uv is not None for piece in pieces):
        blank = [np.full((len(piece.vertices), 2), np.nan) for piece in pieces]
        uv = np.concatenate([b if p.uv is None else p.uv for p, b in zip(pieces, blank, strict=True)])
    if any(piece.colors is not None for piece in pieces):
        blank = [np.ones((len(piece.faces), 3, 3)) for piece in pieces]
        colors = np.concatenate([b if p.colors is None else p.colors for p, b in zip(pieces, blank, strict=True)])
    faces = np.concatenate([piece.faces + first for piece, first in zip(pieces, firsts, strict=False)])
    if len(faces) > MANY_FACES:
        notes = (*notes, f"{len(faces):,} faces: {time_note(len(faces))}")
    return MeshFile(
        path=path,
        vertices=np.concatenate([piece.vertices for piece in pieces]),
        faces=faces,
        normals=np.concatenate([piece.normals for piece in pieces]),
        parts=tuple(piece.part for piece in pieces),
        part=np.repeat(np.arange(len(pieces)), [len(piece.faces) for piece in pieces]),
        uv=uv,
        colors=colors,
        notes=notes,
    )


def time_note(faces: int) -> str:
    """What a new atlas costs at most, from what a rough surface took."""
    minutes = UNWRAP_SECONDS_PER_FACE * faces / 60
    return (
        "unless its texture coordinates can be kept, a new atlas takes up to about "
        f"{minutes:,.0f} minutes of one core; simplify the mesh, or give it coordinates"
    )


def _contents(scene: trimesh.Scene) -> str:
    """Why a scene has no triangles, in words."""
    kinds = sorted({type(shape).__name__ for shape in scene.geometry.values()} - {"Trimesh"})
    if "PointCloud" in kinds:
        return "holds points without faces (a point cloud); reconstruct a surface first, for instance in MeshLab"
    if kinds:
        return "holds lines, but no faces"
    return "holds no faces, only cameras, lights or empty nodes" if scene.graph.nodes else "holds no faces"


def srgb_from_linear(linear: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """The sRGB transfer function (IEC 61966-2-1), for values in [0, 1]."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def linear_from_srgb(encoded: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """The inverse of `srgb_from_linear`."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((np.maximum(encoded, 0.04045) + 0.055) / 1.055) ** 2.4)
