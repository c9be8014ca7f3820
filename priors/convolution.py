"""A convolution whose weight gradient is one matrix product: what training on a CPU waits for.

At the resolutions of the bundled UNet (8x8 and 4x4) the library's own weight gradient takes two to
four times as long as gathering the patches and multiplying, and it is the largest part of a step.
The library's other two products are faster with the channels last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

LARGEST_SIDE = 8  # above it the patches no longer fit the cache, and the library's kernel is as fast


class _Convolve3x3(torch.autograd.Function):
    """A 3x3 convolution with stride 1 and padding 1, in bfloat16."""

    @staticmethod
    def forward(
        ctx,
        x: Float[Tensor, "batch c_in h w"],
        weight: Float[Tensor, "c_out c_in 3 3"],
        bias: Float[Tensor, "c_out"],
    ) -> Float[Tensor, "batch c_out h w"]:
        x = x.bfloat16().contiguous(memory_format=torch.channels_last)
        weight = weight.bfloat16().contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x, weight, bias.bfloat16(), padding=1).contiguous()

    @staticmethod
    def backward(ctx, grad: Float[Tensor, "batch c_out h w"]) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grad.bfloat16().contiguous(memory_format=torch.channels_last)
        grad_x = torch.nn.grad.conv2d_input(x.shape, weight, grad, padding=1).contiguous()
        batch, c_in, h, w = x.shape
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        patches = torch.cat([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], dim=3)
        by_channel = grad.permute(1, 0, 2, 3).reshape(len(weight), -1)
        grad_weight = by_channel @ patches.view(batch * h * w, 9 * c_in)
        grad_weight = grad_weight.view(len(weight), 3, 3, c_in).permute(0, 3, 1, 2)
        return grad_x, grad_weight, grad.sum(dim=(0, 2, 3))


class MatrixProductConv2d(nn.Conv2d):
    """``nn.Conv2d`` of 3x3, with the same parameters, that takes the path above where it is faster."""

    def forward(self, x: Float[Tensor, "batch c_in h w"]) -> Float[Tensor, "batch c_out h w"]:
        in_bfloat16 = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        if x.device.type != "cpu" or max(x.shape[-2:]) > LARGEST_SIDE or not in_bfloat16:
            return super().forward(x)
        return _Convolve3x3.apply(x, self.weight, self.bias)


def use_matrix_products(module: nn.Module) -> None:
    """Give the 3x3 convolutions of ``module`` the faster weight gradient; parameters and names stay."""
    for part in module.modules():
        if type(part) is nn.Conv2d and (part.kernel_size, part.stride, part.padding) == ((3, 3), (1, 1), (1, 1)):
            part.__class__ = MatrixProductConv2d
