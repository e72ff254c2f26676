"""A forecast for a kind of GPU agrees with readings on one, and says what it does not know."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from safetensors import safe_open

import phasegrid
from phasegrid.cli.render import plan_text
from phasegrid.declare import DatasetFacts
from phasegrid.errors import SweepError
from phasegrid.estimates import Guess, Measurement, Workload, passes
from phasegrid.jobs import MetricJob, Part, Trial
from phasegrid.metrics import METRICS
from phasegrid.models.counting import count_work
from phasegrid.plan.contents import Cell
from phasegrid.plan.cost import Corrections, guess_cost, learn_corrections
from phasegrid.plan.devices import CPU, DEVICES, EAGER_S, TRAINING, device_of, find_device
from phasegrid.run.planned import look_at

H200 = DEVICES["h200"]
CIFAR = DatasetFacts(50_000, 10_000, (3, 32, 32), 10)

# Milliseconds of one update of ResNet18, per member: the faster of one and of five members at once.
# NVIDIA H200, torch 2.11.0+cu130, cuDNN 9.19; width, batch size, reading.
READINGS = {
    "fp32": [
        (2, 128, 0.71),
        (8, 32, 0.65),
        (8, 128, 1.53),
        (8, 1024, 10.0),
        (16, 128, 3.00),
        (64, 128, 18.2),
        (128, 128, 59.2),
    ],
    "tf32": [
        (2, 128, 0.81),
        (8, 128, 1.12),
        (8, 1024, 6.6),
        (16, 128, 1.63),
        (64, 128, 5.01),
        (128, 128, 11.7),
    ],
    "bf16": [
        (8, 128, 0.79),
        (8, 1024, 4.0),
        (16, 128, 1.11),
        (64, 128, 3.48),
        (128, 128, 6.85),
    ],
}


def workload(width: int) -> Workload:
    counts = count_work(Part("resnet18", 1, {"width": width}), CIFAR)
    assert counts is not None
    return Workload(50_000, 10_000, 10, *counts[:3], 3072, 1.0, 0, counts.layers)


def cell(work: Workload) -> Cell:
    return Cell(0, (), None, None, (), (), work)


def trial(precision: str = "fp32") -> Trial:
    recipe = {"epochs": 1, "batch_size": 128, "precision": precision}
    return Trial("a", Part("d", 1, {}), Part("m", 1, {}), recipe, 0)


@pytest.mark.parametrize("precision", READINGS)
def test_a_forecast_is_within_a_third_of_readings_on_an_h200(precision: str) -> None:
    for width, batch, read_ms in READINGS[precision]:
        update = passes(workload(width), batch, batch, 3)
        seconds = H200.guess(update, precision, is_recorded=True).seconds
        assert 1e3 * seconds == pytest.approx(read_ms, rel=0.33), (width, batch)


def test_an_update_launched_kernel_by_kernel_takes_what_was_read() -> None:
    eager = H200.guess(passes(workload(8), 128, 128, 3), "fp32").seconds
    assert eager == pytest.approx(7.84e-3, rel=0.2)


def test_a_better_precision_and_a_faster_gpu_are_never_slower_on_a_wide_network() -> None:
    def seconds(device: str, precision: str) -> float:
        return guess_cost(cell(workload(64)), trial(precision), DEVICES[device]).seconds

    assert seconds("h200", "bf16") < seconds("h200", "tf32") < seconds("h200", "fp32")
    assert seconds("h200", "bf16") < seconds("h100", "bf16") < seconds("a100", "bf16")
    assert seconds("v100", "bf16") == seconds("v100", "fp32")  # no hardware for it
    assert guess_cost(cell(workload(64)), trial(), CPU).seconds > 100 * seconds("h200", "fp32")


@pytest.mark.parametrize("name", ["connectivity", "hessian"])
def test_measurements_that_are_recorded_start_kernels_as_trainings_do(name: str) -> None:
    args = asdict(METRICS[name].args())
    job = MetricJob("k", Part(name, 1, args), ("a", "b"))
    for labels, launch_s in ((1.0, TRAINING["fp32"].launch_s), (2.0, EAGER_S)):
        work = replace(workload(8), labels_per_example=labels)  # 2: they differ from text to text
        cost = METRICS[name].cost
        assert cost is not None
        layers = cost(Measurement(work, args, 2)).layers
        overhead_s = guess_cost(cell(work), job, H200).overhead_s
        assert overhead_s == pytest.approx(layers * launch_s)
    assert CPU.guess(Guess(1.0), is_recorded=True) == Guess(1.0)


def test_seconds_that_a_plug_in_declares_are_those_of_any_device() -> None:
    assert H200.guess(Guess(3.0, 4.0)) == Guess(3.0, 4.0)


def test_a_cost_keeps_kernels_and_traffic_when_added_and_multiplied() -> None:
    once = passes(workload(8), 128, 128, 3)
    assert H200.guess(2 * once + once).seconds == pytest.approx(3 * H200.guess(once).seconds)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla V100-SXM2-16GB", "v100"),
    ],
)
def test_a_gpu_is_known_by_its_name(name: str | None, device: str) -> None:
    assert device_of("cuda", name) == DEVICES[device]
    assert device_of("cpu", None) == CPU


@pytest.mark.parametrize(("name", "called"), [("NVIDIA L4", "NVIDIA L4"), (None, "unnamed")])
def test_an_unknown_gpu_keeps_its_name_and_begins_with_the_guess_of_an_a100(
    name: str | None, called: str
) -> None:
    update, found = passes(workload(16), 128, 128, 3), device_of("cuda", name)
    assert found.name == called
    assert found not in DEVICES.values()
    assert found.guess(update) == DEVICES["a100"].guess(update)


def test_narrow_networks_in_bf16_are_read_to_take_more_than_twice_the_forecast() -> None:
    update = passes(workload(2), 128, 128, 3)
    assert 2.0 < 1.13e-3 / H200.guess(update, "bf16", is_recorded=True).seconds < 3.0


def test_a_device_may_be_given_by_its_data_sheet() -> None:
    sheet = find_device("fp32=67, tf32=494, bf16=989, bandwidth=4.8, memory=141")
    update = passes(workload(16), 128, 128, 3)
    assert sheet.guess(update, "bf16", True) == H200.guess(update, "bf16", True)
    assert sheet.memory_bytes == H200.memory_bytes
    assert sheet.spread > H200.spread


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h300", "device 'h300' is unknown; allowed: cpu, v100, a100, rtx4090, h100, h200, or its"),
        ("fp32=3,bandwith=1,memory=8", "'bandwith' is unknown"),
        ("fp32=fast,bandwidth=1,memory=8", "fp32 is 'fast'; allowed: a number above 0"),
        ("fp32=nan,bandwidth=1,memory=8", "fp32 is 'nan'; allowed: a number above 0"),
        ("fp32=3,bandwidth=0,memory=8", "bandwidth is '0'; allowed: a number above 0"),
        ("fp32=3,memory=8", "lacks bandwidth"),
    ],
)
def test_a_device_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        find_device(text)


def test_the_error_of_a_forecast_is_that_of_jobs_it_did_not_see() -> None:
    guesses = [Guess(float(n), 10.0 / n) for n in range(1, 11)]
    exact = learn_corrections({"trial": [(g, 3 * g.overhead_s + g.arithmetic_s) for g in guesses]})
    assert exact.error is not None
    assert exact.error.of_job == pytest.approx(0, abs=1e-9)
    assert exact.error.of_sum == pytest.approx(0, abs=1e-9)
    alternating = [(g, g.seconds * (2.0 if i % 2 else 1.0)) for i, g in enumerate(guesses)]
    noisy = learn_corrections({"trial": alternating}).error
    assert noisy is not None
    assert 0.2 < noisy.of_job < 1.0
    assert Corrections().error is None


SWEEP = """\
schema: 1
name: sizes
dataset: {name: digits}
model: {name: mlp, depth: 1}
train:
  {lr: 0.05, batch_size: 256, epochs: 3, stop: null, weight_decay: 0,
   checkpoints: {every_epochs: 1, updates: [2, 4]}}
