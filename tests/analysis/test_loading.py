"""From the tables of a store to a grid, and from a store to files on disk."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from phasegrid import load_sweep
from phasegrid.analysis.draw.scales import make_frame
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.report.files import file_stem, write_tables
from phasegrid.analysis.report.findings import findings
from phasegrid.analysis.report.report import check_formats, draw, parse_thresholds
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.load import build_grid, load_grid
from phasegrid.cli.main import main
from phasegrid.errors import StoreError, SweepError
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.plan.packing import make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.plan.rows import plan_rows
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.published.taxonomy import import_taxonomy, read_published
from phasegrid.run.worker.pack import do
from phasegrid.store.results import open_results
from phasegrid.store.store import Store

LINES = [
    f"{w},{b},{metric},{s},,{value * (1 + 0.1 * s)}"
    for w in (4, 64)
    for b in (16, 256)
    for s in (0, 1)
    for metric, value in (
        ("train_nll", 0.5 if w == 4 else 0.001),
        ("train_accuracy", 80.0),
        ("hessian_top_eigenvalue", 20.0),
        ("hessian_trace", 900.0 if w == 4 else 30.0),
    )
] + [
    f"{w},{b},curve_train_error@{t},0,1,{e}"
    for w in (4, 64)
    for b in (16, 256)
    for t, e in zip(("0", "0.25", "0.5", "0.75", "1"), (2, 2, 9 if w == 4 else 2, 2, 2), strict=True)
]  # fmt: skip


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    csv = tmp_path / "published.csv"
    csv.write_text(
        "\n".join(["width,batch_size,metric,seed_a,seed_b,value", *LINES]), encoding="utf-8"
    )
    import_taxonomy(csv, Store.open(str(tmp_path / "store"), create=True), "toy")
    return tmp_path / "store"


def plan_of(*cells: tuple[int, str]) -> pd.DataFrame:
    """A plan of (cell, trial key); the seed is the key's last letter."""
    return pd.DataFrame(
        [
            {
                "cell": cell,
                "facet": "[]",
                "load_path": "model.width",
                "load": float(cell),
                "load_label": str(cell),
                "temperature_path": None,
                "temperature": None,
                "temperature_label": None,
                "seed": int(key[-1]),
                "key": key,
            }
            for cell, key in cells
        ]
    )


def trials_of(outcomes: Mapping[str, str], dataset: str = "digits") -> pd.DataFrame:
    numbers = {
        "train_loss": 0.5,
        "train_accuracy_percent": 90.0,
        "test_loss": 0.6,
        "test_accuracy_percent": 88.0,
    }
    return pd.DataFrame(
        [
            {"key": key, "dataset": dataset, "dataset_args": "{}", "model": "mlp",
             "outcome": outcome, "seed": int(key[-1]),
             **(numbers if outcome == "done" else dict.fromkeys(numbers))}
            for key, outcome in outcomes.items()
        ]
    )  # fmt: skip


def metric_rows(metric: str, *rows: dict[str, object]) -> pd.DataFrame:
    base = {
        "cell": 0,
        "metric": metric,
        "args": "{}",
        "trial_b": None,
        "seed_a": 0,
        "seed_b": None,
        "outcome": "done",
        "over": "trial",
        "num_trials": 1,
    }
    return pd.DataFrame([{**base, "key": f"k{i}", **row} for i, row in enumerate(rows)])


def test_planned_cells_without_a_trial_are_kept() -> None:
    grid = build_grid("s", plan_of((0, "a0"), (1, "b0")), trials_of({"a0": "done"}), {})
    assert list(grid.cells["n_planned"]) == [1, 1]
    assert list(grid.cells["n_done"]) == [1, 0]
    assert list(aggregate(grid, ["train_loss"])["status"]) == ["done", "missing"]


def test_diverged_trials_have_an_outcome_and_no_value() -> None:
    grid = build_grid(
        "s", plan_of((0, "a0"), (0, "a1")), trials_of({"a0": "done", "a1": "diverged"}), {}
    )
    assert list(grid.cells["n_diverged"]) == [1]
    rows = grid.values[grid.values["quantity"] == "train_loss"].set_index("seed_a")
    assert rows.loc[1.0, "outcome"] == "diverged"
    assert np.isnan(rows.loc[1.0, "value"])
    assert aggregate(grid, ["train_loss"])["n"].iloc[0] == 1


