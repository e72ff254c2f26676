"""A sweep is resolved completely: every default written in, every cell built, what is equal
shared.
"""

import cProfile
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phasegrid import load_sweep
from phasegrid.config.load import GridPoint, MetricRequest, Need, Retries, RunOptions, Sweep
from phasegrid.datasets import kept_count
from phasegrid.keys import Json, canonical_json
from phasegrid.train.recipe import LATER, Recipe

BASE = """\
schema: 1
name: tiny
dataset: {name: digits}
model: {name: mlp, depth: 1}
seeds: 2
"""

Load = Callable[..., Sweep]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(extra: str = "", *overrides: str, base: str = BASE) -> Sweep:
        path = tmp_path / "sweep.yaml"
        path.write_text(base + extra, encoding="utf-8")
        return load_sweep(path, overrides)

    return write_and_load


def spec(point: GridPoint) -> str:
    parts: list[Json] = [point.dataset.spec(), point.model.spec(), point.recipe]
    return canonical_json(parts)


def recipe(point: GridPoint) -> dict[str, Any]:
    return dict(point.recipe)


def test_without_axes_there_is_one_cell_with_every_default(load: Load) -> None:
    sweep = load()
    (point,) = sweep.points
    assert (sweep.load, sweep.temperature, sweep.facets) == (None, None, ())
    assert (point.load, point.temperature, point.facet) == (None, None, ())
    assert point.model.args == {"width": 128, "depth": 1, "activation": "relu"}
    assert point.dataset.args["fraction"] == 1.0
    assert set(point.recipe) == set(Recipe.__dataclass_fields__)
    assert point.recipe["lr"] == Recipe().lr
    assert point.recipe["schedule"] == {
        "name": "constant",
        "at_epochs": [],
        "factor": 0.1,
        "final": 0.0,
        "warmup_updates": 0,
        **LATER["schedule"],
    }
    assert point.facts is not None
    assert point.facts.num_train == 1297


def test_the_example_of_the_design_loads(load: Load) -> None:
    sweep = load(
        base="""\
schema: 1
name: taxonomy-fig2
description: Figure 2.
dataset: {name: cifar10}
model:   {name: resnet18, width: 64}
train:   {optimizer: sgd, lr: 0.05, momentum: 0.9, weight_decay: 5e-4, batch_size: 128, epochs: 150,
          stop: {min_delta: 1e-4, patience: 5}, keep: best_train_loss}
load:        {param: model.width,      values: [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128]}
temperature: {param: train.batch_size, values: [16, 24, 32, 44, 64, 92, 128, 180, 256, 364, 512, 724, 1024]}
seeds: 5
metrics:
  - accuracy
  - distance
  - hessian: {examples: 200}
  - cka: {examples: 640, mixup_alpha: 16}
  - connectivity: {curve: bezier, bends: 1, epochs: 50, pairs: first}
"""
    )
    assert len(sweep.points) == 14 * 13
    assert sweep.seeds == (0, 1, 2, 3, 4)
    assert sweep.description == "Figure 2."
    assert [m.name for m in sweep.metrics] == [
        "accuracy",
        "distance",
        "hessian",
        "cka",
        "connectivity",
    ]
    assert sweep.storage == "results"
    assert sweep.source is not None
    assert sweep.source.endswith("sweep.yaml")


def test_cells_are_in_the_order_facets_load_temperature(load: Load) -> None:
    sweep = load("""\
temperature: {param: train.batch_size, values: [8, 4]}
load: {param: model.width, values: [1, 2]}
facets:
  - {param: train.lr, values: [0.1, 1]}
  - {param: train.stop, values: [null, {patience: 3}]}
""")
    rows = [(p.facet[0][1], p.load, p.temperature) for p in sweep.points]
    assert rows[:4] == [(0.1, 1, 8), (0.1, 1, 4), (0.1, 2, 8), (0.1, 2, 4)]
    assert len(rows) == 16
    last = sweep.points[-1]
    stop = {"rule": "plateau", "min_delta": 1e-4, "patience": 3}
    assert last.facet == (("train.lr", 1.0), ("train.stop", stop))
    assert last.recipe["stop"] == stop
    assert (last.recipe["lr"], last.recipe["batch_size"], last.model.args["width"]) == (1.0, 4, 2)


def test_one_and_one_point_zero_are_the_same_trial(load: Load) -> None:
    a = load("train: {lr: 1}").points[0]
    b = load("train: {lr: 1.0}").points[0]
    c = load("load: {param: train.lr, values: [1]}").points[0]
    d = load("couple: {train.lr: 128 / train.batch_size}").points[0]
    assert len({spec(p) for p in (a, b, c, d)}) == 1
    assert isinstance(recipe(a)["lr"], float)


