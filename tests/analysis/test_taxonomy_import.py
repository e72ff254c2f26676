"""Published results become a store, and the analysis of it gives what their authors plotted."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from phasegrid.analysis.phases.label import label_phases
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.load import build_grid, load_grid
from phasegrid.errors import DataError
from phasegrid.metrics import METRICS
from phasegrid.plan.rows import metric_fields, plan_rows
from phasegrid.run.published.taxonomy import (
    Published,
    import_taxonomy,
    num_parameters,
    read_published,
)
from phasegrid.store.results import open_results
from phasegrid.store.store import Store

HEADER = "width,batch_size,metric,seed_a,seed_b,value"
PLOTTED = {
    "test_acc": "test_accuracy",
    "loss": "train_loss",
    "hessian_e": "lambda_max",
    "hessian_t": "trace",
    "CKA": "cka",
    "L2": "l2_distance",
    "mode_connectivity": "mode_connectivity",
}
SMALL = [
    *(f"4,{b},train_{what},{s},,{v}" for b in (16, 64) for s in (0, 1) for what, v in (("nll", 0.5), ("accuracy", 80 + s))),
    *(f"4,16,test_{what},{s},,{v}" for s in (0, 1) for what, v in (("nll", 0.7), ("accuracy", 75))),
    *(f"4,{b},hessian_{what},{s},,{v}" for b in (16, 64) for s in (0, 1) for what, v in (("top_eigenvalue", 9), ("trace", 90))),
    *(f"4,16,l2_distance,{a},{b},{v}" for a, b, v in ((0, 0, 0), (0, 1, 12.5), (1, 0, 12.5), (1, 1, 0))),
    *(f"4,16,cka_{layer},{a},{b},{v}" for a, b, v in ((0, 1, 0.5), (1, 0, 0.6)) for layer in ("logits", "softmax")),
    *(
        f"4,16,curve_{part}_{what}@{t},0,1,{e}"
        for part in ("train", "test")
        for what in ("error", "nll")
        for t, e in zip(("0", "0.25", "0.5", "0.75", "1"), (20, 21, 30, 22, 19), strict=True)
    ),
    *(f"4,16,curve_dl@{t},0,1,{d}" for t, d in zip(("0", "0.25", "0.5", "0.75", "1"), (0, 4, 4, 4, 4), strict=True)),
]  # fmt: skip


def written(folder: Path, lines: list[str], header: str = HEADER) -> Path:
    path = folder / "published.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def as_grid(published: Published) -> SweepTables:
    """The grid without a store in between: 5,355 files take longer to write than to check."""
    seeds = {str(record["key"]): int(str(record["seed"])) for record in published.trials}
    rows: dict[str, list[dict[str, object]]] = {}
    for found in published.measurements:
        name = found.job.metric.name
        common = {**metric_fields(found.job, METRICS[name], seeds), "outcome": "done"}
        rows.setdefault(name, []).extend({**common, **row} for row in found.rows)
    plan = pd.DataFrame(plan_rows(published.plan, ""))
    cell_of = plan.set_index("key")["cell"]
    tables = {
        name: (
            pd.DataFrame(table).assign(
                cell=lambda t: t["trial_a"].map(cell_of), num_trials=lambda t: t["trials"].map(len)
            )
        )
        for name, table in rows.items()
    }
    return build_grid(published.plan.sweep, plan, pd.DataFrame(published.trials), tables)


@pytest.fixture
def fig3(shared_data: Path) -> SweepTables:
    return _fig3(shared_data / "taxonomy_fig3_part.csv")


@cache
def _fig3(path: Path) -> SweepTables:
    return as_grid(read_published(path))


def test_the_notebooks_numbers_come_out_on_every_cell(fig3: SweepTables, shared_data: Path) -> None:
    target = pd.read_csv(shared_data / "taxonomy_fig3_part_aggregates.csv")
    target["quantity"] = target["metric"].map(PLOTTED)
    table = aggregate(fig3)
    both = target.merge(
        table,
        left_on=["width", "batch_size", "quantity"],
        right_on=["load", "temperature", "quantity"],
        suffixes=("_target", ""),
    )
    assert len(target) == 7 * 91
    assert len(both) == len(target)
    np.testing.assert_allclose(both["value"], both["value_target"], rtol=0, atol=1e-6)


def test_pairs_are_averaged_over_both_orders(fig3: SweepTables) -> None:
    cka = aggregate(fig3, ["cka"])
    assert set(cka["n_pairs"]) == {10}
    rows = fig3.values[fig3.values["quantity"] == "cka"]
    assert set(rows.groupby("cell").size()) == {20}


def test_logits_are_kept_beside_the_papers_softmax(fig3: SweepTables) -> None:
    medians = fig3.values.groupby("quantity")["value"].median()
    assert medians["cka[layer=logits]"] > medians["cka"] + 0.1


def test_batches_without_a_published_test_set_have_no_test_accuracy(fig3: SweepTables) -> None:
    table = aggregate(fig3, ["test_accuracy"])
    missing = table[table["status"] == "missing"]
    assert set(missing["temperature_label"]) == {"19", "27"}
    assert len(missing) == 14


def test_the_published_grid_falls_into_the_phases_of_the_paper(fig3: SweepTables) -> None:
    found = label_phases(fig3, Rules())
    phase = found.table.set_index(["load", "temperature"])["nearest"]
    hot = [16.0, 24.0]
    assert {phase[(w, b)] for w in (8.0, 16.0, 32.0, 64.0, 128.0) for b in hot} == {"II"}
    assert {phase[(2.0, b)] for b in (16.0, 64.0, 256.0, 1024.0)} == {"I"}
    assert {phase[(4.0, b)] for b in (32.0, 64.0, 256.0, 1024.0)} == {"I"}
    assert {phase[(8.0, b)] for b in (92.0, 128.0, 256.0, 1024.0)} == {"III"}
    assert {phase[(w, b)] for w in (32.0, 64.0, 128.0) for b in (64.0, 92.0, 128.0)} == {"IV-B"}
    assert {phase[(w, b)] for w in (32.0, 64.0, 128.0) for b in (512.0, 724.0, 1024.0)} == {"IV-A"}
    assert (found.table["phase"] == "undetermined").sum() <= 20


def agreement(labels: pd.Series, drawn: pd.Series, *, or_a_neighbour: bool) -> float:
    """The share of cells with the phase that the authors drew there, or in a cell beside."""
    widths, batches = (sorted(drawn.index.unique(level)) for level in (0, 1))
    right = 0
    for (width, batch), label in labels.items():
        i, j = widths.index(width), batches.index(batch)
        near = [(i, j)]
        if or_a_neighbour:
            near += [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        inside = [(x, y) for x, y in near if 0 <= x < len(widths) and 0 <= y < len(batches)]
        right += label in {drawn[(widths[x], batches[y])] for x, y in inside}
    return right / len(labels)


def test_the_labels_agree_with_the_borders_that_the_authors_drew(
    fig3: SweepTables, shared_data: Path
) -> None:
    drawn = pd.read_csv(shared_data / "taxonomy_fig3_part_phases.csv").set_index(
        ["width", "batch_size"]
    )["phase_drawn_by_the_authors"]
    found = label_phases(fig3, Rules()).table.set_index(["load", "temperature"])["nearest"]
    assert len(found) == len(drawn) == 105
    assert agreement(found, drawn, or_a_neighbour=True) >= 0.94
    assert agreement(found, drawn, or_a_neighbour=False) >= 0.87
    four = drawn.str.startswith("IV")
    assert (found[four] == drawn[four]).mean() >= 0.85


def test_published_labels_do_not_move_with_the_widths_that_are_there(fig3: SweepTables) -> None:
    for rules, movable in ((Rules(hessian=250.0), 0), (Rules(), 1)):
        whole = label_phases(fig3, rules).table.set_index("cell")["nearest"]
        for keep in (fig3.cells["load"] >= 16, fig3.cells["load"] <= 16):
            part = replace(fig3, cells=fig3.cells[keep].reset_index(drop=True))
            found = label_phases(part, rules).table.set_index("cell")["nearest"]
            assert (found != whole.loc[found.index]).sum() <= movable


def test_the_best_accuracy_is_in_phase_four_b(fig3: SweepTables) -> None:
    accuracy = aggregate(fig3, ["test_accuracy"]).set_index("cell")["value"]
    found = label_phases(fig3, Rules())
    assert found.table.set_index("cell")["nearest"][accuracy.idxmax()] == "IV-B"


def test_an_import_survives_the_store(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    path = written(tmp_path, SMALL)
    report = import_taxonomy(path, store, "small")
    assert (report.num_cells, report.num_trials) == (2, 4)
    grid = load_grid(open_results(str(tmp_path / "store")))
    direct = as_grid(read_published(path, "small"))
    ours, theirs = aggregate(grid), aggregate(direct)
    assert len(theirs) > 10
    pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)
    pd.testing.assert_frame_equal(grid.curves, direct.curves, check_dtype=False)
    assert str(report).startswith("sweep small: 2 cells, 4 trials")


def test_importing_twice_changes_nothing(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    path = written(tmp_path, SMALL)
    assert import_taxonomy(path, store) == import_taxonomy(path, store)
    assert len(open_results(str(tmp_path / "store")).trials()) == 4


def test_imported_trials_say_where_they_are_from(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    import_taxonomy(written(tmp_path, SMALL), store)
    trials = open_results(str(tmp_path / "store")).trials()
    assert set(trials["host"]) == {"published"}
    assert set(trials["lr"]) == {0.1}
    assert set(trials["schedule"]) == {"step"}
    assert set(trials["num_parameters"]) == {44_622}
    assert trials["test_accuracy_percent"].isna().sum() == 2


def test_imported_keys_depend_on_cell_and_seed_only(tmp_path: Path) -> None:
    keys = {str(record["key"]) for record in read_published(written(tmp_path, SMALL)).trials}
    again = {str(record["key"]) for record in read_published(written(tmp_path, SMALL[::-1])).trials}
    assert len(keys) == 4
    assert keys == again


def test_curves_give_connectivity_length_and_residual(tmp_path: Path) -> None:
    found = read_published(written(tmp_path, SMALL)).measurements
    (row,) = next(m.rows for m in found if m.job.metric.name == "connectivity")
    assert row["mode_connectivity"] == -10.5
    assert row["t_star"] == 0.5
    assert row["length"] == 16.0
    assert row["length_ratio"] == 16 / 12.5
    assert row["end_residual_percent"] == 0.0  # 20 against 100-80, 19 against 100-81


def test_nan_becomes_null(tmp_path: Path) -> None:
    lines = [line.replace("cka_softmax,0,1,0.5", "cka_softmax,0,1,nan") for line in SMALL]
    found = read_published(written(tmp_path, lines)).measurements
    cka = [row["cka"] for m in found if m.job.metric.name == "cka" for row in m.rows]
    assert cka.count(None) == 1
    assert len(cka) == 4


def test_a_curve_with_a_point_missing_has_no_connectivity(tmp_path: Path) -> None:
    lines = [
        line.replace("curve_train_error@0.25,0,1,21", "curve_train_error@0.25,0,1,nan")
        for line in SMALL
    ]
    found = read_published(written(tmp_path, lines)).measurements
    (row,) = next(m.rows for m in found if m.job.metric.name == "connectivity")
    assert row["mode_connectivity"] is None
    assert row["t_star"] is None
    assert row["mode_connectivity_test"] == -10.5


def test_parameters_are_counted_as_published() -> None:
    assert [num_parameters(k) for k in (1, 2, 64)] == [2_991, 11_420, 11_173_962]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["4,16,train_nll,0,,abc"], r"line 2: not a number"),
        (["4,16,train_nll,0,,1", "4,16,train_nll,0"], r"line 3: 4 fields; expected 6"),
        (["4,16,sharpness,0,,1"], r"line 2: unknown metric 'sharpness'"),
        (["4,16,train_nll,0,1,1"], r"line 2: train_nll: wrong seeds"),
        (["4,16,cka_softmax,0,,1"], r"line 2: cka_softmax: wrong seeds"),
        (["4,16,curve_train_error@0.3,0,1,1"], r"line 2: 'curve_train_error@0.3': expected @t"),
        (["4,16,train_nll,0,,1", "4,16,train_nll,0,,1"], r"line 3: a second train_nll of this cell and these seeds"),
        (["0,16,train_nll,0,,1"], r"line 2: width and batch size must be positive"),
        ([], r"no lines after the header"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_published(written(tmp_path, lines))


def test_a_wrong_header_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: the header is a,b; expected width,batch_size"):
        read_published(written(tmp_path, [], header="a,b"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read \(No such file"):
        read_published(tmp_path / "nowhere.csv")


def test_bytes_are_not_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "bytes.csv"
    path.write_bytes(b"\xff\xfe\x00width")
    with pytest.raises(DataError, match="not a CSV text file"):
        read_published(path)
