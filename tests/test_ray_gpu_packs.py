"""Packs across cells on a Ray that believes in several GPUs: one worker a GPU, all busy to the end,
and a lost one replaced. The workers compute on the CPU, in a process of its own with its own Ray.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from phasegrid import load_sweep
from phasegrid.plan.contents import Plan
from phasegrid.plan.plan import make_plan
from phasegrid.store.store import Store

CHILD = Path(__file__).parent / "children" / "gpu_packs.py"
ROOT = Path(__file__).parents[1]
NO_FILES: Mapping[str, str] = MappingProxyType({})
SWEEP = """\
schema: 1
name: many-cells
dataset: {name: digits, fraction: 0.05}
model: {name: mlp, depth: 1}
train: {batch_size: 16, epochs: 2, stop: null, keep: last}
load: {param: model.width, values: [2, 3, 4, 5]}
temperature: {param: train.lr, values: [0.05, 0.1, 0.2]}
seeds: 2
metrics: [accuracy]
"""


def plan_in(folder: Path) -> Plan:
    (folder / "sweep.yaml").write_text(SWEEP)
    return make_plan(load_sweep(folder / "sweep.yaml"))


def run_on(
    gpus: int,
    folder: Path,
    files: Mapping[str, str] = NO_FILES,
    failed: Mapping[str, str] = NO_FILES,
) -> list[dict[str, Any]]:
    """Return what the workers noted, in the order in which they began. `files` lie beside their
    notes; `failed` are the jobs that fail, each with a part of the reason.
    """
    notes = folder / "notes"
    notes.mkdir()
    for name, text in files.items():
        (notes / name).write_text(text)
    plan_in(folder)
    where = [folder / "sweep.yaml", folder / "store", str(gpus), notes]
    done = subprocess.run(
        [sys.executable, str(CHILD), *map(str, where)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["exit_code"] == bool(failed), done.stderr
    assert said["failed"].keys() == failed.keys()
    for name, why in failed.items():
        assert why in said["failed"][name]
    found = [json.loads(path.read_text()) for path in notes.glob("*.json")]
    return sorted(found, key=lambda noted: noted["began"])


def assert_all_is_stored(folder: Path) -> None:
    plan = plan_in(folder)
    store = Store.open(str(folder / "store"))
    assert set(store.stored("trials")) == {t.key for cell in plan.cells for t in cell.trials}
    assert set(store.stored("metrics/accuracy")) == {job.key for _, job in plan.metric_jobs()}


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [2, 3])
def test_each_gpu_has_one_worker_and_its_part_of_the_trainings_of_all_cells(
    tmp_path: Path, gpus: int
) -> None:
    noted = run_on(gpus, tmp_path)
    assert_all_is_stored(tmp_path)
    training = [one for one in noted if one["kind"] == "train"]
    assert sorted(one["gpus"] for one in training) == [[gpu] for gpu in range(gpus)]
    assert {one["share"] for one in training} == {1.0}
    sizes = sorted(len(one["keys"]) for one in training)
    assert sum(sizes) == 24
    assert sizes[-1] - sizes[0] <= 4, "equal in predicted seconds"
    widths = json.loads(
        Store.open(str(tmp_path / "store"))
        .read_table("trials")
        .to_pandas()
        .set_index("key")["model_args"]
        .map(lambda text: json.loads(text)["width"])
        .to_json()
    )
    assert any(len({widths[key] for key in one["keys"]}) > 1 for one in training)
    for one in training:
        assert one["estimates"] == len(one["keys"])
        assert 1 < one["lanes"] < len(one["keys"]), "as many as fit into the stand-in's memory"


@pytest.mark.slow
def test_what_a_lost_worker_had_goes_on_elsewhere(tmp_path: Path) -> None:
    noted = run_on(2, tmp_path, {"die": ""})
    assert_all_is_stored(tmp_path)
    died = json.loads((tmp_path / "notes" / "died").read_text())
    again = [one for one in noted if one["keys"] == died["keys"]]
    assert len(again) == 1
    assert again[0]["pid"] != died["pid"]
    failures = Store.open(str(tmp_path / "store")).read_table("failures").to_pylist()
    assert [row["kind"] for row in failures] == ["infra"]


@pytest.mark.slow
def test_of_many_cells_the_training_that_loses_its_gpu_is_blamed_by_name(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    culprit = plan.cells[4].trials[1].key
    failed = {
        "training, cell 4, seed 1": "CUDA error: misaligned address",
        "accuracy, cell 4, seed 1": "blocked: trial",
    }
    run_on(2, tmp_path, {"culprit": culprit}, failed)
    every = {trial.key for cell in plan.cells for trial in cell.trials}
    assert set(Store.open(str(tmp_path / "store")).stored("trials")) == every - {culprit}