def test_what_is_equal_between_cells_is_one_object(load: Load) -> None:
    sweep = load(
        "load: {param: model.width, values: [1, 2, 3]}\n"
        "temperature: {param: train.batch_size, values: [4, 8]}\n"
    )
    assert len({id(p.dataset) for p in sweep.points}) == 1
    assert len({id(p.model) for p in sweep.points}) == 3
    assert len({id(p.recipe) for p in sweep.points}) == 2


def test_a_range_is_spaced_as_asked_and_clean(load: Load) -> None:
    def values(text: str) -> tuple[Json, ...]:
        axis = load(f"load: {text}").load
        assert axis is not None
        return axis.values

    lr = "param: train.lr"
    assert values(f"{{{lr}, start: 0.1, stop: 0.5, num: 5}}") == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert values(f"{{{lr}, start: 1e-4, stop: 0.1, num: 4, scale: log}}") == (
        1e-4,
        1e-3,
        0.01,
        0.1,
    )
    assert values(f"{{{lr}, start: 0.5, stop: 8, num: 5, scale: log2}}") == (
        0.5,
        1.0,
        2.0,
        4.0,
        8.0,
    )
    batch = "param: train.batch_size"
    assert values(f"{{{batch}, start: 16, stop: 512, num: 6, scale: log2}}") == (
        16,
        32,
        64,
        128,
        256,
        512,
    )
    assert values(f"{{{batch}, start: 10, stop: 1, num: 4}}") == (10, 7, 4, 1)
    assert values("{param: model.width, start: 1, stop: 4, num: 3}") == (1, 3, 4)  # 2.5 rounds up


def test_a_label_is_kept(load: Load) -> None:
    axis = load("load: {param: model.width, values: [1], label: hidden width}").load
    assert axis is not None
    assert (axis.path, axis.role, axis.label) == ("model.width", "load", "hidden width")


def test_model_and_dataset_names_can_be_axes(load: Load) -> None:
    sweep = load(
        base="""\
schema: 1
name: a
dataset: {name: digits}
model: {width: 4}
facets: [{param: model.name, values: [mlp, small_cnn]}]
load: {param: model.width, values: [2, 3]}
temperature: {param: dataset.name, values: [digits, mnist]}
train: {batch_size: 10}
seeds: 1
"""
    )
    assert [(p.model.name, p.load, p.dataset.name) for p in sweep.points][:3] == [
        ("mlp", 2, "digits"),
        ("mlp", 2, "mnist"),
        ("mlp", 3, "digits"),
    ]
    assert sweep.points[-1].model.args == {"width": 3, "batch_norm": False}
    assert sweep.points[-1].facts is not None
    assert sweep.points[-1].facts.num_train == 60_000


def test_schedule_and_keep_have_short_forms(load: Load) -> None:
    assert recipe(load("train: {schedule: cosine}").points[0])["schedule"]["name"] == "cosine"
    assert recipe(load("train: {stop: null}").points[0])["stop"] is None
    for text, keep, every in (
        ("last", "last", 0),
        ("{every: 5}", "last", 5),
        ("{every: 5, final: best_train_loss}", "best_train_loss", 5),
    ):
        found = recipe(load(f"train: {{keep: {text}}}").points[0])
        assert (found["keep"], found["keep_every"]) == (keep, every)


def test_nested_fields_can_be_axes(load: Load) -> None:
    sweep = load(
        "train: {schedule: {name: step, at_epochs: [5]}}\n"
        "load: {param: train.schedule.factor, values: [0.1, 0.5]}\n"
        "temperature: {param: train.stop.patience, values: [1, 2]}\n"
    )
    found = [recipe(p) for p in sweep.points]
    assert [f["schedule"]["factor"] for f in found] == [0.1, 0.1, 0.5, 0.5]
    assert [f["stop"]["patience"] for f in found] == [1, 2, 1, 2]
    assert all(f["schedule"]["at_epochs"] == [5] for f in found)


