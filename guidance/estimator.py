"""eps_phi: the score of noisy renders, by LoRA on the frozen network and an embedding of the camera.

Wang et al. 2023 (ProlificDreamer, arXiv 2305.16213, section 3 and Algorithm 1); LoRA: Hu et al. 2021
(arXiv 2106.09685).

*One set of weights, two module trees.* The estimator's network is a second tree of modules over the
very same weight tensors, and only that tree receives adapters and the camera. It costs no memory but
the adapters', and the frozen score cannot be contaminated: there is no switch to forget, because the
frozen tree never holds an adapter. (Switching adapters off on a shared network would also suspend
their ``requires_grad``, and breaks under gradient checkpointing.) Where both scores share a call of the
second tree, the rows are told which of the two they are, for that call alone (``on_last_rows``).

*Equal at the start.* LoRA's second matrix and the camera embedding's last layer begin at zero, and the
output is read as what the pretrained network predicts, so eps_phi equals eps_pretrain to the last bit
before the first update. Reading an eps network's output as v instead would start far from it. That
training nevertheless minimises the error of v is a matter of weighting: ``losses.estimator_loss``.

Adapters and camera embedding are float32 whatever the frozen weights are, because Adam's steps of
1e-4 vanish in half precision.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from guidance.config import EstimatorConfig
from guidance.frozen import Unregistered
from guidance.prior import DiffusionPrior, Latents, TextEmbeddings
from guidance.schedule import Prediction

ADAPTER = "default"  # peft's name for it


class CameraEmbedding(nn.Module):
    """The flattened camera-to-world matrix, through a small MLP, to the width of the time embedding."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = nn.Linear(16, width)
        self.out = nn.Linear(width, width)
        _draw_uniform(self.hidden.weight, generator)
        for zero in (self.hidden.bias, self.out.weight, self.out.bias):
            nn.init.zeros_(zero)

    def forward(self, c2w: Float[Tensor, "batch 4 4"]) -> Float[Tensor, "batch width"]:
        return self.out(nn.functional.silu(self.hidden(c2w.flatten(1))))


class LoraEstimator(nn.Module):
    """The trainable twin of a prior's network. Its parameters are the adapters and the camera embedding."""

    def __init__(self, prior: DiffusionPrior, config: EstimatorConfig, generator: torch.Generator) -> None:
        from peft import LoraConfig  # here, because it takes seconds to import and every configuration names this file

        super().__init__()
        self.config = config
        self.traits = prior.traits
        network = twin_of(prior.network)
        network.add_adapter(
            LoraConfig(
                r=config.rank,
                lora_alpha=config.scale * config.rank,
                target_modules=list(prior.traits.lora_targets),
            ),
            ADAPTER,
        )
        if config.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        adapters = {name: parameter for name, parameter in network.named_parameters() if "lora_" in name}
        for name, parameter in adapters.items():
            parameter.data = parameter.data.float()
            if "lora_A" in name:
                _draw_uniform(parameter, generator)
        self.twin = Unregistered(network)
        # The same tensors once more, as all that this module owns. Dots would make submodules of them.
        self.lora = nn.ParameterDict(
            {name.replace(f".{ADAPTER}", "").replace(".", "/"): parameter for name, parameter in adapters.items()}
        )
        self.camera_embedding = CameraEmbedding(prior.traits.condition_width, generator).to(prior.device)

    def predict(
        self,
        prior: DiffusionPrior,
        x_t: Latents,
        t: Int[Tensor, "batch"],
        text: TextEmbeddings,
        c2w: Float[Tensor, "batch 4 4"],
        keep_camera: Bool[Tensor, "batch"] | None = None,
    ) -> Prediction:
        """eps_phi(x_t, t, c, y). Where ``keep_camera`` is False the camera is hidden.

        ``prior`` must be the one that the estimator was made from: its weights are in use here too.
        """
        condition = self.camera_embedding(c2w.to(x_t.device, torch.float32))
        if keep_camera is not None:
            condition = condition * keep_camera.to(x_t.device)[:, None]
        network = self.twin.module
        with added_to_last_rows(network.get_submodule(self.traits.condition_module), condition):
            return prior.predict(x_t, t, text, network)

    @contextmanager
    def on_last_rows(self, c2w: Float[Tensor, "batch 4 4"]) -> Iterator[nn.Module]:
        """Within the block, a network that is eps_phi for the last rows of its batch, one a camera, else eps_pretrain.

        Rows of eps_pretrain meet neither adapters nor cameras: they are what the plain network says of this
        batch, to the last bit. For scores, not for training: a backward pass would go through all rows.
        """
        network = self.twin.module
        condition = self.camera_embedding(c2w.to(self.camera_embedding.out.weight))
        with (
            added_to_last_rows(network.get_submodule(self.traits.condition_module), condition),
            adapted_last_rows(network, len(c2w)),
        ):
            yield network

    def draw_keep_camera(self, count: int, generator: torch.Generator) -> Bool[Tensor, "batch"]:
        """Which samples of a training batch see their camera."""
        draws = torch.rand(count, generator=generator, device=generator.device)
        return draws >= self.config.camera_dropout


def twin_of(network: nn.Module) -> nn.Module:
    """A copy of the module tree that holds the same parameter and buffer objects.

    ``Module.to`` changes parameters in place, so moves through either tree reach both.
    """
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    return copy.deepcopy(network, shared)


@contextmanager
def added_to_last_rows(module: nn.Module, addition: Float[Tensor, "batch width"]) -> Iterator[None]:
    """Within the block, ``module`` returns its output plus ``addition``, which is for the last rows."""

    def added(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        others = len(output) - len(addition)
        return torch.cat([output[:others], output[others:] + addition.to(output.dtype)])

    handle = module.register_forward_hook(added)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def adapted_last_rows(network: nn.Module, count: int) -> Iterator[None]:
    """Within the block, the adapters work on the last ``count`` rows of a batch alone.

    Not by peft's mixed batches, whose lists of rows make a GPU wait in every layer.
    """
    from peft.tuners.lora import LoraLayer

    others = 0  # rows before those, in the layer that runs

    def cut(_lora_a: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        nonlocal others
        others = len(args[0]) - count
        return (args[0][others:],)

    def padded(_lora_b: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        return F.pad(output, (0, 0) * (output.ndim - 1) + (others, 0))

    handles = []
    for layer in (module for module in network.modules() if isinstance(module, LoraLayer)):
        handles.append(layer.lora_A[ADAPTER].register_forward_pre_hook(cut))
        handles.append(layer.lora_B[ADAPTER].register_forward_hook(padded))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _draw_uniform(parameter: nn.Parameter, generator: torch.Generator) -> None:
    """torch's default initialisation of a linear layer, from a generator instead of the global state."""
    drawn = torch.empty(parameter.shape, device=generator.device)
    parameter.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))
