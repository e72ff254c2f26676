"""Sweeps from Python: a notebook or a script does all that the command line does."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import phasegrid
from phasegrid.analysis.report.report import Drawn
from phasegrid.errors import SweepError
from phasegrid.run.worker import training
from tests.test_session import PLUGIN, SWEEP

SMALL: dict[str, Any] = {
    "schema": 1,
    "name": "small",
    "dataset": {"name": "digits", "fraction": 0.1},
    "model": {"name": "mlp", "depth": 1},
    "train": {"batch_size": 32, "epochs": 2, "stop": None},
    "load": {"param": "model.width", "values": (2, 4)},
    "temperature": {"param": "train.lr", "values": list(np.array([0.01, 0.1]))},
    "seeds": np.int64(2),
    "metrics": ["accuracy", "distance"],
}


def test_a_mapping_is_the_sweep_that_a_file_would_be(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    of_file = phasegrid.load_sweep(tmp_path / "s.yaml")
    of_mapping = phasegrid.load_sweep(SMALL)
    assert of_mapping.source is None
    assert of_mapping.points == of_file.points
    keys = [trial.key for cell in phasegrid.plan(of_file).plan.cells for trial in cell.trials]
    assert keys == [t.key for c in phasegrid.plan(of_mapping).plan.cells for t in c.trials]


def test_overrides_and_extends_reach_a_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    child = {"schema": 1, "name": "child", "extends": "base.yaml"}
    sweep = phasegrid.load_sweep(child, ["seeds=3", "train.epochs=1"])
    assert (sweep.name, len(sweep.seeds), len(sweep.points)) == ("child", 3, 4)


def test_every_mistake_of_a_mapping_is_named_by_its_path() -> None:
    wrong = {
        **SMALL,
        "train": {"batch_size": 32, "epochs": 2, "lr": "fast", "momentum": float("nan")},
        "load": {"param": "model.width", "values": np.array([2, 4])},
        "metrics": ["accurasy"],
        3: "three",
    }
    with pytest.raises(SweepError) as found:
        phasegrid.load_sweep(wrong)
    said = str(found.value)
    for part in (
        "<mapping>: train.lr: found 'fast'",
        "<mapping>: train.momentum: found nan; allowed: finite numbers",
        "<mapping>: load.values: found numpy.ndarray; allowed: None, True, False, numbers",
        "write it as a list: .tolist()",
        "<mapping>: metrics.0",
        "<mapping>: found the key 3; keys are text",
        "5 mistakes in <mapping>",
    ):
        assert part in said, said


def test_a_mapping_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = dict(SMALL)
    endless["train"] = endless
    with pytest.raises(SweepError, match="nested more than 40 deep"):
        phasegrid.load_sweep(endless)


def test_keys_of_a_couple_table_may_be_numbers() -> None:
    table = {"train.epochs": {"by": "model.width", "values": {2: 1, 4: 2}}}
    sweep = phasegrid.load_sweep({**SMALL, "couple": table})
    assert {point.trials[0].recipe["epochs"] for point in phasegrid.plan(sweep).plan.cells} == {
        1,
        2,
    }


def test_plug_ins_of_a_mapping_are_found_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "size.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    result = phasegrid.run(
        {**SMALL, "metrics": ["size.py:SIZE"]}, tmp_path / "store", serial=True, quiet=True
    )
    assert result.exit_code == 1
    assert not result.ok
    assert result.counts.failed == 4
    assert "size.py:SIZE, cell 2, seed 0" in " ".join(result.failures)
    assert "too wide for me" in next(iter(result.failures.values()))


def test_a_notebook_plans_runs_draws_and_reads(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    before = phasegrid.plan(SMALL, store)
    assert list(before.table["missing"]) == [8, 8, 4]
    assert "small: 4 cells" in repr(before)
    result = phasegrid.run(SMALL, store, serial=True, quiet=True)
    assert (result.exit_code, result.ok, result.counts.done) == (0, True, 20)
    assert str(result) == "small: all planned work is stored (20 of 20 missing jobs done)"
    assert len(result.results.trials()) == 8
    again = phasegrid.run(SMALL, store, serial=True, quiet=True)
    assert (again.ok, again.counts.total, again.is_news) == (True, 0, False)
    assert list(phasegrid.plan(SMALL, store).table["missing"]) == [0, 0, 0]
    assert "<table" in phasegrid.plan(SMALL, store)._repr_html_()
    drawn = phasegrid.plot(result, output=tmp_path / "figures", formats=["svg"])
    assert drawn["diagram"].axes
    assert (tmp_path / "figures/diagram.svg") in drawn.files


def test_a_notebook_shows_every_figure_as_a_picture_under_its_name() -> None:
    shown = Drawn({"left": Figure(), "a<b": Figure()}, [], [])._repr_html_()
    assert shown.count('<img src="data:image/png;base64,') == 2
    assert shown.index("<h4>left</h4>") < shown.index("<h4>a&lt;b</h4>")


@pytest.mark.slow
def test_runs_on_ray_follow_each_other_in_one_process_that_has_no_ray_of_its_own(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert "refused: starting Ray: this process is already connected to a Ray" in done.stdout
    assert "20 of 20 missing jobs done" in done.stdout
    assert "no jobs" in done.stdout
    assert "3 of 3 missing jobs done" in done.stdout


ON_RAY = """\
import sys
import ray
import phasegrid
from phasegrid.errors import ClusterError
from tests.test_python import SMALL

ray.init(num_cpus=1, include_dashboard=False)
try:
    phasegrid.run(SMALL, sys.argv[1])
except ClusterError as error:
    print("refused:", error)
assert ray.is_initialized()
ray.shutdown()
for sweep in (SMALL, SMALL, {**SMALL, "seeds": 3, "metrics": [], "load": None, "temperature": None}):
    print(phasegrid.run(sweep, sys.argv[1], num_cpus=1, quiet=True))
assert not ray.is_initialized()
"""


def test_the_rooms_stay_packages_when_they_are_called() -> None:
    import phasegrid.run.loop

    assert phasegrid.run.loop.run_packs is sys.modules["phasegrid.run.loop"].run_packs
    assert callable(phasegrid.run)
    assert callable(phasegrid.plan)


def test_importing_phasegrid_imports_nothing_heavy() -> None:
    code = (
        "import sys, phasegrid; heavy = {'torch', 'ray', 'pandas', 'numpy', 'matplotlib', 'rich',"
        " 'pydantic'}; print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_ctrl_c_leaves_a_state_from_which_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, train_pack = str(tmp_path / "store"), training.train_pack

    def interrupting(*args: Any, **named: Any) -> Any:
        done = train_pack(*args, **named)
        os.kill(os.getpid(), signal.SIGINT)
        return done

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(training, "train_pack", interrupting)
        with pytest.raises(KeyboardInterrupt, match=r"^small: stopped by Ctrl-C \("):
            phasegrid.run(SMALL, store, serial=True, quiet=True)
    assert signal.getsignal(signal.SIGINT) is before
    assert 0 < len(phasegrid.open(store).trials()) < 8
    then = phasegrid.run(SMALL, store, serial=True, quiet=True)
    assert str(then).startswith("small: all planned work is stored (")
    assert len(phasegrid.open(store).trials()) == 8


def test_what_is_no_sweep_is_refused_with_what_is_allowed() -> None:
    told = "load_sweep: found int 3; allowed: the path of a file, or a mapping"
    with pytest.raises(SweepError, match=told):
        phasegrid.load_sweep(3)  # type: ignore[arg-type]
