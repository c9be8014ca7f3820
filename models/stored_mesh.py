"""A user's mesh and its place as buffers, so that a checkpoint is enough to go on and to export without the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from models.mesh_file import MeshFile, Part
from models.placement import Placement


class SizedByState(nn.Module):
    """A module some of whose buffers take their size from the state that is loaded."""

    sized_by_state: ClassVar[tuple[str, ...]] = ()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name in self.sized_by_state:
            if f"{prefix}{name}" in state_dict:
                own = getattr(self, name)
                setattr(self, name, own.new_empty(state_dict[f"{prefix}{name}"].shape))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class StoredPlacement(nn.Module):
    """Where a file's object stands in the scene; float64, as a file may be far from its origin."""

    rotation: Tensor
    scale: Tensor
    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rotation", torch.eye(3, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(3, dtype=torch.float64))

    def store(self, placement: Placement) -> None:
        self.rotation.copy_(torch.from_numpy(placement.rotation))
        self.scale.fill_(placement.scale)
        self.centre.copy_(torch.from_numpy(placement.centre))

    @property
    def placement(self) -> Placement:
        return Placement(self.rotation.cpu().numpy(), self.scale.item(), self.centre.cpu().numpy())


class StoredMesh(SizedByState):
    """The triangles of a mesh file in the file's axes and units, without its colours."""

    sized_by_state = ("vertices", "faces", "normals", "uv")
    vertices: Tensor  # [vertices, 3], float64
    faces: Tensor  # [faces, 3], int32
    normals: Tensor  # [vertices, 3], float32
    uv: Tensor  # [vertices, 2], float32; [0, 2] where the file has none

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("vertices", torch.zeros(0, 3, dtype=torch.float64))
        self.register_buffer("faces", torch.zeros(0, 3, dtype=torch.int32))
        self.register_buffer("normals", torch.zeros(0, 3))
        self.register_buffer("uv", torch.zeros(0, 2))

    def store(self, mesh: MeshFile) -> None:
        """Keep a file's mesh."""
        uv = np.zeros((0, 2)) if mesh.uv is None else mesh.uv
        for name, values in (("vertices", mesh.vertices), ("faces", mesh.faces), ("normals", mesh.normals), ("uv", uv)):
            setattr(self, name, torch.from_numpy(values.copy()).to(getattr(self, name)))

    def mesh_file(self, path: Path) -> MeshFile:
        """The mesh as it was read, all of it one part without colours.

        Args:
            path: the file's, which need not be there any more; its suffix says which way is up.
        """
        faces = self.faces.cpu().numpy().astype(np.int64)
        return MeshFile(
            path=path,
            vertices=self.vertices.cpu().numpy(),
            faces=faces,
            normals=self.normals.cpu().double().numpy(),
            parts=(Part("mesh", None),),
            part=np.zeros(len(faces), np.int64),
            uv=self.uv.cpu().double().numpy() if len(self.uv) else None,
            colors=None,
        )