def test_parts_of_a_nested_field_and_whole_ones_can_be_facets(load: Load) -> None:
    parts = load(
        "train: {schedule: {warmup_updates: 40, final: 0.1}}\n"
        "facets: [{param: train.schedule.name, values: [constant, cosine]}]\n"
        "load: {param: train.schedule.warmup_updates, values: [0, 40]}\n"
    )
    found = [
        (s["name"], s["warmup_updates"], s["final"])
        for s in (recipe(p)["schedule"] for p in parts.points)
    ]
    assert found == [
        ("constant", 0, 0.1),
        ("constant", 40, 0.1),
        ("cosine", 0, 0.1),
        ("cosine", 40, 0.1),
    ]
    assert parts.points[0].facet == (("train.schedule.name", "constant"),)
    whole = load(
        "train: {schedule: {warmup_updates: 40}}\n"
        "facets: [{param: train.schedule, values: [linear, {name: step, at_epochs: [3]}]}]\n"
    )
    linear, step = (recipe(p)["schedule"] for p in whole.points)
    assert (linear["name"], linear["warmup_updates"]) == ("linear", 0)  # a value is the whole field
    assert (step["name"], step["at_epochs"]) == ("step", [3])
    assert whole.points[1].facet == (("train.schedule", step),)


def test_coupled_fields_follow_their_axes_and_each_other(load: Load) -> None:
    sweep = load("""\
load: {param: model.width, values: [2, 4]}
temperature: {param: train.batch_size, values: [64, 256]}
couple:
  train.weight_decay: train.lr / 100
  train.lr: 0.05 * train.batch_size / 128
  train.epochs: 40 / model.width
""")
    rows = [(p.recipe["lr"], p.recipe["epochs"]) for p in sweep.points]
    assert rows == [(0.025, 20), (0.1, 20), (0.025, 10), (0.1, 10)]
    assert sweep.points[1].recipe["weight_decay"] == 0.1 / 100


def test_coupled_fields_can_read_defaults_and_nested_axes(load: Load) -> None:
    sweep = load(
        "load: {param: train.schedule, values: [cosine, {name: cosine, final: 0.5}]}\ncouple:"
        " {train.lr: 0.1 * train.momentum, train.label_smoothing: train.schedule.final / 2}\n"
    )
    assert [p.recipe["label_smoothing"] for p in sweep.points] == [0.0, 0.25]
    assert sweep.points[0].recipe["lr"] == 0.1 * 0.9


GRID = """\
load: {param: model.width, values: [1, 2, 3]}
temperature: {param: train.lr, values: [0.1, 1]}
"""


def test_exclude_takes_points_out_and_include_puts_points_in(load: Load) -> None:
    sweep = load(
        GRID
        + """\
exclude:
  - {load: [1, 3], temperature: 1.0}
  - {model.width: 2}
include:
  - {load: 2, temperature: 1}
  - {load: 9, temperature: 0.5}
"""
    )
    assert [(p.load, p.temperature) for p in sweep.points] == [
        (1, 0.1),
        (2, 1.0),
        (3, 0.1),
        (9, 0.5),
    ]
    assert sweep.load is not None
    assert sweep.load.values == (1, 2, 3)


def test_facets_can_be_excluded_by_path(load: Load) -> None:
    sweep = load(
        GRID
        + "facets: [{param: train.betas, values: [[0.9, 0.99], [0.5, 0.9]]}]\n"
        + "exclude: [{train.betas: [0.5, 0.9], load: [1, 2]}]\n"
        + "train: {optimizer: adam}\n"
    )
    assert len(sweep.points) == 12 - 4


def test_seeds_are_a_count_or_a_list(load: Load) -> None:
    base = BASE.replace("seeds: 2\n", "")
    assert load("seeds: 3", base=base).seeds == (0, 1, 2)
    assert load("seeds: [7, 3]", base=base).seeds == (7, 3)


def metric(load: Load, text: str) -> MetricRequest:
    (request,) = load(f"metrics: [{text}]", "seeds=3").metrics
    return request


def test_metrics_are_resolved_with_their_defaults(load: Load) -> None:
    cka = metric(load, "cka: {mixup_alpha: 8}")
    assert (cka.over, cka.pairs, cka.modes, cka.heavy, cka.min_trials) == (
        "pair",
        "all",
        None,
        False,
        2,
    )
    assert cka.part.args == {
        "examples": 640,
        "example_seed": 0,
        "mixup_alpha": 8.0,
        "mixup": "independent",
        "pixel_noise": None,
        "layers": ["softmax"],
    }
    assert metric(load, "connectivity").pairs == "first"
    assert metric(load, "connectivity: {pairs: ring}").pairs == "ring"
    simplex = metric(load, "simplex: {modes: 2, connectors: 2, volume_lambda: [1, 0.5]}")
    assert (simplex.over, simplex.pairs, simplex.modes, simplex.heavy) == ("cell", None, 2, True)
    assert simplex.part.args["volume_lambda"] == [1.0, 0.5]
    assert metric(load, "hessian: null").part.args["examples"] == 200


def test_the_planners_arguments_are_not_in_a_metrics_identity(load: Load) -> None:
    a, b = (metric(load, f"connectivity: {{pairs: {pairs}}}") for pairs in ("first", "all"))
    assert a.part == b.part


