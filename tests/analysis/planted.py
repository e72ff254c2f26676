"""Diagrams whose true phases are known: smooth landscapes and blocks, with noise over seeds and
over pairs.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from phasegrid.analysis.tables.grid import (
    CELL_COLUMNS,
    CURVE_COLUMNS,
    VALUE_COLUMNS,
    Floats,
    SweepTables,
)

Pairs = Literal["first", "ring", "all"]
LOSS, HESSIAN, TOLERANCE, CKA = 0.1, 250.0, 1.0, 0.7
"""The true borders; `RULES` of the tests say the same."""

BLOCKS: dict[str, tuple[float, float, float, float]] = {
    "I": (0.8, 2000.0, -12.0, 0.4),
    "II": (0.5, 900.0, 4.0, 0.45),
    "III": (0.004, 60.0, -8.0, 0.5),
    "IV-A": (0.002, 40.0, -0.2, 0.55),
    "IV-B": (0.001, 30.0, 0.0, 0.8),
}
"""Loss, trace, mode connectivity and CKA of blocks of cells that are alike."""


@dataclass(frozen=True)
class Recipe:
    """How a diagram is planted. `mc_noise` is the standard deviation of one curve in points, at
    `scaled` cells in proportion to mode connectivity (of 10 points at `mc_noise`); `shared` the
    part of a pair's variance that comes from its two seeds.
    """

    seeds: int = 5
    pairs: Pairs = "first"
    mc_noise: float = 1.0
    smooth: bool = True
    scaled: bool = False
    shared: float = 0.2
    rows: int = 9
    columns: int = 8


def planted(recipe: Recipe, rng: np.random.Generator) -> tuple[SweepTables, npt.NDArray[np.str_]]:
    """Return a diagram and the true phase of every cell."""
    means = _smooth(recipe, rng) if recipe.smooth else _blocks(recipe, rng)
    loss, trace, mc, cka = (array.ravel() for array in means)
    cells = _cells(recipe)
    noise = recipe.mc_noise * (0.05 + np.abs(mc) / 10 if recipe.scaled else np.ones(len(mc)))
    parts = [
        _trials("train_loss", loss, 0.15, recipe, rng),
        _trials("trace", trace, 0.25, recipe, rng),
        _pairs("cka", cka, np.full(len(cka), 0.03), "all", recipe, rng),
        _pairs("mode_connectivity", mc, noise, recipe.pairs, recipe, rng),
    ]
    values = pd.concat(parts, ignore_index=True).merge(cells[list(_PLACE)], on="cell")
    values = values.assign(stderr=np.nan, outcome="done", num_trials=1)[list(VALUE_COLUMNS)]
    curves = pd.DataFrame(columns=list(CURVE_COLUMNS))
    grid = SweepTables("planted", "model.width", "train.batch_size", cells, values, curves)
    return grid, true_phases(loss, trace, mc, cka)


def true_phases(loss: Floats, trace: Floats, mc: Floats, cka: Floats) -> npt.NDArray[np.str_]:
    """Return the phases of true means, by the rule written out once more."""
    high = (np.log(loss / LOSS) / 1.85 + np.log(trace / HESSIAN)) > 0
    sharp = high | (mc > TOLERANCE)
    four = np.where(cka > CKA, "IV-B", "IV-A")
    flat = np.where(mc < -TOLERANCE, "III", four)
    return np.where(sharp, np.where(mc < -TOLERANCE, "I", "II"), flat)


_PLACE = ("cell", "facet", "load", "load_label", "temperature", "temperature_label")


def _cells(recipe: Recipe) -> pd.DataFrame:
    place = [(x, y) for y in range(recipe.rows) for x in range(recipe.columns)]
    return pd.DataFrame(
        {
            "cell": range(len(place)),
            "facet": "[]",
            "load": [2.0**x for x, _ in place],
            "load_label": [str(2**x) for x, _ in place],
            "temperature": [2.0**y for _, y in place],
            "temperature_label": [str(2**y) for _, y in place],
            "num_classes": 1000.0,
            "n_planned": recipe.seeds,
            "n_done": recipe.seeds,
            "n_diverged": 0,
        }
    )[list(CELL_COLUMNS)]


def _smooth(recipe: Recipe, rng: np.random.Generator) -> tuple[Floats, ...]:
    """Loss and trace rise with temperature and fall with load, barriers fall with load, CKA rises:
    as in Fig. 3.
    """
    x = np.linspace(0, 1, recipe.columns)[None, :] + np.zeros((recipe.rows, 1))
    y = np.linspace(0, 1, recipe.rows)[:, None] + np.zeros((1, recipe.columns))
    bend, shift = rng.uniform(0.5, 1.5), rng.uniform(-0.1, 0.1)
    heat = 1.2 * (y - 0.55 + shift) - bend * (x - 0.4) * 0.8
    loss = np.exp(-2.3 + 7 * np.tanh(2 * heat) + rng.normal() * 0.2)
    trace = np.exp(5.5 + 2.5 * np.tanh(2 * heat + 0.1 * rng.normal()))
    barrier = -18 * np.exp(-4.5 * (x + 0.1 * y * bend))
    hot = 5 * np.maximum(heat + 0.15 * rng.normal(), 0) ** 1.5 * (x > 0.15)
    cka = 0.45 + 0.4 * x - 0.25 * np.abs(y - 0.45) + 0.05 * rng.normal()
    return np.minimum(loss, 2.0), trace, barrier + hot * 3, np.clip(cka, 0.1, 0.97)


def _blocks(recipe: Recipe, rng: np.random.Generator) -> tuple[Floats, ...]:
    """Five blocks: II on top, I to the left, III beside it, IV-B and IV-A to the right."""
    top, left = rng.integers(1, recipe.rows // 2 + 1), rng.integers(1, recipe.columns // 2)
    middle = rng.integers(left + 1, recipe.columns)
    names = np.full((recipe.rows, recipe.columns), "IV-B")
    names[rng.integers(top + 1, recipe.rows) :, middle:] = "IV-A"
    names[:, left:middle] = "III"
    names[:, :left] = "I"
    names[:top, left:] = "II"
    numbers = np.array([[BLOCKS[name] for name in row] for row in names])
    return tuple(np.moveaxis(numbers, -1, 0))


def _trials(
    name: str, mean: Floats, spread: float, recipe: Recipe, rng: np.random.Generator
) -> pd.DataFrame:
    factor = np.exp(spread * rng.standard_normal((len(mean), recipe.seeds)) - spread**2 / 2)
    return pd.DataFrame(
        {
            "quantity": name,
            "cell": np.repeat(np.arange(len(mean)), recipe.seeds),
            "seed_a": np.tile(np.arange(recipe.seeds, dtype=float), len(mean)),
            "seed_b": np.nan,
            "value": (mean[:, None] * factor).ravel(),
        }
    )


def _pairs(
    name: str, mean: Floats, noise: Floats, which: Pairs, recipe: Recipe, rng: np.random.Generator
) -> pd.DataFrame:
    chosen = list(combinations(range(recipe.seeds), 2))
    if which == "ring" and recipe.seeds > 2:
        chosen = [tuple(sorted((s, (s + 1) % recipe.seeds))) for s in range(recipe.seeds)]
    if which == "first":
        chosen = [(0, 1)]
    a, b = (np.array([pair[i] for pair in chosen]) for i in (0, 1))
    u = rng.standard_normal((len(mean), recipe.seeds)) * np.sqrt(recipe.shared / 2)
    e = rng.standard_normal((len(mean), len(chosen))) * np.sqrt(1 - recipe.shared)
    values = mean[:, None] + noise[:, None] * (u[:, a] + u[:, b] + e)
    return pd.DataFrame(
        {
            "quantity": name,
            "cell": np.repeat(np.arange(len(mean)), len(chosen)),
            "seed_a": np.tile(a, len(mean)).astype(float),
            "seed_b": np.tile(b, len(mean)).astype(float),
            "value": values.ravel(),
        }
    )
