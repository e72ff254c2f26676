"""Trainings of zero epochs: a network is measured as it begins."""

from pathlib import Path

import torch
from rich.console import Console

from phasegrid import load_sweep
from phasegrid import open as open_store
from phasegrid.datasets.load import load_dataset
from phasegrid.jobs import Artifact
from phasegrid.models.evaluation import evaluate
from phasegrid.plan.plan import make_plan
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.store.store import Store
from phasegrid.train.beginning import initial_network

SWEEP = """\
schema: 1
name: still
dataset: {name: digits, fraction: 0.1}
model: {name: mlp, width: 8}
train: {lr: 0.05, batch_size: 32, epochs: 0, stop: null, checkpoints: {epochs: [0]},
        schedule: {name: cosine}}
load: {param: model.width, values: [8]}
seeds: 2
metrics:
  - accuracy: {over: trajectory, at: [0]}
"""


def test_a_training_of_zero_epochs_keeps_and_scores_what_it_begins_with(tmp_path: Path) -> None:
    (tmp_path / "still.yaml").write_text(SWEEP)
    sweep, store = load_sweep(tmp_path / "still.yaml"), Store.open(str(tmp_path / "s"), create=True)
    target = RunTarget(serial=True, device="cpu")
    assert run_sweep(sweep, store, target, Console(quiet=True), True, None).exit_code == 0
    rows = open_store(str(tmp_path / "s")).trials().set_index("key")
    trials = [trial for cell in make_plan(sweep).cells for trial in cell.trials]
    assert len(rows) == len(trials) == 2
    data = load_dataset(trials[0].dataset)
    for trial in trials:
        net = initial_network(trial, data)
        found, first = (
            store.read_artifact(Artifact(trial.key, n)) for n in ("weights", "weights@epoch-0")
        )
        for name, value in net.state_dict().items():
            assert torch.equal(found[name], value)
            assert torch.equal(first[name], value)
        row = rows.loc[trial.key]
        assert (row.outcome, row.epochs_run, row.updates_run) == ("done", 0, 0)
        test = evaluate(net.eval(), data.test_inputs, data.test_labels)
        assert row.test_loss == test.loss
