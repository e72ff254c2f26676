"""The script for a lent card keeps what it has read, whatever its steps do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.benchmarks import bench_gpu, gpu_cells
from tests.benchmarks.gpu_steps import STEPS, TINY, correct, product

CPU = torch.device("cpu")


def records(lines: list[str]) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for line in lines:
        record = json.loads(line)
        found.setdefault(record["step"], []).append(record)
    return found


def test_narrow_networks_train_on_a_device_as_on_the_cpu() -> None:
    found = list(correct(CPU, TINY))
    assert [(r["width"], r["strategy"]) for r in found] == [
        (width, way) for width in TINY.narrow for way in ("loop", "fused", "merged")
    ]
    assert all(r["off"] == 0 for r in found)


def test_a_product_with_the_hessian_is_counted_in_gradients() -> None:
    found = list(product(CPU, TINY))
    ways = [{"launched", "torchs_derivatives"} & set(record) for record in found]
    assert ways == [set(), {"launched"}, {"torchs_derivatives"}] * 2
    assert all(record["gradients_a_product"] > 0 for record in found)


def test_a_script_without_time_says_which_steps_it_skipped(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    found = records(list(bench_gpu.main(0.0, "cpu", True, str(output))))
    assert set(found) == {"head", *STEPS}
    assert all(found[name] == [{"step": name, "skipped": "no time left"}] for name in STEPS)
    assert records(output.read_text().splitlines()) == found


def test_a_step_that_is_not_there_is_named_with_those_that_are() -> None:
    (line,) = bench_gpu.main(1.0, "cpu", True, None, "correct,hurry")
    assert line.startswith("gpu: no step 'hurry'; allowed: correct, lanes")


def test_a_step_that_hangs_or_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "STEPS", {"correct": (correct, 0.2), "none": (correct, 60.0)})
    found = records(list(bench_gpu.main(5.0, "cpu", True, None)))
    assert found["correct"] == [{"step": "correct", "ended": "after its 0.2 s"}]
    assert found["none"][0]["failed"] == 1
    assert "KeyError: 'none'" in str(found["none"][0]["error"])


def test_only_the_steps_that_are_named_run() -> None:
    found = records(list(bench_gpu.main(0.0, "cpu", True, None, "cells,correct")))
    assert list(found) == ["head", "cells", "correct"]


def a_record(precision: str, **values: list[float]) -> dict[str, object]:
    return {"step": "cells", "width": 2, "batch": 16, "precision": precision, "values": values}


def test_the_table_marks_what_lies_outside_the_spread_of_float32_and_of_the_published() -> None:
    rows = [
        a_record("published", train_loss=[1.0, 1.1, 1.2], mode_connectivity=[-3.0]),
        a_record("fp32", train_loss=[1.5, 1.6, 1.7]),  # of a run that went on
        a_record("fp32", train_loss=[1.05, 1.1, 1.15], mode_connectivity=[-2.0]),
        a_record("bf16", train_loss=[1.1, 1.12, 1.14], mode_connectivity=[-9.0]),
        a_record("tf32", train_loss=[1.3, 1.3, 1.3]),
    ]
    lines = gpu_cells.table(rows).splitlines()
    told = {
        line.split(" | ")[1]: line.split(" | ")[2] for line in lines if line.startswith("| 2, 16")
    }
    assert told == {
        "published": "1.1 ± 0.1 (3)",
        "fp32": "1.1 ± 0.05 (3)",
        "tf32": "1.3 ± 0 (3)†‡",
        "bf16": "1.12 ± 0.02 (3)",
    }
    assert "-9 (1) |" in lines[5]  # one curve has no spread to lie outside of
    assert gpu_cells.table([{"step": "head"}]) == ""


def test_without_the_images_the_cells_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHASEGRID_TEST_DATA", raising=False)
    (found,) = gpu_cells.cells(CPU, tiny=False)
    assert "PHASEGRID_TEST_DATA" in found["skipped"]


def test_images_come_out_of_their_jpegs(shared_data: Path) -> None:
    with np.load(shared_data / "cifar10_jpeg.npz") as file:
        ends = file["test_offsets"][:4]
        images = gpu_cells._decoded(file["test_jpeg"], ends)
    assert images.shape == (3, 3, 32, 32)
    assert images.std() > 20


IN_A_CHILD = """\
import sys
sys.modules["ray"] = None  # an import of it fails
import torch
from tests.benchmarks import bench_gpu, gpu_cells, gpu_steps
{what}
"""


def in_a_child(what: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CHILD.format(what=what)],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_script_is_imported_where_there_is_no_ray(tmp_path: Path) -> None:
    in_a_child("", tmp_path)


@pytest.mark.slow
def test_cells_run_in_every_precision_where_there_is_no_ray(tmp_path: Path) -> None:
    what = (
        "import json\n"
        "for record in gpu_cells.precision(torch.device('cpu'), True): print(json.dumps(record))"
    )
    rows = [json.loads(line) for line in in_a_child(what, tmp_path).splitlines()]
    ours = [row for row in rows if row["precision"] != "published"]
    assert [(row["precision"], row["what"]) for row in ours] == [
        (kind, what) for kind in gpu_cells.PRECISIONS for what in ("without mc", "all")
    ]
    assert all(row["exit_code"] == 0 for row in ours), ours
    for row in ours:
        got = {name for name, numbers in row["values"].items() if numbers}
        assert got == set(gpu_cells.QUANTITIES) - (
            {"mode_connectivity"} if row["what"] == "without mc" else set()
        )
    losses = {row["precision"]: row["values"]["train_loss"] for row in ours}
    assert losses["tf32"] == losses["fp32"] != losses["bf16"]  # TF32 is nothing on a CPU
    assert gpu_cells.table(rows).count("| 2, 16 |") == len({row["precision"] for row in rows})


@pytest.mark.slow
def test_every_step_runs_to_its_end_in_a_tiny_size() -> None:
    found = records(list(bench_gpu.main(20.0, "cpu", True, None)))
    for name in STEPS:
        assert len(found[name]) >= 2, found[name]
        assert "seconds" in found[name][-1], found[name][-1]
