"""eps_phi: the score of noisy renders, by LoRA on the frozen network and an embedding of the camera.

Wang et al. 2023 (ProlificDreamer, arXiv 2305.16213, section 3 and Algorithm 1); LoRA: Hu et al. 2021
(arXiv 2106.09685).

*One set of weights, two module trees.* The estimator's network is a second tree of modules over the
very same weight tensors, and only that tree receives adapters and the camera. It costs no memory but
the adapters', and the frozen score cannot be contaminated: there is no switch to forget, because the
frozen tree never holds an adapter. (Switching adapters off on a shared network would also suspend
their ``requires_grad``, and breaks under gradient checkpointing.)

*Equal at the start.* LoRA's second matrix and the camera embedding's last layer begin at zero, and the
output is read as what the pretrained network predicts, so eps_phi equals eps_pretrain to the last bit
before the first update. Reading an eps network's output as v instead would start far from it. That
training nevertheless minimises the error of v is a matter of weighting: ``losses.estimator_loss``.

*To change it.* Which layers have adapters: ``estimator.layers``, and ``NetworkTraits.lora_targets`` of the family
(``guidance/families/``) for the attention's.
How adapters and embedding begin: ``initialise``. What the estimator knows of the camera: ``CameraEmbedding``.

Adapters and camera embedding are float32 whatever the frozen weights are, because Adam's steps of
1e-4 vanish in half precision.

*Gradients in fp16.* They pass through the network in its number format, and those of a mean over latents are as
small as one over their count: in fp16 many would vanish. There they enter the network multiplied by about that
count, and each trained parameter's is divided by it again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from functools import partial
from itertools import chain

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from guidance.config import EstimatorConfig
from guidance.frozen_model import TextEmbeddings, Unregistered
from guidance.prior import DiffusionPrior
from guidance.schedule import Latents, Prediction
from models.transfer import to_device

ADAPTER = "default"  # peft's name for it


# Nothing in the networks is random.
recomputed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


class CameraEmbedding(nn.Module):
    """The flattened camera-to-world matrix, through a small MLP, to the width of the time embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(16, width)
        self.out = nn.Linear(width, width)

    def forward(self, c2w: Float[Tensor, "batch 4 4"]) -> Float[Tensor, "batch width"]:
        return self.out(nn.functional.silu(self.hidden(c2w.flatten(1))))


class LoraEstimator(nn.Module):
    """The trainable twin of a prior's network. Its parameters are the adapters and the camera embedding."""

    def __init__(self, prior: DiffusionPrior, config: EstimatorConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.traits = prior.traits
        network = twin_of(prior.network)
        targets = prior.traits.lora_targets if config.layers == "attention" else every_layer(network)
        adapters = attach_adapters(network, targets, config.rank, config.scale)
        if config.gradient_checkpointing:
            network.enable_gradient_checkpointing(recomputed)
        self.twin = Unregistered(network)
        # The same tensors once more, as all that this module owns. Dots would make submodules of them.
        self.lora = nn.ParameterDict(
            {name.replace(f".{ADAPTER}", "").replace(".", "/"): parameter for name, parameter in adapters.items()}
        )
        self.camera_embedding = CameraEmbedding(prior.traits.condition_width)
        initialise(adapters, self.camera_embedding, generator)
        self.camera_embedding.to(prior.device)
        self._gradient_scale = 1.0  # that the network's gradients have
        for parameter in self.parameters():
            parameter.register_hook(self._unscaled)

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
            condition = condition * to_device(keep_camera, x_t.device)[:, None]
        self._gradient_scale = 1.0  # while a call is recorded, gradients pass through it as they are
        prediction = prior.predict(x_t, t, text, self.twin.module, condition)
        if prediction.output.requires_grad:
            self._scale_gradients(prediction.output, prior.network.dtype)
        return prediction

    def _scale_gradients(self, output: Latents, dtype: torch.dtype) -> None:
        """Let the gradient of a float32 output enter a network of this number format enlarged."""
        scale = 2.0 ** int(math.log2(output.numel())) if dtype == torch.float16 else 1.0
        self._gradient_scale = scale
        if scale != 1:
            output.register_hook(lambda gradient: gradient * scale)

    def _unscaled(self, gradient: Tensor) -> Tensor | None:
        return gradient / self._gradient_scale if self._gradient_scale != 1 else None

    def draw_keep_camera(self, count: int, generator: torch.Generator) -> Bool[Tensor, "batch"]:
        """Which samples of a training batch see their camera."""
        draws = torch.rand(count, generator=generator, device=generator.device)
        return draws >= self.config.camera_dropout

    def remark(self) -> str | None:
        """A sentence where the rank is above what adapted layers can use: the smaller of their two widths."""
        widths = [
            min(first.shape[1:].numel(), self.lora[name.replace("lora_A", "lora_B")].shape[0])
            for name, first in self.lora.items()
            if "lora_A" in name
        ]
        narrow = [width for width in widths if width < self.config.rank]
        if not narrow:
            return None
        return (
            f"estimator.rank {self.config.rank} is above the width of {len(narrow)} of the {len(widths)} adapted "
            f"layers (the narrowest has {min(narrow)} channels), whose adapters gain nothing from the rest"
        )


def every_layer(network: nn.Module) -> tuple[str, ...]:
    """Names of all linear layers and convolutions."""
    return tuple(name for name, part in network.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d)))


def attach_adapters(network: nn.Module, targets: tuple[str, ...], rank: int, scale: float) -> dict[str, nn.Parameter]:
    """Add LoRA in float32 to the layers whose names peft matches with ``targets``; the new parameters by name.

    An adapted layer returns W x + scale B A x. A has the names of peft's ``lora_A``, B those of ``lora_B``.
    """
    from peft import LoraConfig  # here, because it takes seconds to import and many callers train no estimator

    network.add_adapter(LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=list(targets)), ADAPTER)
    adapters = {name: parameter for name, parameter in network.named_parameters() if "lora_" in name}
    for parameter in adapters.values():
        parameter.data = parameter.data.float()
    return adapters


def initialise(adapters: Mapping[str, nn.Parameter], camera: CameraEmbedding, generator: torch.Generator) -> None:
    """Draw every first layer as torch draws linear layers; every last layer is 0, so that the output begins unchanged.

    The draws come from the generator: those of the adapters in the network's order, then the camera's.
    """
    for name, parameter in adapters.items():
        if "lora_A" in name:
            _draw_uniform(parameter, generator)
        else:
            nn.init.zeros_(parameter)
    _draw_uniform(camera.hidden.weight, generator)
    for zero in (camera.hidden.bias, camera.out.weight, camera.out.bias):
        nn.init.zeros_(zero)


def twin_of(network: nn.Module) -> nn.Module:
    """A copy of the module tree that holds the same parameter and buffer objects.

    ``Module.to`` changes parameters in place, so moves through either tree reach both.
    """
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    return copy.deepcopy(network, shared)


@torch.no_grad()
def _draw_uniform(parameter: nn.Parameter, generator: torch.Generator) -> None:
    """torch's default initialisation of a linear layer, from a generator instead of the global state."""
    drawn = torch.empty(parameter.shape, device=generator.device)
    parameter.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))
