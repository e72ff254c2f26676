"""Train connectors on a poisoned loss: what `phasegrid.train.aside` does for trainings.

In place of L there is the loss of the objective ``poisoned`` (Yenphraphai et al., "Mode-connecting
volumes for sharp modes", eq. 2 and section 4.2), or ``poisoned_sum``, on batches that hold
`poison_share` of examples set aside.
"""

from dataclasses import replace
from functools import partial

from torch import Tensor

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.tasks.batches import ASIDE, EpochOrder
from phasegrid.tasks.losses import Criterion, poisoned, poisoned_sum
from phasegrid.tasks.scoring import Scoring
from phasegrid.train.aside import joined, spread
from phasegrid.train.compat import num_for_share


def trained_by(scoring: Scoring, settings: SimplexArgs) -> Scoring:
    """Return how batches are scored in training: with the poisoned loss if there is poison."""
    share = settings.poison_share
    if share == 0:
        return scoring
    if settings.poison_scale is None:
        loss = partial(poisoned, share=share, beta=settings.poison_beta)
    else:
        loss = partial(poisoned_sum, share=share, scale=settings.poison_scale)
    return replace(scoring, objective=Criterion(loss))


def fed(data: Dataset, settings: SimplexArgs) -> tuple[Dataset, int]:
    """Return the data with the examples set aside that poison it at the end of its training set,
    and their number.

    Raises:
        DataError: if the data set sets fewer examples aside than the share needs.
    """
    num_train, num_aside = len(data.train_labels), len(data.aside_labels)
    needed = num_for_share(settings.poison_share, num_train, num_aside)
    return (joined(data, needed) if needed else data), needed


def arranged(order: Tensor, num_aside: int) -> Tensor:
    """Return an order (N,) of examples with the last `num_aside` of these spread evenly over it."""
    if not num_aside:
        return order
    return spread(EpochOrder(order.unsqueeze(0), [], []), num_aside).order[0]


def marks(chosen: Tensor, num: int, num_aside: int) -> dict[str, Tensor]:
    """Mark which of the examples `chosen` (K, B) of `num` are set aside, the last `num_aside`, as
    data of a batch; nothing without such.
    """
    return {ASIDE: chosen >= num - num_aside} if num_aside else {}
