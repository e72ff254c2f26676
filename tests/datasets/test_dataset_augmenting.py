"""flip_crop against a loop over examples, and its laws."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from phasegrid.datasets.augmenting import (
    FlipCropDraws,
    apply_flip_crop,
    draw_flip_crop,
    flip_crop,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(num: int = 7, height: int = 6, width: int = 9) -> Tensor:
    return torch.randn(num, 3, height, width, generator=generator(1))


def one_by_one(batch: Tensor, draws: FlipCropDraws, padding: Tensor) -> Tensor:
    """The slow oracle: pad each channel with its own constant, cut, mirror."""
    results = []
    for image, flip, dx, dy in zip(batch, *(draw.tolist() for draw in draws), strict=True):
        planes = [
            pad(plane, (4, 4, 4, 4), value=value.item())
            for plane, value in zip(image, padding.flatten(), strict=True)
        ]
        height, width = image.shape[1:]
        cut = torch.stack(planes)[:, 4 + dy : 4 + dy + height, 4 + dx : 4 + dx + width]
        results.append(cut.flip(-1) if flip else cut)
    return torch.stack(results)


def test_flip_crop_matches_a_loop_over_examples() -> None:
    batch, padding = images(40), torch.tensor([-1.0, 0.5, 2.0]).reshape(3, 1, 1)
    draws = draw_flip_crop(40, generator())
    assert torch.equal(apply_flip_crop(batch, draws, padding), one_by_one(batch, draws, padding))


def test_no_flip_and_no_shift_change_nothing() -> None:
    batch, zero = images(), torch.zeros(7, dtype=torch.int64)
    draws = FlipCropDraws(zero.bool(), zero, zero)
    assert torch.equal(apply_flip_crop(batch, draws, torch.zeros(3, 1, 1)), batch)


def test_flipping_twice_changes_nothing() -> None:
    batch, zero = images(), torch.zeros(7, dtype=torch.int64)
    draws, padding = FlipCropDraws(zero.bool() | True, zero, zero), torch.zeros(3, 1, 1)
    once = apply_flip_crop(batch, draws, padding)
    assert torch.equal(once, batch.flip(-1))
    assert torch.equal(apply_flip_crop(once, draws, padding), batch)


def test_examples_do_not_touch_each_other() -> None:
    batch, padding = images(), torch.zeros(3, 1, 1)
    draws = draw_flip_crop(7, generator())
    together = apply_flip_crop(batch, draws, padding)
    last = FlipCropDraws(*(draw[6:] for draw in draws))
    assert torch.equal(together[6:], apply_flip_crop(batch[6:], last, padding))


def test_padding_may_differ_between_examples() -> None:
    batch, draws = images(2), draw_flip_crop(2, generator(5))
    paddings = torch.tensor([1.0, -3.0]).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
    both = apply_flip_crop(batch, draws, paddings)
    for index in (0, 1):
        alone = FlipCropDraws(*(draw[index : index + 1] for draw in draws))
        expected = apply_flip_crop(batch[index : index + 1], alone, paddings[index])
        assert torch.equal(both[index], expected[0])


def test_shifts_are_uniform_from_minus_four_to_four_and_half_are_flipped() -> None:
    flips, dx, dy = draw_flip_crop(90_000, generator())
    # binomial(90000, 1/2) and (90000, 1/9): standard deviations 150 and 94, five of them allowed
    assert abs(int(flips.sum()) - 45_000) < 750
    for shift in (dx, dy):
        counts = torch.bincount(shift + 4, minlength=9)
        assert len(counts) == 9
        assert (counts - 10_000).abs().max().item() < 470
    assert (
        abs(
            torch.corrcoef(torch.stack([flips.double(), dx.double(), dy.double()])) - torch.eye(3)
        ).max()
        < 0.02
    )


def test_the_same_generator_draws_the_same() -> None:
    batch, padding = images(), torch.zeros(3, 1, 1)
    one, two, other = (flip_crop(batch, generator(seed), padding) for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_flip_crop_leaves_its_input_and_the_global_random_state_alone() -> None:
    batch = images()
    before, state = batch.clone(), torch.get_rng_state()
    flip_crop(batch, generator(), torch.zeros(3, 1, 1))
    assert torch.equal(batch, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
def test_flip_crop_on_a_gpu_gives_what_the_cpu_gives() -> None:
    batch, padding = images(40), torch.ones(3, 1, 1)
    draws = draw_flip_crop(40, generator())
    on_gpu = apply_flip_crop(batch.cuda(), draws, padding.cuda())
    assert torch.equal(on_gpu.cpu(), apply_flip_crop(batch, draws, padding))
