"""Grids of made-up numbers with known phases."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from phasegrid.analysis.tables.grid import CELL_COLUMNS, CURVE_COLUMNS, VALUE_COLUMNS, SweepTables

Numbers = dict[str, float]
MakeGrid = Callable[..., SweepTables]

KINDS: dict[str, Numbers] = {
    "I": {"train_loss": 0.8, "trace": 2000.0, "mode_connectivity": -12.0, "cka": 0.4},
    "II": {"train_loss": 0.5, "trace": 900.0, "mode_connectivity": 4.0, "cka": 0.45},
    "III": {"train_loss": 0.004, "trace": 60.0, "mode_connectivity": -8.0, "cka": 0.5},
    "IV-A": {"train_loss": 0.002, "trace": 40.0, "mode_connectivity": -0.2, "cka": 0.52},
    "IV-B": {"train_loss": 0.001, "trace": 30.0, "mode_connectivity": 0.0, "cka": 0.8},
    "collapsed": {"train_loss": 2.31, "trace": 0.9, "mode_connectivity": 0.1, "cka": float("nan")},
}
PAIRS = ("mode_connectivity", "cka", "l2_distance")

LAYOUT: list[list[str | None]] = [
    ["collapsed", "II", "II", "II"],
    ["I", "II", "IV-B", "IV-B"],
    ["I", "III", "IV-B", "IV-B"],
    ["I", "III", "IV-A", "IV-A"],
]
"""Rows: batch 16, 64, 256, 1024; columns: width 4, 16, 64, 256."""


def _make(
    layout: Sequence[Sequence[str | None]] | None = None,
    *,
    loads: Sequence[object] = (4, 16, 64, 256),
    temperatures: Sequence[object] = (16, 64, 256, 1024),
    load_path: str = "model.width",
    temperature_path: str = "train.batch_size",
    facets: Sequence[str] = ("[]",),
    seeds: int = 4,
    noise: float = 0.05,
    mc_pairs: str = "first",
) -> SweepTables:
    """A label in `layout` gives a cell its numbers; None leaves it missing, ``diverged`` makes
    every trial diverge.
    """
    rng = np.random.default_rng(0)
    cells, values, curves = [], [], []
    for facet in facets:
        for i, load in enumerate(loads):
            for j, temperature in enumerate(temperatures):
                kind = (layout or LAYOUT)[j][i]
                cell = _cell(len(cells), facet, load, temperature, kind, seeds)
                cells.append(cell)
                for row in _values(kind, seeds, noise, rng, mc_pairs):
                    values.append({**cell, **row})
                if kind in KINDS:
                    curves += [
                        {
                            "cell": cell["cell"],
                            "seed_a": 0,
                            "seed_b": 1,
                            "t": t,
                            "train_error_percent": e,
                        }
                        for t, e in zip(
                            (0, 0.5, 1),
                            (5.0, 5.0 - KINDS[kind]["mode_connectivity"], 5.0),
                            strict=True,
                        )
                    ]
    frame = pd.DataFrame(values, columns=list(VALUE_COLUMNS))
    frame["seed_b"] = frame["seed_b"].astype(float)
    return SweepTables(
        "toy",
        load_path,
        temperature_path,
        pd.DataFrame(cells)[list(CELL_COLUMNS)],
        frame,
        pd.DataFrame(curves, columns=list(CURVE_COLUMNS)),
    )


def _cell(
    index: int, facet: str, load: object, temperature: object, kind: str | None, seeds: int
) -> dict[str, object]:
    return {
        "cell": index,
        "facet": facet,
        "load": float(load) if isinstance(load, (int, float)) else np.nan,
        "load_label": str(load),
        "temperature": float(temperature) if isinstance(temperature, (int, float)) else np.nan,
        "temperature_label": str(temperature),
        "num_classes": 10.0,
        "n_planned": seeds,
        "n_done": seeds if kind in KINDS else 0,
        "n_diverged": seeds if kind == "diverged" else 0,
    }


def _values(
    kind: str | None, seeds: int, noise: float, rng: np.random.Generator, mc_pairs: str
) -> list[dict[str, object]]:
    if kind is None:
        return []
    if kind == "diverged":
        return [
            {
                "quantity": "train_loss",
                "seed_a": s,
                "seed_b": None,
                "value": np.nan,
                "stderr": np.nan,
                "outcome": "diverged",
            }
            for s in range(seeds)
        ]
    numbers = KINDS[kind]
    rows: list[dict[str, object]] = []
    accuracy = 10.0 if kind == "collapsed" else 95.0 - 10 * numbers["train_loss"]
    trial = {
        "train_loss": numbers["train_loss"],
        "trace": numbers["trace"],
        "lambda_max": numbers["trace"] / 10,
        "train_accuracy": accuracy,
        "test_accuracy": accuracy - 3,
    }
    for name, value in trial.items():
        spread = 0.01 if kind == "collapsed" else noise
        for s in range(seeds):
            rows.append(_row(name, s, None, value * (1 + spread * rng.standard_normal())))
    for a in range(seeds):
        for b in range(a + 1, seeds):
            rows.append(_row("l2_distance", a, b, 40 + rng.standard_normal()))
            rows.append(_row("cka", a, b, numbers["cka"] + 0.01 * rng.standard_normal()))
            if mc_pairs == "all" or (a, b) == (0, 1):
                wobble = 0.05 * rng.standard_normal()
                rows.append(_row("mode_connectivity", a, b, numbers["mode_connectivity"] + wobble))
    return rows


def _row(name: str, a: int, b: int | None, value: float) -> dict[str, object]:
    return {
        "quantity": name,
        "seed_a": a,
        "seed_b": b,
        "value": value,
        "stderr": np.nan,
        "outcome": "done",
    }


@pytest.fixture
def make_grid() -> MakeGrid:
    """The maker of toy grids."""
    return _make
