"""Curves on augmented images: alone, as a stack and by hand they are the same."""

from pathlib import Path

import pytest
import torch
from curve_rows import compute, compute_many
from torch import Tensor

from phasegrid import load_sweep
from phasegrid.datasets.augmenting import apply_flip_crop, draw_flip_crop
from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import SweepError
from phasegrid.jobs import Part
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.connectivity.training import Examples, train_bends
from phasegrid.metrics.network.points import live_network, make_evaluator
from phasegrid.metrics.network.turns import finished
from phasegrid.models.build import build_model

PARTS = {
    "mlp": Part("mlp", 1, {"width": 6, "depth": 1, "activation": "relu"}),
    "cnn": Part("small_cnn", 1, {"width": 3, "batch_norm": True}),
}
PADDING = torch.full((1, 1, 1), -0.7, dtype=torch.float64)
NUM = 40


def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(NUM, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.arange(NUM) % 3
    sets = inputs, labels, inputs[:9], labels[:9]
    return Dataset("random", *sets, 3, torch.ones_like(PADDING), PADDING)


def networks(name: str, num: int = 4) -> list[torch.nn.Module]:
    return [build_model(PARTS[name], (1, 8, 8), 3, seed).double().eval() for seed in range(num)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def begun(models: list[torch.nn.Module]) -> Tensor:
    ends = stack_vertices(models[:2])
    return torch.stack([ends[0], ends.mean(0), ends[1]])


ARGS = {"epochs": 2, "batch_size": 16, "lr": 0.05, "points": 3, "augment": "flip_crop"}


def test_an_epoch_is_that_of_the_images_augmented_by_hand() -> None:
    models, own = networks("mlp"), data()
    settings = ConnectivityArgs(epochs=1, batch_size=16, lr=0.5, augment="flip_crop")
    vertices = begun(models)
    examples = Examples(own.train_inputs, own.train_labels, PADDING)
    finished(train_bends(live_network(models[0]), vertices, examples, settings, seeded()))

    rng = seeded()
    order = torch.randperm(NUM, generator=rng)
    torch.rand(3, generator=rng, dtype=torch.float64)
    crops = draw_flip_crop(NUM, rng)
    images = torch.empty_like(own.train_inputs)
    images[order] = apply_flip_crop(own.train_inputs[order], crops, PADDING)
    expected, plain = begun(models), ConnectivityArgs(epochs=1, batch_size=16, lr=0.5)
    by_hand = Examples(images, own.train_labels)
    finished(train_bends(live_network(models[0]), expected, by_hand, plain, seeded()))
    assert not torch.equal(vertices[1], begun(models)[1])
    assert torch.equal(vertices, expected)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_stack_of_augmented_curves_has_the_numbers_of_each_alone(name: str) -> None:
    models, groups = networks(name), [(0, 1), (1, 2), (2, 3)]
    rngs = [[seeded(i) for i in range(3)] for _ in range(2)]
    rows = compute_many(models, groups, data(), rngs[0], **ARGS)
    for row, (a, b), rng in zip(rows, groups, rngs[1], strict=True):
        alone = compute([models[a], models[b]], data(), rng, **ARGS)
        # 6 updates in float64, whose sums are in another order
        assert row["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-9)
        assert row["final_curve_loss"] == pytest.approx(alone["final_curve_loss"], rel=1e-9)
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(*rngs, strict=True))


def test_augmentation_changes_the_bend_and_not_the_images_of_the_points() -> None:
    models = networks("mlp")
    plain, other = (
        compute(models[:2], data(), seeded(), **{**ARGS, "augment": augment})
        for augment in ("none", "flip_crop")
    )
    assert other["train_loss"][1] != plain["train_loss"][1]
    assert other["train_loss"][::2] == plain["train_loss"][::2]


def test_batch_norm_is_refreshed_as_the_row_says() -> None:
    models = networks("cnn")
    args = {"bends": 0, "batch_size": 16, "points": 3, "refresh_examples": 24}
    plain = compute(models[:2], data(), seeded(), **args)
    other = compute(models[:2], data(), seeded(), refresh_augment="flip_crop", **args)
    said = ("num_refreshed", "refresh_batch_size", "refresh_augmented")
    assert [plain[name] for name in said] == [24, 16, False]
    assert [other[name] for name in said] == [24, 16, True]
    assert other["train_loss"][0] != plain["train_loss"][0]
    without = compute(networks("mlp")[:2], data(), seeded(), **args)
    assert [without[name] for name in said] == [None] * 3


def test_examples_that_refresh_are_augmented_by_the_recipes_rule() -> None:
    module = networks("cnn")[0]
    found = make_evaluator(module, data(), None, 16, seeded(), "flip_crop").refresh_inputs
    rng = seeded()
    order = torch.randperm(NUM, generator=rng)
    expected = apply_flip_crop(data().train_inputs[order], draw_flip_crop(NUM, rng), PADDING)
    assert found is not None
    assert torch.equal(found, expected)


def test_only_images_can_be_augmented(tmp_path: Path) -> None:
    text = """\
schema: 1
name: text
dataset: {name: language, root: ROOT, train: a, test: a, steps: 4}
model: {name: lstm, width: 4, depth: 1}
train: {epochs: 1, batch_size: 8}
seeds: 2
metrics:
  - connectivity: {augment: flip_crop}
"""
    (tmp_path / "a").write_text("one two three four five six seven eight nine ten\n" * 20)
    (tmp_path / "s.yaml").write_text(text.replace("ROOT", str(tmp_path)))
    with pytest.raises(SweepError, match=r"8:29: .*augment: found flip_crop, but an input"):
        load_sweep(tmp_path / "s.yaml")
