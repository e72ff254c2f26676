"""The JSON Schema accepts what loads and refuses what it can."""

import json
from pathlib import Path
from typing import Any

import pytest

from phasegrid import load_sweep
from phasegrid.config.json_schema import json_schema
from phasegrid.config.load import KEYS
from phasegrid.config.yaml import read_text
from phasegrid.datasets import DATASETS
from phasegrid.metrics import METRICS
from phasegrid.models import MODELS

GOOD = """\
schema: 1
name: tiny
description: all of it
dataset: {name: two_spirals, per_class: 100}
model: {name: mlp, depth: 2}
train: {lr: 1, stop: null, schedule: {name: step, at_epochs: [3]}, keep: {every: 2}}
load: {param: model.width, start: 1, stop: 8, num: 4, scale: log2, label: width}
temperature: {param: train.batch_size, values: [4, 8]}
facets: [{param: train.nesterov, values: [false, true]}]
couple:
  train.weight_decay: 1e-4 * model.width
  train.epochs: {by: train.batch_size, values: {"4": 5, "8": 6}, otherwise: 7}
  train.stop: {by: train.epochs, values: {"5": {patience: 2}, "6": null}}
include: [{load: 16, temperature: 4, train.nesterov: true}]
exclude: [{load: [1, 2], temperature: 8}]
seeds: [0, 3]
metrics:
  - accuracy
  - cka: {mixup_alpha: null, pixel_noise: 2, pairs: first}
  - simplex: {modes: 2, volume_lambda: [0.1]}
  - hessian: null
  - connectivity: {pairs: first}
figures:
  - panels: {name: fig06, quantities: [trace], phases: false}
  - lines: {name: fig07, quantities: [trace], at: [4, "8"]}
  - curves: {name: fig12, title: null}
  - gain: {name: fig13, against: other, labels: [this, that]}
resources: {num_gpus: 0.5, memory: 2GiB, metrics: {cka: {num_cpus: 2}}}
run: {retries: {app: 1}, on_error: stop, max_failures: null, reproducible: true}
storage: results
"""


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return dict(json_schema())


def accepts(schema: dict[str, Any], text: str) -> bool:
    jsonschema = pytest.importorskip("jsonschema")
    node, _ = read_text(text, "f")
    return bool(jsonschema.Draft202012Validator(schema).is_valid(node.plain()))


def test_it_is_a_schema_and_plain_json(schema: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


def test_it_knows_every_section_and_every_built_in_name(schema: dict[str, Any]) -> None:
    assert set(schema["properties"]) == set(KEYS)
    text = json.dumps(schema)
    for name in (*DATASETS, *MODELS, *METRICS):
        assert f'"{name}"' in text
    assert "spectral density" in text  # docstrings become descriptions
    for metric in METRICS.values():
        assert all(f"\\n- {column.name}: " in text for column in metric.columns)


def test_a_good_sweep_is_accepted_and_loads(schema: dict[str, Any], tmp_path: Path) -> None:
    assert accepts(schema, GOOD)
    path = tmp_path / "s.yaml"
    path.write_text(GOOD)
    assert len(load_sweep(path).points) == 2 * (4 * 2 - 2) + 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train: {", "train: {schedule: cosine, stop: {patience: 3}, keep: last} #"),
        ("name: two_spirals, per_class: 100", "name: 'lab/mine.py:DATA', anything: 3"),
        ("  - accuracy", "  - lab.mine:SHARP"),
        ("  - accuracy", "  - 'mine.py:SHARP': {rho: 3}"),
        ("seeds: [0, 3]", "seeds: 3"),
        ("schema: 1\nname: tiny", "extends: parent.yaml"),
        ("memory: 2GiB", "memory: 1000000"),
        ("figures:\n", "figures:\n  - curves: {name: a}\n"),
        ("facets: [", "load: null #"),
        ("param: train.nesterov", "param: metrics.simplex.jitter"),
        ("param: train.nesterov", "param: 'metrics.lab/mine.py:SHARP.rho'"),
        ("train.weight_decay: 1e-4 * ", "metrics.simplex.jitter: 1e-4 * "),
    ],
)
def test_other_forms_are_accepted(schema: dict[str, Any], old: str, new: str) -> None:
    assert old in GOOD
    assert accepts(schema, GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("schema: 1", "schema: 2"),
        ("name: tiny", "name: ../tiny"),
        ("seeds:", "sedes:"),
        ("name: two_spirals", "name: tow_spirals"),
        ("per_class: 100", "per_class: 0"),
        ("per_class: 100", "per_clas: 3"),
        ("depth: 2", "depth: two"),
        ("lr: 1", "lr: 0"),
        ("lr: 1", "lrr: 1"),
        ("name: step", "name: stpe"),
        ("keep: {every: 2}", "keep: {evry: 2}"),
        ("param: model.width", "param: width"),
        ("param: model.width", "param: metrics.simplex"),
        ("scale: log2", "scale: log3"),
        ("values: [4, 8]", "values: []"),
        ("seeds: [0, 3]", "seeds: [0, 0]"),
        ("seeds: [0, 3]", "seeds: 0"),
        ("  - accuracy", "  - acuracy"),
        ("pairs: first", "pairs: frist"),
        ("modes: 2", "modes: 1"),
        ("memory: 2GiB", "memory: 2 bytes"),
        ("{by: train.batch_size, ", "{"),
        ("{by: train.batch_size, ", "{by: batch_size, "),
        ("otherwise: 7", "otherwize: 7"),
        ('{"4": 5, "8": 6}', "{}"),
        ("name: fig06", "name: diagram"),
        ("name: fig06", "name: Fig 6"),
        ("name: fig06, ", ""),
        ("phases: false", "phases: 0"),
        ("- curves: {name: fig12, title: null}", "- curves"),
        ("- curves:", "- curve:"),
        ("against: other", "agianst: other"),
        ("labels: [this, that]", "labels: [this]"),
        ('at: [4, "8"]', "at: []"),
        ("on_error: stop", "on_error: halt"),
        ("app: 1", "apps: 1"),
    ],
)
def test_mistakes_are_refused(schema: dict[str, Any], old: str, new: str) -> None:
    assert old in GOOD
    assert not accepts(schema, GOOD.replace(old, new))
