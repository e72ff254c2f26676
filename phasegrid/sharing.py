"""Data sets in the folder that a run's processes share on a node: loaded by one process, mapped into memory by the others.

Eight processes with CIFAR-10 in float32 of their own would hold 5.9 GB and read its files eight times; mapped from one file, its pages
are there once. The files are safetensors and JSON: nothing is unpickled. Where there is no such folder, or no room in it, data
sets are loaded as if this were not here.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from phasegrid.datasets.dataset import Dataset, Text
from phasegrid.declare import Tokens
from phasegrid.node_folder import enter, locked

ROOM = 4
"""A data set is shared if the file system of the folder has room for so many of it."""

_TENSORS = ("train_inputs", "train_labels", "test_inputs", "test_labels", "pixel", "padding")


def shared(run: str, key: str, load: Callable[[], Dataset]) -> Dataset:
    """Return the data set of `key` on the CPU: mapped from the folder of `run`, where this process puts it if it is the first.

    Of several that come at once, one loads and the others wait. `run` and `key` are hexadecimal.
    """
    folder = enter(run)
    if folder is None:
        return load()
    file = folder / f"{key}.safetensors"
    try:
        with locked(folder / f"{key}.lock"):
            found = _mapped(file)
            if found is not None:
                return found
            dataset = load()
            if not _publish(file, dataset):
                return dataset
    except FileNotFoundError:  # the folder has been deleted under us
        return load()
    return _mapped(file) or dataset


def _publish(file: Path, dataset: Dataset) -> bool:
    """Write a data set in one step; say False, with nothing left behind, where there is no room for it."""
    tensors = _apart({name: getattr(dataset, name).contiguous() for name in _TENSORS})
    size = sum(tensor.nbytes for tensor in tensors.values())
    partial = file.with_suffix(".part")
    try:
        if shutil.disk_usage(file.parent).free < ROOM * size:
            return False
        save_file(tensors, partial, {"dataset": json.dumps(_facts(dataset))})
        os.replace(partial, file)
    except (OSError, SafetensorError):
        partial.unlink(missing_ok=True)
        return False
    return True


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors that lie in the memory of others (a test set that is part of the training set): a file holds each alone."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        if place in seen:
            tensors[name] = tensor.clone()
        seen.add(place)
    return tensors


def _facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "num_classes": dataset.num_classes,
        "augment": dataset.augment,
        "tokens": asdict(dataset.tokens) if dataset.tokens else None,
        "text": asdict(dataset.text) if dataset.text else None,
    }


def _mapped(file: Path) -> Dataset | None:
    """Return the data set of a file, its tensors mapped into memory, not copied; None if there is no such file."""
    try:
        with safe_open(file, "pt") as source:
            tensors = {name: source.get_tensor(name) for name in _TENSORS}
            facts = json.loads(source.metadata()["dataset"])
    except (OSError, SafetensorError):
        return None
    text, tokens = facts.pop("text"), facts.pop("tokens")
    dataset = Dataset(**tensors, **facts)
    return replace(
        dataset,
        tokens=Tokens(**tokens) if tokens else None,
        text=Text(**{name: tuple(words) for name, words in text.items()}) if text else None,
    )
