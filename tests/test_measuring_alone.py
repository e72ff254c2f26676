"""One measurement of stored networks, by the command and in Python: what a sweep would measure."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import phasegrid
from phasegrid.cli.main import app
from phasegrid.errors import PhasegridError
from phasegrid.store.results import Results

SWEEP: dict[str, Any] = {
    "schema": 1,
    "name": "alone",
    "dataset": {"name": "digits"},
    "model": {"name": "mlp"},
    "train": {
        "epochs": 2,
        "batch_size": 512,
        "stop": None,
        "keep": "last",
        "checkpoints": {"every_epochs": 1},
    },
    "load": {"param": "model.width", "values": [2, 4]},
    "seeds": 2,
}
CURVE = {"epochs": 1, "points": 3}


def run(folder: Path, *metrics: dict[str, object], **train: object) -> Any:
    sweep = {**SWEEP, "metrics": list(metrics), "train": {**SWEEP["train"], **train}}
    return phasegrid.run(sweep, folder, serial=True, quiet=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("alone")
    assert run(folder).exit_code == 0
    return phasegrid.open(str(folder))


def keys(results: Results, width: int) -> list[str]:
    plan = results.plan("alone")
    return plan[plan["load"] == width].sort_values("seed")["key"].tolist()


def test_a_sweep_finds_what_was_measured_alone(tmp_path: Path) -> None:
    run(tmp_path)
    results = phasegrid.open(str(tmp_path))
    a, b = keys(results, 2)
    curve = results.measure("connectivity", [f"{a[:8]}@1", b], **CURVE)
    plain = results.measure("distance", [a, b])
    two = [{"seed": 0, "at": 1}, {"seed": 1}]
    asked = {"connectivity": {"networks": two, **CURVE}}, {"distance": {"pairs": "first"}}
    done = run(tmp_path, *asked)
    assert done.counts.done == 2  # those of the other cell
    for name, row in (("connectivity", curve), ("distance", plain)):
        rows = results.metric(name, sweep="alone")
        assert rows["key"].isin(row["key"]).sum() == 1
        assert len(rows) == 2


def test_an_ensemble_measured_alone_is_that_of_a_sweep(tmp_path: Path) -> None:
    run(tmp_path)
    results = phasegrid.open(str(tmp_path))
    row = results.measure("ensemble", keys(results, 2))
    assert run(tmp_path, {"ensemble": {}}).exit_code == 0
    rows = results.metric("ensemble", sweep="alone")
    assert set(row["key"]) < set(rows["key"])


def test_what_is_stored_is_not_measured_again(results: Results) -> None:
    a, b = keys(results, 2)
    first = results.measure("cka", [a, b], ["examples=32"])
    again = results.measure("cka", [a, b], examples=32)
    assert first["created_at"].tolist() == again["created_at"].tolist()
    assert (first.attrs["was_stored"], again.attrs["was_stored"]) == (False, True)


def test_networks_drawn_from_moments_are_measured_as_in_a_sweep(tmp_path: Path) -> None:
    collect = {"name": "swag", "from_epoch": 1}
    asked = {"ensemble": {"over": "cell", "at": "swag", "points": 2}}
    assert run(tmp_path, asked, collect=collect).exit_code == 0
    results = phasegrid.open(str(tmp_path))
    a, b = keys(results, 2)
    found = results.measure("ensemble", [f"{a}@swag", f"{b}@swag"], points=2)
    assert found["key"][0] in set(results.metric("ensemble", sweep="alone")["key"])
    assert found.attrs["was_stored"]
    with pytest.raises(PhasegridError, match="found @swag beside other networks"):
        results.measure("ensemble", [f"{a}@swag", b])
    with pytest.raises(PhasegridError, match="hessian draws no networks"):
        results.measure("hessian", [f"{a}@swag"])


def test_the_command_prints_what_python_returns(results: Results) -> None:
    a, _ = keys(results, 4)
    asked = ["measure", "accuracy", f"{a}@0", "--storage", results.store.url]
    done = CliRunner().invoke(app, asked)
    row = results.measure("accuracy", [f"{a}@epoch-0"])
    assert done.exit_code == 0, done.output
    assert f"key {row['key'][0]}, measured now" in done.output
    assert f"test_loss {row['test_loss'][0]:.6g} nats\n" in done.output
    assert f"key {row['key'][0]}, stored before" in CliRunner().invoke(app, asked).output
    (told,) = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert told["test_loss"] == pytest.approx(row["test_loss"][0], rel=1e-9)


BAD: list[tuple[str, list[str], dict[str, object], str]] = [
    ("distance", ["{a}", "{c}"], {}, "different numbers of parameters"),
    ("distance", ["{a}@7", "{b}"], {}, "the trial has no weights@epoch-7; it has weights, weights@epoch-0"),
    ("distance", ["{a}@averaged", "{b}"], {}, "the trial has no averaged"),
    ("ensemble", ["{a}@swag", "{b}@swag"], {}, "the trial has no swag"),
    ("distance", ["{a}"], {}, "found 1 network; it needs exactly 2"),
    ("distance", ["{a}", "{b}", "{c}"], {}, "found 3 networks; it needs exactly 2"),
    ("distance", ["{a}", "{a}"], {}, "twice; each once"),
    ("distance", ["{a}@2", "{a}"], {}, "twice; each once"),
    ("ensemble", ["{a}@1", "{b}", "{a}@epoch-1"], {}, " twice; each once"),
    ("distance", ["{a}@last", "{b}"], {}, "allowed: the key of a trial or its beginning"),
    ("distance", ["ffffffff", "{b}"], {}, "0 trials with a key that begins so"),
    ("distanse", ["{a}", "{b}"], {}, "did you mean 'distance'?"),
    ("connectivity", ["{a}", "{b}"], {"epoch": 1}, "epoch: found the key 'epoch'"),
    ("connectivity", ["{a}", "{b}"], {"epochs": 0}, "epochs"),
    ("connectivity", ["{a}", "{b}"], {"at": 1}, "found the key 'at'"),
    ("simplex", ["{a}"], {}, "found 1 network; it needs at least 2; espro is the metric of one network"),
    ("simplex", ["{a}", "{b}"], {"wiring": [["w0", "c0"], ["c0", "w2"]]}, "wiring.1: found w2, but there are 2 modes"),
    ("connectivity", ["{a}", "{b}"], {"dataset": {"path": "x"}}, "dataset.path: found the key 'path'; allowed: none"),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "networks", "args", "told"), BAD)
def test_what_cannot_be_measured_is_told_and_nothing_is_stored(
    results: Results, metric: str, networks: list[str], args: dict[str, object], told: str
) -> None:
    (a, b), (c, _) = keys(results, 2), keys(results, 4)
    before = results.metrics()
    with pytest.raises(PhasegridError, match=re.escape(told)):
        results.measure(metric, [text.format(a=a, b=b, c=c) for text in networks], **args)
    assert results.metrics() == before


def test_a_diverged_trial_has_no_networks(tmp_path: Path) -> None:
    run(tmp_path, lr=1e12)
    results = phasegrid.open(str(tmp_path))
    a, b = keys(results, 2)
    with pytest.raises(PhasegridError, match="the trial diverged: it has no network"):
        results.measure("distance", [a, b])
