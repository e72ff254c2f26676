"""Record work that a measurement repeats on a GPU: a product, an update, the scores of a batch.

What is hundreds of kernels to launch is one launch when it is replayed
(`phasegrid.train.cuda_graphs`). Work reads its arguments, and tensors that stay where they are; no
number of Python that changes. On a CPU it is simply called. What cannot be recorded is launched
kernel by kernel, and this is reported (`phasegrid.fallbacks`).
"""

from collections.abc import Callable
from types import MethodType
from typing import TypeVar
from weakref import WeakMethod

import torch
from torch import Tensor

from phasegrid.train.cuda_graphs import WARM_UP, Recorder

T = TypeVar("T")


def recorder_on(device: torch.device) -> Recorder | None:
    """Return a recorder for one piece of work on a device; None on a CPU, where nothing is
    recorded.
    """
    return Recorder() if device.type == "cuda" else None


def records_on(device: torch.device) -> bool:
    """Say whether work is recorded on a device."""
    return recorder_on(device) is not None


class Recorded:
    """`work`, a function of `first` and of tensors that returns a tensor, recorded for every shape
    of these. It runs as it is where nothing is recorded.

    It does not keep alive what a method belongs to, which mostly owns it: memory of a GPU must not
    wait for the garbage collector.
    """

    def __init__(
        self,
        work: Callable[..., Tensor],
        device: torch.device,
        *first: object,
        warm_up: int = WARM_UP,
    ) -> None:
        is_method = isinstance(work, MethodType)
        self._find: Callable[[], Callable[..., Tensor] | None]
        self._find = WeakMethod(work) if is_method else lambda: work
        self._first, self._device = first, device
        self._recorder = recorder_on(device)
        if self._recorder is not None:
            self._recorder.warm_up = warm_up

    @property
    def records(self) -> bool:
        """Whether the work is recorded here."""
        return self._recorder is not None

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Do the work for these tensors; a replay returns a copy of what it computed."""
        if self._recorder is None:
            return self._do(*tensors)
        return self._recorder.run(self._do, *tensors)

    def _do(self, *tensors: Tensor) -> Tensor:
        work = self._find()
        assert work is not None
        return work(*self._first, *tensors)

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
