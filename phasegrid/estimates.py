"""Cost and memory estimates: the terms in which metrics declare theirs and planning counts
trainings.

Time is ``passes * overhead + FLOPs / rate`` on one CPU core. For a GPU, the same estimate also
counts kernels and bytes of activations, which `phasegrid.plan.devices` turns into seconds. Memory
counts what certainly lies on a GPU (weights, gradients, optimizer state, activations) plus an
allowance. Both are rough: the store's own timings correct the time, and a pack that runs out of
memory is halved. Standard library only.
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
"""Vectors of parameter length that training holds: weights, gradients, up to three of the
optimizer, the best weights so far, copies of the weights and the optimizer's at the end of an
epoch, and two of scratch space.
"""

OF_SAM = 3
"""Further such vectors with SAM: a copy of the weights, the perturbation and its scale."""

IN_FLIGHT = 2
"""Activations, and during the backward pass at most as much again for gradients and workspaces."""

USUAL_LAYERS = 10
"""Layers of a network that does not say how many it has."""

EVALUATED = 1000
"""Examples per evaluation batch. A copy of `tasks.operations.MOST`, which would import torch."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The size of a cell's jobs, for predicting their cost.

    `forward_flops` (a multiply-add counts 2), `activations` (numbers kept for the backward pass),
    `input_size` (numbers in an example) and `labels_per_example` are per example. `num_aside` is
    the number of training examples set aside.
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
    layers: int = USUAL_LAYERS


class ModelCounts(NamedTuple):
    """Trainable parameters; per example, the FLOPs of a forward pass (a multiply-add counts 2) and
    the numbers kept for the backward pass; and the layers with weights, normalisations and
    attentions among them, to which the kernels that a GPU starts are proportional.
    """

    num_parameters: int
    forward_flops: int
    activations: int
    layers: int = USUAL_LAYERS


@dataclass(frozen=True, slots=True)
class Guess:
    """Uncorrected seconds on one core: kernel launches (overhead) and arithmetic.

    For a GPU: how many `layers` are passed through, each of which starts a few kernels, and the
    `traffic_bytes` of activations. A guess without these counts as many seconds on a GPU.
    """

    overhead_s: float
    arithmetic_s: float = 0.0
    layers: float = 0.0
    traffic_bytes: float = 0.0

    def __add__(self, other: "Guess") -> "Guess":
        """Return the sum of two costs."""
        return Guess(
            self.overhead_s + other.overhead_s,
            self.arithmetic_s + other.arithmetic_s,
            self.layers + other.layers,
            self.traffic_bytes + other.traffic_bytes,
        )

    def __rmul__(self, count: float) -> "Guess":
        """Return `count` times the cost."""
        return Guess(
            count * self.overhead_s,
            count * self.arithmetic_s,
            count * self.layers,
            count * self.traffic_bytes,
        )

    @property
    def seconds(self) -> float:
        """Overhead plus arithmetic."""
        return self.overhead_s + self.arithmetic_s


class Measurement(NamedTuple):  # made for every job of a plan: cheaper than a frozen dataclass
    """What the cost of a metric's job depends on: the workload of its cell, its arguments, its
    number of networks, the number of jobs computed `together` (itself included), and the number of
    artifacts that it reads of the request that it is ``of`` (0 if it is of none).
    """

    work: Workload
    args: Mapping[str, Any]
    num_networks: int = 1
    together: int = 1
    num_sources: int = 0


def passes(
    work: Workload, examples: float, batch: int, factor: float, launches: float | None = None
) -> Guess:
    """Return the cost of running `examples` through the network in batches.

    `factor` is 1 forward only, 3 with gradients, 6 for a product with the Hessian: FLOPs and bytes
    are so many times those of a forward pass. `launches` is the same for the kernels (default:
    `factor`).

    >>> passes(Workload(100, 10, 2, 42, forward_flops=2_000_000), 100, 10, 1).arithmetic_s
    0.01
    """
    batches = examples / batch
    return Guess(
        batches * OVERHEAD_S * factor,
        examples * work.forward_flops * factor / RATE,
        batches * work.layers * (factor if launches is None else launches),
        examples * FLOAT * work.activations * factor,
    )


def evaluation(work: Workload) -> Guess:
    """Return the cost of running the training and the test set through the network once."""
    return passes(work, work.num_train + work.num_test, 500, 1)


def training_bytes(work: Workload, batch: float, copies: int = COPIES) -> int:
    """Return the bytes for training one network: its vectors and the activations of a batch."""
    values = copies * work.num_parameters + IN_FLIGHT * batch * per_example(work)
    return int(FLOAT * values)


def evaluation_bytes(work: Workload) -> int:
    """Return the bytes that an evaluation needs besides the data and the weights."""
    return FLOAT * min(EVALUATED, work.num_train) * per_example(work)


def per_example(work: Workload) -> int:
    """Return how many numbers an example takes: its input and its activations."""
    return work.activations + work.input_size
