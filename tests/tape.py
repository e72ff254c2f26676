"""A stand-in for CUDA graphs that runs on a CPU: a tape of operations on fixed tensors.

Like a graph, a replay runs the same kernels on the same memory, and no line of Python: a number that
Python would have changed, a tensor that it would have replaced, and a wait for the host are all
found out.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
}
"""Operations whose result the host must wait for; none can be in a graph."""


class Tape(TorchDispatchMode):
    """Records every operation that reaches the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Run everything again into the same memory."""
        with torch.no_grad():
            for func, args, kwargs, before in self.calls:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(before), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new.view_as(old))  # the original may be squeezed in place


def record_on_tape(work: Callable[..., Tensor], *tensors: Tensor) -> Callable[[], Tensor]:
    """Do as `record_graph`. The work is done while it is recorded, so the first replay does
    nothing.
    """
    tape, replays = Tape(), [0]
    with tape:
        result = work(*tensors)

    def replay() -> Tensor:
        replays[0] += 1
        if replays[0] > 1:
            tape.replay()
        return result

    return replay
