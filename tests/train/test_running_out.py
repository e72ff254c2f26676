"""Laws of memory that runs out in a lane: wherever it happens, no number changes.

A lane's memory runs out at any operation, also where a graph or a copy is made.
"""

from typing import Any

import pytest
import torch
from lane_support import DATA, Numbered
from test_snapshots import Memory, assert_same
from torch.utils._python_dispatch import TorchDispatchMode
from train_support import MLP, SMALL_CNN, Kept, make_trial

from phasegrid.fallbacks import collected
from phasegrid.models import evaluation
from phasegrid.train.loop import train_pack
from phasegrid.train.member import Trained
from phasegrid.train.recipe import Checkpoints, Collect


class RunsOut(TorchDispatchMode):
    """Runs out of memory once, at operation `at` of those in the first lane. `count` counts
    them.
    """

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at, self.count = at, 0
        self.lane: Numbered | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if Numbered.now is not None:
            self.lane = self.lane or Numbered.now
            if Numbered.now is self.lane:
                self.count += 1
                if self.count == self.at:
                    raise torch.OutOfMemoryError("CUDA out of memory")
        return func(*args, **(kwargs or {}))


TRIALS = [
    make_trial(
        0,
        SMALL_CNN,
        epochs=2,
        batch_size=16,
        momentum=0.9,
        keep="best_test",
        collect=Collect("swag", every_updates=2),
        checkpoints=Checkpoints(every_epochs=1, updates=(3,), optimizer=("end",)),
    ),
    make_trial(1, MLP, epochs=3, batch_size=16),
]


def trained(
    how: RunsOut, kept: dict[int, Trained], snapshots: Memory, published: Kept, **also: Any
) -> None:
    def keep(place: int, result: Trained) -> bool:
        assert place not in kept
        kept[place] = result
        return True

    handing = {"on_trained": keep, "publisher": published, "snapshots": snapshots}
    with how:
        train_pack(TRIALS, [DATA] * 2, device="cpu", strategy="loop", **handing, **also)


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("num_places", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_wherever_memory_runs_out_in_a_lane_no_number_changes(
    num_places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phasegrid.train.cuda_graphs.in_a_lane", lambda _: Numbered.now is not None)

    def whole(*args: Any) -> evaluation.Evaluation:  # in halves, numbers are rounded otherwise
        return evaluation._evaluate(*args, None)

    monkeypatch.setattr("phasegrid.train.family.evaluate", whole)
    usual, counted, left = {}, RunsOut(), Kept()
    trained(counted, usual, Memory(), left, snapshot_every_s=0.0)
    assert counted.count > 1000
    for i in range(num_places):
        kept: dict[int, Trained] = {}
        again, snapshots = Kept(), Memory()
        how = RunsOut(1 + i * (counted.count - 1) // num_places)
        with collected() as said:
            trained(how, kept, snapshots, again, snapshot_every_s=0.0)
        assert "fewer trainings ran side by side, because memory ran out" in said
        assert_same([kept[0], kept[1]], [usual[0], usual[1]])
        assert again.tensors.keys() == left.tensors.keys()
        for name, tensors in left.tensors.items():
            assert all(torch.equal(again.tensors[name][n], t) for n, t in tensors.items())
        assert not snapshots.kept
