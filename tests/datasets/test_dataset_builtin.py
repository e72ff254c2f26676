"""Digits, two spirals, and loading by name."""

import hashlib
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from phasegrid import registry
from phasegrid.datasets import DATASETS, Options, SpiralOptions
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.digits import load as load_digits
from phasegrid.datasets.load import check_dataset, load_dataset
from phasegrid.datasets.two_spirals import draw_spirals
from phasegrid.datasets.two_spirals import load as load_spirals
from phasegrid.declare import DatasetFacts, DatasetKind, import_function, make_part
from phasegrid.errors import DataError
from phasegrid.keys import Json


def facts_of(name: str, args: Mapping[str, Json]) -> DatasetFacts:
    facts = import_function(DATASETS[name].facts)(args)
    assert isinstance(facts, DatasetFacts)
    return facts


def seen_facts(data: Dataset) -> DatasetFacts:
    sizes = len(data.train_labels), len(data.test_labels)
    aside = len(data.aside_labels)
    return DatasetFacts(*sizes, data.input_shape, data.num_classes, num_aside=aside)


@pytest.mark.parametrize(("fraction", "aside"), [(1.0, 0.0), (0.1, 0.0), (0.1, 0.33), (1.0, 0.99)])
@pytest.mark.parametrize("name", ["digits", "two_spirals"])
def test_facts_known_before_loading_are_true_after(
    name: str, fraction: float, aside: float
) -> None:
    options = DATASETS[name].args(fraction=fraction, aside=aside)
    data = load_dataset(make_part(name, 1, type(options), asdict(options)))
    assert seen_facts(data) == facts_of(name, asdict(options))


def test_digits_are_split_by_class_and_no_image_is_in_both_parts() -> None:
    data = load_digits()
    train, test = (torch.bincount(x) for x in (data.train_labels, data.test_labels))
    share = 500 / 1797
    assert ((train + test) * share - test).abs().max().item() < 1
    rows = {tuple(image.flatten().tolist()) for image in data.train_inputs}
    assert not rows & {tuple(image.flatten().tolist()) for image in data.test_inputs}


def test_the_split_of_the_digits_is_what_it_was() -> None:
    """Stored results name the digits without their split: it must never change."""
    data = load_digits(normalize=False)
    pixels = (data.test_inputs * 16).round().to(torch.uint8)
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16] == "2a79ab34ef69bdc6"
    assert data.train_inputs.min().item() == 0
    assert data.train_inputs.max().item() == 1


def test_spirals_without_noise_lie_on_their_curve() -> None:
    points = draw_spirals(200, 0.0, np.random.default_rng(0))
    radius = np.hypot(*points[::2].T)
    theta = radius / 1.5
    expected = 1.5 * theta[:, None] * np.stack([-np.cos(theta), np.sin(theta)], axis=1)
    np.testing.assert_allclose(points[::2], expected, atol=1e-9)
    assert radius.max() <= 1.5 * 10 * math.pi / 3
    # theta = max sqrt(U): its mean square is max^2 / 2; 200 draws have 4% standard error
    assert np.mean(theta**2) == pytest.approx((10 * math.pi / 3) ** 2 / 2, rel=0.2)


