from __future__ import annotations

import torch
import trimesh

from models.mesh import Surface
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
