"""A GPU without a GPU: recorded work that is done again, and what makes a program wait."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from phasegrid.metrics.network import recording
from phasegrid.train.cuda_graphs import Recorder, Replay

READS = {"tolist", "cpu", "numpy"}
KERNELS = {"_local_scalar_dense", "equal", "nonzero", "is_nonzero", "masked_select"}


@dataclass
class Recordings:
    """How many pieces of work were recorded, and how often they were replayed."""

    made: int = 0
    replayed: int = 0


def plays_again(recordings: Recordings, work: Callable[..., Tensor], *tensors: Tensor) -> Replay:
    """Stand in for a CUDA graph: do the work again on the tensors over which it was recorded."""
    recordings.made += 1
    output = torch.empty(0)

    def replay() -> Tensor:
        nonlocal output
        recordings.replayed += 1
        again = work(*tensors)
        output = again if output.shape != again.shape else output.copy_(again)
        return output

    return replay


def keeps_nothing(work: Callable[..., Tensor], *tensors: Tensor) -> Replay:
    """Stand in for a CUDA graph that is not replayed with other values."""
    result = work(*tensors)
    return lambda: result


@contextmanager
def recording_here(monkeypatch: pytest.MonkeyPatch, replays: bool = True) -> Iterator[Recordings]:
    """Record on this CPU as on a GPU. Without `replays` a recording keeps no work, as a graph."""
    recordings = Recordings()

    def recorder(_: torch.device) -> Recorder:
        return Recorder(
            record=lambda *args: (
                plays_again(recordings, *args) if replays else keeps_nothing(*args)
            ),
            around=lambda work: work,
        )

    with monkeypatch.context() as patch:
        patch.setattr(recording, "recorder_on", recorder)
        yield recordings


@dataclass
class Waits:
    """What made the program wait for the device, as far as a CPU can tell."""

    found: list[str] = field(default_factory=list)


@contextmanager
def counting_waits() -> Iterator[Waits]:
    """Note every reading of a tensor by Python: on a GPU the program waits for it."""
    waits = Waits()
    with _Reads(waits), _Kernels(waits):
        yield waits


class _Reads(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        name = getattr(func, "__name__", "")
        if name in READS:
            self.waits.found.append(name)
        return func(*args, **(kwargs or {}))


class _Kernels(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        name = func.overloadpacket.__name__  # type: ignore[attr-defined]
        if name in KERNELS or (name == "index" and _is_masked(args[1])):
            self.waits.found.append(name)
        return func(*args, **(kwargs or {}))


def _is_masked(indices: object) -> bool:
    assert isinstance(indices, list | tuple)
    return any(index is not None and index.dtype == torch.bool for index in indices)
