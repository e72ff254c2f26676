"""Detect a metric that changes its inputs. Metrics may be plug-ins, and the next one gets the same
networks and data.

Networks get copies of the data (`phasegrid.models.network_state`), so only metrics are checked.
After each measurement the networks that it used are compared with the loaded values. Data are
compared by torch's write counters. Tensors that a plug-in used are also compared by a checksum,
which detects writes that no counter records (``.data``, NumPy views) and reads them once.
"""

import operator
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import TENSORS, Dataset
from phasegrid.models.network_state import hidden_tensors

CHUNK = 2**17
"""Entries of a checksum's chunk: 1 MB stays in a core's cache."""


class HandedData(Dataset):
    """The data set for a plug-in metric: it records which of its tensors were used.

    It is a subclass because the metric expects a `Dataset`. Without the record, every measurement
    would need a checksum.
    """

    __slots__ = ("looked_at",)
    looked_at: set[str]

    def __getattribute__(self, name: str) -> object:
        """Return an attribute, and remember its name if it is a tensor."""
        if name in TENSORS:
            self.looked_at.add(name)
        return super().__getattribute__(name)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example; reading it does not count as using the tensors."""
        inputs = super().__getattribute__("train_inputs")
        assert isinstance(inputs, Tensor)
        return tuple(inputs.shape[1:])


def hand_out(data: Dataset) -> HandedData:
    """Return the same data set with an empty record."""
    fields = {name: getattr(data, name) for name in Dataset.__dataclass_fields__}
    handed = HandedData(**fields)
    object.__setattr__(handed, "looked_at", set())
    return handed


def writes_to(data: Dataset) -> tuple[tuple[int, int], ...]:
    """Return torch's write counter and the address of each tensor."""
    tensors = [getattr(data, name) for name in TENSORS]
    return tuple((tensor._version, tensor.data_ptr()) for tensor in tensors)


def checksums(data: Dataset, names: Collection[str] = TENSORS) -> dict[str, int]:
    """Return a checksum of each tensor, which depends on its entries and their order."""
    return {name: _checksum(getattr(data, name)) for name in names}


def _checksum(tensor: Tensor) -> int:
    if tensor.numel() == 0:
        return 0  # an empty tensor may have no bytes to view
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    whole = len(flat) // 8 * 8
    words = flat[:whole].view(torch.int64)
    odd = 2 * torch.arange(min(CHUNK, max(1, len(words))), device=flat.device) + 1
    total = flat[whole:].sum(dtype=torch.int64)
    for chunk in torch.split(words, CHUNK):
        # One pass over the memory. Sums wrap around; with odd factors a changed word still changes
        # them.
        total = 1_000_003 * total + (chunk * odd[: len(chunk)]).sum()
    return int(total)


@dataclass(frozen=True, slots=True)
class _Held:
    """The state of a layer: its attributes, the entries of attributes that are dicts (parameters,
    layers, hooks), and whether its parameters train and hold gradients.
    """

    attributes: dict[str, object]
    entries: dict[str, tuple[object, ...]]
    gradients: tuple[tuple[bool, bool], ...]

    def is_held_by(self, layer: nn.Module) -> bool:
        now = vars(layer)
        if len(now) != len(self.attributes) or _gradients(layer) != self.gradients:
            return False
        for name, was in self.attributes.items():
            value = now.get(name, self)
            if value is not was and not (isinstance(was, _SIMPLE) and value == was):
                return False
        return all(
            len(entries) == len(now[name]) and all(map(operator.is_, entries, now[name].values()))
            for name, entries in self.entries.items()
        )


@dataclass(frozen=True, slots=True)
class Seal:
    """A network as it was loaded: its stored values, and the attributes of each layer."""

    values: Mapping[str, Tensor]
    hidden: Mapping[str, Tensor]
    layers: tuple[tuple[nn.Module, _Held], ...]

    def changed(self, module: nn.Module) -> list[str]:
        """Return the names of the stored tensors that have changed, appeared or disappeared."""
        now = module.state_dict()
        return [
            *(name for name in self.values if not _same(self.values[name], now.get(name))),
            *(name for name in now if name not in self.values),
        ]

    def is_whole(self, module: nn.Module) -> bool:
        """Say whether everything else is unchanged: layers, modes, hooks, gradients, attributes."""
        layers = tuple(module.modules())
        if len(layers) != len(self.layers):
            return False
        alike = (
            layer is was and held.is_held_by(layer)
            for layer, (was, held) in zip(layers, self.layers, strict=True)
        )
        if not all(alike):
            return False
        hidden = hidden_tensors(module) if self.hidden else {}
        return all(_same(value, hidden.get(name)) for name, value in self.hidden.items())


def seal(module: nn.Module, values: Mapping[str, Tensor]) -> Seal:
    """Record the state of `module`; `values` is a copy of its ``state_dict()``."""
    hidden = {name: value.detach().clone() for name, value in hidden_tensors(module).items()}
    return Seal(values, hidden, tuple((layer, _held_by(layer)) for layer in module.modules()))


_SIMPLE = (bool, int, float, str)


def _held_by(layer: nn.Module) -> _Held:
    attributes = dict(vars(layer))
    entries = {k: tuple(v.values()) for k, v in attributes.items() if isinstance(v, dict)}
    return _Held(attributes, entries, _gradients(layer))


def _gradients(layer: nn.Module) -> tuple[tuple[bool, bool], ...]:
    """Return for each parameter whether it trains, and whether it has no gradient."""
    own = (p for p in layer._parameters.values() if p is not None)
    return tuple((p.requires_grad, p.grad is None) for p in own)


def _same(was: Tensor, now: Tensor | None) -> bool:
    if now is None or was.shape != now.shape or was.dtype != now.dtype:
        return False
    return torch.equal(was, now) or torch.equal(_bits(was), _bits(now))  # NaN is not equal to NaN


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


@contextmanager
def kept_settings() -> Iterator[None]:
    """Restore torch's global settings at the end: user code may change them, and later results
    would differ.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    gradients = torch.is_grad_enabled()
    exact = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.are_deterministic_algorithms_enabled() != exact:
            torch.use_deterministic_algorithms(exact)
