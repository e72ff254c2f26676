"""What a declaration's rules find is a mistake of the sweep: of a user's own as of what is built
in.
"""

from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.errors import SweepError

LAB = """
from dataclasses import dataclass

from phasegrid.datasets import Options
from phasegrid.datasets.digits import load
from phasegrid.declare import DatasetFacts, DatasetKind, Metric, Model
from phasegrid.models.mlp import make

@dataclass(frozen=True)
class Args:
    low: int = 1
    high: int = 2

def ordered(args):
    if args["low"] > args["high"]:
        return "low", f"found {args['low']}; allowed: at most high"

def broken(args):
    return args["middle"]

def few(args, recipe, facts):
    if args["high"] > recipe["batch_size"]:
        return "high", f"found {args['high']}; allowed: at most the batch size"
    if facts.num_classes != 10:
        return "high", "found other data"

@dataclass(frozen=True, slots=True)
class Shuffled(Options):
    low: int = 1
    high: int = 2

METRIC = Metric("trial", Args, (), lambda m, d, r, low, high: {}, rules=(ordered,), fits=few)
BROKEN = Metric("trial", Args, (), lambda m, d, r, low, high: {}, rules=(broken,))
MODEL = Model(Args, lambda shape, classes, low, high: make(shape, classes, width=4, depth=1, activation="relu"), rules=(ordered,))
DATA = DatasetKind(
    Shuffled, load, lambda args: DatasetFacts(1297, 500, (1, 8, 8), 10), rules=(ordered,)
)
"""
SWEEP = """\
schema: 1
name: rules
dataset: {name: digits}
model: {name: mlp}
train: {epochs: 1, batch_size: 8}
seeds: 2
"""


def mistake(folder: Path, **sections: str) -> str:
    """Return the one mistake of the sweep with these sections, without the file."""
    (folder / "lab.py").write_text(LAB)
    lines = [line for line in SWEEP.splitlines() if line.partition(":")[0] not in sections]
    text = "\n".join([*lines, *(f"{name}: {value}" for name, value in sections.items())])
    path = folder / "s.yaml"
    path.write_text(text + "\n")
    with pytest.raises(SweepError) as raised:
        load_sweep(path)
    assert str(raised.value).count("s.yaml:") == 1, raised.value
    (found,) = [line for line in str(raised.value).splitlines() if "s.yaml:" in line]
    return found.partition("s.yaml:")[2]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"metrics": '["lab.py:METRIC": {low: 3}]'},
            "7:34: metrics.0.lab.py:METRIC.low: found 3; allowed: at most high",
        ),
        (
            {"model": '{name: "lab.py:MODEL", low: 3}'},
            "6:36: model.low: found 3; allowed: at most high",
        ),
        (
            {"dataset": '{name: "lab.py:DATA", low: 3}'},
            "6:37: dataset.low: found 3; allowed: at most high",
        ),
        (
            {"metrics": '["lab.py:METRIC": {high: 16}]'},
            "7:35: metrics.0.lab.py:METRIC.high: found 16; allowed: at most the batch size",
        ),
        (
            {"metrics": '["lab.py:BROKEN"]'},
            "7:11: metrics.0.lab.py:BROKEN: its rule broken raises KeyError: 'middle'",
        ),
        (
            {"metrics": "[cka: {pixel_noise: 4}]"},
            "7:30: metrics.0.cka.pixel_noise: found 4.0; pixel_noise needs mixup_alpha: null",
        ),
        (
            {"metrics": "[simplex: {volume_lambda: [1, 2]}]"},
            "7:36: metrics.0.simplex.volume_lambda: found a list of 2; allowed: one number, or one"
            " per connector (1)",
        ),
    ],
)
def test_a_finding_of_a_declared_rule_is_a_mistake_at_its_place(
    tmp_path: Path, sections: dict[str, str], message: str
) -> None:
    assert mistake(tmp_path, **sections) == message


def test_a_metric_that_does_not_fit_a_cell_names_the_cell(tmp_path: Path) -> None:
    found = mistake(
        tmp_path,
        load="{param: train.batch_size, values: [16, 4]}",
        metrics='["lab.py:METRIC": {high: 8}]',
    )
    assert found.endswith(
        "METRIC.high: found 8; allowed: at most the batch size (in the cell load 4)"
    )
