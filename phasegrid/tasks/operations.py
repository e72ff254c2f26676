"""Define the operations of a task on tensors. All other files use these and `Scoring`.

Letters: N examples, K scored labels, C classes, M members, B examples of a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from phasegrid.declare import Form, import_function
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import Cut, EpochOrder, Lengths

Chunk: TypeAlias = "slice | Tensor"
"""Selects examples of a set."""

FEWEST, MOST = 128, 1000
"""Number of examples evaluated at a time."""

IN_CACHE = FEWEST * 3 * 32 * 32
"""A CPU evaluates inputs with this many numbers at a time, so that activations stay in a core's
cache. ResNet18 of widths 4, 8, 16 takes 1.5, 1.15 and 1.65 times as long if it evaluates all 1,000
images of 32x32 pixels at once. Perceptrons of widths 16, 64, 256 take 2.6, 2.0 and 1.3 times as
long on 1,297 images of 8x8 pixels in batches of 128 (medians, one thread).
"""


class Examples(Protocol):
    """The part of a data set in memory that tasks use; `phasegrid.datasets.dataset.Dataset`
    provides it.
    """

    @property
    def train_inputs(self) -> Tensor:
        """Inputs (N, ...) of the training set."""

    @property
    def train_labels(self) -> Tensor:
        """Their labels (N, ...)."""

    @property
    def test_inputs(self) -> Tensor:
        """Inputs of the test set."""

    @property
    def test_labels(self) -> Tensor:
        """Their labels."""

    @property
    def aside_inputs(self) -> Tensor:
        """Inputs of the examples set aside; an empty tensor if there are none."""

    @property
    def aside_labels(self) -> Tensor:
        """Their labels."""

    @property
    def num_classes(self) -> int:
        """How many classes a label may name."""

    @property
    def form(self) -> Form | None:
        """Facts about examples, beyond their shape, that the task needs."""


class Probe(Protocol):
    """Examples on which the features of networks are compared, one row of features (n, d) per
    example.
    """

    def __len__(self) -> int:
        """How many rows there are."""

    def chunks(self, itemsize: int, batch_size: int | None) -> list[Chunk]:
        """Cut the rows into batches that fit into memory, if a number has this many bytes; the
        order may change.
        """

    def run(self, module: nn.Module, chunk: Chunk) -> Tensor:
        """Return the network's outputs for some of the examples."""

    def rows(self, name: str, output: Tensor, chunk: Chunk) -> Tensor:
        """Return the rows (n, d) of a layer's output, copied: the next layer may work in place.

        Raises:
            MetricError: if the layer called `name` has none.
        """


@dataclass(frozen=True, slots=True)
class Mix:
    """How examples are mixed with others: `partners` (m, ...) are the other inputs, and `shares`
    (m,) float64 are the weights of the examples themselves.
    """

    partners: Tensor
    shares: Tensor


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations of one task.

    - `mistakes(data)`: what is wrong with a data set.
    - `made_up(input_shape, num_classes, form, num)`: inputs and labels that stand in for real ones,
      the likeliest kind first.
    - `output_shape(inputs, num_classes)` of a network, in letters and in numbers.
    - `lengths(inputs, labels)`: returns `Lengths`.
    - `order(num, bounds, rng)`: the order (N,) in which an epoch with batches at these bounds goes
      through `num` examples, on the device of the generator.
    - `draw_epoch(num, lengths, cut, orders)`: the order and the batches of a training epoch, each
      member's drawn from its own generator.
    - `trim(inputs, labels)`: leave out positions that no example of a batch (N, ...) uses; no
      result changes.
    - `cut(inputs, num_classes, itemsize, batch_size)`: cut a set into chunks whose evaluation fits
      into memory, `batch_size` or fewer in each (None: chosen).
    - `by_length(inputs)`: an order (N,) by falling length; None if all lengths are equal.
    - `scored(logits, labels)`: logits (M, K, C) and labels (M, K) of scored labels, for logits (M,
      B, ..., C) and labels (M, B, ...); for one member only if labels can be padding.
    - `num_scored(labels)`: K; it waits for the device only if labels can be padding.
    - `flat(logits, labels)`: like `scored`, but with all labels, so that nothing waits for the
      device: logits (M, B', C), labels (M, B'), and which of them are scored (M, B'), None for all.
    - `probe(inputs, labels, num_classes, seed, mix)`: see `Probe`.
    - `carries`: whether a network may carry a state through a set (`phasegrid.tasks.carrying`).
    """

    mistakes: Callable[[Examples], list[str]]
    made_up: Callable[[tuple[int, ...], int, Form | None, int], list[tuple[Tensor, Tensor]]]
    output_shape: Callable[[Tensor, int], tuple[str, tuple[int, ...]]]
    lengths: Callable[[Tensor, Tensor], Lengths | None]
    order: Callable[[int, Sequence[slice], torch.Generator], Tensor]
    draw_epoch: Callable[[int, Lengths | None, Cut, Sequence[torch.Generator]], EpochOrder]
    trim: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    cut: Callable[[Tensor, int, int, int | None], list[Chunk]]
    by_length: Callable[[Tensor], Tensor | None]
    scored: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    num_scored: Callable[[Tensor], int]
    flat: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]
    probe: Callable[[Tensor, Tensor, int, int, Mix | None], Probe]
    carries: bool = False


@cache
def operations_of(task: str) -> Operations:
    """Return the operations of the task of this name."""
    reference = TASKS[task].operations
    operations: object = import_function(reference)
    assert isinstance(operations, Operations)
    return operations


def evaluation_batch(inputs: Tensor) -> int:
    """Return the batch size for evaluating a network on `inputs` (N, ...)."""
    if inputs.device.type != "cpu":
        return MOST
    return min(MOST, max(FEWEST, IN_CACHE // max(1, inputs[:1].numel())))
