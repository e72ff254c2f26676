import pytest
import torch
from lane_support import Numbered, give_recorders, trained, unlike

import phasegrid.train.lanes
from phasegrid.train.lanes import Lane
from phasegrid.train.member import Trained
from tests.tape import record_on_tape


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> list[Numbered]:
    """Let this device have lanes, and graphs; return the lanes as they are made."""
    made: list[Numbered] = []

    def new_lane(_device: torch.device) -> Lane:
        made.append(Numbered())
        return made[-1]

    monkeypatch.setattr(phasegrid.train.lanes, "new_lane", new_lane)
    give_recorders(monkeypatch, record_on_tape)
    return made


@pytest.fixture
def alone(lanes: list[Numbered]) -> list[Trained]:
    found = [trained([trial], lanes=1)[0] for trial in unlike()]
    assert not lanes  # one at a time needs none
    return found
