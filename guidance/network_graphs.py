"""Calls of networks as CUDA graphs: recorded once for each shape of their inputs, then replayed.

A call launches thousands of kernels, and Python needs longer to launch most of them than the GPU to compute them. A
replay launches all of them at once. What is computed stays the same.

A recorded call has fixed places in memory for its inputs, its output and its intermediate results. So

- inputs are copied to their places, and the output is copied away from its own;
- a call with gradient keeps its intermediate results until the next replay: its backward pass has to come before;
- weights may change in place only. A move of the network makes records useless (`NetworkGraphs.forget`).

Nothing in a call may copy from the host, or wait for the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from guidance.frozen_model import TextEmbeddings
from guidance.schedule import Latents

# A network's output for (x_t, t, text, addition).
NetworkCall = Callable[[Latents, Tensor, TextEmbeddings, Tensor | None], Latents]
Record = Callable[[nn.Module, tuple[Tensor, ...]], Callable[..., Tensor]]


class NetworkGraphs:
    """The recorded calls of a prior's networks, made when they are first needed."""

    def __init__(self, record: Record | None = None, device_type: str = "cuda") -> None:
        """Nothing is recorded yet.

        Args:
            record: makes a replay of a module's call with inputs of these shapes; by default `record_cuda_graph`.
        """
        self._record = record or record_cuda_graph
        self._device_type = device_type
        self._recorded: dict[tuple, Recorded] = {}

    def fit(self, device: torch.device) -> bool:
        """Whether calls with inputs on this device are recorded."""
        return device.type == self._device_type

    def forget(self) -> None:
        """Drop all records, with their memory."""
        self._recorded.clear()

    def __call__(
        self,
        network: nn.Module,
        call: NetworkCall,
        x_t: Latents,
        t: Int[Tensor, "batch"],
        text: TextEmbeddings,
        addition: Float[Tensor, "batch width"] | None,
    ) -> Latents:
        """``call(x_t, t, text, addition)``, which runs ``network``.

        Raises:
            ValueError: the call can't be recorded.
            RuntimeError: from a backward pass that comes after a later call.
        """
        parts = (x_t, t, *text.parts(), addition)
        given = tuple(index for index, part in enumerate(parts) if part is not None)
        inputs = tuple(part for part in parts if part is not None)
        shapes = tuple((each.shape, each.dtype, each.device, each.requires_grad) for each in inputs)
        key = (id(network), torch.is_grad_enabled(), given, shapes)
        if key not in self._recorded:
            self._recorded[key] = self._recording(network, _of_inputs(call, given, len(parts)), inputs)
        return self._recorded[key](inputs)

    def _recording(self, network: nn.Module, call: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Recorded:
        places = tuple(each.detach().clone().requires_grad_(each.requires_grad) for each in inputs)
        trained = [each for each in network.parameters() if each.requires_grad] if torch.is_grad_enabled() else []
        try:
            return Recorded(self._record(_Callable(call, trained), places))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"prior.speed: a call of {type(network).__name__} can't be recorded as a CUDA graph ({reason:.300}); "
                "set prior.speed=channels_last"
            ) from error


@dataclass
class Recorded:
    """A replay of one call."""

    replay: Callable[..., Tensor]
    calls: int = 0

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        self.calls += 1
        output = self.replay(*inputs).clone()  # the next replay writes to the same place
        if output.requires_grad:
            output.register_hook(self._check(self.calls))
        return output

    def _check(self, call: int) -> Callable[[Tensor], None]:
        def check(gradient: Tensor) -> None:
            if call != self.calls:
                raise RuntimeError("the network was called again before this backward pass; set prior.speed=plain")

        return check


class _Callable(nn.Module):
    """A function as a module with the parameters that its gradient reaches."""

    def __init__(self, call: Callable[..., Tensor], trained: list[nn.Parameter]) -> None:
        super().__init__()
        self.call = call
        self.trained = nn.ParameterList(trained)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(*inputs)


def record_cuda_graph(call: nn.Module, places: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """A replay of a call with its gradient."""
    # Gradients of parameters come from the recording's own stream; autograd waits for them, which is right.
    warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream does not match")
    replay: Any = torch.cuda.make_graphed_callables(call, places, allow_unused_input=True)
    torch.cuda.empty_cache()  # what the calls before the recording took belongs to a stream of their own
    return replay


def _of_inputs(call: NetworkCall, given: tuple[int, ...], count: int) -> Callable[..., Tensor]:
    """The call as a function of the inputs that are there."""

    def run(*inputs: Tensor) -> Tensor:
        by_place = dict(zip(given, inputs, strict=True))
        x_t, t, *text, addition = (by_place.get(index) for index in range(count))
        assert x_t is not None and t is not None
        return call(x_t, t, TextEmbeddings(*text), addition)  # type: ignore[arg-type]

    return run
