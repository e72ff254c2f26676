"""What work costs in time and in a GPU's memory, about: the terms in which a metric declares its
own cost and memory, and in which planning counts trainings.

Time is ``passes * overhead + FLOPs / rate`` for one CPU core. Memory counts what is certain to lie
on a GPU (weights, gradients, optimizer memory, activations) and allows for the rest. Both are
guesses: the store's own timings correct the one, a pack that runs out of memory is halved.
Standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

OVERHEAD_S = (
    5e-5  # one pass of a small network over a batch on one core: kernels launched, not arithmetic
)
RATE = 2e10  # FLOP/s of one core on small convolutions and products

FLOAT = 4  # bytes
COPIES = 10
"""Vectors as long as the parameters that a training holds: weights, gradients, up to three of the
optimizer, the best weights so far, at the end of an epoch a copy of the weights and the
optimizer's, and two of scratch.
"""

OF_SAM = 3
"""More of them with SAM: a copy of the weights, and the way to the worst point with its scale."""

IN_FLIGHT = 2
"""Activations and, during the backward pass, at most as much again of their gradients and of
kernels' workspaces.
"""

EVALUATED = 1000
"""Examples in a batch of an evaluation: `tasks.operations.MOST`, which would bring torch along."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a cell's jobs are made of, for predicting their cost: examples, classes, parameters,
    forward FLOPs of one example (a multiply-add counts 2), numbers of one that a backward pass
    keeps, numbers that one consists of, labels of one. `num_aside` are the examples that are set
    aside of the training set.
    """

    num_train: int
    num_test: int
    num_classes: int
    num_parameters: int
    forward_flops: int
    activations: int = 0
    input_size: int = 0
    labels_per_example: float = 1.0
    num_aside: int = 0


class ModelCounts(NamedTuple):
    """Trainable parameters, FLOPs of one forward pass over one example (a multiply-add counts 2),
    and the numbers of it that a backward pass keeps.
    """

    num_parameters: int
    forward_flops: int
    activations: int


@dataclass(frozen=True, slots=True)
class Guess:
    """Seconds on one core before any correction: what grows with the number of kernels, and with
    the arithmetic in them.
    """

    overhead_s: float
    arithmetic_s: float = 0.0

    def __add__(self, other: "Guess") -> "Guess":
        """Return the cost of both."""
        return Guess(self.overhead_s + other.overhead_s, self.arithmetic_s + other.arithmetic_s)

    def __rmul__(self, count: float) -> "Guess":
        """Return the cost of `count` of them."""
        return Guess(count * self.overhead_s, count * self.arithmetic_s)

    @property
    def seconds(self) -> float:
        """The whole."""
        return self.overhead_s + self.arithmetic_s


class Measurement(NamedTuple):  # made for every job of a plan: cheaper than a frozen dataclass
    """A job of a metric, as far as its cost depends on it: the work of its cell, its arguments, how
    many trials it is about, and how many jobs are computed `together` with it, itself included.
    """

    work: Workload
    args: Mapping[str, Any]
    num_trials: int = 1
    together: int = 1


def passes(work: Workload, examples: float, batch: int, factor: float) -> Guess:
    """Return the cost of running `examples` through the network in batches; `factor` 1 forward
    only, 3 with gradients, 6 for a product with the Hessian.

    >>> passes(Workload(100, 10, 2, 42, forward_flops=2_000_000), 100, 10, 1).arithmetic_s
    0.01
    """
    return Guess(
        examples / batch * OVERHEAD_S * factor, examples * work.forward_flops * factor / RATE
    )


def evaluation(work: Workload) -> Guess:
    """Return the cost of running the training and the test set through the network once."""
    return passes(work, work.num_train + work.num_test, 500, 1)


def training_bytes(work: Workload, batch: float, copies: int = COPIES) -> int:
    """Return what training one network takes: its vectors and the activations of its batch."""
    values = copies * work.num_parameters + IN_FLIGHT * batch * per_example(work)
    return int(FLOAT * values)


def evaluation_bytes(work: Workload) -> int:
    """Return what an evaluation takes beside data and weights."""
    return FLOAT * min(EVALUATED, work.num_train) * per_example(work)


def per_example(work: Workload) -> int:
    """Return how many numbers an example has, its activations included."""
    return work.activations + work.input_size
