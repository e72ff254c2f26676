"""The script for a lent card keeps what it has read, whatever its steps do."""

import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks import bench_gpu
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
        (width, way) for width in TINY.narrow for way in ("loop", "fused")
    ]
    assert all(r["off"] == 0 for r in found)


def test_a_product_with_the_hessian_is_counted_in_gradients() -> None:
    (found,) = product(CPU, TINY)
    assert found["gradients_a_product"] > 0


def test_a_script_without_time_says_which_steps_it_skipped(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    found = records(list(bench_gpu.main(0.0, "cpu", True, str(output))))
    assert set(found) == {"head", *STEPS}
    assert all(found[name] == [{"step": name, "skipped": "no time left"}] for name in STEPS)
    assert records(output.read_text().splitlines()) == found


def test_a_step_that_hangs_or_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "STEPS", {"correct": (correct, 0.2), "none": (correct, 60.0)})
    found = records(list(bench_gpu.main(5.0, "cpu", True, None)))
    assert found["correct"] == [{"step": "correct", "ended": "after its 0.2 s"}]
    assert found["none"][0]["failed"] == 1
    assert "KeyError: 'none'" in str(found["none"][0]["error"])


@pytest.mark.slow
def test_every_step_runs_to_its_end_in_a_tiny_size() -> None:
    found = records(list(bench_gpu.main(20.0, "cpu", True, None)))
    for name in STEPS:
        assert len(found[name]) >= 2, found[name]
        assert "seconds" in found[name][-1], found[name][-1]
