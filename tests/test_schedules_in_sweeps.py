"""Schedules in a sweep: built in, and the user's own, with arguments that can be an axis."""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from phasegrid import load_sweep, plugin_files
from phasegrid.cli.main import app
from phasegrid.config.rules import RECIPE_RULES
from phasegrid.errors import SweepError
from phasegrid.plan.plan import make_plan
from phasegrid.train.recipe import Recipe, Schedule

PLUGIN = """\
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from phasegrid.declare import ScheduleKind


@dataclass(frozen=True)
class Args:
    period: Annotated[int, Field(ge=1)] = 2
    depth: float = 0.5


def wave(moment, args):
    return 1.0 if moment.done % (2 * args.period) < args.period else args.depth


WAVE = ScheduleKind(Args, wave, version=3)
"""
SWEEP = """\
schema: 1
name: waves
dataset: {name: digits, fraction: 0.05}
model: {name: mlp, width: 2}
train:
  batch_size: 40
  epochs: 1
  stop: null
  schedule: {name: my_lab/waves.py:WAVE, args: {depth: 0.25}}
temperature: {param: train.schedule.args.period, values: [1, 5]}
seeds: 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(plugin_files.FOLDERS_VARIABLE, "")
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab/waves.py").write_text(PLUGIN)
    (tmp_path / "waves.yaml").write_text(SWEEP)
    return tmp_path


def run(folder: Path) -> tuple[int, str]:
    sweep, store = str(folder / "waves.yaml"), str(folder / "store")
    result = CliRunner().invoke(app, ["run", sweep, "--storage", store, "--serial", "--no-plot"])
    return result.exit_code, f"{result.output}{result.exception or ''}"


def test_a_schedule_of_the_users_trains_and_its_arguments_are_an_axis(folder: Path) -> None:
    code, said = run(folder)
    assert code == 0, said
    trials = pd.read_parquet(folder / "store/trials").set_index("key")
    history = pd.read_parquet(folder / "store/histories").set_index("key")
    rates = {
        json.loads(row.schedule_args)["period"]: history.loc[key, "lr"] / row.lr
        for key, row in trials.iterrows()
    }
    assert rates == {1: 0.25, 5: 1.0}  # of the last of 2 updates
    assert set(trials.schedule) == {"waves.py:WAVE"}
    assert set(trials.schedule_version) == {3}


def test_its_code_is_watched_and_its_version_is_in_the_key(folder: Path) -> None:
    assert run(folder)[0] == 0
    before = {
        trial.key
        for cell in make_plan(load_sweep(folder / "waves.yaml")).cells
        for trial in cell.trials
    }
    (folder / "my_lab/waves.py").write_text(PLUGIN.replace("< args.period", "<= args.period"))
    code, said = run(folder)
    assert code != 0
    assert "has changed since 2 stored trials (schedule waves.py:WAVE;" in said
    (folder / "my_lab/waves.py").write_text(PLUGIN.replace("version=3", "version=4"))
    after = {
        trial.key
        for cell in make_plan(load_sweep(folder / "waves.yaml")).cells
        for trial in cell.trials
    }
    assert not before & after


@pytest.mark.parametrize(
    ("old", "new", "place", "what"),
    [
        ("values: [1, 5]", "values: [1, 0]", "10:62: train.schedule.args.period", "at least 1"),
        ("depth: 0.25", "dept: 0.25", "9:55: train.schedule.args.dept", "did you mean 'depth'"),
        ("waves.py:WAVE", "waves.py:WAV", "9:20: train.schedule.name", "has no 'WAV'"),
    ],
)
def test_mistakes_in_it_have_their_places(
    folder: Path, old: str, new: str, place: str, what: str
) -> None:
    file = folder / "waves.yaml"
    file.write_text(SWEEP.replace(old, new))
    with pytest.raises(SweepError) as error:
        load_sweep(file)
    lines = [line for line in str(error.value).splitlines() if f"{file}:{place}" in line]
    assert lines, str(error.value)
    assert what in lines[0]


def test_cycles_in_epochs_need_epochs_of_one_length() -> None:
    recipe = Recipe(schedule=Schedule("cyclic", cycle_epochs=2), batch_unit="tokens", updates=9)
    (finding,) = [found for rule in RECIPE_RULES if (found := rule.check(asdict(recipe)))]
    assert finding[0] == "train.schedule.cycle_epochs"
    assert finding[1].endswith("allowed: cycle_updates or cycles")
