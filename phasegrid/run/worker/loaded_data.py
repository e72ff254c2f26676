"""The data sets of this process: loaded once, kept on their device, and loaded again after a metric
has changed them.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from phasegrid.datasets.dataset import TENSORS, Dataset
from phasegrid.datasets.load import load_dataset, open_dataset
from phasegrid.errors import DataError
from phasegrid.jobs import Part
from phasegrid.keys import content_key
from phasegrid.run.worker.dataset_cache import shared
from phasegrid.run.worker.write_checks import checksums, writes_to


@dataclass(slots=True)
class Loaded:
    """A data set of this process, with its write counters at loading and, once computed, its
    checksums.
    """

    name: tuple[str, str]
    dataset: Dataset
    writes: tuple[tuple[int, int], ...]
    sums: dict[str, int] | None = None


_DATASETS: dict[tuple[str, str], Loaded] = {}
_SPOILED: dict[tuple[str, str], dict[str, int]] = {}
_MAX_DATASETS = 4
_KEPT = 1 / 32
"""The share of a GPU's memory up to which data sets are kept for later packs, whose estimates do
not count them; all of a GPU's eight processes together keep at most a quarter of it.
"""


def try_dataset(part: Part, device: torch.device, shared_data: str | None) -> None:
    """Load a data set as the first job on this device will, and keep it for that job. A process
    that serves a GPU but has none of its own only reads and checks it.

    Raises:
        DataError: if it cannot be loaded.
    """
    if shared_data is not None and device.type != "cpu":
        shared(shared_data, data_key_of(part), lambda: open_dataset(part), pixels=True)
    else:
        dataset_of(part, device, shared_data)


def dataset_of(part: Part, device: torch.device, shared_data: str | None = None) -> Dataset:
    """Load a data set once per process, or once per node with `shared_data`; the most recent ones
    are kept on the device.
    """
    return held(part, data_key_of(part), device, shared_data).dataset


def data_key_of(part: Part) -> str:
    return content_key("dataset", 1, [part.spec(), part.locators])


def held(part: Part, key: str, device: torch.device, shared_data: str | None) -> Loaded:
    name = key, str(device)
    if name not in _DATASETS:
        while len(_DATASETS) >= _MAX_DATASETS:
            del _DATASETS[next(iter(_DATASETS))]
        dataset = _load(part, key, device, shared_data)
        if name in _SPOILED and checksums(dataset) != _SPOILED[name]:
            raise DataError(
                f"loading data set {part.name} again: its contents differ from those first"
                f" loaded. Either a metric has changed them and the load function returns the"
                f" same arrays each time, or the load function draws new ones: let it return"
                f" copies of fixed arrays"
            )
        _DATASETS[name] = Loaded(name, dataset, writes_to(dataset))
        _make_room(device)
    return _DATASETS[name]


def _make_room(device: torch.device) -> None:
    """Forget the oldest data sets on a GPU until the others fit; the newest always stays."""
    room = _room_bytes(device)
    if room is None:
        return
    there = [name for name in _DATASETS if name[1] == str(device)]
    sizes = [sum(getattr(_DATASETS[name].dataset, t).nbytes for t in TENSORS) for name in there]
    for place, name in enumerate(there[:-1]):
        if sum(sizes[place:]) <= room:
            return
        del _DATASETS[name]


def _room_bytes(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return int(_KEPT * torch.cuda.get_device_properties(device).total_memory)


def restore(loaded: Loaded, looked_at: Collection[str]) -> list[str]:
    """Discard a data set that has changed since loading, by torch's write counters or the checksums
    of the tensors that were `looked_at`.

    Return what has changed.
    """
    now = writes_to(loaded.dataset)
    changed = [
        tensor
        for tensor, was, count in zip(TENSORS, loaded.writes, now, strict=True)
        if was != count
    ]
    if not changed and looked_at and loaded.sums is not None:
        found = checksums(loaded.dataset, looked_at)
        changed = [tensor for tensor in sorted(found) if found[tensor] != loaded.sums[tensor]]
    if not changed:
        return []
    if loaded.sums is not None:
        _SPOILED[loaded.name] = loaded.sums
    _DATASETS.pop(loaded.name, None)
    return [f"{tensor} of data set {loaded.dataset.name}" for tensor in changed]


def _load(part: Part, key: str, device: torch.device, shared_data: str | None) -> Dataset:
    if shared_data is None:
        return load_dataset(part, device)
    pixels = device.type != "cpu"
    return shared(shared_data, key, lambda: open_dataset(part), pixels=pixels).decoded(device)
