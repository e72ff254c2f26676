"""Score the members of an ensemble on a set, and their mean prediction.

Letters: M members, K scored labels, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.metrics.accuracy.compute import calibration_error, confidence_bins, kept_of
from phasegrid.metrics.ensemble.members import Member
from phasegrid.metrics.network.points import Numbers
from phasegrid.tasks.scoring import Scoring


@dataclass(frozen=True, slots=True)
class Judged:
    """The scores of members on a set, label by label.

    The members' own losses `own_losses` (M, K) and choices `votes` (M, K); of the mean prediction
    the `losses` (K,), whether it is `correct` (K,), its `confidence` (K,) and its Brier scores
    `brier` (K,). `labels` (K,). If asked, the choices `first` (M, K) of the first j members
    together, `with_first` (M, K) of the first member with each, and the losses `first_losses` (E,
    K) of the first `ends` members together.
    """

    own_losses: Tensor
    votes: Tensor
    losses: Tensor
    correct: Tensor
    confidence: Tensor
    brier: Tensor
    labels: Tensor
    first: Tensor
    with_first: Tensor
    first_losses: Tensor

    def ece(self, bins: int, sets: int = 1) -> float:
        """Return the expected calibration error of the mean prediction: its mean over the `sets` of
        equal size of which the labels consist.
        """
        each = zip(self.confidence.chunk(sets), self.correct.chunk(sets), strict=True)
        return sum(calibration_error(*one, bins) for one in each) / sets

    def bins(self, num: int) -> dict[str, Numbers]:
        """Return the confidence, the accuracy and the share of labels in each of `num` bins of
        confidence.
        """
        return confidence_bins(self.confidence, self.correct, num)

    def errors_percent(self, votes: Tensor) -> list[float]:
        """Return the error of each row of choices (M, K)."""
        return [error_percent(row == self.labels) for row in votes]

    def disagreement(self) -> float | None:
        """Return the share of labels on which two members choose differently, as the mean over all
        pairs of members; None for a single one.
        """
        num = len(self.votes)
        pairs = num * (num - 1) // 2
        if not pairs:
            return None
        apart = sum(int((self.votes[i + 1 :] != self.votes[i]).sum()) for i in range(num - 1))
        return apart / (pairs * len(self.labels))


def error_percent(correct: Tensor) -> float:
    """Return the share of answers that are not `correct`, in percent."""
    return 100 - 100 * int(correct.sum()) / correct.numel()


def judge(
    members: Sequence[Member],
    batches: Sequence[tuple[Tensor, Tensor]],
    scoring: Scoring,
    ends: Sequence[int] = (),
) -> Judged:
    """Score each member and their mean prediction on the batches of a set; with `ends` also the
    first members together, and the first with each.
    """
    parts = [_of_batch(members, inputs, labels, scoring, ends) for inputs, labels in batches]
    columns = zip(*parts, strict=True)
    return Judged(*(torch.cat(column, dim=-1) for column in columns))


def _of_batch(
    members: Sequence[Member],
    inputs: Tensor,
    labels: Tensor,
    scoring: Scoring,
    ends: Sequence[int],
) -> tuple[Tensor, ...]:
    """Return the fields of `Judged` for a batch."""
    objective = scoring.objective
    own_losses, votes, first, with_first, first_losses = [], [], [], [], []
    target, total, leader = labels, None, None
    for num, member in enumerate(members, start=1):
        found = scoring.score(member(inputs), inputs, labels)
        target, own = found.labels, objective.prediction(found.logits)
        leader = own if leader is None else leader
        total = objective.sum_of(total, own)
        own_losses.append(found.losses)
        votes.append(found.logits.argmax(dim=-1))
        if ends:
            first.append(total.argmax(dim=-1))
            with_first.append(objective.sum_of(leader, own).argmax(dim=-1))
        if num in ends:
            so_far = objective.mean_prediction(total, num)
            first_losses.append(scoring.losses(so_far, inputs, target))
    assert total is not None
    mean = objective.mean_prediction(total, len(members))
    losses, correct, confidence = kept_of(scoring.score_logits(mean, inputs, target))
    brier = _brier(mean.softmax(dim=-1), target)
    none = torch.empty((0, len(target)), dtype=torch.int64, device=target.device)
    several = [torch.stack(rows) if rows else none for rows in (first, with_first, first_losses)]
    return (
        torch.stack(own_losses),
        torch.stack(votes),
        losses,
        correct,
        confidence,
        brier,
        target,
        *several,
    )


def _brier(p: Tensor, labels: Tensor) -> Tensor:
    """Return sum_c (p_c - 1[c = y])^2 for probabilities (K, C) and labels y (K,)."""
    right = p.gather(1, labels.unsqueeze(1)).squeeze(1)
    return p.square().sum(dim=1) - 2 * right + 1
