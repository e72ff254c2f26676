"""Make a `Dataset` of raw arrays: fraction, set aside, label noise, image noise, normalisation, in
this order.

Letters: N examples, S the shape of one example, C channels (the first axis of S), D the size of a
vector.

Each random choice has a named stream of its own, derived from `corruption_seed`: ``fraction``,
``aside``, ``label_noise``, ``image_noise``. Within one stream the draws do not depend on the
amount, so choices are nested: a smaller `fraction` keeps a subset of what a larger one keeps; a
smaller `aside` takes the first of the examples that a larger one takes; a smaller `label_noise`
corrupts a subset of the labels that a larger one corrupts, with the same wrong labels; a larger
`image_noise` is the same noise, scaled.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from phasegrid.datasets import Options, aside_count, extra_count, kept_count
from phasegrid.datasets.coded import CODES, Coded, CodedDataset, outline_of
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.prepared import Array, Arrays
from phasegrid.errors import DataError
from phasegrid.keys import Json, stream_seed

T = TypeVar("T")

VANISHING = 1e-140  # deviations whose squares are near the smallest float64
CHUNK = 1024  # examples per step: bounds memory, and determines the draws of image noise
STEP = 64  # examples per step where results do not depend on it: a step of images fits a cache


@dataclass(frozen=True, slots=True)
class Raw:
    """A data set as in its files: inputs (N, *S) of real numbers, labels (N,) integers in
    0..num_classes-1.

    `pixel_unit` is the size of one pixel unit (1/255 of the full range of an image) in the raw
    inputs. Inputs that are not normalised are divided by `divisor`: 255 turns pixels into 0..1, 1
    leaves values unchanged. `statistics` are the mean and the deviation of all training inputs, if
    they are known (`channel_statistics`), or what is subtracted and divided by of any of them, if
    they are `given`.
    """

    name: str
    train_inputs: Array
    train_labels: Array
    test_inputs: Array
    test_labels: Array
    num_classes: int
    pixel_unit: float = 1.0
    divisor: float = 255.0
    statistics: tuple[Array, Array] | None = None
    given: bool = False
    extra: tuple[Array, Array] | None = None


def with_statistics(arrays: Arrays) -> Arrays:
    """Add to the arrays of a data set the `statistics` of its training inputs, to be kept with
    them.
    """
    return {**arrays, **statistics_of(arrays)}


def statistics_of(arrays: Arrays) -> Arrays:
    """Return the `statistics` of the training inputs of a data set, as ``mean`` and ``std``."""
    mean, std = channel_statistics(_numbers(arrays["train_inputs"]))
    return {"mean": mean, "std": std}


def raw_of(
    name: str, arrays: Arrays, num_classes: int, pixel_unit: float = 1.0, divisor: float = 255.0
) -> Raw:
    """Return the data set of arrays that are named as the fields of `Raw`, with `statistics` as
    ``mean`` and ``std``, if they are there.
    """
    values = {key: value for key, value in arrays.items() if key not in ("mean", "std")}
    known = (arrays["mean"], arrays["std"]) if "mean" in arrays else None
    return Raw(
        name,
        **values,
        num_classes=num_classes,
        pixel_unit=pixel_unit,
        divisor=divisor,
        statistics=known,
        given=False,
        extra=None,
    )


def read_options(kind: type[T], args: Mapping[str, Json]) -> T:
    """Return the options dataclass `kind` filled from arguments, with defaults."""
    values: Mapping[str, Any] = args
    return kind(**values)


def prepare(raw: Raw, options: Options) -> CodedDataset:
    """Turn raw arrays into normalised float32 tensors, corrupted as `options` say; pixels without
    noise stay bytes until they are decoded.

    Fraction, setting aside and noise change only the training set; the test set is normalised with
    the training set's statistics.

    Raises:
        DataError: if ``flip_crop`` is requested for inputs that are not images (C, H, W).
    """
    _check_augment(raw, options)
    kept, left_inputs, left_labels = _split(raw, options)
    labels = corrupt_labels(raw.train_labels[kept], raw.num_classes, options)
    noise = options.image_noise * raw.pixel_unit
    whole = len(kept) == len(raw.train_labels)
    chosen = raw.train_inputs if whole else raw.train_inputs[kept]
    inputs = _floating(chosen) if noise else _numbers(chosen)
    add_image_noise(inputs, noise, options.corruption_seed)
    if not options.normalize:
        mean, std = _plain_scale(inputs, raw.divisor)
    elif raw.statistics is not None and (raw.given or (whole and not noise)):
        mean, std = raw.statistics
    else:
        mean, std = channel_statistics(inputs)
    train = _standardize(inputs, mean, std)
    test = _standardize(_numbers(raw.test_inputs), mean, std)
    left = _standardize(_numbers(left_inputs), mean, std)
    outline = Dataset(
        name=raw.name,
        train_inputs=outline_of(train),
        train_labels=torch.from_numpy(labels),
        test_inputs=outline_of(test),
        test_labels=torch.from_numpy(raw.test_labels.astype(np.int64)),
        num_classes=raw.num_classes,
        pixel=torch.from_numpy((raw.pixel_unit / std).astype(np.float32)),
        padding=torch.from_numpy((-mean / std).astype(np.float32)),
        augment=options.augment,
        aside_inputs=outline_of(left),
        aside_labels=torch.from_numpy(left_labels.astype(np.int64)),
    )
    inputs_of = {"train_inputs": train, "test_inputs": test, "aside_inputs": left}
    coded = {name: value for name, value in inputs_of.items() if isinstance(value, Coded)}
    return CodedDataset(outline, coded, isinstance(raw.train_inputs, np.memmap))


def kept_indices(size: int, options: Options) -> NDArray[np.int64]:
    """Choose the training examples to keep, in file order: the first `kept_count`, or as many drawn
    at random.
    """
    count = kept_count(size, options.fraction)
    if options.subset == "first":
        return np.arange(count)
    drawn = _stream(options.corruption_seed, "fraction").permutation(size)[:count]
    return np.sort(drawn)


def _split(raw: Raw, options: Options) -> tuple[NDArray[np.int64], Array, Array]:
    """Return which training examples are trained on, and the inputs and labels set aside."""
    kept = kept_indices(len(raw.train_labels), options)
    if raw.extra is not None:
        inputs, labels = raw.extra
        count = extra_count(len(kept), options.aside)
        return kept, inputs[:count], labels[:count]
    kept, aside = set_aside(kept, options)
    return kept, raw.train_inputs[aside], raw.train_labels[aside]


def set_aside(
    kept: NDArray[np.int64], options: Options
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the kept examples into those for training, in their order, and those set aside, in the
    order of the draw.
    """
    count = aside_count(len(kept), options.aside)
    if count == 0:
        return kept, kept[:0]
    order = _stream(options.corruption_seed, "aside").permutation(len(kept))
    return kept[np.sort(order[count:])], kept[order[:count]]


