"""What a glTF file asks of its reader, checked before trimesh reads it.

trimesh reads what it knows and passes over the rest in silence: compressed geometry becomes zeros, sparse accessors
lose their values, quantised coordinates keep the wrong scale. Such files are refused here, with what would mend them.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

GLB_MAGIC, JSON_CHUNK = b"glTF", b"JSON"
TRIANGLE_MODES = (4, 5)  # triangles and strips
TRIANGLE_FAN = 6
MODES = ("points", "lines", "line loops", "line strips")
FLOAT = 5126  # componentType
# Extensions without which the geometry, the texture coordinates or the textures are wrong: what mends the file.
UNREADABLE = {
    "KHR_draco_mesh_compression": "export it without compression, or run: gltf-transform copy IN.glb OUT.glb",
    "EXT_meshopt_compression": "export it without compression, or run: gltf-transform copy IN.glb OUT.glb",
    "KHR_meshopt_compression": "export it without compression, or run: gltf-transform copy IN.glb OUT.glb",
    "KHR_mesh_quantization": "run: gltf-transform dequantize IN.glb OUT.glb",
    "EXT_mesh_gpu_instancing": "make the instances real before the export",
    "KHR_texture_basisu": "export it with PNG or JPEG textures",
    "KHR_texture_transform": "apply the texture transforms to the coordinates before the export",
}
# These may be required: they change light and gloss alone, or trimesh reads them.
HARMLESS_PREFIXES = ("KHR_materials_", "KHR_lights_", "EXT_lights_", "EXT_texture_webp", "KHR_xmp")


def read_header(path: Path) -> dict[str, Any]:
    """The JSON of a GLB or glTF file.

    Raises:
        ValueError: the file isn't glTF 2.0, is cut off, or is encrypted.
    """
    content = path.read_bytes()
    if path.suffix.lower() == ".glb":
        content = _json_chunk(path, content)
    try:
        header = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: no readable glTF ({error}); export the model again, without encryption") from error
    version = header.get("asset", {}).get("version") if isinstance(header, dict) else None
    if not str(version).startswith("2."):
        raise ValueError(f"{path}: glTF version {version!r} is not 2.x; export the model as glTF 2.0")
    return header


def _json_chunk(path: Path, content: bytes) -> bytes:
    if content[:4] != GLB_MAGIC or len(content) < 20:
        raise ValueError(f"{path}: no GLB, it doesn't begin with 'glTF'; is it encrypted, or of another format?")
    length, size = struct.unpack_from("<I", content, 8)[0], struct.unpack_from("<I", content, 12)[0]
    if len(content) < length or content[16:20] != JSON_CHUNK:
        raise ValueError(f"{path}: the file is cut off: {len(content)} of {length} bytes; copy or download it again")
    return content[20 : 20 + size]


def check_header(path: Path, header: dict[str, Any]) -> tuple[str, ...]:
    """What of a glTF file is left out when its triangles are read, in words.

    Raises:
        ValueError: the file needs what trimesh cannot read.
    """
    used, required = set(header.get("extensionsUsed", ())), set(header.get("extensionsRequired", ()))
    for extension in sorted(used | required):
        if extension in UNREADABLE:
            raise ValueError(f"{path}: uses the extension {extension}, which can't be read; {UNREADABLE[extension]}")
    for extension in sorted(required):
        if not extension.startswith(HARMLESS_PREFIXES):
            raise ValueError(f"{path}: requires the unknown extension {extension}; export it without that")
    if any("camera" in node and ("mesh" in node or node.get("children")) for node in header.get("nodes", ())):
        raise ValueError(f"{path}: other nodes hang on a camera's, which can't be read; detach them from the camera")
    primitives = [primitive for mesh in header.get("meshes", ()) for primitive in mesh["primitives"]]
    for primitive in primitives:
        if primitive.get("mode", 4) == TRIANGLE_FAN:
            raise ValueError(f"{path}: holds triangle fans, which can't be read; export plain triangles")
        _check_accessors(path, header, primitive)
    return tuple(_notes(header, primitives))


def _check_accessors(path: Path, header: dict[str, Any], primitive: dict[str, Any]) -> None:
    """Raise unless positions, coordinates and indices are stored as trimesh reads them."""
    attributes = primitive.get("attributes", {})
    named = {name: attributes[name] for name in ("POSITION", "TEXCOORD_0") if name in attributes}
    if "indices" in primitive:
        named["indices"] = primitive["indices"]
    for name, index in named.items():
        accessor = header["accessors"][index]
        if "sparse" in accessor:
            raise ValueError(f"{path}: {name} is a sparse accessor, which can't be read; run: gltf-transform copy")
        if name != "indices" and accessor["componentType"] != FLOAT:
            raise ValueError(f"{path}: {name} is not stored as floats; run: gltf-transform dequantize IN.glb OUT.glb")


def _notes(header: dict[str, Any], primitives: list[dict[str, Any]]) -> list[str]:
    """What is passed over without harm to the shape at rest."""
    modes = {primitive.get("mode", 4) for primitive in primitives} - set(TRIANGLE_MODES)
    notes = [f"{MODES[mode]} are left out" for mode in sorted(modes)]
    if header.get("skins"):
        notes.append("skins are left out: the mesh is taken as it stands at rest")
    if any("targets" in primitive for primitive in primitives):
        notes.append("morph targets are left out: the mesh is taken as it stands at rest")
    if header.get("animations"):
        notes.append("animations are left out: the mesh is taken as it stands at rest")
    if any(material.get("alphaMode", "OPAQUE") != "OPAQUE" for material in header.get("materials", ())):
        notes.append("transparency is left out: surfaces are opaque")
    return notes