load: {param: model.width, values: [4, 8]}
temperature: {param: train.momentum, values: [0.0]}
seeds: 2
metrics: [{connectivity: {bends: 2, epochs: 1, points: 3}}, accuracy]
run: {price_per_gpu_hour: 2.5}
"""


@pytest.mark.parametrize(
    "collect", ["null", "{name: swa, from_epoch: 1}", "{name: swag, from_epoch: 1, rank: 2}"]
)
def test_the_forecast_disk_is_what_a_run_leaves(tmp_path: Path, collect: str) -> None:
    (tmp_path / "sizes.yaml").write_text(SWEEP)
    sweep = phasegrid.load_sweep(tmp_path / "sizes.yaml", [f"train.collect={collect}"])
    told = phasegrid.plan(sweep, storage=tmp_path / "store").forecast.disk_bytes
    phasegrid.run(sweep, storage=tmp_path / "store", serial=True, quiet=True)
    left = 0
    for file in (tmp_path / "store").rglob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            names = [name for name in tensors.keys() if name != "count"]  # noqa: SIM118
            left += sum(tensors.get_tensor(name).nbytes for name in names)
    assert left > 0
    assert told == left


def test_timings_of_another_kind_of_device_correct_nothing(tmp_path: Path) -> None:
    (tmp_path / "sizes.yaml").write_text(SWEEP)
    sweep = phasegrid.load_sweep(tmp_path / "sizes.yaml")
    phasegrid.run(sweep, storage=tmp_path / "store", serial=True, quiet=True)
    more = phasegrid.load_sweep(tmp_path / "sizes.yaml", ["seeds=3"])
    store = phasegrid.open(tmp_path / "store").store
    here, there = look_at(more, store, 2), look_at(more, store, 2, H200)
    assert here.forecast.device == CPU
    assert here.forecast.num_timings > 0
    assert there.forecast.num_timings == 0
    assert there.forecast.device == H200
    assert there.forecast.work.high == pytest.approx(1.5 * there.forecast.work.expected)


def test_python_plans_for_a_kind_of_device_as_the_command_does(tmp_path: Path) -> None:
    (tmp_path / "sizes.yaml").write_text(SWEEP)
    sweep = phasegrid.load_sweep(tmp_path / "sizes.yaml")
    planned = phasegrid.plan(sweep, tmp_path / "store", slots=3, device="h200")
    assert planned.forecast == look_at(sweep, None, 3, H200).forecast
    assert "on 3 GPUs" in repr(planned)
    assert phasegrid.plan(sweep, tmp_path / "store").forecast.device == CPU
    with pytest.raises(SweepError, match="device 'h300' is unknown"):
        phasegrid.plan(sweep, device="h300")


def test_a_plan_for_a_gpu_says_hours_memory_disk_and_money(tmp_path: Path) -> None:
    (tmp_path / "sizes.yaml").write_text(SWEEP)
    sweep = phasegrid.load_sweep(tmp_path / "sizes.yaml")
    text = plan_text(sweep, None, False, 2, False, H200)
    for line in ("H200 GPU-hours of work", "GPU memory: ", "disk: ", "at 2.5 per GPU-hour"):
        assert line in text
    assert "readings of ResNet18 on this kind of GPU" in text
    assert "scaled by data sheets" in plan_text(sweep, None, False, 2, False, DEVICES["a100"])
    small = find_device("fp32=10,bandwidth=0.5,memory=0.1")
    assert "packs would be halved" in plan_text(sweep, None, False, 2, False, small)
    record = json.loads(plan_text(sweep, None, False, 2, True, H200))
    assert record["device_name"] == "h200"
    assert record["gpu_memory_bytes"] > 0
    assert record["disk_bytes"] > 0
