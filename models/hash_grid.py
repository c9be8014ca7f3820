"""Multiresolution hash grid (Müller et al., "Instant Neural Graphics Primitives", 2022).

The formulas and the layout of the parameters are tinycudann's, so that weights can move between its
encoding and ours:

- level l: scale = 2^(l log2(per_level_scale)) * base_resolution - 1, resolution = ceil(scale) + 1, in float32;
- position = x * scale + 0.5, cell = floor(position), weights = position - cell, trilinear;
- a level holds min(resolution^3 rounded up to a multiple of 8, 2^log2_hashmap_size) entries;
- a vertex is stored at x + y res + z res^2 where the level fits, otherwise at
  x ^ (y * 2654435761) ^ (z * 805459861) in uint32; both modulo the level's entries;
- the flat parameter is laid out [level][entry][feature] and starts at U(-1e-4, 1e-4).

Four backends compute the same function: ``torch`` (the reference, any device, slow), ``numba``
(CPU kernels), ``triton`` (CUDA kernels) and ``tinycudann`` (CUDA, half precision inside). All return float32.
The gradient is defined with respect to table and positions; only ``torch`` can be differentiated twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.backends import NUMBA, TORCH, TRITON, Backend, BackendChoice, package_obstacle
from models.config import HashGridConfig
from models.numba_threads import match_torch_threads

INITIAL_RANGE = 1e-4  # half-width of the uniform initialisation


# The fastest of a device first. tinycudann comes after our own kernels: it rounds to half precision.
BACKENDS = (NUMBA, TRITON, Backend("tinycudann", "cuda", lambda device: package_obstacle("tinycudann")), TORCH)


@dataclass(frozen=True, eq=False)
class HashGridLayout:
    """Where each level lies in the table. Arrays have one element per level."""

    scales: np.ndarray  # float32
    resolutions: np.ndarray  # int64
    offsets: np.ndarray  # int64, first entry of the level
    sizes: np.ndarray  # int64, entries of the level
    hashed: np.ndarray  # bool, False where every vertex has an entry of its own
    features: int

    @property
    def entries(self) -> int:
        return int(self.sizes.sum())


def hash_grid_layout(config: HashGridConfig) -> HashGridLayout:
    """Lay out the levels as tinycudann does, float32 roundings included."""
    log2_scale = np.log2(np.float32(config.per_level_scale))
    growth = np.exp2(np.arange(config.levels, dtype=np.float32) * log2_scale)
    scales = growth * np.float32(config.base_resolution) - np.float32(1)
    resolutions = np.ceil(scales).astype(np.int64) + 1
    vertices = resolutions**3
    sizes = np.minimum((vertices + 7) // 8 * 8, 2**config.log2_hashmap_size)
    offsets = np.cumsum(sizes) - sizes
    return HashGridLayout(scales, resolutions, offsets, sizes, vertices > sizes, config.features)


def vertex_entry(vertex: Tensor, resolution: int, size: int, hashed: bool) -> Tensor:
    """Entry in its level of each integer vertex ``[..., 3]``, int64 ``[...]``."""
    x, y, z = vertex.unbind(-1)
    if hashed:
        # uint32 arithmetic, in int64
        return ((x ^ (y * 2654435761) ^ (z * 805459861)) & 0xFFFFFFFF) % size
    return (x + y * resolution + z * resolution**2) % size


def encode_reference(
    positions: Float[Tensor, "n 3"], table: Float[Tensor, "entries features"], layout: HashGridLayout
) -> Float[Tensor, "n channels"]:
    """The hash grid in plain PyTorch: the oracle of the other backends, twice differentiable."""
    features = []
    for level, scale in enumerate(layout.scales.tolist()):
        resolution, size = int(layout.resolutions[level]), int(layout.sizes[level])
        position = positions * scale + 0.5
        floor = position.detach().floor()
        fraction = position - floor
        cell = floor.long().clamp(0, resolution)
        total = torch.zeros((), device=positions.device)
        for corner in range(8):
            far = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=positions.device)
            weight = torch.where(far.bool(), fraction, 1 - fraction).prod(-1, keepdim=True)
            entry = vertex_entry(cell + far, resolution, size, bool(layout.hashed[level]))
            total = total + weight * table[entry + int(layout.offsets[level])]
        features.append(total)
    return torch.cat(features, dim=-1)


class _NumbaEncode(torch.autograd.Function):
    """`encode_reference` on CPU kernels, differentiable once."""

    @staticmethod
    def forward(ctx, positions: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
        kernels = _numba_kernels()
        positions, table = positions.detach().contiguous(), table.detach().contiguous()
        features = torch.empty(len(positions), len(layout.scales) * layout.features)
        kernels.encode(positions.numpy(), table.numpy(), *_kernel_arguments(layout), features.numpy())
        ctx.save_for_backward(positions, table)
        ctx.layout = layout
        return features

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        kernels = _numba_kernels()
        positions, table = ctx.saved_tensors
        arguments = _kernel_arguments(ctx.layout)
        grad = grad.contiguous()
        grad_positions = grad_table = None
        if ctx.needs_input_grad[0]:
            grad_positions = torch.empty_like(positions)
            kernels.position_gradient(
                positions.numpy(), table.numpy(), grad.numpy(), *arguments, grad_positions.numpy()
            )
        if ctx.needs_input_grad[1]:
            grad_table = torch.zeros_like(table)
            kernels.table_gradient(positions.numpy(), grad.numpy(), *arguments, grad_table.numpy())
        return grad_positions, grad_table, None


def _numba_kernels():
    """The kernel module, imported on first use because numba is slow to load, on torch's threads."""
    from models import hash_grid_kernels

    match_torch_threads()
    return hash_grid_kernels


