"""A part of every batch from the examples that a data set sets aside, for objectives that ask for
it.

An epoch then goes through the training set and the first examples set aside, N + P in all. Their
places are spread evenly over the epoch, so that each batch of B has its share of them, P B / (N +
P), rounded up or down; which example comes when is drawn. Letters: M members, N training examples,
P examples from those set aside.
"""

from dataclasses import replace

import torch
from torch import Tensor

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import DataError
from phasegrid.tasks.batches import Batch, EpochOrder


def joined(data: Dataset, num_aside: int) -> Dataset:
    """Return the data set with its first `num_aside` examples set aside behind its training set.

    Raises:
        DataError: if it has not so many.
    """
    if len(data.aside_labels) < num_aside:
        raise DataError(
            f"training on data set {data.name}: the objective takes {num_aside} examples that are"
            f" set aside, and it sets {len(data.aside_labels)} aside; set dataset.aside to at least"
            " the share of a batch that the objective takes from there"
        )
    return replace(
        data,
        train_inputs=torch.cat([data.train_inputs, data.aside_inputs[:num_aside]]),
        train_labels=torch.cat([data.train_labels, data.aside_labels[:num_aside]]),
    )


def aside_places(num: int, num_aside: int) -> Tensor:
    """Return which places of an epoch of `num` examples are for the `num_aside` set aside, (num,).

    >>> aside_places(6, 2).int().tolist()
    [0, 0, 1, 0, 0, 1]
    """
    before = torch.arange(num + 1) * num_aside // num
    return before[1:] > before[:-1]


def spread(drawn: EpochOrder, num_aside: int) -> EpochOrder:
    """Return the epoch with the last `num_aside` examples at their places. The examples of each
    kind stay in the order (M, N + P) in which they are drawn.
    """
    members, num = drawn.order.shape
    places = aside_places(num, num_aside)
    aside = drawn.order >= num - num_aside
    order = torch.empty_like(drawn.order)
    order[:, places] = drawn.order[aside].view(members, num_aside)
    order[:, ~places] = drawn.order[~aside].view(members, num - num_aside)
    return replace(drawn, order=order)


def own_part(batch: Batch, own: Tensor) -> Batch:
    """Return the examples of a batch at the places `own`, as a batch of their own, without what an
    objective asked for of the others.
    """
    return Batch(batch.inputs.index_select(1, own), batch.labels.index_select(1, own))
