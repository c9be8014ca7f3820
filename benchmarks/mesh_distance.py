"""Signed distances of damaged meshes: which library, how exact, how fast.

    python -m benchmarks.mesh_distance [--cells 48] [--shapes 6] [--libraries ours libigl ...] [--faces 200000]

True shapes of the closed world are exported as meshes and damaged; each library says at the vertices of the stage
geometry's lattice which lie inside and how far the surface is. The truth is the solid that the mesh was made of.
Libraries that are not installed are left out. Seconds are of the process, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from models.mesh_distance import solid_of
from models.tetrahedra import bcc_lattice
from priors.world.dataset import sample_instance

RADIUS = 1.0
BAND = 4  # spacings: farther away only the sign counts
Mesh = tuple[np.ndarray, np.ndarray]


def holes(vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> Mesh:
    """Five round holes of a radius of 0.1 scene units."""
    centres = vertices[rng.choice(len(vertices), 5)]
    middles = vertices[faces].mean(axis=1)
    cut = (np.linalg.norm(middles[:, None] - centres, axis=-1) < 0.1).any(axis=1)
    return vertices, faces[~cut]


def flipped(vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> Mesh:
    """Three of ten faces turned round."""
    turned = rng.random(len(faces)) < 0.3
    return vertices, np.where(turned[:, None], faces[:, ::-1], faces)


def inside_out(vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> Mesh:
    """All faces turned round."""
    return vertices, faces[:, ::-1].copy()


def soup(vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> Mesh:
    """No vertex shared, as in STL; the faces in another order."""
    corners = vertices[rng.permutation(faces)]
    return corners.reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)


def overlapping(vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> Mesh:
    """The parts on both sides of the middle as two closed meshes that reach into each other, one inside out."""
    import trimesh

    parts = [trimesh.Trimesh(*_capped(vertices, faces, sign), process=False) for sign in (1, -1)]
    both = trimesh.util.concatenate(parts)
    is_second = np.arange(len(both.faces)) >= len(parts[0].faces)
    return both.vertices, np.where(is_second[:, None], both.faces[:, ::-1], both.faces)


def _capped(vertices: np.ndarray, faces: np.ndarray, sign: int) -> Mesh:
    """The mesh without what lies farther than 0.1 beyond x = 0 on one side: flattened onto that plane, so closed."""
    moved = vertices.copy()
    moved[:, 0] = sign * np.maximum(sign * vertices[:, 0], -0.1)
    return moved, faces


def doubled(vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> Mesh:
    """Every face from both sides, as game models have them, and a hundred degenerate ones."""
    flat = np.repeat(rng.choice(len(vertices), (100, 1)), 3, axis=1)
    return vertices, np.concatenate([faces, faces[:, ::-1], flat])


def non_manifold(vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> Mesh:
    """Two hundred fins: triangles that stand on an edge of the surface."""
    picked = faces[rng.choice(len(faces), 200)]
    tips = vertices[picked].mean(axis=1) * 1.02
    fins = np.column_stack([picked[:, :2], len(vertices) + np.arange(200)])
    return np.concatenate([vertices, tips]), np.concatenate([faces, fins])


def all_at_once(vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> Mesh:
    """Holes, flips, fins and no shared vertices."""
    mesh = (vertices, faces)
    for damage in (holes, non_manifold, flipped, soup):
        mesh = damage(*mesh, rng)
    return mesh


def whole(vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> Mesh:
    """As it is."""
    return vertices, faces


DAMAGES = (whole, holes, flipped, inside_out, soup, overlapping, doubled, non_manifold, all_at_once)


def ours(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, largest: float) -> np.ndarray:
    """`models.mesh_distance`, which orients the mesh and asks libigl."""
    vertices, faces = _welded(vertices, faces)
    return solid_of(vertices, faces).signed_distance(points, largest)


def libigl(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, largest: float) -> np.ndarray:
    import igl

    kind = igl.SignedDistanceType.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
    return np.clip(igl.signed_distance(points, vertices, faces, kind)[0], -largest, largest)


def libigl_pseudonormal(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, largest: float) -> np.ndarray:
    import igl

    kind = igl.SignedDistanceType.SIGNED_DISTANCE_TYPE_PSEUDONORMAL
    return np.clip(igl.signed_distance(points, vertices, faces, kind)[0], -largest, largest)


def point_cloud_utils(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, largest: float) -> np.ndarray:
    import point_cloud_utils

    return np.clip(point_cloud_utils.signed_distance_to_mesh(points, vertices, faces)[0], -largest, largest)


def embreex(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, largest: float) -> np.ndarray:
    """trimesh counts crossings of rays by Embree: signs alone."""
    import embreex  # noqa: F401
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    return np.where(mesh.ray.contains_points(points), -largest, largest)


LIBRARIES: dict[str, Callable] = {
    each.__name__: each for each in (ours, libigl, libigl_pseudonormal, point_cloud_utils, embreex)
}


def _welded(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    unique, place = np.unique(vertices, axis=0, return_inverse=True)
    return unique, place.reshape(-1)[faces]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=48, help="of the lattice")
    parser.add_argument("--shapes", type=int, default=6)
    parser.add_argument("--resolution", type=int, default=96, help="of the marching cubes that make the meshes")
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=list(LIBRARIES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lattice = bcc_lattice(arguments.cells, RADIUS)
    points, largest = lattice.vertices.double().numpy(), BAND * lattice.spacing
    instances = [sample_instance(0, index, held_out=None) for index in range(arguments.shapes)]
    print(f"{arguments.cells} cells, {len(points)} points; shapes: {', '.join(i.class_name for i in instances)}")
    print(
        "| library | damage | faces | IoU mean | IoU worst | distance error / spacing | seconds |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name in arguments.libraries:
        for damage in DAMAGES:
            overlaps, errors, seconds, counts = [], [], [], []
            for number, instance in enumerate(instances):
                vertices, faces = instance.solid.mesh(arguments.resolution)
                rng = np.random.default_rng(number)
                vertices, faces = damage(vertices.astype(np.float64), faces.astype(np.int64), rng)
                start = time.process_time()
                try:
                    found = LIBRARIES[name](points, vertices, np.ascontiguousarray(faces), largest)
                except ImportError as error:
                    print(f"| {name} | not installed: {error} |")
                    break
                seconds.append(time.process_time() - start)
                truth = instance.solid.distance(points)
                overlaps.append(((found < 0) & (truth < 0)).sum() / ((found < 0) | (truth < 0)).sum())
                near = np.abs(truth) < 2 * lattice.spacing
                errors.append(np.abs(found - truth)[near].mean() / lattice.spacing)
                counts.append(len(faces))
            else:
                figures = (np.mean(overlaps), np.min(overlaps), np.mean(errors), np.mean(seconds))
                row = "{:.4f} | {:.4f} | {:.3f} | {:.2f}".format(*figures)
                print(f"| {name} | {damage.__name__} | {int(np.mean(counts))} | {row} |", flush=True)
                continue
            break


if __name__ == "__main__":
    main()
