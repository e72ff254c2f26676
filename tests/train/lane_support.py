"""Stand-ins for lanes and CUDA graphs on a CPU, and trainings to run in them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from train_support import MLP, SMALL_CNN, make_data, make_trial

import phasegrid.train.stack
from phasegrid.jobs import Part, Trial
from phasegrid.train.cuda_graphs import Recorder, Replay
from phasegrid.train.lanes import Lane
from phasegrid.train.loop import train_pack
from phasegrid.train.member import Trained


class Numbered(Lane):
    """A lane that gives back, and knows whether it is current."""

    gives_back = True
    now: "Numbered | None" = None
    made = 0

    @contextmanager
    def _as_current(self) -> Iterator[None]:
        assert Numbered.now is None
        Numbered.now = self
        try:
            yield
        finally:
            Numbered.now = None

    def current(self) -> AbstractContextManager[None]:
        return self._as_current()


def give_recorders(monkeypatch: pytest.MonkeyPatch, record: Callable[..., Replay]) -> None:
    init = phasegrid.train.stack.Stack.__init__

    def with_recorder(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.recorder = Recorder(False, record, around=lambda work: work)

    monkeypatch.setattr(phasegrid.train.stack.Stack, "__init__", with_recorder)


def unlike() -> list[Trial]:
    """Trainings that differ in network, width, batch size, optimizer and length."""
    wide = Part("small_cnn", 1, {"width": 3, "batch_norm": True})
    trials = [
        make_trial(0, SMALL_CNN, epochs=3, momentum=0.9),
        make_trial(1, wide, epochs=2, batch_size=5, optimizer="adam", lr=1e-2),
        make_trial(2, MLP, epochs=5, batch_size=16),
        make_trial(3, SMALL_CNN, epochs=1, lr=1e12),
        make_trial(4, MLP, epochs=4, keep="best_test", weight_decay=1e-2),
    ]
    return [replace(trial, key=f"trial-{i}") for i, trial in enumerate(trials)]


DATA = make_data(augment="flip_crop")


def trained(trials: list[Trial], **how: Any) -> list[Trained]:
    return train_pack(trials, [DATA] * len(trials), device="cpu", strategy="loop", **how)
