"""What `phasegrid.open` gives: tidy frames whose columns are the sweep's own words."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from store_support import COLUMNS, bare, make_store

import phasegrid
from phasegrid.errors import StoreError
from phasegrid.keys import canonical_json, text_key
from phasegrid.store.results import Results, open_results
from phasegrid.store.store import Store


def _plan_row(cell: int, seed: int, trial: str, facet: Any = ()) -> dict[str, Any]:
    return {
        "cell": cell,
        "seed": seed,
        "key": text_key(trial),
        "facet": canonical_json(facet),
        "load_path": "model.width",
        "load": float(cell),
        "load_label": str(cell),
        "temperature_label": "x",
    }


def _put_trial(store: Store, name: str, **values: Any) -> None:
    row = {
        **bare("trials", name),
        "dataset_args": '{"label_noise":0.5}',
        "model_args": '{"block":{"depth":2},"sizes":[3,4],"width":8}',
        **values,
    }
    store.put_trial(row, [{"epoch": 1}, {"epoch": 0}], {})


def _put_metric(
    store: Store, name: str, trials: list[str], rows: int = 1, args: str = "{}", version: int = 1
) -> None:
    keys = [text_key(trial) for trial in trials]
    common = {
        **bare("metrics/sharpness", name),
        "args": args,
        "version": version,
        "trials": keys,
        "trial_a": keys[0],
        "trial_b": keys[1] if len(keys) > 1 else None,
    }
    store.put_metric("sharpness", COLUMNS, common, [{"value": float(i)} for i in range(rows)])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


@pytest.fixture
def results(store: Store) -> Results:
    """Two cells of two seeds; trial c is missing, d has diverged, b belongs to both cells of
    another sweep.
    """
    rows = [(0, 0, "a"), (0, 1, "b"), (1, 0, "c"), (1, 1, "d")]
    store.put_plan("toy", [_plan_row(*row, facet=[["train.lr", 0.1]]) for row in rows])
    store.put_plan("twice", [_plan_row(0, 0, "b"), _plan_row(1, 0, "b"), _plan_row(1, 1, "d")])
    _put_trial(store, "a", train_loss=0.25)
    _put_trial(store, "b")
    _put_trial(store, "d", outcome="diverged", model_args='{"heads":2}')
    return open_results(store.url)


def test_opening_needs_a_store(tmp_path: Path, store: Store) -> None:
    assert phasegrid.open(store.url).sweeps() == []
    with pytest.raises(StoreError, match="no phasegrid store there"):
        phasegrid.open(str(tmp_path / "absent"))


def test_an_empty_store_has_empty_frames(store: Store) -> None:
    results = open_results(store.url)
    assert [len(f) for f in (results.trials(), results.histories(), results.failures())] == [0] * 3
    assert len(results.counts()) == 0
    assert "no sweeps" in repr(results)


def test_arguments_become_columns(results: Results) -> None:
    trials = results.trials().set_index("key")
    a, d = trials.loc[text_key("a")], trials.loc[text_key("d")]
    assert a["dataset.label_noise"] == 0.5
    assert (a["model.width"], a["model.block.depth"], a["model.sizes"]) == (8, 2, (3, 4))
    assert d["model.heads"] == 2
    assert pd.isna(d["model.width"])
    assert json.loads(a["model_args"])["width"] == 8


def test_the_grid_is_whole_whatever_is_stored(results: Results) -> None:
    cells = results.cells("toy").sort_values(["cell", "seed"])
    assert cells["stored"].tolist() == [True, True, False, True]
    assert cells["outcome"].fillna("").tolist() == ["done", "done", "", "diverged"]
    assert cells["seed"].tolist() == [0, 1, 0, 1]
    assert cells["facet.train.lr"].tolist() == [0.1] * 4
    assert cells["train_loss"].tolist()[0] == 0.25


def test_histories_are_in_order_and_of_one_sweep(results: Results, store: Store) -> None:
    _put_trial(store, "elsewhere")
    assert len(results.histories()) == 8
    frame = results.histories("toy")
    assert len(frame) == 6
    assert frame["epoch"].tolist() == [0, 1] * 3


def test_a_metric_is_placed_in_the_cell_that_holds_all_its_trials(
    results: Results, store: Store
) -> None:
    _put_metric(store, "within", ["a", "b"], rows=2, args='{"examples":200}')
    _put_metric(store, "across", ["a", "d"])
    _put_metric(store, "single", ["b"])
    everything = results.metric("sharpness")
    assert len(everything) == 4
    assert set(everything["arg.examples"].dropna()) == {200}
    toy = results.metric("sharpness", sweep="toy")
    assert set(toy["key"]) == {text_key("within"), text_key("single")}
    assert len(toy) == 3
    assert set(toy["cell"]) == {0}
    assert set(toy["load"]) == {0.0}
    assert set(toy["num_trials"]) == {1, 2}


def test_rows_of_a_sweep_are_in_order_of_load_temperature_and_seeds(
    results: Results, store: Store
) -> None:
    for name in "dbac":
        _put_metric(store, f"of {name}", [name], rows=2)
    rows = results.metric("sharpness", "toy")
    places = [*zip(rows["load"], rows["seeds"].map(tuple), rows["value"], strict=True)]
    assert len(places) == 8
    assert places == sorted(places)
    assert rows.index.tolist() == list(range(8))


def test_a_metric_of_a_shared_trial_is_in_both_cells(results: Results, store: Store) -> None:
    _put_metric(store, "single", ["b"])
    _put_metric(store, "pair", ["b", "d"])
    rows = results.metric("sharpness", sweep="twice")
    places = {(row["key"], row["cell"]) for row in rows.to_dict("records")}
    single, pair = text_key("single"), text_key("pair")
    assert places == {(single, 0), (single, 1), (pair, 1)}


def _job(cell: int, name: str, metric: str = "sharpness") -> dict[str, Any]:
    return {"cell": cell, "metric": metric, "key": text_key(name), "trials": [text_key("a")]}


def test_of_a_sweep_a_metric_has_the_planned_rows_and_no_others(
    results: Results, store: Store
) -> None:
    grid = [_plan_row(0, 0, "a"), _plan_row(0, 1, "b"), _plan_row(1, 0, "b")]
    jobs = [_job(0, "new"), _job(0, "b"), _job(1, "b"), _job(1, "missing")]
    store.put_plan("planned", grid, jobs)
    _put_metric(store, "old", ["a"], version=1)
    _put_metric(store, "new", ["a"], version=2)
    _put_metric(store, "b", ["b"], rows=2)
    _put_metric(store, "of another sweep", ["a", "b"], args='{"examples":3}')
    rows = results.metric("sharpness", sweep="planned")
    places = [(row["key"], row["cell"], row["load"]) for row in rows.to_dict("records")]
    assert sorted(places) == sorted(
        [(text_key("new"), 0, 0.0), *2 * [(text_key("b"), 0, 0.0), (text_key("b"), 1, 1.0)]]
    )
    assert len(results.metric("sharpness")) == 5


def test_a_measurement_that_is_planned_twice_in_a_cell_is_one(
    results: Results, store: Store
) -> None:
    # modes: 2 and modes: null of two seeds are the same measurement
    store.put_plan("planned", [_plan_row(0, 0, "a")], [_job(0, "m"), _job(0, "m")])
    _put_metric(store, "m", ["a"])
    assert len(results.metric("sharpness", sweep="planned")) == 1


def test_a_metric_that_a_sweep_does_not_plan_has_no_rows_there(
    results: Results, store: Store
) -> None:
    store.put_plan("planned", [_plan_row(0, 0, "a")], [_job(0, "c", metric="cka")])
    _put_metric(store, "m", ["a"])
    rows = results.metric("sharpness", sweep="planned")
    assert len(rows) == 0
    assert {"cell", "load", "value", "num_trials"} <= set(rows.columns)


def test_where_a_plan_does_not_tell_its_measurements_the_highest_version_counts(
    results: Results, store: Store
) -> None:
    _put_metric(store, "a1", ["a"], version=1)
    _put_metric(store, "b1", ["b"], version=1)
    _put_metric(store, "b2", ["b"], version=2)
    _put_metric(store, "elsewhere", ["z"], version=3)
    assert results.metric("sharpness", sweep="toy")["key"].tolist() == [text_key("b2")]


def test_a_metric_with_no_row_in_a_sweep_is_empty(results: Results, store: Store) -> None:
    _put_metric(store, "foreign", ["elsewhere"])
    rows = results.metric("sharpness", sweep="toy")
    assert len(rows) == 0
    assert {"cell", "load", "value"} <= set(rows.columns)


def test_what_is_not_there_is_named_with_what_is(results: Results) -> None:
    with pytest.raises(StoreError, match="there is no sweep 'tuy'; sweeps: toy, twice"):
        results.plan("tuy")
    with pytest.raises(StoreError, match="there is no metric 'hessian'; metrics: none"):
        results.metric("hessian")


def test_failures_are_in_the_order_of_time(results: Results, store: Store) -> None:
    for kind in ("app", "infra", "oom"):
        store.put_failure({"kind": kind})
    assert results.failures()["kind"].tolist() == ["app", "infra", "oom"]


def test_a_failure_says_whether_its_job_was_done_later(results: Results, store: Store) -> None:
    stored = results.trials()["key"].tolist()[0]
    _put_metric(store, "measured", ["b"])
    measured = results.metric("sharpness")["key"].tolist()[0]
    for key in (stored, measured, "0" * 32, None):
        store.put_failure({"kind": "infra", "key": key})
    assert results.failures()["later_done"].tolist() == [True, True, False, None]
    assert "later_done" not in store.read_table("failures").column_names


def test_counts_say_what_is_missing(results: Results) -> None:
    counts = results.counts().set_index("sweep")
    assert counts.loc["toy"].to_dict() == {
        "cells": 2, "planned": 4, "stored": 3, "done": 2, "diverged": 1,
    }  # fmt: skip


def test_results_describe_themselves(results: Results, store: Store) -> None:
    _put_metric(store, "single", ["b"])
    assert "toy: 3 of 4 trials in 2 cells, 1 diverged" in repr(results)
    assert "metrics: sharpness" in repr(results)
    html = results._repr_html_()
    assert "<code>" in html
    assert "sharpness" in html


def test_weights_are_tensors(results: Results, store: Store) -> None:
    import torch

    store.put_trial(bare("trials", "w"), [], {"w": torch.ones(2)})
    assert results.weights(text_key("w"))["w"].tolist() == [1.0, 1.0]


def test_reading_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    import subprocess
    import sys

    make_store(tmp_path)
    code = (
        "import sys, phasegrid; import phasegrid.run.verify, phasegrid.store.compact,"
        f" phasegrid.store.sql;repr(phasegrid.open({str(tmp_path / 'store')!r}));assert not"
        " {'torch', 'ray'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _across(*trials: str) -> dict[str, Any]:
    keys = [text_key(trial) for trial in trials]
    return {"cell": None, "metric": "sharpness", "key": text_key("+".join(trials)), "trials": keys}


def test_what_is_measured_across_cells_has_the_cell_that_all_its_trials_share(
    results: Results, store: Store
) -> None:
    # b is in both cells, so that a pair with it shares a cell only if the other is in one alone
    grid = [_plan_row(0, 0, "a"), _plan_row(0, 1, "b"), _plan_row(1, 0, "b"), _plan_row(1, 1, "d")]
    groups = [("a", "b"), ("b", "d"), ("a", "d"), ("b",)]
    store.put_plan("planned", grid, [_across(*group) for group in groups])
    for group in groups:
        _put_metric(store, "+".join(group), list(group))
    rows = results.metric("sharpness", sweep="planned").set_index("key")
    cells = [rows.loc[text_key("+".join(group)), "cell"] for group in groups]
    assert cells[:2] == [0, 1]
    assert [pd.isna(cell) for cell in cells[2:]] == [True, True]
    assert rows.loc[text_key("b+d"), "load"] == 1.0
    assert rows["across"].all()


def test_a_measurement_of_a_cell_stays_what_it_is_beside_the_same_one_across_cells(
    results: Results, store: Store
) -> None:
    grid = [_plan_row(0, 0, "a"), _plan_row(1, 0, "b")]
    across = _across("a")
    store.put_plan("planned", grid, [{**across, "cell": 0}, across, {**_across("b"), "cell": 1}])
    for trial in "ab":
        _put_metric(store, trial, [trial])
    rows = results.metric("sharpness", sweep="planned")
    places = rows[["key", "cell", "across"]].itertuples(index=False, name=None)
    a, b = text_key("a"), text_key("b")
    assert sorted(places) == sorted([(a, 0, False), (a, 0, True), (b, 1, False)])
    assert rows["cell"].dtype == "int64"


def test_trials_and_rows_of_a_sweep_with_stages_say_their_stage(store: Store) -> None:
    staged = [{**_plan_row(0, 0, key), "stage": stage} for key, stage in (("a", "x"), ("b", "y"))]
    store.put_plan("staged", staged, [_job(0, "of a"), {**_job(0, "of b"), "trials": ["b"]}])
    store.put_plan("other", [{**_plan_row(0, 0, "b"), "stage": "z"}], [_job(0, "of b")])
    for key in "abc":
        _put_trial(store, key)
    for key in "ab":
        _put_metric(store, f"of {key}", [key])
    results = open_results(store.url)
    stages = results.trials().set_index("key")["stage"]
    found = [stages[text_key(key)] for key in "abc"]
    assert found[:2] == ["x", "y/z"]
    assert pd.isna(found[2])
    rows = results.metric("sharpness", sweep="staged").set_index("key")
    assert rows.loc[text_key("of b"), "stage"] == "y"
    assert results.cells("staged")["stage"].tolist() == ["x", "y"]


def test_without_stages_there_is_no_column_for_them(results: Results, store: Store) -> None:
    _put_metric(store, "m", ["a"])
    assert "stage" not in results.trials()
    assert "stage" not in results.metric("sharpness", sweep="toy")


def test_rows_of_a_sweep_say_their_variant_as_figures_do(results: Results, store: Store) -> None:
    grid = [_plan_row(0, 0, "a"), _plan_row(1, 0, "b"), _plan_row(1, 1, "d")]
    store.put_plan("planned", grid, [_job(0, "p"), _job(1, "q"), _job(1, "r"), _across("a", "d")])
    for name, args in (("p", '{"n":1}'), ("q", '{"n":1}'), ("r", '{"n":2}'), ("a+d", '{"n":1}')):
        _put_metric(store, name, ["a", "d"] if "+" in name else ["a"], args=args)
    rows = phasegrid.open(store.url).metric("sharpness", sweep="planned").set_index("key")
    found = [rows.loc[text_key(name), "variant"] for name in ("p", "q", "r", "a+d")]
    assert found[:3] == ["", "", "n=2"]
    assert pd.isna(found[3])
    assert "variant" not in results.metric("sharpness")
