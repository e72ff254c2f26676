"""Every sharpness measure through the whole path: a sweep, checkpoints along a training, the store,
and the panels.
"""

from typing import Any

import pytest
from rich.console import Console

from phasegrid import load_sweep
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.store.results import Results, open_results
from phasegrid.store.store import Store

MEASURES: dict[str, tuple[str, dict[str, Any]]] = {
    "sam_sharpness": ("sam_sharpness", {"examples": 20}),
    "average_sharpness": ("average_sharpness", {"examples": 20, "pairs": 2}),
    "epsilon_sharpness": ("epsilon_sharpness", {"examples": 20, "iterations": 2}),
    "fisher": ("fisher_trace", {"examples": 20}),
    "effective_dimension": ("effective_dimension", {"examples": 20, "steps": 5}),
    "relative_flatness": ("relative_flatness", {"examples": 20}),
    "learning_coefficient": ("learning_coefficient", {"chains": 2, "draws": 3, "burn_in": 1}),
    "power_law": ("alpha", {"min_tail": 3}),
    "merge_tree": ("smad", {"examples": 20, "points": 3}),
}
SWEEP: dict[str, Any] = {
    "schema": 1,
    "name": "sharpness",
    "dataset": {"name": "digits"},
    "model": {"name": "small_cnn", "batch_norm": True},
    "train": {"epochs": 2, "stop": None, "keep": "last", "checkpoints": {"epochs": [0, 2]}},
    "load": {"param": "model.width", "values": [4]},
    "seeds": 1,
    "metrics": [
        {name: {**args, "over": "trajectory", "at": [0, 2]}} for name, (_, args) in MEASURES.items()
    ],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    store = Store.open(str(tmp_path_factory.mktemp("sharpness") / "results"), create=True)
    result = run_sweep(
        load_sweep(SWEEP), store, RunTarget(serial=True), Console(quiet=True), True, None
    )
    assert result.exit_code == 0
    return open_results(store.url)


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_is_taken_at_every_checkpoint_of_a_convolutional_network(
    results: Results, name: str
) -> None:
    rows = results.metric(name)
    assert len(rows) == 2
    assert rows[MEASURES[name][0]].notna().all()
    if "batch_norm" in rows:
        assert set(rows["batch_norm"]) == {"as_saved"}
