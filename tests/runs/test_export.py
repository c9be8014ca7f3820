from __future__ import annotations

import re

import torch
import trimesh

from configs.schema import ExportConfig
from models.mesh import Surface
from systems.outputs import export as export_module
from systems.outputs.export import visible_parts


def surface_of(*solids: trimesh.Trimesh) -> Surface:
    joined = trimesh.util.concatenate(solids)
    return Surface(torch.from_numpy(joined.vertices).float(), torch.from_numpy(joined.faces).long(), torch.sigmoid)


def test_only_what_cameras_can_see_is_exported() -> None:
    solid, bubble, crumb = (trimesh.creation.icosphere(2, radius) for radius in (1.0, 0.5, 0.01))
    bubble.invert()
    crumb.apply_translation([1.5, 0, 0])
    surface = surface_of(solid, bubble, crumb)
    seen = visible_parts(surface, floater_share=0.02, seen_from_inside=False)
    assert seen.color is surface.color
    assert torch.equal(seen.faces, surface.faces[: len(solid.faces)])
    room = visible_parts(surface, floater_share=0.02, seen_from_inside=True)
    assert torch.equal(room.faces, surface.faces[: len(solid.faces) + len(bubble.faces)])
    everything = visible_parts(surface, floater_share=0.0, seen_from_inside=True)
    assert torch.equal(everything.faces, surface.faces)


def test_the_steps_of_a_large_meshs_export_are_told(capsys) -> None:
    with export_module.told("unwrapping", export_module.LARGE):
        pass
    assert capsys.readouterr().out == ""
    with export_module.told("unwrapping", 200_000):
        assert capsys.readouterr().out == "export: unwrapping 200,000 faces ..."
    assert capsys.readouterr().out == " 0 s\n"


def test_the_files_of_a_large_model_are_told_one_by_one(capsys, monkeypatch) -> None:
    monkeypatch.setattr(export_module, "LARGE", 3)
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    surface = Surface(corners, faces, lambda points: points.clamp(0, 1))
    files = export_module.model_files(surface, ExportConfig(texture_size=64), "m", "title")
    said = capsys.readouterr().out
    assert {name.partition(".")[2] for name in files} >= {"ply", "glb", "obj", "html"}
    steps = ["simplifying 4 faces", "unwrapping and baking a texture 4 faces", "writing ply, 1 of 4, 4 faces"]
    assert all(re.search(rf"export: {step} \.\.\. \d+ s\n", said) for step in steps), said
