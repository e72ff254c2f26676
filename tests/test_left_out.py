"""Laws of what a sweep trains or measures and its metrics leave out: it is said, and is no error."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from phasegrid import load_sweep
from phasegrid.cli.main import app
from phasegrid.config.unmeasured import left_out

SWEEP: dict[str, Any] = {
    "schema": 1,
    "name": "left",
    "dataset": {"name": "digits"},
    "model": {"name": "mlp"},
    "train": {"epochs": 2, "batch_size": 64, "stop": None, "keep": "last"},
    "seeds": [4, 7, 9],
}
NAMED = {"connectivity": {"networks": [{"seed": 4}, {"seed": 9}]}}
STAGE = {"name": "child", "from": {"stage": "train"}, "train": {"epochs": 1}}
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a rest of seeds": (
        {"metrics": [{"ensemble": {"runs": 2}}]},
        ["ensemble: runs: 2 of 3 seeds leaves 1 out in every cell"],
    ),
    "no rest": ({"metrics": [{"ensemble": {"runs": 3}}]}, []),
    "a rest of measurements": (
        {
            "metrics": [
                {"connectivity": {"id": "bend", "pairs": "ring"}},
                {"ensemble": {"id": "two", "of": "bend", "over": "cell", "runs": 2}},
            ]
        },
        ["two: runs: 2 of 3 measurements leaves 1 out in every cell"],
    ),
    "a rest at one value of an axis": (
        {
            "metrics": ["ensemble"],
            "load": {"param": "metrics.ensemble.runs", "values": [1, 2]},
        },
        ["ensemble: runs: 2 of 3 seeds leaves 1 out in every cell"],
    ),
    "seeds that no metric names": (
        {"metrics": [NAMED]},
        ["train: seed 7 is trained and not measured, since all metrics name their networks"],
    ),
    "another metric measures them": ({"metrics": [NAMED, "accuracy"]}, []),
    "seeds of a stage": (
        {"stages": [STAGE], "metrics": [NAMED]},
        ["child: seed 7 is trained and not measured, since all metrics name their networks"],
    ),
    "no metric": ({"metrics": []}, []),
}


@pytest.mark.parametrize("name", CASES)
def test_what_metrics_leave_out_is_said_once(name: str) -> None:
    fields, told = CASES[name]
    assert left_out(load_sweep({**SWEEP, **fields})) == told


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_validate_and_plan_say_it(command: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, "metrics": [{"ensemble": {"runs": 2}}]}))
    said = CliRunner().invoke(app, [command, str(path)])
    assert said.exit_code == 0, said.output
    assert "note: ensemble: runs: 2 of 3 seeds leaves 1 out in every cell\n" in said.output