def test_the_best_of_a_run_that_diverged_later_is_not_averaged() -> None:
    plan, trials = plan_of((0, "a0"), (0, "a1")), trials_of({"a0": "done", "a1": "diverged"})
    grid = build_grid("s", plan, trials.assign(best_test_accuracy_percent=[30.0, 80.0]), {})
    table = aggregate(grid, ["best_test_accuracy"])
    assert (table["value"].iloc[0], table["n"].iloc[0], table["n_diverged"].iloc[0]) == (30.0, 1, 1)


def test_trials_of_other_sweeps_are_left_out() -> None:
    grid = build_grid("s", plan_of((0, "a0")), trials_of({"a0": "done", "z0": "done"}), {})
    assert set(grid.values["cell"]) == {0}
    assert len(grid.values) == 4


def test_a_trial_in_two_cells_counts_in_both() -> None:
    grid = build_grid("s", plan_of((0, "a0"), (1, "a0")), trials_of({"a0": "done"}), {})
    assert list(aggregate(grid, ["train_loss"])["status"]) == ["done", "done"]


def test_a_metric_that_does_not_apply_has_no_value() -> None:
    rows = metric_rows(
        "hessian", {"trial_a": "a0", "outcome": "not_applicable", "trace": None, "lambda_max": 1.0}
    )
    rows = rows.assign(lambda_min=None)
    grid = build_grid("s", plan_of((0, "a0")), trials_of({"a0": "diverged"}), {"hessian": rows})
    found = grid.values[grid.values["quantity"] == "lambda_max"]
    assert found["value"].isna().all()
    assert list(found["outcome"]) == ["not_applicable"]


def test_other_arguments_make_a_variant_and_the_widest_measured_keeps_the_name() -> None:
    plan = plan_of((0, "a0"), (0, "a1"), (1, "b0"), (1, "b1"))
    trials = trials_of(dict.fromkeys(("a0", "a1", "b0", "b1"), "done"))
    pairs = [("a0", "a1", 16.0), ("b0", "b1", 16.0), ("a0", "a1", 4.0)]
    rows = metric_rows(
        "cka",
        *(
            {"cell": int(a == "b0"), "trial_a": a, "trial_b": b, "seed_b": 1, "layer": "softmax", "cka": alpha,
             "cka_unbiased": None, "args": json.dumps({"examples": 640, "mixup_alpha": alpha})}
            for a, b, alpha in pairs
        ),
    )  # fmt: skip
    grid = build_grid("s", plan, trials, {"cka": rows})
    means = grid.values.groupby("quantity")["value"].mean()
    assert means["cka"] == 16.0
    assert means["cka[mixup_alpha=4]"] == 4.0


def test_a_users_metric_is_loaded_column_by_column() -> None:
    rows = metric_rows(
        "lab:SHARP", {"trial_a": "a0", "value": 1.5, "seconds": 3.0, "count": 7, "note": "x"}
    )
    grid = build_grid("s", plan_of((0, "a0")), trials_of({"a0": "done"}), {"lab:SHARP": rows})
    own = {name for name in grid.values["quantity"] if name.startswith("lab")}
    assert own == {"lab:SHARP.value"}


def test_a_users_metric_with_several_rows_a_trial_has_no_one_number() -> None:
    rows = metric_rows(
        "lab:SPECTRUM",
        {"trial_a": "a0", "key": "k", "value": 1.5},
        {"trial_a": "a0", "key": "k", "value": 2.5},
    )
    grid = build_grid("s", plan_of((0, "a0")), trials_of({"a0": "done"}), {"lab:SPECTRUM": rows})
    assert not grid.values["quantity"].str.startswith("lab").any()
    told_apart = rows.assign(layer=["in", "out"])
    by_layer = build_grid(
        "s", plan_of((0, "a0")), trials_of({"a0": "done"}), {"lab:SPECTRUM": told_apart}
    )
    own = by_layer.values[by_layer.values["quantity"].str.startswith("lab")]
    assert dict(zip(own["quantity"], own["value"], strict=True)) == {
        "lab:SPECTRUM.value[layer=in]": 1.5,
        "lab:SPECTRUM.value[layer=out]": 2.5,
    }