def corrupt_labels(labels: Array, num_classes: int, options: Options) -> NDArray[np.int64]:
    """Replace exactly floor(p N + 1/2) labels, p = `label_noise`, drawn without replacement.

    ``different``: a wrong class, each with probability 1/(classes - 1) (Yang et al. 2021, text).
    ``any``: any class, each with probability 1/classes, so about 1/classes of the replaced labels
    stay true (its published code).
    """
    corrupted = labels.astype(np.int64)
    count = int(options.label_noise * len(labels) + 0.5)
    if count == 0:
        return corrupted
    rng = _stream(options.corruption_seed, "label_noise")
    chosen = rng.permutation(len(labels))[:count]
    if options.label_noise_to == "different":
        shift = rng.integers(1, num_classes, size=len(labels))[:count]
        corrupted[chosen] = (corrupted[chosen] + shift) % num_classes
    else:
        corrupted[chosen] = rng.integers(0, num_classes, size=len(labels))[:count]
    return corrupted


def add_image_noise(inputs: Array, amount: float, corruption_seed: int) -> None:
    """Add U[0, amount) to every entry in place, as floats: nothing wraps or is clipped."""
    if amount == 0:
        return
    rng = _stream(corruption_seed, "image_noise")
    for chunk in _chunks(inputs):
        chunk += amount * rng.random(chunk.shape, dtype=np.float32)


