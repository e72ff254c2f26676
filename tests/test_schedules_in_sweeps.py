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
  schedule: {name: my_lab/waves.py:WAVE, depth: 0.25}
temperature: {param: train.schedule.period, values: [1, 5]}
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
        ("[1, 5]", "[1, 0]", "10:57: temperature.values.1", "train.schedule.period: found 0;"),
        ("depth: 0.25", "dept: 0.25", "9:42: train.schedule.dept", "did you mean 'depth'"),
        ("depth: 0.25", "args: {depth: 1}", "9:42: train.schedule.args", "allowed: period, depth"),
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
    (line,) = [
        line for line in str(error.value).splitlines() if f"{file}:" in line and ": " in line
    ]
    assert f"{file}:{place}: " in line
    assert what in line


RATES = """\
from dataclasses import dataclass

from phasegrid.declare import ScheduleKind


@dataclass(frozen=True)
class Args:
    factor: float = 0.1
    low: float = 0.5
    args: str = ""


RATE = ScheduleKind(Args, lambda moment, args: args.low + args.factor)


@dataclass(frozen=True)
class Taken:
    warmup_updates: int = 1


TAKEN = ScheduleKind(Taken, lambda moment, args: 1.0)
"""


def schedules(folder: Path, *sections: str) -> list[dict[str, object]]:
    """Return the resolved schedules of the trainings of a sweep, each cell's in turn."""
    (folder / "rates.py").write_text(RATES)
    head = SWEEP[: SWEEP.index("  schedule:")]
    file = folder / "rates.yaml"
    file.write_text(head + "\n".join([*sections, "seeds: 1", ""]))
    recipes = [r for p in load_sweep(file).points for r in (p.recipe, *p.stage_recipes)]
    return [dict(recipe["schedule"]) for recipe in recipes]  # type: ignore[arg-type, call-overload]


OWN = "couple: {train.schedule: {by: model.width, values: {2: {name: rates.py:RATE, %s}}}}"


def test_arguments_may_be_called_like_fields_of_built_in_schedules(folder: Path) -> None:
    (found,) = schedules(folder, OWN % "factor: 0.2, warmup_updates: 3")
    assert found["args"] == {"factor": 0.2, "low": 0.5, "args": ""}
    usual = asdict(Schedule(warmup_updates=3))
    rest = {name: value for name, value in found.items() if name not in ("name", "args", "version")}
    assert rest == {name: json.loads(json.dumps(usual[name])) for name in rest}
    assert (found["name"], found["version"]) == ("rates.py:RATE", 1)


def test_whole_schedules_are_an_axis_beside_those_of_the_users(folder: Path) -> None:
    axis = "[{name: linear, final: 0.1}, rates.py:RATE, {name: rates.py:RATE, low: 0.0, args: x}]"
    found = schedules(folder, f"temperature: {{param: train.schedule, values: {axis}}}")
    assert [one["args"] for one in found] == [
        {},
        {"factor": 0.1, "low": 0.5, "args": ""},
        {"factor": 0.1, "low": 0.0, "args": "x"},
    ]
    assert [one["final"] for one in found] == [0.1, 0.0, 0.0]


def test_a_stage_inherits_a_schedule_of_the_users_and_varies_it(folder: Path) -> None:
    found = schedules(
        folder,
        "  schedule: {name: rates.py:RATE, factor: 0.3}",
        "stages: [{name: next, train: {lr: 1}}]",
        "load: {param: train.schedule.low, values: [0.1, 0.9]}",
        "temperature: {param: stages.next.schedule.factor, values: [0.4, 0.5]}",
    )
    args = [one["args"] for one in found]
    assert args == [
        {"factor": factor, "low": low, "args": ""}
        for low in (0.1, 0.9)
        for own in (0.4, 0.5)
        for factor in (0.3, own)
    ]


@pytest.mark.parametrize(
    ("sections", "what"),
    [
        (OWN.replace("RATE", "TAKEN") % "", "declares the argument 'warmup_updates', which every"),
        (
            "temperature: {param: train.schedule.args, values: [a]}",
            "found the key 'args'; allowed:",
        ),
        ("temperature: {param: train.schedule.dep, values: [1]}", "found the key 'dep'; allowed:"),
    ],
)
def test_what_no_schedule_has_is_a_mistake(folder: Path, sections: str, what: str) -> None:
    with pytest.raises(SweepError, match=what):
        schedules(folder, sections)


def test_the_name_of_a_users_schedule_varies_with_its_arguments(folder: Path) -> None:
    axis = "temperature: {param: train.schedule.name, values: [linear, cosine]}"
    file = folder / "waves.yaml"
    file.write_text(SWEEP[: SWEEP.index("temperature")] + f"{axis}\nseeds: 1\n")
    with pytest.raises(SweepError, match=r"a schedule of your own varies as train\.schedule"):
        load_sweep(file)


def test_trials_are_chosen_by_the_arguments_as_a_sweep_writes_them(folder: Path) -> None:
    where = "where: {train.schedule.period: [1], train.schedule.depth: 0.25}"
    file = folder / "waves.yaml"
    file.write_text(
        SWEEP.replace("seeds: 1", "seeds: 2") + f"metrics: [cka: {{over: across, {where}}}]\n"
    )
    (request,) = load_sweep(file).metrics
    assert request.chosen == ((0, 0), (0, 1))


def test_cycles_in_epochs_need_epochs_of_one_length() -> None:
    recipe = Recipe(schedule=Schedule("cyclic", cycle_epochs=2), batch_unit="tokens", updates=9)
    (finding,) = [found for rule in RECIPE_RULES if (found := rule.check(asdict(recipe)))]
    assert finding[0] == "train.schedule.cycle_epochs"
    assert finding[1].endswith("allowed: cycle_updates or cycles")
