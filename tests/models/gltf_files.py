"""Hand-written glTF files for tests."""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FLOAT, USHORT, UINT = 5126, 5123, 5125
KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}


class GltfBuilder:
    """Collects arrays and nodes; writes them as .glb, or as .gltf with its buffer inside or beside it."""

    def __init__(self) -> None:
        self.binary = b""
        self.tree: dict[str, Any] = {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": []}],
            **{name: [] for name in ("nodes", "meshes", "accessors", "bufferViews", "materials", "images", "textures")},
        }

    def view(self, content: bytes) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(content)})
        self.binary += content
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values: np.ndarray, component: int = FLOAT) -> int:
        values = np.asarray(values, {FLOAT: np.float32, USHORT: np.uint16, UINT: np.uint32}[component])
        kind = KINDS[1 if values.ndim == 1 else values.shape[1]]
        accessor = {"bufferView": self.view(values.tobytes()), "componentType": component, "count": len(values)}
        accessor |= {"type": kind}
        if component == FLOAT:
            flat = values.reshape(len(values), -1)
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        self.tree["accessors"].append(accessor)
        return len(self.tree["accessors"]) - 1

    def texture(self, pixels: np.ndarray, uri: str | None = None) -> int:
        image: dict[str, Any] = {"uri": uri}
        if uri is None:
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, format="png")
            image = {"bufferView": self.view(stream.getvalue()), "mimeType": "image/png"}
        self.tree["images"].append(image)
        self.tree["textures"].append({"source": len(self.tree["images"]) - 1})
        return len(self.tree["textures"]) - 1

    def material(self, name: str, factor: list[float] | None = None, texture: int | None = None) -> int:
        pbr: dict[str, Any] = {} if factor is None else {"baseColorFactor": factor}
        if texture is not None:
            pbr["baseColorTexture"] = {"index": texture}
        self.tree["materials"].append({"name": name, "pbrMetallicRoughness": pbr})
        return len(self.tree["materials"]) - 1

    def primitive(self, vertices: np.ndarray, faces: np.ndarray, **attributes: Any) -> dict[str, Any]:
        """``uv``, ``color``, ``normal``: arrays; ``material``: its number."""
        found = {"POSITION": self.accessor(vertices)}
        for key, name in (("uv", "TEXCOORD_0"), ("color", "COLOR_0"), ("normal", "NORMAL")):
            if key in attributes:
                found[name] = self.accessor(attributes[key])
        primitive = {"attributes": found, "indices": self.accessor(np.asarray(faces).ravel(), UINT)}
        return primitive | ({"material": attributes["material"]} if "material" in attributes else {})

    def mesh(self, *primitives: dict[str, Any], name: str = "mesh") -> int:
        self.tree["meshes"].append({"name": name, "primitives": list(primitives)})
        return len(self.tree["meshes"]) - 1

    def node(self, mesh: int | None = None, root: bool = True, **keys: Any) -> int:
        self.tree["nodes"].append(({} if mesh is None else {"mesh": mesh}) | keys)
        if root:
            self.tree["scenes"][0]["nodes"].append(len(self.tree["nodes"]) - 1)
        return len(self.tree["nodes"]) - 1

    def write(self, path: Path, buffer: str | None = None) -> Path:
        """``buffer``: the name of a file for the buffer of a .gltf; None puts it inside."""
        tree = {key: value for key, value in self.tree.items() if value != []}
        if self.binary:
            tree["buffers"] = [{"byteLength": len(self.binary)}]
        if path.suffix == ".gltf":
            if self.binary and buffer is None:
                data = base64.b64encode(self.binary).decode()
                tree["buffers"][0]["uri"] = f"data:application/octet-stream;base64,{data}"
            elif self.binary:
                tree["buffers"][0]["uri"] = buffer
                (path.parent / buffer).write_bytes(self.binary)
            path.write_text(json.dumps(tree))
            return path
        text = json.dumps(tree).encode()
        text += b" " * (-len(text) % 4)
        binary = self.binary + b"\0" * (-len(self.binary) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        if binary:
            chunks += struct.pack("<I4s", len(binary), b"BIN\0") + binary
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
        return path
