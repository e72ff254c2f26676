"""Load the data set that a trial names, built in or a plug-in, and check it before anything is
trained on it.
"""

import copy

import torch
from torch import Tensor

from phasegrid.datasets import DATASETS
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.translation.checks import token_mistakes
from phasegrid.declare import DatasetKind, import_function, later_defaults
from phasegrid.errors import DataError, PhasegridError
from phasegrid.jobs import Part, content_key, stream_seed
from phasegrid.registry import resolve_dataset
from phasegrid.seeding import seeded_draws
from phasegrid.user_code import where_raised


def load_dataset(part: Part, device: torch.device | str = "cpu") -> Dataset:
    """Load the data set `part` names, with its arguments and locators, onto `device`.

    Raises:
        DataError: if it cannot be loaded, or what was loaded is malformed (see `check_dataset`).
        SweepError: if no data set has this name.
    """
    args = copy.deepcopy({**part.args, **part.locators})
    kind = resolve_dataset(part.name)
    try:
        seed = stream_seed(content_key("dataset", 1, part.spec()), "draws")
        with seeded_draws(seed):
            dataset = import_function(kind.load)(**args)
    except PhasegridError:
        raise
    except (
        Exception
    ) as error:  # whatever the loader of a plug-in raises, its user must read where and why
        place = where_raised(error)
        told = f"{type(error).__name__}: {error}" + f" ({place})" * bool(place)
        raise DataError(f"loading data set {part.name} with {args}: {told}") from error
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"loading data set {part.name}: its load function returned {type(dataset).__name__}; "
            "it must return a phasegrid.datasets.dataset.Dataset"
        )
    check_dataset(part.name, dataset)
    if part.name not in DATASETS:
        _check_facts(part, kind, dataset)
    return dataset.to(device)


def _check_facts(part: Part, kind: DatasetKind, dataset: Dataset) -> None:
    """Refuse a plug-in whose data are not what its facts say: sweeps are planned and checked by
    these.
    """
    facts = import_function(kind.facts)({**later_defaults(kind.args), **part.args, **part.locators})
    if facts is None:
        return
    found = {
        "num_train": len(dataset.train_labels),
        "num_test": len(dataset.test_labels),
        "input_shape": dataset.input_shape,
        "num_classes": dataset.num_classes,
    }
    wrong = [
        f"its facts say {name} {getattr(facts, name)}, what is loaded has {value}"
        for name, value in found.items()
        if getattr(facts, name) != value
    ]
    if wrong:
        raise DataError(f"loading data set {part.name}: {'; '.join(wrong)}")


def check_dataset(name: str, dataset: Dataset) -> None:
    """Check types, shapes, labels and finiteness of a data set; report every mistake together.

    Sentence pairs are checked by `phasegrid.datasets.translation.checks`.

    Raises:
        DataError: with all that was found.
    """
    tokens = dataset.tokens
    mistakes = _array_mistakes(dataset) if tokens is None else token_mistakes(dataset, tokens)
    if mistakes:
        raise DataError(f"loading data set {name}: {'; '.join(mistakes)}")


def _array_mistakes(dataset: Dataset) -> list[str]:
    mistakes = [
        *_split_mistakes("train", dataset.train_inputs, dataset.train_labels, dataset.num_classes),
        *_split_mistakes("test", dataset.test_inputs, dataset.test_labels, dataset.num_classes),
    ]
    shape = dataset.input_shape
    if tuple(dataset.test_inputs.shape[1:]) != shape:
        mistakes.append(
            f"one training input has the shape {shape}, one test input"
            f" {tuple(dataset.test_inputs.shape[1:])}"
        )
    for field, value in (("pixel", dataset.pixel), ("padding", dataset.padding)):
        if not _broadcasts(tuple(value.shape), shape):
            mistakes.append(
                f"{field} has the shape {tuple(value.shape)}, which does not broadcast to {shape}"
            )
    if dataset.augment == "flip_crop" and len(shape) != 3:
        mistakes.append(f"augment is flip_crop, but inputs of the shape {shape} are no images")
    return mistakes


def _split_mistakes(split: str, inputs: Tensor, labels: Tensor, num_classes: int) -> list[str]:
    mistakes = []
    if inputs.dtype != torch.float32:
        mistakes.append(f"{split}_inputs are {inputs.dtype}; they must be float32")
    if labels.dtype != torch.int64 or labels.ndim != 1:
        return [
            *mistakes,
            f"{split}_labels are {labels.dtype} {tuple(labels.shape)}, not int64 (N,)",
        ]
    if len(inputs) != len(labels) or len(labels) == 0:
        return [*mistakes, f"{split} has {len(inputs)} inputs and {len(labels)} labels"]
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or largest >= num_classes:
        mistakes.append(
            f"{split}_labels run from {smallest} to {largest}; with {num_classes} classes allowed: "
            f"0 to {num_classes - 1}"
        )
    finite = torch.isfinite(inputs).flatten(1).all(dim=1)
    if not bool(finite.all()):
        mistakes.append(
            f"{split}_inputs hold NaN or infinities, or what float32 cannot hold (beyond 3.4e38),"
            f" in {int((~finite).sum())} of {len(finite)} examples, first in example"
            f" {int((~finite).int().argmax())} of those kept"
        )
    return mistakes


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(size in (1, whole) for size, whole in pairs)
