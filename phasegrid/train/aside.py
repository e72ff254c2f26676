"""Put examples that a data set sets aside into every batch, for objectives that need them.

An epoch then passes over the training set and the first P examples set aside, N + P in all. The
places of the latter are spread evenly over the epoch, so that each batch of B examples holds P B /
(N + P) of them, rounded up or down. The order of the examples within each kind is random. Letters:
M members, N training examples, P examples set aside.
"""

from dataclasses import replace

import torch
from torch import Tensor

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import DataError
from phasegrid.tasks.batches import Batch, EpochOrder


def joined(data: Dataset, num_aside: int) -> Dataset:
    """Return the data set with its first `num_aside` examples set aside appended to its training
    set.

    Raises:
        DataError: if it sets fewer examples aside.
    """
    if len(data.aside_labels) < num_aside:
        raise DataError(
            f"training on data set {data.name}: the objective needs {num_aside} examples set aside,"
            f" but the data set has {len(data.aside_labels)}; set dataset.aside to at least the"
            " share of a batch that the objective takes from them"
        )
    return replace(
        data,
        train_inputs=torch.cat([data.train_inputs, data.aside_inputs[:num_aside]]),
        train_labels=torch.cat([data.train_labels, data.aside_labels[:num_aside]]),
    )


def aside_places(num: int, num_aside: int) -> Tensor:
    """Return which places in an epoch of `num` examples hold the `num_aside` set aside, (num,).

    >>> aside_places(6, 2).int().tolist()
    [0, 0, 1, 0, 0, 1]
    """
    before = torch.arange(num + 1) * num_aside // num
    return before[1:] > before[:-1]


def spread(drawn: EpochOrder, num_aside: int) -> EpochOrder:
    """Return the epoch with its last `num_aside` examples moved to their places. The examples of
    each kind stay in the order (M, N + P) in which they were drawn.
    """
    members, num = drawn.order.shape
    places = aside_places(num, num_aside)
    aside = drawn.order >= num - num_aside
    order = torch.empty_like(drawn.order)
    order[:, places] = drawn.order[aside].view(members, num_aside)
    order[:, ~places] = drawn.order[~aside].view(members, num - num_aside)
    return replace(drawn, order=order)


def own_part(batch: Batch, own: Tensor) -> Batch:
    """Return the examples at the places `own` as a batch, without the objective's data about the
    others.
    """
    return Batch(batch.inputs.index_select(1, own), batch.labels.index_select(1, own))
