"""A figure shows the measurements that its sweep plans: after a new version of a metric, after more
seeds.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import phasegrid.metrics.distance.compute as distance
from phasegrid import load_sweep
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.load import load_grid
from phasegrid.metrics import METRICS
from phasegrid.plan.contents import plan_hash
from phasegrid.plan.packing import make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.plan.rows import job_rows, plan_rows
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.worker.pack import do
from phasegrid.store.results import open_results
from phasegrid.store.store import Store

SWEEP = """
schema: 1
name: toy
dataset: {name: digits, fraction: 0.05}
model: {name: mlp, depth: 1}
train: {lr: 0.05, batch_size: 64, epochs: 1, stop: null}
load: {param: model.width, values: [2, 3, 4]}
"""
Run = Callable[[str], pd.DataFrame]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"), create=True)


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Run:
    """Do what is missing of a sweep with more lines, all into one store, and return what is then
    shown of it.
    """

    def run(more: str) -> pd.DataFrame:
        path = tmp_path / "sweep.yaml"
        path.write_text(SWEEP + more, encoding="utf-8")
        plan = make_plan(load_sweep(path))
        store.put_plan("toy", plan_rows(plan, plan_hash(plan)), job_rows(plan))
        for pack in make_packs(plan, (), lambda _cell, _job: 1.0):
            assert all(outcome.error is None for outcome in do(pack, store, PackOptions("cpu")))
        return aggregate(load_grid(open_results(store.url), "toy"))

    return run


def test_after_a_new_version_of_a_metric_its_numbers_alone_are_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "seeds: 3\nmetrics: [distance]\n"
    old = run(more).query("quantity == 'l2_distance'")
    compare = distance._compare
    monkeypatch.setitem(METRICS, "distance", replace(METRICS["distance"], version=2))
    monkeypatch.setattr(
        distance,
        "_compare",
        lambda *models: {**(row := compare(*models)), "l2_distance": row["l2_distance"] + 1000},
    )
    new = run(more).query("quantity == 'l2_distance'")
    assert new["value"].tolist() == pytest.approx([value + 1000 for value in old["value"]])
    assert new["n_pairs"].tolist() == [3, 3, 3]


def test_after_more_seeds_a_simplex_is_of_all_of_them_in_every_cell(run: Run, store: Store) -> None:
    metric = "metrics:\n  - simplex: {connectors: 1, epochs: 1, eval_samples: 2}\n"
    few = run(f"seeds: 2\n{metric}").query("quantity == 'log_volume'")
    many = run(f"seeds: 4\n{metric}")
    volumes = many[many["quantity"].str.startswith("log_volume")]
    assert set(volumes["quantity"]) == {"log_volume"}
    assert few["n"].tolist() == [2, 2, 2]
    assert volumes["n"].tolist() == [4, 4, 4]
    rows = open_results(store.url).metric("simplex")
    of_four = set(rows.loc[rows["num_modes"] == 4, "log_volume"])
    assert set(volumes["value"]) == of_four


def test_two_sizes_of_simplex_are_shown_side_by_side(run: Run) -> None:
    metric = "connectors: 1, epochs: 1, eval_samples: 2"
    table = run(
        f"seeds: 3\nmetrics:\n  - simplex: {{{metric}, modes: 2}}\n  - simplex: {{{metric}}}\n"
        f"  - simplex: {{{metric}, modes: 3}}\n"
    )
    sizes = table.groupby("quantity")["n"].unique().map(list)
    assert sizes["log_volume"] == [3]
    assert sizes["log_volume[epochs=1, eval_samples=2, modes=2]"] == [2]