def test_two_numbers_for_one_place_are_refused() -> None:
    rows = metric_rows(
        "distance",
        *(
            {"trial_a": "a0", "trial_b": "a1", "seed_b": 1, "num_trials": 2, "l2_distance": value,
             "cosine_similarity": 0.5}
            for value in (1.0, 2.0)
        ),
    )  # fmt: skip
    trials = trials_of({"a0": "done", "a1": "done"})
    with pytest.raises(
        SweepError,
        match=(
            r"sweep 's', cell 0 \(load '0', temperature ''\): 2 values of l2_distance of seeds 0"
            r" and 1"
        ),
    ):
        build_grid("s", plan_of((0, "a0"), (0, "a1")), trials, {"distance": rows})


def simplex_rows(*rows: dict[str, object]) -> pd.DataFrame:
    args = json.dumps(asdict(SimplexArgs()))
    base = {"over": "cell", "seed_a": None, "args": args, "expected_train_loss_stderr": 0.1}
    rows = tuple({**base, "expected_test_loss_stderr": 0.1, **row} for row in rows)
    return metric_rows("simplex", *rows)


def test_a_simplex_of_some_of_the_trials_is_a_variant() -> None:
    plan = plan_of(*((cell, f"{cell}{seed}") for cell in (0, 1) for seed in range(4)))
    trials = trials_of({f"{cell}{seed}": "done" for cell in (0, 1) for seed in range(4)})
    rows = simplex_rows(
        {"cell": 0, "num_trials": 2, "log_volume": -2.0},
        {"cell": 0, "num_trials": 4, "log_volume": -4.0},
        {"cell": 1, "num_trials": 2, "log_volume": -3.0},
    )
    table = aggregate(build_grid("s", plan, trials, {"simplex": rows}))
    volumes = table[table["quantity"].str.startswith("log_volume")].set_index(["quantity", "cell"])
    assert volumes["value"].dropna().to_dict() == {
        ("log_volume", 0): -4.0,
        ("log_volume[modes=2]", 0): -2.0,
        ("log_volume[modes=2]", 1): -3.0,
    }
    assert volumes.loc[("log_volume", 1), "status"] == "missing"
    assert volumes["n"].to_dict() == {
        ("log_volume", 0): 4,
        ("log_volume", 1): 0,
        ("log_volume[modes=2]", 0): 2,
        ("log_volume[modes=2]", 1): 2,
    }


def test_a_simplex_of_some_of_the_trials_is_plain_where_there_is_no_other() -> None:
    plan = plan_of(*((0, f"a{seed}") for seed in range(4)))
    trials = trials_of({f"a{seed}": "done" for seed in range(4)})
    rows = simplex_rows({"num_trials": 2, "log_volume": -2.0})
    grid = build_grid("s", plan, trials, {"simplex": rows})
    table = aggregate(grid, ["log_volume"])
    assert (table["value"].iloc[0], table["n"].iloc[0]) == (-2.0, 2)
    assert grid.plain["simplex"] == "modes=2"


def test_classes_of_a_users_data_are_not_guessed() -> None:
    grid = build_grid("s", plan_of((0, "a0")), trials_of({"a0": "done"}, dataset="npz"), {})
    assert grid.cells["num_classes"].isna().all()


def test_trials_say_what_they_do_and_among_how_many_classes() -> None:
    plan, trials = plan_of((0, "a0"), (1, "b0")), trials_of({"a0": "done"}, dataset="npz")
    grid = build_grid("s", plan, trials.assign(task="translation", num_classes=8000), {})
    assert grid.task == "translation"
    assert grid.cells["num_classes"].iloc[0] == 8000.0
    mapped = build_grid("s", plan, trials_of({"a0": "done"}).assign(num_classes=None), {})
    assert mapped.task == "classification"
    assert mapped.cells["num_classes"].iloc[0] == 10.0