def channel_statistics(inputs: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation per channel (per entry of a vector) over examples and
    places.

    Both are accumulated in float64, the deviation in a second pass around the mean, divided by the
    count (not count - 1). A constant channel gets deviation 1. Shapes: (C, 1, 1) for images, (D,)
    for vectors. Where squares would underflow, numbers are first divided by a power of two,
    which changes no digit.
    """
    places = tuple(axis for axis in range(inputs.ndim) if axis != 1)
    count = inputs.size / inputs.shape[1]
    shape = (inputs.shape[1],) + (1,) * (inputs.ndim - 2)
    total = sum(chunk.sum(axis=places, dtype=np.float64) for chunk in _chunks(inputs))
    mean = (total / count).reshape(shape)
    highest, lowest = inputs.max(axis=places), inputs.min(axis=places)
    constant = highest == lowest
    spread = np.maximum(highest - mean.ravel(), mean.ravel() - lowest)
    vanish = ~constant & (spread < VANISHING)
    unit = np.where(vanish, np.exp2(np.frexp(spread)[1]), 1.0).reshape(shape)
    steps = (chunk - mean for chunk in _chunks(inputs))
    scaled = (step / unit for step in steps) if vanish.any() else steps
    squares = sum(np.square(step, out=step).sum(axis=places) for step in scaled)
    std = np.where(constant, 1.0, np.sqrt(squares / count) * unit.ravel()).reshape(shape)
    return mean, std


def _check_augment(raw: Raw, options: Options) -> None:
    shape = raw.train_inputs.shape[1:]
    if options.augment == "flip_crop" and len(shape) != 3:
        raise DataError(
            f"preparing data set {raw.name}: augment is flip_crop, but one input has the shape"
            f" {shape}; it needs images (channels, height, width). Set dataset.augment: none"
        )


def _plain_scale(inputs: Array, divisor: float) -> tuple[Array, Array]:
    shape = (inputs.shape[1],) + (1,) * (inputs.ndim - 2)
    return np.zeros(shape), np.full(shape, divisor)


def _floating(inputs: Array) -> Array:
    """Copy to float32, or to float64 if the raw values are float64: beside a large offset, digits
    are needed until the mean is subtracted.
    """
    return inputs.astype(np.float64 if inputs.dtype == np.float64 else np.float32)


def _numbers(inputs: Array) -> Array:
    """Copy to floats as `_floating` does, except pixels, whose every value a float has."""
    return inputs if inputs.dtype == np.uint8 else _floating(inputs)


def _standardize(inputs: Array, mean: Array, std: Array) -> torch.Tensor | Coded:
    """Return (inputs - mean) / std, computed in float64, as float32; of pixels, a table of it.
    Overwrites float32 inputs to save their memory.
    """
    if inputs.dtype == np.uint8:
        table = (np.arange(CODES) - mean.reshape(-1, 1)) / std.reshape(-1, 1)
        return Coded(inputs, torch.from_numpy(table.astype(np.float32)))
    result = inputs if inputs.dtype == np.float32 else np.empty(inputs.shape, dtype=np.float32)
    with np.errstate(over="ignore"):  # numbers beyond float32 are refused later, with their place
        for chunk, out in zip(_chunks(inputs, STEP), _chunks(result, STEP), strict=True):
            step = chunk - mean
            out[...] = np.divide(step, std, out=step)
    return torch.from_numpy(result)


def _chunks(values: Array, size: int = CHUNK) -> Iterator[Array]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _stream(corruption_seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng(stream_seed(corruption_seed, name))
