"""The geometry of stage 2: signed distances and vertex offsets on a tetrahedral lattice (DMTet, Shen et al. 2021).

Both are free parameters, one of each for every vertex of the lattice. Offsets are bounded so that no
tetrahedron can turn inside out, and the lattice's boundary stays where it is and outside: so every surface
is closed, whatever the optimiser does. Distances are in scene units, negative inside.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.config import SDFFieldConfig
from models.fields import Particles
from models.mesh_geometry import remove_floaters
from models.sdf_init import Density, initial_sdf, working_levels
from models.tetrahedra import TetrahedralLattice, bcc_lattice, marching_tetrahedra


class SDFField(nn.Module):
    """A deformable surface; a ball of half the radius until it is initialised from a density."""

    def __init__(self, config: SDFFieldConfig, radius: float, lattice: TetrahedralLattice | None = None) -> None:
        """Make a surface in the cube [-radius, radius]^3, scene units.

        Args:
            lattice: shared with other surfaces of this configuration and radius; None makes a new one.
        """
        super().__init__()
        self.config = config
        self.radius = radius
        self.lattice = bcc_lattice(config.cells, radius) if lattice is None else lattice
        self.sdf = nn.Parameter(torch.linalg.vector_norm(self.lattice.vertices, dim=-1) - radius / 2)
        self.offsets = nn.Parameter(torch.zeros_like(self.lattice.vertices))

    @staticmethod
    def several(config: SDFFieldConfig, radius: float, count: int) -> Particles[SDFField]:
        """Surfaces on one lattice."""
        lattice = bcc_lattice(config.cells, radius)
        return Particles(SDFField(config, radius, lattice) for _ in range(count))

    def initialize(self, density: Density, level: float, *, bounds: str = "ball") -> None:
        """Start from the surface where a density crosses a level, in the lattice's cube.

        Args:
            bounds: "ball" or "box", the renderer's; beyond them nothing is inside.

        Raises:
            ValueError: the level set is empty, full or fragmented; the message names levels that would work.
        """
        with torch.no_grad():
            self.sdf.copy_(
                initial_sdf(
                    density,
                    self.lattice,
                    level,
                    radius=self.radius,
                    bounds=bounds,
                    floater_share=self.config.floater_share,
                )
            )
            self.offsets.zero_()

    def start_from(self, distances: Float[Tensor, "vertices"]) -> None:
        """Start from signed distances of the lattice's vertices, in scene units."""
        with torch.no_grad():
            self.sdf.copy_(distances)
            self.offsets.zero_()

    def working_levels(self, density: Density, *, bounds: str = "ball") -> str:
        """Levels to start from, in words."""
        return working_levels(density, self.lattice, radius=self.radius, bounds=bounds)

    def deformed_vertices(self) -> Float[Tensor, "vertices 3"]:
        """The lattice's vertices with their offsets, of a length below the largest allowed, in scene units."""
        lengths_squared = self.offsets.square().sum(-1, keepdim=True)
        bounded = self.offsets * (1 + lengths_squared).rsqrt()
        bounded = bounded.masked_fill(self.lattice.on_boundary[:, None], 0.0)
        return self.lattice.vertices + self.config.max_offset * self.lattice.spacing * bounded

    def forward(self) -> tuple[Float[Tensor, "surface_vertices 3"], Int[Tensor, "faces 3"]]:
        """The surface without floaters: vertices, differentiable in the parameters, and faces.

        Raises:
            ValueError: the surface has vanished.
        """
        lattice = self.lattice
        least = 1e-3 * lattice.spacing
        sdf = torch.where(lattice.on_boundary, self.sdf.detach().abs().clamp(min=least), self.sdf)
        vertices, faces = marching_tetrahedra(self.deformed_vertices(), sdf, lattice.tetrahedra)
        if len(faces) == 0:
            raise ValueError(
                "sdf: the surface has vanished, no vertex of the lattice is inside; "
                "lower the learning rate or the guidance, or start from a larger level set"
            )
        return remove_floaters(vertices, faces, self.config.floater_share)