def test_the_best_over_the_run_is_there_where_it_was_evaluated() -> None:
    plan, trials = plan_of((0, "a0"), (0, "a1")), trials_of({"a0": "done", "a1": "done"})
    grid = build_grid("s", plan, trials.assign(best_test_loss=[0.4, None]), {})
    table = aggregate(grid, ["best_test_loss"])
    assert (table["value"].iloc[0], table["n"].iloc[0]) == (0.4, 1)
    assert "best_test_accuracy" not in set(grid.values["quantity"])


def test_curves_keep_their_losses_and_do_without() -> None:
    rows = metric_rows(
        "connectivity",
        {"seed_b": 1, "t": [0.0, 1.0], "train_error_percent": [5.0, 6.0], "train_loss": [0.1, 0.2]},
        {"seed_b": 2, "t": [0.0, 1.0], "train_error_percent": [7.0, 8.0], "train_loss": None},
    )
    trials = trials_of({"a0": "done"})
    curves = build_grid("s", plan_of((0, "a0")), trials, {"connectivity": rows}).curves
    assert curves["train_error_percent"].tolist() == [5.0, 6.0, 7.0, 8.0]
    assert curves["train_loss"].tolist()[:2] == [0.1, 0.2]
    assert curves["train_loss"].isna().tolist() == [False, False, True, True]


def test_a_sweep_with_one_axis_has_no_temperature() -> None:
    grid = build_grid("s", plan_of((0, "a0")), trials_of({"a0": "done"}), {})
    assert grid.temperature_path is None
    assert list(grid.cells["temperature_label"]) == [""]


