"""The sweeps of `sweeps/examples` and the pieces of `docs/experiments.md` are sound, and show what
is said of them.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from ruamel.yaml import YAML

from phasegrid import load_sweep
from phasegrid.plan.plan import make_plan
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.store.results import Results, open_results
from phasegrid.store.store import Store

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps/examples").glob("*.yaml"))
PAGE = ROOT / "docs/experiments.md"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_an_example_is_short_and_can_be_planned(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 25
    sweep = load_sweep(path)
    assert sweep.name == path.stem
    assert make_plan(sweep).cells
    assert f"[{path.name}]({path.name})" in (path.parent / "README.md").read_text()


def pieces() -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def read(text: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return found


def test_the_page_has_pieces() -> None:
    assert len(SWEEPS) >= 4
    assert len(pieces()) >= 9


@pytest.mark.parametrize("index", range(len(pieces())))
def test_a_piece_of_the_page_stands_in_its_sweep(index: int) -> None:
    whole, piece = (read(pieces()[i]) for i in (0, index))
    assert make_plan(load_sweep({**whole, **piece})).cells


def test_the_network_of_the_page_can_be_planned(tmp_path: Path) -> None:
    (code,) = re.findall(r'^```python\n("""my_lab/net.*?)^```', PAGE.read_text(), re.S | re.M)
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab/net.py").write_text(code)
    labels = np.arange(40) % 2
    arrays = {f"{split}_inputs": np.ones((40, 5)) for split in ("train", "test")}
    arrays |= {f"{split}_labels": labels for split in ("train", "test")}
    np.savez(tmp_path / "mine.npz", **arrays)
    mine = {
        "dataset": {"name": "npz", "path": str(tmp_path / "mine.npz")},
        "model": {"name": f"{tmp_path}/my_lab/net.py:NET"},
    }
    assert make_plan(load_sweep({**read(pieces()[0]), **mine})).cells


def run(name: str, folder: Path) -> Results:
    store = Store.open(str(folder / "results"), create=True)
    sweep = load_sweep(ROOT / f"sweeps/examples/{name}.yaml")
    where = RunTarget(serial=True, device="cpu")
    assert run_sweep(sweep, store, where, Console(quiet=True), True, None).exit_code == 0
    return open_results(store.url)


def of_trials(results: Results, metric: str, sweep: str) -> pd.DataFrame:
    rows = results.metric(metric, sweep=sweep)
    return rows.merge(results.trials(), left_on="trial_a", right_on="key", suffixes=("", "_trial"))


def mean(rows: pd.DataFrame, column: str, **where: float) -> float:
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return float(rows[column].mean())


@pytest.mark.slow
def test_test_accuracy_falls_with_the_poisoned_share(tmp_path: Path) -> None:
    rows = of_trials(run("poisoned", tmp_path), "hessian", "poisoned")
    shares = sorted(set(rows["load"]))
    wide = {"temperature": 256.0}
    found = [mean(rows, "test_accuracy_percent", load=share, **wide) for share in shares]
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0] - 30
    fitted = [mean(rows, "train_accuracy_percent", load=share, **wide) for share in shares]
    assert min(fitted) > 95
    assert mean(rows, "trace", load=0.5) > 3 * mean(rows, "trace", load=0.0)


@pytest.mark.slow
def test_points_of_a_curve_err_less_together(tmp_path: Path) -> None:
    results = run("chain", tmp_path)
    rows = results.metric("ensemble", sweep="chain")
    along = rows[rows["num_networks"] == 5]
    assert len(along) == 4
    assert (along["test_error_percent"] <= along["mean_test_error_percent"]).all()
    assert len(results.metric("plane", sweep="chain")) == 4


@pytest.mark.slow
def test_checkpoints_of_wide_cycles_err_less_together(tmp_path: Path) -> None:
    rows = run("cycles", tmp_path).metric("ensemble", sweep="cycles")
    assert len(rows) == 18
    together, alone = (
        mean(rows, name, temperature=0.1)
        for name in ("test_error_percent", "mean_test_error_percent")
    )
    assert together < alone


@pytest.mark.slow
def test_a_fifth_of_the_weights_is_enough(tmp_path: Path) -> None:
    rows = of_trials(run("pruned", tmp_path), "hessian", "pruned")
    whole, fifth, few = (
        mean(rows, "test_accuracy_percent", load=density) for density in (1.0, 0.2, 0.01)
    )
    assert fifth > whole - 2
    assert few < whole - 40


@pytest.mark.slow
def test_a_sharpness_aware_radius_of_a_half_helps_where_labels_are_wrong(tmp_path: Path) -> None:
    rows = of_trials(run("sam", tmp_path), "hessian", "sam")
    small, half, large = (
        mean(rows, "test_accuracy_percent", load=128.0, temperature=rho) for rho in (0.01, 0.5, 1.0)
    )
    assert half > small + 2
    assert large < small - 30
