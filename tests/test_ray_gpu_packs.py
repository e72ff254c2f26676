"""Packs across cells on a Ray that believes in several GPUs: one worker a GPU, all busy to the end,
and a lost one replaced. The workers compute on the CPU, in a process of its own with its own Ray.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phasegrid import load_sweep
from phasegrid.plan.plan import make_plan
from phasegrid.store.store import Store

CHILD = Path(__file__).parent / "children" / "gpu_packs.py"
ROOT = Path(__file__).parents[1]
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


def run_on(gpus: int, folder: Path, dies: bool = False) -> list[dict[str, Any]]:
    """Return what the workers noted, in the order in which they began."""
    notes = folder / "notes"
    notes.mkdir()
    if dies:
        (notes / "die").touch()
    (folder / "sweep.yaml").write_text(SWEEP)
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
    assert json.loads(done.stdout.splitlines()[-1]) == {"exit_code": 0}, done.stderr
    found = [json.loads(path.read_text()) for path in notes.glob("*.json")]
    return sorted(found, key=lambda noted: noted["began"])


def assert_all_is_stored(folder: Path) -> None:
    plan = make_plan(load_sweep(folder / "sweep.yaml"))
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
    noted = run_on(2, tmp_path, dies=True)
    assert_all_is_stored(tmp_path)
    died = json.loads((tmp_path / "notes" / "died").read_text())
    again = [one for one in noted if one["keys"] == died["keys"]]
    assert len(again) == 1
    assert again[0]["pid"] != died["pid"]
    failures = Store.open(str(tmp_path / "store")).read_table("failures").to_pylist()
    assert [row["kind"] for row in failures] == ["infra"]
