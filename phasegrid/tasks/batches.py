"""Define a batch, and cut sets into batches.

Letters: M members (networks that train together), N examples of a set, B examples of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

ASIDE = "aside"
"""The name under which `Batch.extra` says which examples (M, B) were set aside by their data set;
only training batches of an objective that uses such examples have it.
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """The examples of a loss: `inputs` (M, B, ...), `labels` (M, B), and `extra` (M, B, ...), by
    name, further data per example that an objective needs.
    """

    inputs: Tensor
    labels: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)


def parts_of(batch: Batch, most: int) -> list[Batch]:
    """Cut a batch into at most so many parts of nearly equal size, each of two examples or more
    (BatchNorm in train mode cannot take one value per channel).
    """
    num = min(most, max(1, batch.labels.shape[1] // 2))
    if num == 1:
        return [batch]
    cut = (
        torch.tensor_split(value, num, dim=1)
        for value in (batch.inputs, batch.labels, *batch.extra.values())
    )
    return [
        Batch(inputs, labels, dict(zip(batch.extra, extra, strict=True)))
        for inputs, labels, *extra in zip(*cut, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of examples that differ in length, on the CPU, (N,) int64: positions, and scored
    labels.
    """

    positions: Tensor
    scored: Tensor


@dataclass(frozen=True, slots=True)
class Cut:
    """How an epoch is cut into batches: by `bounds` or, if they are None, so that a batch has at
    most `positions`.
    """

    bounds: list[slice] | None
    positions: int = 0

    def num_batches(self, lengths: Lengths | None) -> float:
        """Return the number of batches in an epoch; approximate if it varies from epoch to
        epoch.
        """
        if self.bounds is not None:
            return len(self.bounds)
        assert lengths is not None
        return int(lengths.positions.sum()) / self.positions


@dataclass(frozen=True, slots=True)
class EpochOrder:
    """An epoch of M members: which examples, in which order, (M, N) on the CPU, and the `bounds` of
    its batches. For each batch, `sizes` gives the number of scored labels, and `widths` the
    positions of its longest example (None if all examples have the same length).
    """

    order: Tensor
    bounds: Sequence[slice]
    sizes: Sequence[int]
    widths: Sequence[int] | None = None


def cut(
    num: int, batch_size: int, *, drop_last: bool = False, join_single: bool = True
) -> list[slice]:
    """Cut `num` examples into batches of `batch_size`.

    A last incomplete batch is left out with `drop_last`. With `join_single` a last batch of one
    example joins the one before it: BatchNorm in train mode cannot take one value per channel.

    >>> [(batch.start, batch.stop) for batch in cut(5, 2)]
    [(0, 2), (2, 5)]
    """
    starts, end = list(range(0, num, batch_size)), num
    if drop_last and num % batch_size:
        end = starts.pop()
    elif join_single and len(starts) > 1 and num - starts[-1] == 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], end], strict=True)]


def epoch_bounds(num: int, batch_size: int, drop_last: bool, batch_norm: bool) -> list[slice]:
    """Cut an epoch of training on `num` examples. For a network with BatchNorm, a last batch of one
    example joins the one before it, unless all batches have one example.

    Raises:
        ValueError: if a batch is larger than the data set.
    """
    if batch_size > num:
        raise ValueError(
            f"cannot draw batches of {batch_size} from {num} training examples; "
            f"batch_size must be at most {num}"
        )
    join_single = batch_norm and batch_size > 1
    return cut(num, batch_size, drop_last=drop_last, join_single=join_single)


def draw_order(num: int, _bounds: Sequence[slice], rng: torch.Generator) -> Tensor:
    """Draw a random order (N,) of `num` examples, on the device of `rng`."""
    return torch.randperm(num, generator=rng, device=rng.device)


def draw_orders(num: int, orders: Sequence[torch.Generator]) -> Tensor:
    """Draw a random order of `num` examples for each member, (M, N)."""
    return torch.stack([draw_order(num, (), order) for order in orders])
