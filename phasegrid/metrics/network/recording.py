"""Record work that a measurement repeats on a GPU: a product, an update, the scores of a batch.

What is hundreds of kernels to launch is one launch when it is replayed
(`phasegrid.train.cuda_graphs`). Work reads its arguments, and tensors that stay where they are; no
number of Python that changes. On a CPU it is simply called. What cannot be recorded is launched
kernel by kernel, and this is reported (`phasegrid.fallbacks`).
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from phasegrid.train.cuda_graphs import Recorder

T = TypeVar("T")


def recorder_on(device: torch.device) -> Recorder | None:
    """Return a recorder for one piece of work on a device; None on a CPU, where nothing is
    recorded.
    """
    return Recorder() if device.type == "cuda" else None


class Recorded:
    """`work`, a function of tensors that returns a tensor, recorded for every shape of these. It
    runs as it is where nothing is recorded.
    """

    def __init__(self, work: Callable[..., Tensor], device: torch.device) -> None:
        self._work, self._device = work, device
        self._recorder = recorder_on(device)

    @property
    def records(self) -> bool:
        """Whether the work is recorded here."""
        return self._recorder is not None

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Do the work for these tensors; a replay returns a copy of what it computed."""
        if self._recorder is None:
            return self._work(*tensors)
        return self._recorder.run(self._work, *tensors)

    def prepare(self, make: Callable[[], T]) -> T:
        """Do what precedes the work on the stream on which that is recorded: autograd launches a
        backward pass on the stream of its forward pass.
        """
        if self._recorder is None:
            return make()
        made: list[T] = []

        def on_stream(tensor: Tensor) -> Tensor:
            made.append(make())
            return tensor

        self._recorder.around(on_stream)(torch.empty(0, device=self._device))
        return made[0]