def test_one_metric_may_be_asked_for_with_different_arguments(load: Load) -> None:
    sweep = load("metrics: [cka, cka: {layers: [logits]}, simplex: {modes: 2}, simplex: {}]")
    assert len(sweep.metrics) == 4


def test_resources_and_run_are_resolved(load: Load) -> None:
    sweep = load("""\
resources: {num_cpus: 2, memory: 4GiB, metrics: {hessian: {num_gpus: 0.5}}}
run: {max_in_flight: 8, retries: {infra: 9}, on_error: stop, max_failures: 3, pack_size: 16, timeout_s: 600, reproducible: true}
metrics: [hessian]
storage: s3://bucket/place
""")
    assert sweep.resources.of() == Need(2.0, None, 4 * 2**30)
    assert sweep.resources.of("hessian") == Need(2.0, 0.5, 4 * 2**30)
    assert sweep.resources.of("cka") == sweep.resources.of()
    assert sweep.run == RunOptions(8, Retries(0, 9), "stop", 3, 16, 600.0, reproducible=True)
    assert sweep.storage == "s3://bucket/place"
    assert load().run == RunOptions()


def test_npz_files_are_known_by_their_contents(load: Load, shared_data: Path) -> None:
    path = shared_data / "cifar10_subset.npz"
    base = BASE.replace("{name: digits}", f"{{name: npz, path: '{path}'}}")
    sweep = load("load: {param: dataset.fraction, values: [0.5, 1]}", base=base)
    half, whole = sweep.points
    assert len(str(half.dataset.args["sha256"])) == 64
    assert half.dataset.locators == {"path": str(path)}
    assert half.facts is not None
    assert whole.facts is not None
    assert half.facts.num_train == kept_count(whole.facts.num_train, 0.5)
    assert whole.facts.input_shape == (3, 32, 32)


def test_plug_ins_of_the_sweeps_folder_are_parts_like_any_other(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEGRID_PLUGIN_PATH", "")
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "mine.py").write_text("""
from dataclasses import dataclass
from phasegrid.declare import Column, DatasetFacts, DatasetKind, Metric, Model

@dataclass(frozen=True)
class Args:
    size: int
    rate: float = 1

def load(size, rate):
    return open("/nowhere/at/all")

NET = Model(Args, print, version=3)
DATA = DatasetKind(Args, load, lambda args: None)
SHARP = Metric("pair", Args, (Column("x", "float64", "", ""),), print, pairs="ring", min_trials=2)
""")
    sweep = load(
        base="""\
schema: 1
name: own
dataset: {name: 'lab/mine.py:DATA', size: 1}
model: {name: 'lab/mine.py:NET', size: 4}
load: {param: model.size, values: [4, 5]}
seeds: 2
metrics: ['lab/mine.py:SHARP': {size: 2}]
"""
    )
    assert sweep.points[1].model.spec() == {
        "name": "mine.py:NET",
        "version": 3,
        "args": {"size": 5, "rate": 1.0},  # the default too is coerced
    }
    assert sweep.points[0].facts is None
    assert (sweep.metrics[0].name, sweep.metrics[0].pairs) == ("mine.py:SHARP", "ring")
    assert [note.split(":")[0] for note in sweep.tried.notes] == [
        "dataset 'mine.py",
        "model 'mine.py",
        "metric 'mine.py",
    ]


def test_a_cell_more_takes_few_calls_to_read(load: Load) -> None:
    """134 of them took 0.06 ms on a laptop core: 20,000 cells a bit over a second."""
    text = (
        "train: {epochs: 1}\n"
        "load: {param: train.lr, start: 1e-3, stop: 1, num: 200, scale: log}\n"
        "temperature: {param: train.batch_size, start: 1, stop: 1000, num: NUM}\n"
        "couple: {train.weight_decay: train.lr / train.batch_size}\n"
    )

    def num_calls(num: int) -> int:
        profile = cProfile.Profile()
        sweep = profile.runcall(load, text.replace("NUM", str(num)))
        assert len(sweep.points) == 200 * num
        return sum(entry.callcount for entry in profile.getstats())

    num_calls(2)  # what is set up once does not count
    assert (num_calls(10) - num_calls(5)) / 1000 < 160


def test_reading_a_sweep_imports_neither_torch_nor_ray(load: Load, tmp_path: Path) -> None:
    load(GRID + "metrics: [accuracy, distance, hessian, cka, connectivity, simplex]\n")
    code = (
        "import sys; from phasegrid import load_sweep; load_sweep(sys.argv[1]); "
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "sweep.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
