"""Arguments of metrics on axes: cells share their trials, and each measurement is that of its cell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import phasegrid
from phasegrid import load_sweep
from phasegrid.analysis.tables.load import load_grid
from phasegrid.config.load import Sweep
from phasegrid.errors import SweepError
from phasegrid.plan.contents import Plan
from phasegrid.plan.plan import make_plan
from phasegrid.run.verify import verify

BEND = {"connectivity": {"id": "bend", "epochs": 1, "points": 5}}
SIMPLEX = {"simplex": {"epochs": 1, "eval_samples": 2}}


def sweep(metrics: Sequence[Any], **fields: Any) -> Sweep:
    base = {
        "schema": 1,
        "name": "s",
        "dataset": {"name": "digits", "fraction": 0.1},
        "model": {"name": "mlp", "width": 4, "depth": 2},
        "train": {"epochs": 1, "batch_size": 32, "stop": None, "keep": "last"},
        "seeds": 2,
        "metrics": list(metrics),
    }
    return load_sweep({**base, **fields})


def axis(param: str, *values: Any) -> dict[str, Any]:
    return {"param": param, "values": list(values)}


def mistakes(metrics: Sequence[Any], **fields: Any) -> list[str]:
    with pytest.raises(SweepError) as caught:
        sweep(metrics, **fields)
    return [f"{m.path}: {m.message}" for m in caught.value.mistakes]


def args_of(plan: Plan, metric: str, *names: str) -> list[list[Any]]:
    """Return the arguments of the first job of a metric in each cell."""
    jobs = (next(j for j in c.metric_jobs if j.metric.name == metric) for c in plan.cells)
    return [[job.metric.args[name] for name in names] for job in jobs]


def keys(plan: Plan, metric: str) -> set[str]:
    return {job.key for _, job in plan.metric_jobs() if job.metric.name == metric}


def test_cells_along_an_argument_share_trials_and_all_other_measurements() -> None:
    load = axis("metrics.simplex.connectors", 1, 2, 3)
    plan = make_plan(sweep(["accuracy", SIMPLEX], load=load))
    assert len(plan.cells) == 3
    assert len({trial.key for cell in plan.cells for trial in cell.trials}) == 2
    assert len(keys(plan, "accuracy")) == 2
    assert len(keys(plan, "simplex")) == 3
    assert args_of(plan, "simplex", "connectors") == [[1], [2], [3]]


def test_a_measurement_has_the_key_that_it_has_without_the_axis() -> None:
    along = make_plan(sweep([SIMPLEX], load=axis("metrics.simplex.connectors", 1, 2)))
    alone = {"simplex": {**SIMPLEX["simplex"], "connectors": 2}}
    assert keys(make_plan(sweep([alone])), "simplex") < keys(along, "simplex")


def test_what_reads_a_request_varies_with_it() -> None:
    ensemble = {"ensemble": {"of": "bend", "points": 3}}
    load = axis("metrics.bend.bends", 1, 2)
    plan = make_plan(sweep([BEND, ensemble, "accuracy"], load=load))
    assert [len(keys(plan, name)) for name in ("connectivity", "predictions", "ensemble")] == [
        2
    ] * 3
    assert len(keys(plan, "accuracy")) == 2


def test_an_argument_is_passed_on_to_what_a_request_is_measured_through() -> None:
    ensemble = {"ensemble": {"of": "bend"}}
    plan = make_plan(sweep([BEND, ensemble], load=axis("metrics.ensemble.points", 3, 4)))
    assert len(keys(plan, "connectivity")) == 1
    assert args_of(plan, "predictions", "points") == [[3], [4]]
    assert {j.request.varied for _, j in plan.metric_jobs() if j.metric.name != "connectivity"} == {
        ("points",)
    }


def test_load_temperature_facet_and_couple_give_arguments_together() -> None:
    plan = make_plan(
        sweep(
            [BEND, {"ensemble": {"of": "bend"}}],
            load=axis("metrics.bend.bends", 1, 2),
            temperature=axis("train.batch_size", 16, 32),
            facets=[axis("metrics.ensemble.points", 3, 5)],
            couple={"metrics.bend.epochs": "4 / metrics.bend.bends"},
        )
    )
    assert len(plan.cells) == 8
    assert len({trial.key for cell in plan.cells for trial in cell.trials}) == 4
    assert args_of(plan, "connectivity", "bends", "epochs")[:4] == [[1, 4], [1, 4], [2, 2], [2, 2]]
    assert args_of(plan, "ensemble", "points") == [[3]] * 4 + [[5]] * 4


def test_an_id_with_a_hyphen_is_a_name_in_paths_and_expressions() -> None:
    metrics = [{"simplex": {"id": "my-id"}}]
    load, couple = axis("metrics.my-id.connectors", 1, 2), "3 * metrics.my-id.connectors"
    plan = make_plan(sweep(metrics, load=load, couple={"metrics.my-id.epochs": couple}))
    args = [job.metric.args for cell in plan.cells for job in cell.metric_jobs]
    assert [(one["connectors"], one["epochs"]) for one in args] == [(1, 3), (2, 6)]


def test_an_axis_of_lists_gives_lists() -> None:
    load = axis("metrics.simplex.volume_lambda", 0.1, [0.2, 0.3])
    plan = make_plan(sweep([{"simplex": {"connectors": 2}}], load=load))
    assert args_of(plan, "simplex", "volume_lambda") == [[0.1], [[0.2, 0.3]]]


def test_a_job_has_the_trials_of_its_cell_that_the_axis_says() -> None:
    load = axis("metrics.simplex.modes", 2, 3, None)
    plan = make_plan(sweep([SIMPLEX], load=load, seeds=4))
    assert [len(job.trials) for cell in plan.cells for job in cell.metric_jobs] == [2, 3, 4]
    assert len({trial.key for cell in plan.cells for trial in cell.trials}) == 4
    alone = {"simplex": {**SIMPLEX["simplex"], "modes": 3}}
    assert keys(make_plan(sweep([alone], seeds=4)), "simplex") < keys(plan, "simplex")


def test_a_cell_has_a_job_for_each_so_many_trials_as_the_axis_says() -> None:
    load = axis("metrics.ensemble.runs", 1, 2, 4)
    plan = make_plan(sweep(["ensemble"], load=load, seeds=4))
    jobs = [[j for j in c.metric_jobs if j.metric.name == "ensemble"] for c in plan.cells]
    assert [[len(job.trials) for job in some] for some in jobs] == [[1] * 4, [2] * 2, [4]]
    assert [some[0].request.asked["runs"] for some in jobs] == [1, 2, 4]
    joined = {"ensemble": {"of": "bend", "over": "cell"}}
    bends = {"connectivity": {**BEND["connectivity"], "pairs": "all"}}
    load = axis("metrics.ensemble.runs", 1, 3)
    plan = make_plan(sweep([bends, joined], load=load, seeds=3))
    counts = [sum(j.metric.name == "ensemble" for j in c.metric_jobs) for c in plan.cells]
    assert counts == [3, 1]


def test_points_are_left_out_and_added_along_an_argument() -> None:
    plan = make_plan(
        sweep(
            [SIMPLEX],
            load=axis("metrics.simplex.connectors", 1, 2, 3),
            temperature=axis("train.batch_size", 16, 32),
            exclude=[{"load": [2, 3], "temperature": 32}],
            include=[{"load": 5, "temperature": 16}],
        )
    )
    assert args_of(plan, "simplex", "connectors") == [[1], [1], [2], [3], [5]]


def test_across_cells_a_shared_trial_counts_once() -> None:
    cka = {"cka": {"over": "across", "examples": 16}}
    plan = make_plan(
        sweep(
            [SIMPLEX, cka],
            load=axis("metrics.simplex.connectors", 1, 2),
            temperature=axis("train.batch_size", 16, 32),
        )
    )
    assert len(plan.across) == 6  # pairs of four trials
    named = [{"seed": 0, "train.batch_size": 16}, {"seed": 1, "train.batch_size": 32}]
    both = {"distance": {"over": "across", "networks": named}}
    fields = {"load": axis("metrics.simplex.connectors", 1, 2)}
    fields["temperature"] = axis("train.batch_size", 16, 32)
    assert len(make_plan(sweep([SIMPLEX, both], **fields)).across) == 1


REFUSED: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "unknown request": (
        [SIMPLEX],
        {"load": axis("metrics.simplx.connectors", 1)},
        "load.param: found 'simplx'; allowed: an id or the name of a request of metrics: simplex;"
        " did you mean 'simplex'?",
    ),
    "unknown argument": (
        [BEND],
        {"load": axis("metrics.bend.epoch", 1)},
        "load.param: 'metrics.bend.epoch' is no field: found the key 'epoch'; allowed: curve,",
    ),
    "ambiguous name": (
        [BEND, {"connectivity": {"bends": 0}}],
        {"load": axis("metrics.connectivity.epochs", 1)},
        "load.param: 'connectivity' is asked for 2 times; name one by its id",
    ),
    "no argument": (
        [SIMPLEX],
        {"load": axis("metrics.simplex", 1)},
        "load.param: found 'metrics.simplex', a request; allowed: metrics.simplex.{connectors,",
    ),
    "bad value": (
        [SIMPLEX],
        {"temperature": axis("metrics.simplex.connectors", 1, 0)},
        "temperature.values.1: metrics.simplex.connectors: found 0; allowed: ",
    ),
    "rule between arguments": (
        [{"simplex": {"volume_lambda": [0.1, 0.2]}}],
        {"load": axis("metrics.simplex.connectors", 2, 3, 4)},
        "metrics.0.simplex.volume_lambda: found a list of 2; allowed: one number, or one per"
        " connector (3) (in the cell load 3)",
    ),
    "what is not read": (
        ["ensemble"],
        {"load": axis("metrics.ensemble.points", 5, 7)},
        "metrics.0.ensemble.points: found 7, but no ",
    ),
    "what a reader refuses": (
        [BEND, {"plane": {"of": "bend"}}],
        {"load": axis("metrics.bend.bends", 1, 0)},
        "metrics.1.plane.of: ",
    ),
    "what does not fit the data": (
        ["ensemble"],
        {"load": axis("metrics.ensemble.scaling", "none", "temperature")},
        "metrics.0.ensemble.scaling: found temperature, but the data set sets no examples aside",
    ),
    "more trials than seeds": (
        [SIMPLEX],
        {"load": axis("metrics.simplex.modes", 2, 3)},
        "metrics.0.simplex.modes: found 3, but a cell has 2 trials; lower it or raise seeds (in the"
        " cell load 3)",
    ),
    "fewer trials than a job needs": (
        [SIMPLEX],
        {"load": axis("metrics.simplex.modes", 1, 2)},
        "metrics.0.simplex.modes: gives a job 1 network; simplex needs at least 2",
    ),
    "more measurements than a cell has": (
        [BEND, {"ensemble": {"of": "bend", "over": "cell"}}],
        {"load": axis("metrics.ensemble.runs", 1, 2)},
        "metrics.1.ensemble.runs: found 2, but 'bend' has 1 job in a cell (in the cell load 2)",
    ),
    "modes beside runs": (
        [{"ensemble": {"runs": 1}}],
        {"load": axis("metrics.ensemble.modes", 1, 2)},
        "load.param: 'metrics.ensemble.modes' is no field: found the key 'modes'; allowed: ",
    ),
    "modes of what is over pairs": (
        ["cka"],
        {"load": axis("metrics.cka.modes", 2)},
        "load.param: 'metrics.cka.modes' is no field: found the key 'modes'; allowed: ",
    ),
    "across cells": (
        [{"cka": {"over": "across"}}],
        {"load": axis("metrics.cka.examples", 8, 16), "temperature": axis("train.lr", 0.1, 0.2)},
        "load.param: 'cka' is measured across cells, so no cell of an axis has it",
    ),
    "what reads what is measured across cells": (
        [{"connectivity": {"id": "curve", "over": "across"}}, {"plane": {"of": "curve"}}],
        {"load": axis("metrics.plane.points", 3, 5)},
        "load.param: 'plane' is measured across cells, so no cell of an axis has it; ask for it",
    ),
    "an id with a dot": (
        [{"cka": {"id": "my.id"}}],
        {"couple": {"metrics.my.id.examples": "2 * model.width"}},
        "couple.metrics.my.id.examples: the id 'my.id' has a dot, which ends a name in a path;",
    ),
    "two names of one request": (
        [BEND],
        {
            "load": axis("metrics.bend.epochs", 1, 2),
            "temperature": axis("metrics.connectivity.epochs", 1, 2),
        },
        "metrics.connectivity.epochs: found 'metrics.connectivity.epochs', which"
        " 'metrics.bend.epochs' gives too: one request, two names",
    ),
}


@pytest.mark.parametrize(("metrics", "fields", "told"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_along_an_argument_is_told_once(
    metrics: list[Any], fields: dict[str, Any], told: str
) -> None:
    (found,) = mistakes(metrics, **fields)
    assert found.startswith(told)


def test_a_value_that_another_value_needs_is_missing_in_no_cell() -> None:
    metrics = [{"simplex": {"connectors": 1, "volume_lambda": 0.1}}]
    fields = {"couple": {"metrics.simplex.volume_lambda": "0.1 * metrics.simplex.connectors"}}
    plan = make_plan(sweep(metrics, load=axis("metrics.simplex.connectors", 1, 2), **fields))
    assert args_of(plan, "simplex", "volume_lambda") == [[0.1], [0.2]]


def asked_for(storage: str, *bends: int) -> Sweep:
    straight = {"connectivity": {"bends": 1, "epochs": 1, "points": 5}}
    return sweep(
        ["accuracy", BEND, straight, {"ensemble": {"of": "bend", "train": False}}],
        load=axis("metrics.bend.bends", *bends),
        temperature=axis("train.batch_size", 32, 64),
        facets=[axis("metrics.ensemble.points", 3, 4)],
        storage=storage,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, str]:
    """A sweep whose load and facet are arguments of one curve and its ensemble."""
    storage = str(tmp_path_factory.mktemp("axes") / "results")
    asked = asked_for(storage, 1, 2)
    assert phasegrid.run(asked, serial=True).ok
    return asked, storage


def test_each_measurement_is_done_once_and_nothing_is_left(run: tuple[Sweep, str]) -> None:
    planned = phasegrid.plan(run[0])
    table = planned.table.set_index("jobs")
    assert table["planned"].to_dict() == {
        "trials": 4,
        "accuracy": 4,
        "connectivity": 4,  # the fixed curve is that of load 1
        "ensemble": 8,
        "predictions": 8,
    }
    assert not table["missing"].any()


def test_a_row_is_in_the_cells_that_have_its_arguments(run: tuple[Sweep, str]) -> None:
    results = phasegrid.open(run[1])
    curves = results.metric("connectivity", sweep="s")
    own = curves[curves["variant"] == ""]
    assert len(own) == 8
    assert (own["arg.bends"] == own["load"]).all()
    assert (own["varied"] == "bends").all()
    fixed = curves[curves["variant"] != ""]
    assert set(fixed["variant"]) == {"bends=1, epochs=1"}  # told apart from the curve of each cell
    assert sorted(fixed["cell"]) == list(range(8))
    ensembles = results.metric("ensemble", sweep="s")
    assert (ensembles["arg.points"] == ensembles["facet.metrics.ensemble.points"]).all()
    assert set(ensembles["of"]) == {"bend"}
    assert len(ensembles) == len(ensembles.drop_duplicates("key")) == 8
    assert [list(c) for c in ensembles["cells"]] == [[c, c] for c in ensembles["cell"]]


def test_a_quantity_along_an_argument_has_its_plain_name(run: tuple[Sweep, str]) -> None:
    grid = load_grid(phasegrid.open(run[1]), "s")
    counts = grid.values.groupby("quantity").size()
    assert counts["ensemble_test_loss"] == 8
    assert not any("points" in str(name) for name in counts.index)
    assert counts["test_accuracy"] == 16  # two seeds in each of eight cells
    by_cell = grid.values[grid.values["quantity"] == "test_accuracy"].groupby("temperature")
    assert (by_cell["value"].nunique() <= 2).all()  # those of the trials that the cells share


@pytest.mark.parametrize("name", ["modes", "runs"])
def test_a_quantity_along_numbers_of_trials_has_its_plain_name(name: str, tmp_path: Path) -> None:
    load = axis(f"metrics.ensemble.{name}", 2, 3)
    ensemble = {"ensemble": {"train": False}}
    asked = sweep([ensemble], load=load, seeds=3, storage=str(tmp_path / "results"))
    assert phasegrid.run(asked, serial=True).ok
    results = phasegrid.open(asked.storage)
    values = load_grid(results, "s").values
    own = values[values["quantity"].str.startswith("ensemble_test_loss")]
    assert list(own["quantity"]) == ["ensemble_test_loss"] * 2
    assert list(own["num_trials"]) == list(own["load"]) == [2, 3]
    assert not phasegrid.plan(asked).table["missing"].any()


def test_a_new_value_costs_what_it_adds(run: tuple[Sweep, str]) -> None:
    missing = phasegrid.plan(asked_for(run[1], 1, 2, 3)).table.set_index("jobs")["missing"]
    assert missing.to_dict() == {
        "trials": 0,
        "accuracy": 0,
        "connectivity": 2,
        "ensemble": 4,
        "predictions": 4,
    }


def test_a_changed_value_is_named_as_what_made_a_measurement_stale(run: tuple[Sweep, str]) -> None:
    planned = phasegrid.plan(asked_for(run[1], 1, 3))
    assert not planned.stale
    changes = [change for _, change in planned.measured_anew]
    assert changes.count("connectivity: bends: 2 -> 3") == 2
    assert len(changes) == 2 + 4 + 4  # with what reads these curves
    assert not any("points" in change for change in changes)  # each replaces the nearest


def test_nothing_in_the_store_of_a_shared_grid_is_a_problem(run: tuple[Sweep, str]) -> None:
    store = phasegrid.open(run[1]).store
    assert not list(verify(store))
    (counts,) = phasegrid.open(run[1]).counts().to_dict("records")
    assert counts["cells"] == 8
    assert counts["planned"] == counts["stored"] == 4  # trials, however many cells have them