class _Sweeps:
    """Results with sweeps and nothing else."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def sweeps(self) -> list[str]:
        return list(self.names)


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (("a", "b"), None, "which sweep is meant.*a, b"),
        (("a",), "z", "no sweep 'z'; there are: a"),
        ((), "z", "there are: none"),
    ],
)
def test_a_sweep_that_is_not_there_is_refused_by_name(
    names: tuple[str, ...], wanted: str | None, message: str
) -> None:
    with pytest.raises(SweepError, match=message):
        load_grid(_Sweeps(*names), wanted)  # type: ignore[arg-type]


def plot(storage: Path, *arguments: str) -> int:
    """Run ``phasegrid plot`` in this process and return its exit code."""
    try:
        main(["plot", "--storage", str(storage), *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_draws_figures_phases_and_tables_and_names_the_figures(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = plot(storage, "toy", "-o", str(out), "--format", "png", "--threshold", "hessian=200")
    named = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [path.relative_to(out).as_posix() for path in named][:3] == [
        "diagram.png",
        "curves.png",
        "cuts_load.png",
    ]
    paths = [path for path in out.rglob("*") if path.is_file()]
    names = {path.relative_to(out).as_posix() for path in paths}
    assert {"cuts_load.png", "cuts_temperature.png", "phases.csv", "thresholds.csv"} <= names
    assert {"tables/all.csv", "tables/trace.csv", "tables/trace.md", "tables/trace.tex"} <= names
    assert all(path.stat().st_size > 0 for path in paths)
    phases = pd.read_csv(out / "phases.csv").set_index(["load", "temperature"])
    assert phases.loc[(4, 16), "nearest"] == "I"
    assert phases.loc[(64, 16), "nearest"] == "IV"
    assert set(phases["hessian_threshold"]) == {200.0}
    assert set(phases["hessian_origin"]) == {"given"}


def test_the_same_store_gives_the_same_numbers(storage: Path) -> None:
    one, two = (findings(load_grid(open_results(str(storage))), Rules()) for _ in range(2))
    pd.testing.assert_frame_equal(one.phases.table, two.phases.table)
    pd.testing.assert_frame_equal(one.table, two.table)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope"], 2, "no sweep 'nope'"),
        (["--threshold", "cka"], 2, "expected NAME=VALUE"),
        (["--threshold", "loss=1"], 2, "no threshold is called 'loss'"),
        (["--format", "gif"], 2, "found 'gif'"),
    ],
)
def test_a_users_mistake_ends_with_code_two(
    storage: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert plot(storage, *arguments) == code
    assert message in capsys.readouterr().err


def test_a_store_that_is_not_there_ends_with_code_four(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot(tmp_path / "nowhere") == 4
    assert "nowhere" in capsys.readouterr().err


def test_a_sweep_with_nothing_stored_is_refused(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    csv = tmp_path / "p.csv"
    csv.write_text(
        "\n".join(["width,batch_size,metric,seed_a,seed_b,value", *LINES]), encoding="utf-8"
    )
    store.put_plan("toy", plan_rows(read_published(csv, "toy").plan, "hash"))
    with pytest.raises(SweepError, match="has no finished trial"):
        draw(tmp_path / "store", "toy", tmp_path / "out")


def test_a_store_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        draw(tmp_path / "nowhere", None, tmp_path / "out")


def test_no_format_is_refused() -> None:
    with pytest.raises(SweepError, match="found no format"):
        check_formats([])


def test_thresholds_are_read_from_text() -> None:
    assert parse_thresholds(["cka=0.6", "train_loss=1e-2"]) == {"cka": 0.6, "train_loss": 0.01}
    with pytest.raises(SweepError, match=r"expected NAME=VALUE or NAME=otsu, as in cka=0\.6"):
        parse_thresholds(["cka=high"])


def test_file_names_hold_no_odd_characters() -> None:
    assert file_stem("cka[mixup_alpha=0.5, layer=logits]") == "cka-mixup_alpha-0.5--layer-logits"


def test_the_analysis_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, phasegrid.analysis.report.report; print([m for m in ('torch', 'ray') if m in"
        " sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_grid_is_what_load_returns(storage: Path) -> None:
    grid = load_grid(open_results(str(storage)))
    assert isinstance(grid, SweepTables)
    assert grid.facets() == ["[]"]
    assert (grid.load_path, grid.temperature_path) == ("model.width", "train.batch_size")


def test_axes_are_called_what_the_sweep_calls_them(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "schema: 1\nname: named\ndataset: {name: digits, fraction: 0.05}\nmodel: {name: mlp}\n"
        "train: {epochs: 1, stop: null, batch_size: 16}\n"
        "load: {param: model.width, values: [2], label: embedding dimension}\n"
        "temperature: {param: train.lr, values: [0.1]}\nseeds: 1\n",
        encoding="utf-8",
    )
    store = Store.open(str(tmp_path / "store"), create=True)
    plan = make_plan(load_sweep(path))
    store.put_plan("named", plan_rows(plan, "hash"))
    for pack in make_packs(plan, (), lambda _cell, _job: 1.0):
        do(pack, store, PackOptions("cpu"))
    grid = load_grid(open_results(store.url))
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path, grid.axis_names)
    assert frame.load.name == "embedding dimension"
    assert frame.temperature.name == "learning rate"


def test_of_several_ways_without_the_declared_one_tables_name_each(
    make_grid: Callable[..., SweepTables], tmp_path: Path
) -> None:
    grid = make_grid()
    cka = grid.values[grid.values["quantity"] == "cka"]
    other = cka.assign(quantity="cka[pixel_noise=10]")
    values = pd.concat([grid.values, other], ignore_index=True)
    found = findings(replace(grid, values=values, plain={"cka": "pixel_noise=5"}), Rules())
    assert found.labels(["cka", "trace"]) == ["CKA, pixel_noise=5", "ln Hessian trace"]
    write_tables(found, tmp_path)
    names = {path.name for path in tmp_path.glob("cka*.csv")}
    assert names == {"cka-pixel_noise-5.csv", "cka-pixel_noise-10.csv"}
    assert "CKA, pixel_noise=5" in (tmp_path / "cka-pixel_noise-5.md").read_text("utf-8")
    assert "cka" not in set(pd.read_csv(tmp_path / "all.csv")["quantity"])
    assert "cka" not in set(pd.read_csv(tmp_path / "correlations.csv")["quantity"])
