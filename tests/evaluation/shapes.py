"""Closed meshes that tests of shapes compare."""

from __future__ import annotations

import numpy as np
import torch
import trimesh

from models.mesh import Mesh


def as_mesh(vertices, faces):
    vertices = torch.from_numpy(np.array(vertices)).float()
    return Mesh(vertices, torch.from_numpy(np.array(faces)).long(), torch.zeros_like(vertices))


def ball(radius=1.0, center=(0.0, 0.0, 0.0), subdivisions=4):
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    return as_mesh(mesh.vertices + center, mesh.faces)


def together(*meshes):
    shifts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = torch.cat([mesh.faces + shift for mesh, shift in zip(meshes, shifts.tolist(), strict=False)])
    return as_mesh(torch.cat([mesh.vertices for mesh in meshes]), faces)


def moved(mesh, similarity):
    return as_mesh(similarity.apply(mesh.vertices.double().numpy()), mesh.faces)
