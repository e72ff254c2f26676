"""A stand-in for a device with streams that runs on a CPU: it finds memory that one stream reads or
writes while another may still use it, and memory that is given away too early.

Every stream counts its operations, and knows how far it has waited for each other one. An operation
on a tensor is a race unless its stream has waited for all uses of the memory before it. Memory goes
back to the stream on which it was made, which may then use it at once.
"""

import weakref
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Times = dict[Hashable, int]
"""The number of operations of each stream."""


@dataclass
class Memory:
    """What is known of the memory of a tensor: the stream that made it, and its last uses."""

    home: Hashable
    written: Times = field(default_factory=dict)
    read: Times = field(default_factory=dict)


class Streams(TorchDispatchMode):
    """Notes which memory each operation on the stream `current` uses; `races` says what is wrong.

    The default stream is None. Memory that was made before is not watched.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current: Hashable = None
        self.races: list[str] = []
        self._known: dict[Hashable, Times] = {}
        self._memory: dict[int, Memory] = {}
        self._freed: list[Memory] = []
        self._refs: dict[int, weakref.ref[Any]] = {}

    def wait(self, stream: Hashable, other: Hashable) -> None:
        """Let what `stream` does from now on come after what `other` has done."""
        known = self._known.setdefault(stream, {})
        for name, time in self._known.get(other, {}).items():
            known[name] = max(time, known.get(name, 0))

    def synchronize(self) -> None:
        """Let everything from now on come after everything so far."""
        every = list(self._known)
        for stream in every:
            for other in every:
                self.wait(stream, other)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        known = self._known.setdefault(self.current, {})
        known[self.current] = known.get(self.current, 0) + 1
        written = dict(_written(func, args, kwargs or {}))
        given = {id_of(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for key in given:
            self._use(func, key, key in written)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id_of(tensor) not in given:
                self._make(func, tensor)
        return result

    def _use(self, func: Any, key: int, writes: bool) -> None:
        memory = self._memory.get(key)
        if memory is None:
            return
        before = [memory.written, memory.read] if writes else [memory.written]
        for times in before:
            self._check(f"{func} uses memory in {self.current} that", times, self.current)
        uses = memory.written if writes else memory.read
        uses[self.current] = self._known[self.current][self.current]

    def _make(self, func: Any, tensor: Tensor) -> None:
        for memory in [each for each in self._freed if each.home == self.current]:
            self._freed.remove(memory)
            for times in (memory.written, memory.read):
                self._check(f"{func} may get memory in {self.current} that", times, self.current)
        now = {self.current: self._known[self.current][self.current]}
        key, storage = id_of(tensor), tensor.untyped_storage()
        self._memory[key] = memory = Memory(self.current, now)
        self._refs[key] = weakref.ref(storage, lambda _: self._free(key, memory))

    def _free(self, key: int, memory: Memory) -> None:
        if self._memory.get(key) is memory:
            del self._memory[key]
        self._freed.append(memory)

    def _check(self, what: str, times: Times, stream: Hashable) -> None:
        for other, time in times.items():
            if self._known[stream].get(other, 0) < time:
                self.races.append(f"{what} {other} may still use")


def id_of(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[int, bool]]:
    for at, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[at] if at < len(args) else kwargs.get(argument.name)
            for tensor in tree_leaves(value):
                if isinstance(tensor, Tensor):
                    yield id_of(tensor), True
