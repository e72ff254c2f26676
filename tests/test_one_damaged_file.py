"""One damaged file stops neither the sweeps that do not use it, nor `verify`, nor the repair; a
place that cannot be opened is not empty.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from store_support import COLUMNS, bare, full, make_store
from typer.testing import CliRunner

from phasegrid.cli import render
from phasegrid.cli.main import app
from phasegrid.errors import StoreError, SweepError
from phasegrid.keys import text_key
from phasegrid.run.verify import verify
from phasegrid.store import submissions
from phasegrid.store.gc import delete_garbage
from phasegrid.store.repair import find_damage
from phasegrid.store.results import Results
from phasegrid.store.store import Store
from phasegrid.submit.logs import failures_text

SWEEP = """\
schema: 1
name: toy
dataset: {name: digits}
model: {name: mlp}
load: {param: model.width, values: [2]}
temperature: {param: train.batch_size, values: [8]}
seeds: 1
metrics: [accuracy]
"""


def _of(kind: str, sweep: str) -> str:
    """The file of a kind that belongs to a sweep."""
    key = {"trials": text_key(f"t-{sweep}"), "metrics/sharpness": text_key(f"m-{sweep}")}.get(kind)
    key = key or text_key(f"t-{sweep}")
    return {
        "plans": f"plans/{sweep}.parquet",
        "plan_jobs": f"plan_jobs/{sweep}.parquet",
        "failures": f"failures/{text_key(f'f-{sweep}')}.parquet",
        "submission": f"meta/submissions/pg-{sweep}-1.json",
    }.get(kind, f"{kind}/{key[:2]}/{key}.parquet")


KINDS = ("trials", "histories", "metrics/sharpness", "failures", "plans", "plan_jobs", "submission")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two sweeps that share nothing."""
    store = make_store(tmp_path)
    for sweep in ("one", "two"):
        trial, metric = text_key(f"t-{sweep}"), text_key(f"m-{sweep}")
        store.put_trial(bare("trials", f"t-{sweep}"), [{"epoch": 0}], {})
        common = {**bare("metrics/sharpness", f"m-{sweep}"), "trials": [trial]}
        store.put_metric("sharpness", COLUMNS, common, [{"value": 1.0}])
        store.put_failure({**full("failures", f"f-{sweep}"), "key": trial})
        jobs = [{"cell": 0, "metric": "sharpness", "key": metric, "trials": [trial]}]
        store.put_plan(sweep, [{"cell": 0, "facet": "[]", "seed": 0, "key": trial}], jobs)
        submissions.create(store, submissions.new(f"pg-{sweep}-1", sweep))
    return store


def _damage(store: Store, kind: str) -> Path:
    path = Path(store.files.path(_of(kind, "one")))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + b"}")
    return path


def _seen_of_two(store: Store) -> list[Any]:
    results = Results(store)
    (state,) = json.loads(render.status_text(store, "two", as_json=True))
    return [
        {name: value for name, value in state.items() if name != "damaged"},
        results.cells("two").to_dict("records"),
        results.metric("sharpness", "two").to_dict("records"),
        results.histories("two").to_dict("records"),
        failures_text(store, "two", 0).partition("\n\nleft out: ")[0],
        [record.id for record in submissions.read_all(store, "two")],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_that_does_not_use_a_damaged_file_is_as_before(store: Store, kind: str) -> None:
    before = str(_seen_of_two(store))
    path = _damage(store, kind)
    assert str(_seen_of_two(store)) == before
    done = CliRunner().invoke(app, ["status", "--storage", store.url])
    assert done.exit_code == 0
    assert "two: 1/1 trials stored" in done.output
    if kind not in ("histories", "submission"):
        assert f"damaged, and not counted: reading {path}: " in done.output.replace("\n", "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_by_verify_and_repaired(store: Store, kind: str) -> None:
    assert verify(store) == []
    path = _damage(store, kind)
    assert [problem.where for problem in verify(store)][:1] == [str(path)]
    assert verify(store, "two") == [p for p in verify(store, "two") if p.where == str(path)]
    found = find_damage(store)
    if kind in ("plans", "plan_jobs"):
        assert f"{path}: damaged; `phasegrid run` of its sweep writes it again" in found.kept[0]
    elif kind != "submission":
        delete_garbage(store, found.garbage)
        assert str(path) not in str(verify(store))


# --- what cannot be opened is not empty


def _newer(folder: Path) -> None:
    (folder / "meta" / "store.json").write_text('{"format": 99, "phasegrid": "9.9"}')


def _cut(folder: Path) -> None:
    (folder / "meta" / "store.json").write_text('{"form')


def _lost(folder: Path) -> None:
    (folder / "meta" / "store.json").unlink()


def _linked(folder: Path) -> None:
    (folder / "meta").rename(folder / "moved")
    (folder / "meta").symlink_to(folder / "moved")


@pytest.mark.parametrize("spoil", [_newer, _cut, _lost, _linked])
def test_a_store_that_cannot_be_opened_is_never_empty(
    store: Store, tmp_path: Path, spoil: Any
) -> None:
    spoil(Path(store.url))
    (tmp_path / "s.yaml").write_text(SWEEP)
    with pytest.raises(StoreError, match=r"meta|format 99"):
        Store.find(store.url)
    commands = (
        ["plan", str(tmp_path / "s.yaml")],
        ["status"],
        ["list"],
        ["verify"],
        ["query", "select 1"],
        ["gc"],
    )
    for command in commands:
        done = CliRunner().invoke(app, [*command, "--storage", store.url])
        assert isinstance(done.exception, StoreError), command
        assert done.stdout == ""


@pytest.mark.parametrize("where", ["nowhere/at/all", "."])
def test_only_where_nothing_is_there_is_nothing_stored(tmp_path: Path, where: str) -> None:
    assert Store.find(str(tmp_path / where)) is None
    (tmp_path / "s.yaml").write_text(SWEEP)
    done = CliRunner().invoke(
        app, ["plan", str(tmp_path / "s.yaml"), "--storage", str(tmp_path / where)]
    )
    assert done.exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_a_file_where_a_store_should_be_is_no_empty_store(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(StoreError, match="a file is where a folder should be"):
        Store.find(str(tmp_path / "x"))
    with pytest.raises(SweepError, match="holds credentials"):
        Store.find("s3://a:b@bucket")
