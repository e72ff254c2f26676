"""Join training packs of neighbouring cells whose trials can train as one stack. Pure, no torch.

Cells along an axis of learning rate, weight decay, label noise or image noise train networks of one shape by one kind of update
(`phasegrid.stacking_rules`), so that their trials can share kernels as the seeds of one cell do. What joining costs is
parallelism: a pack is done by one worker. So packs are joined only while enough of them are left for every worker.
"""

from collections.abc import Sequence
from dataclasses import replace

from phasegrid.jobs import Pack, content_key
from phasegrid.stacking_rules import pack_signature

PACKS_A_WORKER = 4
"""Joining leaves at least so many packs' worth of work per worker: the last ones to end then differ by little."""

MAX_DATASETS = 4
"""Different data sets in one pack: each is a copy in memory."""


def join_neighbours(packs: Sequence[Pack], workers: int, pack_size: int) -> list[Pack]:
    """Join training packs, in order, up to `pack_size` trials and a share of the whole cost; others stay as they are.

    A joined pack costs at most 1/(`PACKS_A_WORKER` x `workers`) of all training, and counts as of its first cell.
    """
    training = [pack for pack in packs if pack.kind == "train"]
    largest_s = sum(pack.cost_s for pack in training) / (PACKS_A_WORKER * max(1, workers))
    open_packs: dict[str, list[Pack]] = {}
    joined: list[Pack] = []
    for pack in training:
        signature = pack_signature(pack.trials[0])
        group = open_packs.setdefault(signature, [])
        if group and not _fits([*group, pack], largest_s, pack_size):
            joined.append(_joined(group))
            group.clear()
        group.append(pack)
    joined += [_joined(group) for group in open_packs.values() if group]
    return joined + [pack for pack in packs if pack.kind != "train"]


def _fits(group: Sequence[Pack], largest_s: float, pack_size: int) -> bool:
    trials = [trial for pack in group for trial in pack.trials]
    return (
        len(trials) <= pack_size
        and sum(pack.cost_s for pack in group) <= largest_s
        and len({id(trial.dataset) for trial in trials}) <= MAX_DATASETS
    )


def _joined(group: Sequence[Pack]) -> Pack:
    if len(group) == 1:
        return group[0]
    trials = tuple(trial for pack in group for trial in pack.trials)
    return replace(
        group[0],
        key=content_key("pack", 1, [trial.key for trial in trials]),
        trials=trials,
        cost_s=sum(pack.cost_s for pack in group),
    )
