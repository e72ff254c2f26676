"""Corrupted test sets: made on tensors, and read from the published files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from phasegrid.datasets.corrupted_files import read_images
from phasegrid.datasets.corrupting import corrupted, in_sets, shifted
from phasegrid.datasets.corruptions import AMOUNTS, BENCHMARK, Shift
from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import DataError

MEAN, STD = (
    torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1),
    torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1),
)


def photographs(num: int = 40, side: int = 12) -> Tensor:
    """Draw images with pixels in 0..1 whose neighbours are alike."""
    rng = torch.Generator().manual_seed(3)
    coarse = torch.rand(num, 3, 4, 4, generator=rng)
    return torch.nn.functional.interpolate(coarse, side, mode="bilinear")


def normalised(images: Tensor) -> Dataset:
    inputs, labels = (images - MEAN) / STD, torch.arange(len(images)) % 5
    pixel, padding = 1 / (255 * STD), -MEAN / STD
    return Dataset("photographs", inputs, labels, inputs, labels, 5, pixel, padding)


def pixels_of(data: Dataset) -> Tensor:
    return data.test_inputs * STD + MEAN


@pytest.mark.parametrize("name", AMOUNTS)
def test_a_corruption_gives_the_same_images_again_and_grows_with_severity(name: str) -> None:
    images = photographs(10, 32)
    each = [corrupted(images, name, severity) for severity in range(1, 6)]
    assert torch.equal(each[2], corrupted(images, name, 3))
    apart = [float((one - images).abs().mean()) for one in each]
    assert 0 < apart[0] < apart[4]
    assert name == "pixelate" or apart == sorted(apart)  # a finer grid may fit the pixels worse
    assert all(float(one.min()) >= 0 and float(one.max()) <= 1 for one in each)


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise"])
def test_noise_depends_on_the_seed_alone(name: str) -> None:
    images = photographs()
    assert not torch.equal(corrupted(images, name, 3, 0), corrupted(images, name, 3, 1))
    assert torch.equal(corrupted(images, name, 3, 1), corrupted(images, name, 3, 1))


@pytest.mark.parametrize("levels", [255, 16])
@pytest.mark.parametrize("name", AMOUNTS)
def test_images_are_the_same_however_the_data_are_normalised(name: str, levels: int) -> None:
    images = (photographs(20) * levels).round() / levels
    images = images.masked_fill(images < 0.4, 0)  # a rate of 0 draws nothing, one of 1e-9 does
    raw, shift = normalised(images), Shift(corruption=name, severity=3)  # type: ignore[arg-type]
    raw = replace(raw, test_inputs=images, pixel=torch.tensor(1 / 255), padding=torch.zeros(()))
    expected = shifted(raw, shift).test_inputs
    for mean, std in ((0.43, 0.37), (0.301, 0.377)):
        pixel, padding = torch.tensor(1 / (255 * std)), torch.tensor(-mean / std)
        data = replace(raw, test_inputs=(images - mean) / std, pixel=pixel, padding=padding)
        found = shifted(data, shift).test_inputs * std + mean
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # of float32


def test_one_pixel_is_its_own_mean() -> None:
    pixel = torch.full((1, 1, 1, 1), 0.25)
    assert torch.equal(corrupted(pixel, "pixelate", 5), pixel)


def test_noise_has_the_moments_of_its_formula() -> None:
    grey = torch.full((60, 3, 32, 32), 0.5)
    num = grey.numel()
    normal, photons = (corrupted(grey, f"{one}_noise", 5).double() for one in ("gaussian", "shot"))
    # The deviation of a standard deviation is about s / sqrt(2 n): 5 of them.
    assert float(normal.std()) == pytest.approx(0.1, abs=5 * 0.1 / (2 * num) ** 0.5)
    assert float(photons.std()) == pytest.approx((0.5 / 50) ** 0.5, rel=0.02)
    flipped = corrupted(grey, "impulse_noise", 5)
    assert float((flipped == 0).double().mean()) == pytest.approx(0.035, abs=0.002)
    assert float((flipped == 1).double().mean()) == pytest.approx(0.035, abs=0.002)


def test_contrast_brightness_and_pixelation_are_those_of_their_formulas() -> None:
    images = photographs()
    mean = images.mean(dim=(2, 3), keepdim=True)
    expected = (mean + 0.15 * (images - mean)).clamp(0, 1)
    torch.testing.assert_close(corrupted(images, "contrast", 5), expected)
    torch.testing.assert_close(corrupted(images, "brightness", 2), (images + 0.1).clamp(0, 1))
    coarse = corrupted(images[:1], "pixelate", 5)  # 12 pixels in 7
    assert len(coarse[0, 0].unique()) <= 49


def test_a_blur_is_that_of_scipy() -> None:
    from scipy.ndimage import gaussian_filter

    images = photographs(4)
    expected = gaussian_filter(images.double().numpy(), (0, 0, 1.0, 1.0), mode="nearest")
    found = corrupted(images, "blur", 5)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_corruption_works_on_pixels_of_normalised_images() -> None:
    images = photographs()
    found = shifted(normalised(images), Shift("brightness", 3))
    torch.testing.assert_close(pixels_of(found), (images + 0.15).clamp(0, 1))
    assert torch.equal(found.train_inputs, normalised(images).train_inputs)


def test_severity_0_and_no_corruption_leave_the_data_itself() -> None:
    data = normalised(photographs())
    assert shifted(data, Shift("all", 0)) is data
    assert shifted(data, Shift()) is data


def test_all_corruptions_are_test_sets_one_after_another() -> None:
    data = normalised(photographs())
    found, num = shifted(data, Shift("all", 4)), len(data.test_labels)
    for place, name in enumerate(AMOUNTS):
        own = slice(place * num, (place + 1) * num)
        assert torch.equal(found.test_inputs[own], shifted(data, Shift(name, 4)).test_inputs)
        assert torch.equal(found.test_labels[own], data.test_labels)
    assert torch.equal(in_sets(data, Shift("all", 4)).test_labels, found.test_labels)


def test_pixels_outside_black_and_white_are_refused() -> None:
    data = normalised(photographs() * 3)
    with pytest.raises(DataError, match=r"photographs: found pixels from .* to .*; allowed: 0"):
        shifted(data, Shift("blur", 1))


def written(folder: Path, data: Dataset, names: tuple[str, ...] = ("fog",)) -> np.ndarray:  # type: ignore[type-arg]
    """Write the files of five severities of a test set; return the images of the first."""
    num, (channels, height, width) = len(data.test_labels), data.input_shape
    rng = np.random.default_rng(0)
    shape = (5 * num, height, width, channels)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in names]
    for name, own in zip(names, images, strict=True):
        np.save(folder / f"{name}.npy", own)
    np.save(folder / "labels.npy", np.tile(data.test_labels.numpy(), 5))
    return images[0]


def from_files(folder: Path, name: str = "fog", severity: int = 2) -> Shift:
    return Shift(name, severity, 0, "files", str(folder))  # type: ignore[arg-type]


def test_published_files_give_the_images_of_their_severity(tmp_path: Path) -> None:
    data = normalised(photographs())
    images, num = written(tmp_path, data), len(data.test_labels)
    found = shifted(data, from_files(tmp_path))
    expected = torch.from_numpy(images[num : 2 * num]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(pixels_of(found), expected)


def test_all_published_files_are_those_of_the_benchmark(tmp_path: Path) -> None:
    data = normalised(photographs(6))
    written(tmp_path, data, BENCHMARK)
    assert len(shifted(data, from_files(tmp_path, "all")).test_labels) == 15 * 6


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    data = normalised(photographs())
    with pytest.raises(DataError, match=r"labels.npy does not exist; set corruption_root"):
        shifted(data, from_files(tmp_path))
    written(tmp_path, data)
    other = replace(data, test_labels=data.test_labels.flip(0))
    with pytest.raises(DataError, match=r"labels of severity 2 are not those of the test set"):
        shifted(other, from_files(tmp_path))
    np.save(tmp_path / "fog.npy", np.zeros((200, 12, 12, 3)))
    with pytest.raises(DataError, match=r"found float64 of the shape .*; allowed: bytes"):
        shifted(data, from_files(tmp_path))
    np.save(tmp_path / "fog.npy", np.zeros((100, 12, 12, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=r"found uint8 of the shape \(100, 12, 12, 3\)"):
        shifted(data, from_files(tmp_path))
    np.savez(tmp_path / "fog", np.zeros(3))
    (tmp_path / "fog.npz").rename(tmp_path / "fog.npy")
    with pytest.raises(DataError, match="found an archive"):
        shifted(data, from_files(tmp_path))


def test_files_with_objects_are_never_unpickled(tmp_path: Path) -> None:
    data = normalised(photographs())
    written(tmp_path, data)
    objects = np.array([Path("x")] * 200, dtype=object)
    np.save(tmp_path / "fog.npy", objects, allow_pickle=True)
    with pytest.raises(DataError, match=r"not a whole \.npy file of numbers"):
        read_images(tmp_path, "fog", 1, (3, 12, 12), data.test_labels.numpy())
    (tmp_path / "fog.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(DataError, match=r"not a whole \.npy file of numbers"):
        read_images(tmp_path, "fog", 1, (3, 12, 12), data.test_labels.numpy())
