"""Share data sets between a run's processes on a node: one process loads them, the others map them
into memory.

Eight processes with their own CIFAR-10 in float32 would hold 5.9 GB and read its files eight times;
mapped from files, its pages are in memory once. A data set is stored as one raw file per tensor and
a JSON file, written last, that describes them; nothing is unpickled. A tensor has a file of its own
so that it begins on a page: where it begins can change the last digit of a sum over it. Pixels are
decoded step by step into their file: a system that writes whole pages of a file need not clear them
first, as it clears those that it gives to a process. Without such a folder, or room in it, each
process loads its data sets itself.

A data set of pixels for a GPU is not put there if it is kept beside its files: each process sends
the bytes, mapped from there, to its GPU and decodes them on it.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phasegrid.datasets.coded import Coded, CodedDataset
from phasegrid.datasets.dataset import TENSORS, Dataset, Text
from phasegrid.fallbacks import fall_back
from phasegrid.run.worker.node_folder import enter, locked
from phasegrid.tasks import TASKS

ROOM = 4
"""A data set is shared if the folder's file system has room for this many copies of it."""


_NOT_SHARED = "a data set is held by each process, not by the processes of a node together"


def shared(
    run: str, key: str, load: Callable[[], CodedDataset], *, pixels: bool = False
) -> CodedDataset:
    """Return the data set of `key`, mapped from the folder of `run`; the first process loads it and
    writes it there. With `pixels`, bytes that every process can map stay bytes.

    Of several processes at once, one loads and the others wait. `run` and `key` are hexadecimal.
    """
    folder = enter(run)
    if folder is None:
        return load()
    file = folder / f"{key}.json"
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder / f"{key}.lock"))
        except OSError as error:  # the folder was deleted meanwhile, or takes no files
            fall_back(_NOT_SHARED, error)
            return load()
        found = _mapped(file)
        if found is not None:
            return found
        loaded = load()
        is_quick = pixels and loaded.is_mapped and loaded.coded
        if is_quick or not _publish(file, loaded):
            return loaded
    return _mapped(file) or loaded


def _publish(file: Path, loaded: CodedDataset) -> bool:
    """Write a data set, and at the end the file that makes it visible; return False if there is no
    room for it.
    """
    tensors = {name: getattr(loaded.outline, name) for name in TENSORS}
    partial = file.with_suffix(".part")
    try:
        if shutil.disk_usage(file.parent).free < ROOM * sum(t.nbytes for t in tensors.values()):
            return False
        for name, tensor in tensors.items():
            _write(partial, loaded.coded.get(name, tensor))
            os.replace(partial, _raw(file, name))  # a process that has mapped an old one keeps it
        partial.write_text(json.dumps(_facts(loaded.outline)))
        os.replace(partial, file)
    except OSError as error:
        fall_back(_NOT_SHARED, error)
        for name in TENSORS:
            _raw(file, name).unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
        return False
    return True


def _write(file: Path, inputs: Tensor | Coded) -> None:
    with file.open("wb", buffering=0) as raw:
        if isinstance(inputs, Coded):
            for step in inputs.steps(torch.device("cpu")):
                step.numpy().tofile(raw)
        else:
            inputs.contiguous().numpy().tofile(raw)


def _raw(file: Path, name: str) -> Path:
    return file.with_suffix(f".{name}")


def _facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "tensors": {name: _layout(getattr(dataset, name)) for name in TENSORS},
        "num_classes": dataset.num_classes,
        "augment": dataset.augment,
        "task": dataset.task,
        "form": asdict(dataset.form) if dataset.form else None,
        "text": asdict(dataset.text) if dataset.text else None,
        "words": dataset.words,
    }


def _layout(tensor: Tensor) -> tuple[str, list[int]]:
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape)


def _mapped(file: Path) -> CodedDataset | None:
    """Return the data set of a file with its tensors mapped into memory, not copied; None if it is
    missing or incomplete.
    """
    try:
        facts = json.loads(file.read_text())
        layouts = facts.pop("tensors")
        tensors: dict[str, Any] = {name: _map(_raw(file, name), *layouts[name]) for name in TENSORS}
    except FileNotFoundError:  # it is not written yet
        return None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no mapping
        fall_back(_NOT_SHARED, error)
        return None
    text, form = facts.pop("text"), TASKS[facts["task"]].form
    values, vocabulary = facts.pop("form"), tuple(facts.pop("words"))
    dataset = Dataset(
        **tensors,
        **facts,
        words=vocabulary,
        form=form(**values) if form and values else None,
        text=Text(**{name: tuple(words) for name, words in text.items()}) if text else None,
    )
    return CodedDataset(dataset, {})


def _map(raw: Path, dtype_name: str, shape: list[int]) -> Tensor:
    """Map a raw file as a tensor; changes to it stay in this process.

    Raises:
        ValueError: if the file has another size.
    """
    flat = torch.empty(0, dtype=getattr(torch, dtype_name))
    count = torch.Size(shape).numel()
    if raw.stat().st_size != count * flat.itemsize:
        raise ValueError(f"mapping {raw}: its size is not that of {dtype_name} {shape}")
    if count:
        flat = torch.from_file(str(raw), shared=False, size=count, dtype=flat.dtype)
    return flat.view(shape)
