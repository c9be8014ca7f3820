"""Faster networks, by ``prior.speed``: the layout of their weights in memory, recorded calls, and compiled blocks.

What is computed stays the same up to rounding. A network is compiled block by block. What lies between the blocks, such
as the place where the estimator's camera is added, stays as it is.
"""

from __future__ import annotations

import torch
from torch import nn

from guidance.config import NetworkSpeed
from guidance.interface import Guidance
from guidance.network_graphs import NetworkGraphs
from guidance.score_distillation import ScoreDistillation

# Classes of diffusers: of UNets, of SD 3.5, of FLUX.
BLOCKS = (
    "BasicTransformerBlock",
    "ResnetBlock2D",
    "JointTransformerBlock",
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
)
CODE_VERSIONS = 128  # of a block: one for each combination of widths, batch size, and with and without gradient


def check_speed(how: NetworkSpeed, device: torch.device, processes: int) -> None:
    """Before anything is loaded.

    Raises:
        ValueError: calls can't be recorded there.
    """
    if how != "graphs":
        return
    if device.type != "cuda":
        raise ValueError(
            f"prior.speed: 'graphs' records calls for an NVIDIA GPU, and this run is on {device.type}; set "
            "prior.speed=plain, or trainer.accelerator=cuda"
        )
    if processes > 1:
        raise ValueError(
            f"prior.speed: 'graphs' is for one process, and this run has {processes}; set prior.speed=channels_last"
        )


def speed_up(guidance: Guidance, how: NetworkSpeed, backend: str = "inductor") -> None:
    """Change the frozen network, the autoencoder and the estimator in place. Image-text models stay as they are.

    Args:
        backend: of ``torch.compile``.
    """
    if how == "plain" or not isinstance(guidance, ScoreDistillation):
        return
    networks: list[nn.Module] = [guidance.model.network]
    if guidance.estimator is not None:
        networks.append(guidance.estimator.twin.module)
    for network in (*networks, guidance.model.frozen_autoencoder.module):
        use_channels_last(network)
    if how == "graphs":
        guidance.model.graphs = NetworkGraphs()
    if how == "compiled":
        torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, CODE_VERSIONS)
        for network in networks:
            for block in repeated_blocks(network):
                block.compile(backend=backend)


def use_channels_last(network: nn.Module) -> None:
    """Store the weights of convolutions as their fastest kernels read them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """Those that nearly all of the arithmetic is in."""
    return [module for module in network.modules() if type(module).__name__ in BLOCKS]
