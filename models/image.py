"""A picture as theta: the simplest differentiable image parameterisation, which has no camera."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.config import ImageConfig


class FourierImage(nn.Module):
    """rgb = sigmoid(logits), and the logits are the inverse Fourier transform of the parameters, over frequency.

    Adam moves all parameters by about as much. Were they pixels, an encoder's sensitivity to fine noise would fill
    the picture with it; as a spectrum weighted by 1 / f, that of natural pictures, shapes come first (Olah et al.
    2017, Feature Visualization, https://distill.pub/2017/feature-visualization). The sigmoid keeps colours in [0, 1].
    """

    falloff: Tensor

    def __init__(self, config: ImageConfig, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
        falloff = 1 / frequency.clamp(min=1 / size)
        # Parameters of variance 1 are logits of variance 1.
        self.register_buffer("falloff", falloff / falloff.square().mean().sqrt(), persistent=False)
        shape = (3, size, size // 2 + 1, 2)
        self.spectrum = nn.Parameter(config.spread / 2**0.5 * torch.randn(shape, generator=generator))

    def forward(self) -> Float[Tensor, "height width 3"]:
        spectrum = torch.view_as_complex(self.spectrum) * self.falloff
        logits = torch.fft.irfft2(spectrum, s=(self.size, self.size), norm="ortho")
        return torch.sigmoid(logits).permute(1, 2, 0)
