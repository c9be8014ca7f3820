"""What stages 1 and 3 train: functions of a point or a direction, made of a hash grid and small networks.

- `VolumeField`: density and colour, whatever the numbers behind them come from.
- `RadianceField` (stage 1): a `VolumeField` of hash grid -> MLP.
- `TextureField` (stage 3): hash grid -> MLP -> colour, asked at points of a surface that does not move.
- `Background`: direction -> MLP -> colour.
- `NeRFScene`: a radiance field in front of a background, the parameters theta of one particle of stage 1.

No colour depends on the direction of view, as in ProlificDreamer's code. If it did, a field could paint a
different picture for each camera instead of finding a shape.

The fields fill the cube [-radius, radius]^3 in scene units. Outside they repeat their border values.
Initial weights are drawn from the caller's generator, never from the global one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import (
    BackgroundConfig,
    DensityInitConfig,
    NeRFSceneConfig,
    RadianceFieldConfig,
    TextureFieldConfig,
)
from models.hash_grid import HashGrid

SURFACE_LAYER = 0.05  # half the thickness of the visible layer of a surface, as a share of the radius
SURFACE_SAMPLES = 8  # samples through that layer
POINTS_PER_CHUNK = 2**17  # points of one evaluation by `in_chunks`; bounds its memory


M = TypeVar("M", bound=nn.Module)


class Particles(nn.ModuleList, Generic[M]):
    """Modules of one class, one for each particle."""

    if TYPE_CHECKING:

        def __getitem__(self, index: int) -> M: ...  # type: ignore[override]

        def __iter__(self) -> Iterator[M]: ...


class MLP(nn.Sequential):
    """Linear layers without biases, ReLU between them, a linear output: tinycudann's fully fused network.

    Weights are He-uniform.
    """

    def __init__(self, channels: Sequence[int], generator: torch.Generator) -> None:
        """Build the layers.

        Args:
            channels: channels of the input, of each hidden layer, and of the output.
        """
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(f"channels: {list(channels)} must hold at least input and output, each at least 1")
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(channels):
            # skip_init: nn.Linear's own initialisation would draw from the global generator.
            linear = nn.utils.skip_init(nn.Linear, n_in, n_out, bias=False)
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
            layers += [linear, nn.ReLU()]
        super().__init__(*layers[:-1])

    def forward(self, inputs: Float[Tensor, "*n channels_in"]) -> Float[Tensor, "*n channels_out"]:
        return super().forward(inputs)


@dataclass(frozen=True)
class FieldSamples:
    """Values of a field at points."""

    sigmas: Float[Tensor, "n"]  # density per scene unit, >= 0
    rgb: Float[Tensor, "n 3"]  # sRGB in [0, 1]


class VolumeField(nn.Module, ABC):
    """Density, colour and normals at points in scene units.

    Density is softplus(output + `density_bias`), colour is sigmoid(output).
    """

    def __init__(self, config: RadianceFieldConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def outputs(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
        """Of points in the unit cube: one output for the density, three for the colour."""

    def _pre_activations(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
        """The outputs at points in scene units, with the density's bias."""
        outputs = self.outputs(_in_unit_cube(points, self.config.radius)).float()
        bias = density_bias(points.float(), self.config.density_init)
        return outputs + F.pad(bias[:, None], (0, 3))

    def forward(self, points: Float[Tensor, "n 3"]) -> FieldSamples:
        """Density and colour."""
        values = self._pre_activations(points)
        return FieldSamples(F.softplus(values[:, 0]), torch.sigmoid(values[:, 1:]))

    def density(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Density alone, per scene unit."""
        return F.softplus(self._pre_activations(points)[:, 0])

    def surface_colors(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """What views show of a surface at its points: the colours of a thin layer, composited along the inward normal.

        A view shows the matter that light meets on its way in. No view may ever have shown the field's colour at
        one depth, such as that of a level set.
        """
        depths = torch.linspace(-1, 1, SURFACE_SAMPLES, device=points.device) * SURFACE_LAYER * self.config.radius
        inwards = points[:, None] - depths[:, None] * self.normals(points)[:, None]
        samples = self(inwards.flatten(0, 1))
        absorption = samples.sigmas.view(-1, SURFACE_SAMPLES) * (depths[1] - depths[0])
        transmittance = torch.exp(absorption - absorption.cumsum(dim=1))  # of what lies before each sample
        weights = transmittance * (1 - torch.exp(-absorption)) + 1e-6  # where there is no matter: the layer's mean
        weights = weights / weights.sum(dim=1, keepdim=True)
        return (weights[..., None] * samples.rgb.view(-1, SURFACE_SAMPLES, 3)).sum(dim=1)

    def normals(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Unit normals, outward: -grad sigma normalised, zero where the density is flat.

        Finite differences are differentiable with respect to the parameters. Analytic normals are constants,
        because the grid's kernels have no second derivative. Both differentiate the pre-activation: its gradient
        points the same way and does not underflow in empty space.
        """
        if self.config.normals == "analytic":
            with torch.enable_grad():
                points = points.detach().requires_grad_()
                total = self._pre_activations(points)[:, 0].sum()
                (gradient,) = torch.autograd.grad(total, points)
            return F.normalize(-gradient, dim=-1)
        steps = self.config.normal_step * torch.eye(3).to(points)
        # One at a time: all six together would take six times the memory of the field itself.
        ahead = [self._pre_activations(points + step)[:, 0] for step in steps]
        behind = [self._pre_activations(points - step)[:, 0] for step in steps]
        return F.normalize(torch.stack(behind, dim=-1) - torch.stack(ahead, dim=-1), dim=-1)


class RadianceField(VolumeField):
    """A hash grid and a network."""

    def __init__(self, config: RadianceFieldConfig, generator: torch.Generator) -> None:
        super().__init__(config)
        self.grid = HashGrid(config.grid, generator)
        self.mlp = MLP([self.grid.channels, *config.hidden, 4], generator)

    def outputs(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
        return self.mlp(self.grid(points))


def density_bias(points: Float[Tensor, "n 3"], config: DensityInitConfig) -> Float[Tensor, "n"]:
    """Where a field is dense before training: lambda (1 - |mu| / r), mu being the point in scene units.

    This is ProlificDreamer's initialisation: a blob of radius r for an object (lambda > 0), a hollow surrounded
    by density for a scene (lambda < 0), or both for an object in the centre of a scene.
    """
    distance = torch.linalg.vector_norm(points, dim=-1)

    def dense(strength: float, radius: float) -> Float[Tensor, "n"]:
        return torch.rsub(distance, strength, alpha=strength / radius)  # strength - distance (strength / radius)

    if config.kind == "object":
        return dense(config.object_strength, config.object_radius)
    as_scene = dense(config.scene_strength, config.scene_radius)
    if config.kind == "scene":
        return as_scene
    as_object = dense(config.object_strength, config.object_radius)
    return torch.where(distance < config.switch_radius, as_object, as_scene)


class TextureField(nn.Module):
    """Colours at points in scene units; grey before training."""

    def __init__(self, config: TextureFieldConfig, radius: float, generator: torch.Generator) -> None:
        """Make a field in the cube [-radius, radius]^3, scene units."""
        super().__init__()
        self.radius = radius
        self.grid = HashGrid(config.grid, generator)
        self.mlp = MLP([self.grid.channels, *config.hidden, 3], generator)

    def forward(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """sRGB in [0, 1]: sigmoid(network)."""
        return torch.sigmoid(self.mlp(self.grid(_in_unit_cube(points, self.radius))).float())


class Background(nn.Module):
    """The colour that a ray sees behind the object, as a function of its direction alone."""

    color: Tensor  # of a solid one

    def __init__(self, config: BackgroundConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        if config.kind == "mlp":
            self.mlp = MLP([3 + 6 * config.frequencies, *config.hidden, 3], generator)
        else:
            self.register_buffer("color", torch.tensor(config.color))

    def forward(self, rays_d: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """sRGB in [0, 1] of unit directions in the world frame."""
        if self.config.kind == "solid":
            return self.color.expand_as(rays_d)
        return torch.sigmoid(self.mlp(encode_directions(rays_d, self.config.frequencies)).float())


def encode_directions(rays_d: Float[Tensor, "*n 3"], frequencies: int) -> Float[Tensor, "*n channels"]:
    """NeRF's encoding (Mildenhall et al. 2020, Eq. 4): directions, then sines, then cosines of pi 2^k times them.

    ``frequencies`` is the number of octaves k; there are 3 + 6 frequencies channels.
    """
    octaves = math.pi * 2.0 ** torch.arange(frequencies, device=rays_d.device, dtype=rays_d.dtype)
    phases = (rays_d[..., None, :] * octaves[:, None]).flatten(-2)
    return torch.cat([rays_d, phases.sin(), phases.cos()], dim=-1)


class NeRFScene(nn.Module):
    """A radiance field and its background: the parameters theta of one particle."""

    def __init__(self, config: NeRFSceneConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.field = RadianceField(config.field, generator)
        self.background = Background(config.background, generator)


def in_chunks(
    function: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n *channels"]],
    points: Float[Tensor, "points 3"],
    run_on: torch.device | str,
    gather_on: torch.device | str = "cpu",
) -> Float[Tensor, "points *channels"]:
    """The function's values at many points, in float32; the points may lie on another device."""
    chunks = points.split(POINTS_PER_CHUNK)
    return torch.cat([function(chunk.to(run_on)).float().to(gather_on) for chunk in chunks])


def _in_unit_cube(points: Float[Tensor, "n 3"], radius: float) -> Float[Tensor, "n 3"]:
    """Points of [-radius, radius]^3 in the hash grid's coordinates; those outside move to the border."""
    return (points.float() / (2 * radius) + 0.5).clamp(0, 1)
