"""Predictions and ensembles on corrupted test sets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from point_support import generator, seeded
from torch import nn

import phasegrid
from phasegrid.config.load import load_sweep
from phasegrid.datasets.corrupting import shifted
from phasegrid.datasets.corruptions import AMOUNTS, Shift
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.load import load_dataset
from phasegrid.errors import SweepError
from phasegrid.jobs import Part
from phasegrid.metrics.ensemble.compute import compute as ensemble
from phasegrid.metrics.measured import Source
from phasegrid.metrics.predictions.compute import compute as predict

HEAD = """\
schema: 1
name: shift
dataset: {name: digits}
model: {name: mlp, width: 16}
train: {epochs: 5, batch_size: 32, lr: 0.1}
seeds: 2
metrics:
"""


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 4))


def pictures() -> Dataset:
    images = torch.rand(24, 3, 6, 6, generator=generator(0), dtype=torch.float64)
    scale = torch.full((3, 1, 1), 2.0, dtype=torch.float64)  # inputs are 2 x - 1
    labels = torch.randint(0, 4, (24,), generator=generator(1))
    inputs = 2 * images - 1
    return Dataset("pictures", inputs, labels, inputs, labels, 4, scale / 255, -scale / 2)


def measured(data: Dataset, **args: Any) -> Any:
    models = [seeded(network, seed) for seed in range(3)]
    found = [predict([model], data, generator(0), **args) for model in models]
    sources = [
        Source(one.artifacts["predictions"], "predictions", "predictions", args) for one in found
    ]
    return ensemble([], data, generator(0), sources, train=False, **args)


def test_an_ensemble_on_a_corrupted_set_is_that_of_its_networks_there() -> None:
    data = pictures()
    row = measured(data, corruption="contrast", severity=4)
    there = replace(shifted(data, Shift("contrast", 4)))
    assert row == measured(there)
    assert row != measured(data)
    live = [seeded(network, seed) for seed in range(3)]
    args = {"corruption": "contrast", "severity": 4, "train": False}
    assert ensemble(live, data, generator(0), **args) == row


def test_numbers_of_all_corruptions_are_means_of_those_of_each() -> None:
    data = pictures()
    row = measured(data, corruption="all", severity=5)
    each = [measured(data, corruption=name, severity=5) for name in AMOUNTS]
    for name in ("test_loss", "test_error_percent", "test_ece", "test_brier", "mean_test_loss"):
        mean = sum(float(one[name]) for one in each) / len(each)
        assert row[name] == pytest.approx(mean, rel=1e-12), name


def sweep_of(folder: Path, metrics: str, head: str = HEAD) -> Any:
    path = folder / "shift.yaml"
    path.write_text(head + metrics, encoding="utf-8")
    return load_sweep(path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("severity: 3", r"found 3, but no corruption; name one, or write severity: 0"),
        ("corruption: blur", r"found blur without a severity; write severity: 1 to 5"),
        ("corruption: fog, severity: 1", r"found fog, which is not made; made are gaussian_noise"),
        ("corruption: blur, severity: 6", "severity"),
    ],
)
def test_a_shift_that_says_nothing_is_a_mistake(tmp_path: Path, args: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        sweep_of(tmp_path, f"  - ensemble: {{{args}}}\n")


def test_only_images_are_corrupted(tmp_path: Path) -> None:
    head = HEAD.replace("digits", "two_spirals")
    with pytest.raises(SweepError, match=r"found blur, but an input .* needs images"):
        sweep_of(tmp_path, "  - predictions: {corruption: blur, severity: 1}\n", head)


def test_a_sweep_measures_on_made_and_published_images(tmp_path: Path) -> None:
    digits = load_dataset(Part("digits", 1, {}, {}))
    labels = digits.test_labels.numpy()
    pixels = (digits.test_inputs - digits.padding) / digits.pixel
    codes = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.save(tmp_path / "fog.npy", np.concatenate([codes, 255 - codes, codes, codes, codes]))
    np.save(tmp_path / "labels.npy", np.tile(labels, 5))
    files = f"corruption_source: files, corruption_root: {tmp_path}"
    sweep = sweep_of(
        tmp_path,
        "  - ensemble: {train: false}\n"
        f"  - ensemble: {{train: false, corruption: fog, severity: 1, {files}}}\n"
        f"  - ensemble: {{train: false, corruption: fog, severity: 2, {files}}}\n"
        "  - ensemble: {train: false, corruption: all, severity: 3}\n",
    )
    phasegrid.run(sweep, tmp_path / "store", serial=True)
    rows = phasegrid.open(str(tmp_path / "store")).metric("ensemble", "shift")
    error = dict(zip(rows["args"], rows["test_error_percent"], strict=True))

    def of(words: str) -> float:
        return next(value for text, value in error.items() if words in text)

    clean = next(value for text, value in error.items() if "severity" not in text)
    same, inverted, made = of('"severity":1'), of('"severity":2'), of('"all"')
    assert same == pytest.approx(clean, abs=1.0)  # bytes are rounded
    assert inverted > clean + 5
    assert made != clean
