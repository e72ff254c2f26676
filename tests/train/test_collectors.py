"""Laws of collectors: their moments are those of the published checkpoints."""

from typing import Any

import numpy as np
import pytest
import torch
from test_snapshots import Killed, Memory, kill_after
from train_support import CLASSES, SMALL_CNN, Kept, make_data, make_trial

from phasegrid.jobs import Trial
from phasegrid.models.build import build_model
from phasegrid.models.weights import parameters_vector, refresh_batch_norm
from phasegrid.train.loop import train_pack
from phasegrid.train.recipe import Checkpoints, Collect, Schedule


def vectors(kept: Kept, trial: Trial, names: list[str]) -> np.ndarray:
    """The trainable parameters at checkpoints, in float64, (N, P)."""
    net = build_model(SMALL_CNN, (1, 8, 8), CLASSES, seed=0)
    rows = []
    for name in names:
        net.load_state_dict(kept.at(trial, name))
        rows.append(parameters_vector(net).double().numpy())
    return np.stack(rows)


@pytest.mark.parametrize("strategy", ["loop", "vmap", "fused", "merged"])
@pytest.mark.parametrize(
    ("wish", "checkpoints", "names"),
    [
        (
            Collect("swag", from_epoch=2, rank=2),
            Checkpoints(every_epochs=1),
            ["epoch-2", "epoch-3", "epoch-4"],
        ),
        (
            Collect("swag", from_epoch=0, rank=20),
            Checkpoints(every_epochs=1),
            ["epoch-1", "epoch-2", "epoch-3", "epoch-4"],
        ),
        (
            Collect("swag", from_epoch=2, every_updates=5, rank=20),
            Checkpoints(every_updates=5),
            ["update-10", "update-15", "update-20"],
        ),
        (
            Collect("swag", at="lowest_rate", rank=20),
            Checkpoints(at="lowest_rate"),
            ["update-3", "update-9", "update-15"],
        ),
    ],
)
def test_the_moments_of_swag_are_those_of_the_checkpoints(
    strategy: Any, wish: Collect, checkpoints: Checkpoints, names: list[str]
) -> None:
    schedule = Schedule("cyclic", cycle_updates=6, low=0.1)
    recipe = {"epochs": 4, "schedule": schedule, "checkpoints": checkpoints, "collect": wish}
    trials, kept = [make_trial(i, SMALL_CNN, **recipe) for i in (0, 1)], Kept()
    train_pack(trials, [make_data()] * 2, device="cpu", strategy=strategy, publisher=kept)
    for trial in trials:
        taken = vectors(kept, trial, names)
        found = kept.tensors[trial.key, "moments"]
        assert int(found["count"]) == len(names)
        np.testing.assert_allclose(found["mean"], taken.mean(0), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(found["square"], (taken**2).mean(0), rtol=1e-12, atol=1e-15)
        means = np.cumsum(taken, 0) / np.arange(1, len(taken) + 1)[:, None]
        deviations = (taken - means)[-wish.rank :]
        np.testing.assert_allclose(found["deviations"], deviations, rtol=1e-6, atol=1e-9)


def test_the_averaged_network_has_the_mean_and_statistics_of_its_own() -> None:
    wish, data = Collect("swa", from_epoch=2), make_data()
    trial = make_trial(0, SMALL_CNN, collect=wish, checkpoints=Checkpoints(every_epochs=1))
    kept = Kept()
    (result,) = train_pack([trial], [data], device="cpu", publisher=kept)
    assert "averaged" in result.published
    assert "moments" not in result.published
    net = build_model(SMALL_CNN, (1, 8, 8), CLASSES, seed=0)
    net.load_state_dict(kept.tensors[trial.key, "averaged"])
    mean = vectors(kept, trial, ["epoch-2", "epoch-3"]).mean(0)
    np.testing.assert_allclose(parameters_vector(net), mean, rtol=1e-6)
    refresh_batch_norm(net, data.train_inputs)
    for name, value in net.state_dict().items():
        assert torch.allclose(value, kept.tensors[trial.key, "averaged"][name], atol=1e-6)


def test_a_killed_training_collects_the_same() -> None:
    trial = make_trial(0, SMALL_CNN, epochs=5, collect=Collect("swag", every_updates=2))
    data, whole, kept, memory = [make_data()], Kept(), Kept(), Memory()
    train_pack([trial], data, device="cpu", publisher=whole)
    on_epoch: Any = kill_after(2)
    with pytest.raises(Killed):
        train_pack([trial], data, device="cpu", publisher=kept, snapshots=memory, on_epoch=on_epoch)
    train_pack([trial], data, device="cpu", publisher=kept, snapshots=memory)
    for name in ("moments", "averaged"):
        mine, other = whole.tensors[trial.key, name], kept.tensors[trial.key, name]
        assert all(torch.equal(mine[each], other[each]) for each in mine)
