"""Fraction, label noise, image noise and normalisation, against plain NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phasegrid.datasets import Options, kept_count, preparing
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.preparing import (
    CHUNK,
    Raw,
    add_image_noise,
    channel_statistics,
    corrupt_labels,
    kept_indices,
    set_aside,
)
from phasegrid.errors import DataError


def prepare(raw: Raw, options: Options) -> Dataset:
    return preparing.prepare(raw, options).decoded()


def raw_images(num: int = 60, shape: tuple[int, ...] = (3, 4, 5), classes: int = 4) -> Raw:
    rng = np.random.default_rng(7)
    return Raw(
        "drawn",
        rng.integers(0, 256, (num, *shape), dtype=np.uint8),
        rng.integers(0, classes, num),
        rng.integers(0, 256, (20, *shape), dtype=np.uint8),
        rng.integers(0, classes, 20),
        classes,
    )


def test_normalised_inputs_have_mean_zero_and_deviation_one_per_channel() -> None:
    inputs = prepare(raw_images(), Options()).train_inputs.double()
    mean = inputs.mean(dim=(0, 2, 3))
    std = inputs.std(dim=(0, 2, 3), correction=0)
    # float32 rounding of values up to 2: 1e-7 each, averaged
    torch.testing.assert_close(mean, torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(std, torch.ones(3).double(), atol=1e-6, rtol=0)


def test_normalisation_matches_a_plain_float64_computation_on_both_sets() -> None:
    raw = raw_images()
    train = raw.train_inputs.astype(np.float64)
    mean, std = train.mean((0, 2, 3), keepdims=True), train.std((0, 2, 3), keepdims=True)
    data = prepare(raw, Options())
    np.testing.assert_allclose(data.train_inputs, (train - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(data.test_inputs, (raw.test_inputs - mean) / std, atol=1e-6)
    assert data.train_inputs.dtype == torch.float32
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64


def test_statistics_do_not_depend_on_the_size_of_the_chunks() -> None:
    values = np.random.default_rng(0).normal(5, 2, (2 * CHUNK + 3, 3)).astype(np.float32)
    mean, std = channel_statistics(values)
    np.testing.assert_allclose(mean, values.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, values.astype(np.float64).std(0), rtol=1e-12)


def test_statistics_survive_a_large_offset() -> None:
    values = 1e9 + np.random.default_rng(0).normal(0, 1, (500, 1))
    shifted = values - 1e9
    raw = Raw("far", values, np.arange(500) % 2, values, np.arange(500) % 2, 2)
    data = prepare(raw, Options())
    expected = (shifted - shifted.mean()) / shifted.std()
    # 1e9 in float64 has digits down to 1e-7
    np.testing.assert_allclose(data.train_inputs, expected, atol=1e-5)


def test_pixel_is_what_one_pixel_unit_measures() -> None:
    raw = raw_images()
    brighter = replace(raw, test_inputs=raw.test_inputs.astype(np.float32) + 1)
    plain, moved = prepare(raw, Options()), prepare(brighter, Options())
    difference = (moved.test_inputs - plain.test_inputs).mean(dim=(0, 2, 3))
    torch.testing.assert_close(plain.pixel.flatten(), difference, rtol=1e-4, atol=0)
    assert plain.pixel.shape == (3, 1, 1)


def test_padding_is_what_a_pixel_of_value_zero_becomes() -> None:
    raw = raw_images()
    black = replace(raw, test_inputs=np.zeros_like(raw.test_inputs))
    data = prepare(black, Options())
    assert torch.equal(data.test_inputs, data.padding.expand_as(data.test_inputs))


def test_a_constant_channel_becomes_zero_and_keeps_its_unit() -> None:
    raw = raw_images()
    images = raw.train_inputs.astype(np.float32)
    images[:, 1] = 0.1  # has no exact mean
    data = prepare(replace(raw, train_inputs=images), Options())
    assert data.pixel[1].item() == 1
    assert data.train_inputs[:, 1].abs().max().item() < 1e-6


def test_images_without_normalisation_are_in_zero_to_one() -> None:
    raw = raw_images()
    data = prepare(raw, Options(normalize=False))
    np.testing.assert_allclose(data.train_inputs, raw.train_inputs / 255, rtol=1e-6)
    assert torch.equal(data.padding, torch.zeros(3, 1, 1))
    torch.testing.assert_close(data.pixel, torch.full((3, 1, 1), 1 / 255))


def test_vectors_are_normalised_per_entry() -> None:
    data = prepare(raw_images(shape=(5,)), Options())
    assert data.pixel.shape == (5,)
    torch.testing.assert_close(data.train_inputs.mean(0), torch.zeros(5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("fraction", [0.001, 0.33, 0.5, 1.0])
def test_fraction_keeps_the_first_examples(fraction: float) -> None:
    kept = kept_indices(60, Options(fraction=fraction))
    assert kept.tolist() == list(range(max(1, int(np.floor(fraction * 60 + 0.5)))))


def test_sampled_fractions_are_nested_and_without_repetition() -> None:
    small, large, whole = (
        kept_indices(60, Options(fraction=fraction, subset="sample")).tolist()
        for fraction in (0.2, 0.5, 1.0)
    )
    assert len(set(small)) == len(small) == kept_count(60, 0.2)
    assert set(small) < set(large)
    assert whole == list(range(60))


def test_another_corruption_seed_samples_others() -> None:
    one, two = (
        kept_indices(60, Options(fraction=0.5, subset="sample", corruption_seed=seed))
        for seed in (0, 1)
    )
    assert one.tolist() != two.tolist()


def test_what_is_set_aside_is_taken_out_of_the_training_set() -> None:
    raw = raw_images(num=40)
    whole, split = prepare(raw, Options(normalize=False)), Options(normalize=False, aside=0.3)
    data = prepare(raw, split)
    assert (len(data.train_labels), len(data.aside_labels)) == (28, 12)
    parts = [data.train_inputs, data.aside_inputs]
    found = sorted(map(tuple, torch.cat(parts).flatten(1).tolist()))
    assert found == sorted(map(tuple, whole.train_inputs.flatten(1).tolist()))
    kept, aside = set_aside(np.arange(40), split)
    assert torch.equal(data.train_labels, whole.train_labels[kept])
    assert torch.equal(data.aside_labels, whole.train_labels[aside])


def test_a_smaller_part_set_aside_is_the_first_of_a_larger_one() -> None:
    small, large = (set_aside(np.arange(40), Options(aside=share))[1] for share in (0.2, 0.5))
    assert small.tolist() == large[:8].tolist()
    other = set_aside(np.arange(40), Options(aside=0.2, corruption_seed=1))[1]
    assert small.tolist() != other.tolist()


def test_what_is_set_aside_gets_no_noise_and_the_statistics_of_the_training_set() -> None:
    raw = raw_images()
    clean, noisy = (
        prepare(raw, Options(aside=0.5, label_noise=noise, image_noise=0.0)) for noise in (0.0, 0.9)
    )
    assert not torch.equal(noisy.train_labels, clean.train_labels)
    assert torch.equal(noisy.aside_labels, clean.aside_labels)
    _, aside = set_aside(np.arange(60), Options(aside=0.5))
    mean, std = channel_statistics(raw.train_inputs[np.setdiff1d(np.arange(60), aside)])
    expected = (raw.train_inputs[aside] - mean) / std
    np.testing.assert_allclose(clean.aside_inputs.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.125, 0.5, 1.0])
def test_label_noise_replaces_an_exact_number_by_a_different_class(noise: float) -> None:
    labels = np.arange(60) % 4
    corrupted = corrupt_labels(labels, 4, Options(label_noise=noise))
    assert int((corrupted != labels).sum()) == int(np.floor(60 * noise + 0.5))
    assert corrupted.min() >= 0
    assert corrupted.max() <= 3


def test_wrong_labels_are_uniform_over_the_other_classes() -> None:
    labels = np.zeros(30_000, dtype=np.int64)
    corrupted = corrupt_labels(labels, 4, Options(label_noise=1.0))
    counts = np.bincount(corrupted, minlength=4)
    assert counts[0] == 0
    # binomial(30000, 1/3): standard deviation 82, five of them allowed
    assert np.abs(counts[1:] - 10_000).max() < 410


def test_noise_to_any_class_leaves_one_in_classes_unchanged() -> None:
    labels = np.arange(40_000) % 4
    options = Options(label_noise=0.5, label_noise_to="any")
    changed = int((corrupt_labels(labels, 4, options) != labels).sum())
    # binomial(20000, 3/4): standard deviation 61, five of them allowed
    assert abs(changed - 15_000) < 305


def test_larger_label_noise_keeps_the_wrong_labels_of_a_smaller_one() -> None:
    labels = np.arange(200) % 4
    small, large = (corrupt_labels(labels, 4, Options(label_noise=noise)) for noise in (0.1, 0.4))
    touched = small != labels
    assert touched.sum() == 20
    assert (large[touched] == small[touched]).all()


def test_corruption_leaves_the_raw_arrays_and_the_test_labels_alone() -> None:
    raw = raw_images()
    before = raw.train_labels.copy(), raw.train_inputs.copy()
    data = prepare(raw, Options(label_noise=1.0, image_noise=100.0))
    assert (raw.train_labels == before[0]).all()
    assert (raw.train_inputs == before[1]).all()
    assert data.test_labels.tolist() == raw.test_labels.tolist()


def test_image_noise_is_uniform_above_the_image_and_never_wraps() -> None:
    clean = np.full((2000, 1, 4, 4), 255, dtype=np.float32)
    noisy = clean.copy()
    add_image_noise(noisy, 64.0, corruption_seed=3)
    added = noisy - clean
    assert added.min() >= 0
    assert added.max() <= 64
    # mean of 32,000 draws of U[0, 64]: standard deviation 0.1
    assert abs(added.mean() - 32) < 0.5
    assert abs(added.var() - 64**2 / 12) < 10


def test_image_noise_scales_with_its_amount_and_spares_the_test_set() -> None:
    raw = raw_images()
    clean, one, two = (
        prepare(raw, Options(image_noise=u, normalize=False)) for u in (0.0, 50.0, 100.0)
    )
    torch.testing.assert_close(
        two.train_inputs - clean.train_inputs,
        2 * (one.train_inputs - clean.train_inputs),
        atol=1e-6,
        rtol=0,
    )
    assert torch.equal(two.test_inputs, clean.test_inputs)


def test_normalisation_uses_the_corrupted_training_set() -> None:
    clean, noisy = (prepare(raw_images(), Options(image_noise=u)) for u in (0.0, 100.0))
    assert (noisy.test_inputs.mean() < clean.test_inputs.mean() - 0.3).item()
    torch.testing.assert_close(noisy.train_inputs.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_the_streams_are_what_they_were() -> None:
    """Stored results name their corruption by its seed alone: the draws must never change."""
    options = Options(fraction=0.1, subset="sample", label_noise=0.5)
    noisy = np.zeros((2, 1, 2, 2), dtype=np.float32)
    add_image_noise(noisy, 255.0, corruption_seed=0)
    assert kept_indices(60, options).tolist() == KEPT
    assert corrupt_labels(np.zeros(8), 10, options).tolist() == LABELS
    np.testing.assert_allclose(noisy.flatten()[:3], NOISE, rtol=1e-5)


KEPT = [7, 9, 11, 46, 48, 53]
LABELS = [5, 4, 0, 0, 0, 1, 2, 0]
NOISE = [49.0326, 154.5044, 195.5679]


def test_flip_crop_of_vectors_is_refused() -> None:
    with pytest.raises(DataError, match=r"flip_crop, but one input has the shape \(5,\)"):
        prepare(raw_images(shape=(5,)), Options(augment="flip_crop"))