def _kernel_arguments(layout: HashGridLayout) -> tuple:
    width = (0,) * layout.features
    return layout.scales, layout.resolutions, layout.offsets, layout.sizes, layout.hashed, width


def _tinycudann_encoding(config: HashGridConfig) -> nn.Module:
    """tinycudann's encoding of the same shape.

    Raises:
        ImportError: tinycudann is missing or finds no CUDA device.
    """
    try:
        import tinycudann
    except (ImportError, OSError) as error:
        raise ImportError(
            f"hash_grid.backend: 'tinycudann' cannot be loaded ({error}); docs/install.md says how to install it on a "
            "machine with a CUDA device; or set the backend to 'torch'"
        ) from error
    options = {
        "otype": "HashGrid",
        "n_levels": config.levels,
        "n_features_per_level": config.features,
        "log2_hashmap_size": config.log2_hashmap_size,
        "base_resolution": config.base_resolution,
        "per_level_scale": config.per_level_scale,
    }
    return tinycudann.Encoding(3, options, dtype=torch.float32)  # by itself it would choose half precision


class HashGrid(nn.Module):
    """A trainable multiresolution hash grid over the unit cube."""

    def __init__(self, config: HashGridConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.layout = hash_grid_layout(config)
        self.channels = config.levels * config.features
        table = torch.empty(self.layout.entries * config.features)
        self.table = nn.Parameter(table.uniform_(-INITIAL_RANGE, INITIAL_RANGE, generator=generator))
        self._backend = BackendChoice("hash grid", "hash_grid.backend", config.backend, BACKENDS)
        # A list keeps tinycudann's own parameter out of our state dict: it always runs on our table.
        self._tinycudann: list[nn.Module] = []
        if config.backend == "tinycudann":
            self._tinycudann.append(_tinycudann_encoding(config))

    def backend_on(self, device: torch.device) -> str:
        """The backend that runs on a device.

        Raises:
            ValueError: the configured backend doesn't run there.
        """
        return self._backend.on(device)

    def forward(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n channels"]:
        """Features at positions in the unit cube."""
        positions = positions.float()  # hashing needs float32 even under autocast
        backend = self.backend_on(positions.device)
        table = self.table.view(-1, self.config.features)
        if backend == "numba":
            return _NumbaEncode.apply(positions, table, self.layout)
        if backend == "triton":
            from models.hash_grid_triton import TritonEncode  # needs triton

            return TritonEncode.apply(positions, table, self.layout)
        if backend == "tinycudann":
            with torch.cuda.device(positions.device):  # tinycudann allocates on the current one
                if not self._tinycudann:
                    self._tinycudann.append(_tinycudann_encoding(self.config))
            return torch.func.functional_call(self._tinycudann[0], {"params": self.table}, (positions,)).float()
        return encode_reference(positions, table, self.layout)
