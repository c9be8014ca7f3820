"""Textured meshes as the bytes of files: GLB, OBJ with MTL and PNG, PLY; and reading a GLB back.

All files have the axes of our world, y up and front towards +z, which are glTF's. Lengths are in metres:
a scene unit becomes ``meters_per_unit`` of them.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.mesh import Mesh, TexturedMesh

MATERIAL = "surface"
UNLIT = "KHR_materials_unlit"


def textured_glb(mesh: TexturedMesh, meters_per_unit: float = 1.0, unlit: bool = False) -> bytes:
    """Binary glTF 2.0 with a matte PBR material, its base-colour texture, and normals.

    Args:
        unlit: viewers show the texture's colours as they are (KHR_materials_unlit), without any light; those that
            don't know the extension show the matte material.
    """
    import trimesh
    from PIL import Image
    from trimesh.visual.material import PBRMaterial
    from trimesh.visual.texture import TextureVisuals

    material = PBRMaterial(
        name=MATERIAL,
        baseColorTexture=Image.fromarray(mesh.texture.numpy()),
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    # trimesh's texture coordinates start at the bottom.
    uv = mesh.uv * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 1.0])
    shape = trimesh.Trimesh(
        (mesh.vertices * _checked(meters_per_unit)).numpy(),
        mesh.faces.numpy(),
        vertex_normals=mesh.normals.numpy(),
        visual=TextureVisuals(uv=uv.numpy(), material=material),
        process=False,  # merging vertices would separate normals and coordinates from them
    )
    scene = trimesh.Scene({"object": shape})
    change = _mark_unlit if unlit else None
    return bytes(scene.export(file_type="glb", include_normals=True, tree_postprocessor=change))


def _mark_unlit(tree: dict[str, Any]) -> None:
    """Add the extension to a glTF's materials."""
    tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), UNLIT]
    for material in tree["materials"]:
        material.setdefault("extensions", {})[UNLIT] = {}


def textured_obj(stem: str, mesh: TexturedMesh, meters_per_unit: float = 1.0) -> dict[str, bytes]:
    """The files of an OBJ by name: texture STEM.png, material STEM.mtl and STEM.obj, which names the other two.

    Raises:
        ValueError: a stem with spaces, which names in an OBJ cannot have.
    """
    from PIL import Image

    if " " in stem:
        raise ValueError(f"stem: {stem!r} must hold no spaces, which OBJ's names can't have; use '-' instead")
    picture = io.BytesIO()
    Image.fromarray(mesh.texture.numpy()).save(picture, format="png")
    material = f"newmtl {MATERIAL}\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {stem}.png\n"
    text = io.StringIO()
    text.write(f"mtllib {stem}.mtl\n")
    np.savetxt(text, (mesh.vertices * _checked(meters_per_unit)).numpy(), fmt="v %.7g %.7g %.7g")
    # OBJ's texture coordinates start at the bottom.
    np.savetxt(text, torch.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], dim=-1).numpy(), fmt="vt %.7g %.7g")
    np.savetxt(text, mesh.normals.numpy(), fmt="vn %.6f %.6f %.6f")
    text.write(f"usemtl {MATERIAL}\n")
    corners = (mesh.faces + 1).numpy().repeat(3, axis=1)  # one number for place, coordinates and normal
    np.savetxt(text, corners, fmt="f " + " ".join(["%d/%d/%d"] * 3))
    return {
        f"{stem}.png": picture.getvalue(),
        f"{stem}.mtl": material.encode(),
        f"{stem}.obj": text.getvalue().encode(),
    }


def colored_ply(mesh: Mesh, meters_per_unit: float = 1.0) -> bytes:
    """Binary PLY with sRGB vertex colours."""
    import trimesh

    colors = (mesh.colors * 255).round().to(torch.uint8).numpy()
    vertices = (mesh.vertices * _checked(meters_per_unit)).numpy()
    shape = trimesh.Trimesh(vertices, mesh.faces.numpy(), vertex_colors=colors, process=False)
    content: Any = shape.export(file_type="ply")
    return content


def plain_stl(mesh: Mesh, meters_per_unit: float = 1.0) -> bytes:
    """Binary STL, as programs for 3D printing read it: the shape without colours."""
    import trimesh

    vertices = (mesh.vertices * _checked(meters_per_unit)).numpy()
    content: Any = trimesh.Trimesh(vertices, mesh.faces.numpy(), process=False).export(file_type="stl")
    return content


def read_textured_glb(path: Path) -> TexturedMesh:
    """The mesh of a GLB that `textured_glb` made, in metres."""
    import trimesh

    # Taken from the scene as it is, whose transforms are identities: `dump` would lose the normals.
    (shape,) = trimesh.load_scene(path, file_type="glb", process=False).geometry.values()
    uv = torch.from_numpy(np.asarray(shape.visual.uv)).float()
    return TexturedMesh(
        vertices=torch.from_numpy(np.asarray(shape.vertices)).float(),
        faces=torch.from_numpy(np.asarray(shape.faces)).long(),
        normals=torch.from_numpy(np.array(shape.vertex_normals)).float(),
        uv=torch.stack([uv[:, 0], 1 - uv[:, 1]], dim=-1),
        texture=torch.from_numpy(np.array(shape.visual.material.baseColorTexture.convert("RGB"))),
    )


def sample_texture(mesh: TexturedMesh, uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Colours of the texture at coordinates, bilinear, sRGB in [0, 1]."""
    image = mesh.texture.to(uv.device).float().permute(2, 0, 1)[None] / 255
    sampled = F.grid_sample(image, uv[None, None] * 2 - 1, padding_mode="border", align_corners=False)
    return sampled[0, :, 0].T


def _checked(meters_per_unit: float) -> float:
    if not 0 < meters_per_unit < float("inf"):
        raise ValueError(f"meters_per_unit: {meters_per_unit:g} must be positive")
    return meters_per_unit
