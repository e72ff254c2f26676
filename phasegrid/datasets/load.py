"""Load the data set of a trial, built in or a plug-in, and check it before any training."""

import copy

import torch

from phasegrid.datasets import DATASETS
from phasegrid.datasets.coded import CodedDataset
from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import DatasetKind, import_function, later_defaults
from phasegrid.errors import DataError, PhasegridError
from phasegrid.jobs import Part
from phasegrid.keys import content_key, stream_seed
from phasegrid.registry import resolve_dataset
from phasegrid.seeding import seeded_draws
from phasegrid.tasks import TASKS
from phasegrid.user_code import where_raised


def load_dataset(part: Part, device: torch.device | str = "cpu") -> Dataset:
    """Load the data set `part`, with its arguments and locators, onto `device`.

    Raises:
        DataError, SweepError: as `open_dataset`.
    """
    return open_dataset(part).decoded(device)


def open_dataset(part: Part) -> CodedDataset:
    """Load and check the data set `part`, with its arguments and locators; pixels stay bytes.

    Raises:
        DataError: if it cannot be loaded, or what was loaded is malformed (see `check_dataset`).
        SweepError: if no data set has this name.
    """
    args = copy.deepcopy({**part.args, **part.locators})
    kind = resolve_dataset(part.name)
    try:
        seed = stream_seed(content_key("dataset", 1, part.spec()), "draws")
        with seeded_draws(seed):
            loaded = import_function(kind.load)(**args)
    except PhasegridError:
        raise
    except Exception as error:  # a plug-in may raise anything, and its user must read where and why
        place = where_raised(error)
        told = f"{type(error).__name__}: {error}" + f" ({place})" * bool(place)
        raise DataError(f"loading data set {part.name} with {args}: {told}") from error
    found = CodedDataset(loaded, {}) if isinstance(loaded, Dataset) else loaded
    if not isinstance(found, CodedDataset):
        raise DataError(
            f"loading data set {part.name}: its load function returned {type(loaded).__name__}; "
            "it must return a phasegrid.datasets.dataset.Dataset"
        )
    check_dataset(part.name, found.outline)
    if part.name not in DATASETS:
        _check_facts(part, kind, found.outline)
    return found


def _check_facts(part: Part, kind: DatasetKind, dataset: Dataset) -> None:
    """Refuse a plug-in whose data contradict its facts, because sweeps are planned and checked by
    the facts.
    """
    facts = import_function(kind.facts)({**later_defaults(kind.args), **part.args, **part.locators})
    if facts is None:
        return
    found = {
        "num_train": len(dataset.train_labels),
        "num_test": len(dataset.test_labels),
        "input_shape": dataset.input_shape,
        "num_classes": dataset.num_classes,
        "task": dataset.task,
        "form": dataset.form,
        "num_aside": len(dataset.aside_labels),
    }
    wrong = [
        f"its facts say {name} {getattr(facts, name)}, what is loaded has {value}"
        for name, value in found.items()
        if getattr(facts, name) != value
    ]
    if wrong:
        raise DataError(f"loading data set {part.name}: {'; '.join(wrong)}")


def check_dataset(name: str, dataset: Dataset) -> None:
    """Check types, shapes, labels and finiteness of a data set; report all mistakes together.

    Raises:
        DataError: with all mistakes.
    """
    if dataset.task not in TASKS:
        raise DataError(
            f"loading data set {name}: its task is {dataset.task!r}; allowed: {', '.join(TASKS)}"
        )
    mistakes, shape = dataset.operations.mistakes(dataset), dataset.input_shape
    for field, value in (("pixel", dataset.pixel), ("padding", dataset.padding)):
        if not _broadcasts(tuple(value.shape), shape):
            mistakes.append(
                f"{field} has the shape {tuple(value.shape)}, which does not broadcast to {shape}"
            )
    if dataset.augment == "flip_crop" and len(shape) != 3:
        mistakes.append(f"augment is flip_crop, but inputs of the shape {shape} are not images")
    if dataset.text is not None:
        mistakes += dataset.text.mistakes(dataset.form, len(dataset.test_inputs))
    if mistakes:
        raise DataError(f"loading data set {name}: {'; '.join(mistakes)}")


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(size in (1, whole) for size, whole in pairs)