def test_the_second_spiral_mirrors_the_first() -> None:
    points = draw_spirals(50, 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(points[1::2], -points[::2])


def test_spiral_noise_is_gaussian_of_the_size_asked_for() -> None:
    clean, noisy = (draw_spirals(20_000, s, np.random.default_rng(0)) for s in (0.0, 2.0))
    noise = (noisy - clean)[::2]
    assert noise.std() == pytest.approx(2.0, rel=0.02)
    assert np.mean(noise**4) == pytest.approx(3 * 2.0**4, rel=0.1)


def test_the_first_part_of_the_spirals_is_balanced() -> None:
    data = load_spirals(fraction=0.2)
    assert torch.bincount(data.train_labels).tolist() == [10, 10]


def test_the_test_spirals_are_not_the_training_spirals() -> None:
    data = load_spirals(per_class=30, test_per_class=30, normalize=False)
    assert not torch.isclose(data.train_inputs, data.test_inputs).any()
    one, two = (load_spirals(corruption_seed=seed).train_inputs for seed in (0, 1))
    assert not torch.isclose(one, two).any()


def test_one_pixel_unit_of_the_spirals_is_a_255th_of_their_range() -> None:
    data = load_spirals(normalize=False, image_noise=255.0)
    plain = load_spirals(normalize=False)
    span = (plain.train_inputs.max() - plain.train_inputs.min()).item()
    assert (data.pixel * 255).tolist() == pytest.approx([span] * 2)
    added = data.train_inputs - plain.train_inputs
    assert 0 <= added.min().item() <= added.max().item() <= span


def spirals_kind(load: Any) -> DatasetKind:
    return DatasetKind(SpiralOptions, load, lambda _: None)


def load_replaced(monkeypatch: pytest.MonkeyPatch, load: Any) -> Dataset:
    monkeypatch.setitem(DATASETS, "mine", spirals_kind(load))
    return load_dataset(make_part("mine", 1, Options, asdict(Options())))


def test_a_loader_gets_its_arguments_and_locators(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def load(**args: object) -> Dataset:
        seen.update(args)
        return load_spirals()

    data = load_replaced(monkeypatch, load)
    assert {**seen, "aside": 0.0} == asdict(Options())  # left out at its default
    assert data.train_inputs.device.type == "cpu"


def test_what_a_loader_raises_is_reported_with_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(**_: object) -> Dataset:
        raise KeyError("gone")

    with pytest.raises(DataError, match=r"loading data set mine with .*fraction.*KeyError: 'gone'"):
        load_replaced(monkeypatch, load)


def test_a_name_that_is_not_built_in_is_a_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = {("dataset", "lab.py:MINE"): spirals_kind(load_spirals)}
    monkeypatch.setattr(registry, "resolve", lambda kind, name, _: plugins[kind, name])
    assert load_dataset(make_part("lab.py:MINE", 1, Options, asdict(Options()))).num_classes == 2


def test_a_loader_must_return_a_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="its load function returned NoneType"):
        load_replaced(monkeypatch, lambda **_: None)


def test_what_planning_needs_never_imports_torch() -> None:
    modules = "phasegrid.datasets.npz_file, phasegrid.models.counting, phasegrid.models.shapes"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"train_inputs": torch.zeros(100, 2).double()}, "train_inputs are torch.float64"),
    ({"test_labels": torch.zeros(200)}, r"test_labels are torch.float32 \(200,\), not int64"),
    ({"train_labels": torch.zeros(9, dtype=torch.int64)}, "train has 100 inputs and 9 labels"),
    ({"num_classes": 1}, "train_labels run from 0 to 1; with 1 classes allowed: 0 to 0"),
    ({"test_inputs": torch.full((200, 2), torch.nan)}, "test_inputs hold NaN or infinities"),
    ({"test_inputs": torch.zeros(200, 3)}, r"shape \(2,\), one test input \(3,\)"),
    ({"pixel": torch.ones(3, 1, 1)}, r"pixel has the shape \(3, 1, 1\), which does not broadcast"),
    ({"padding": torch.ones(3)}, r"padding has the shape \(3,\), which does not broadcast"),
    ({"augment": "flip_crop"}, r"flip_crop, but inputs of the shape \(2,\) are not images"),
]


@pytest.mark.parametrize(("change", "message"), MALFORMED)
def test_a_malformed_dataset_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_dataset("mine", replace(load_spirals(), **change))


def test_mistakes_are_reported_together() -> None:
    broken = replace(load_spirals(), num_classes=1, pixel=torch.ones(5))
    with pytest.raises(DataError, match=r"train_labels run.*test_labels run.*pixel has"):
        check_dataset("mine", broken)
