"""Curves and connectors on augmented images: alone, as a stack and by hand they are the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from curve_rows import compute, compute_many
from torch import Tensor

from phasegrid import load_sweep
from phasegrid.datasets.augmenting import apply_flip_crop, draw_flip_crop
from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import SweepError
from phasegrid.jobs import Part
from phasegrid.metrics.augmentation import AsTrained, Augment
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.connectivity.training import train_bends
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.left import Refresh, left_evaluator
from phasegrid.metrics.network.points import live_network, make_evaluator
from phasegrid.metrics.network.turns import finished
from phasegrid.metrics.plane.compute import compute as plane
from phasegrid.metrics.predictions.compute import compute as predictions
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.compute import compute as compute_simplex
from phasegrid.metrics.simplex.compute import compute_espro, espro_many
from phasegrid.metrics.simplex.sampling import draw_points
from phasegrid.metrics.simplex.training import Live, train_last_vertices
from phasegrid.metrics.vertex_path.compute import compute as vertex_path
from phasegrid.models import strategies
from phasegrid.models.build import build_model
from phasegrid.tasks.batches import cut

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


def seen_in_training(models: list[torch.nn.Module], settings: SimplexArgs) -> list[Tensor]:
    """Return the images of every update of a connector between two networks, in order."""
    seen = list[Tensor]()
    flat = live_network(models[0])
    flat.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    vertices = begun(models)[[0, 2, 1]].unsqueeze(0)
    examples = Examples(data().train_inputs, data().train_labels, PADDING)
    work = train_last_vertices(
        Live(flat), vertices, ((0, 2), (1, 2)), examples, [0.0], settings, [seeded()]
    )
    finished(work)
    updates = settings.epochs * len(cut(NUM, settings.batch_size)) * settings.samples
    return seen[-updates :: settings.samples]  # the first is to find layers that draw


def test_every_epoch_of_a_connector_sees_images_augmented_anew() -> None:
    settings = SimplexArgs(epochs=2, samples=3, batch_size=16, augment="flip_crop")
    batches, images, rng = cut(NUM, 16), data().train_inputs, seeded()
    expected = list[Tensor]()
    for _ in range(2):
        order = torch.randperm(NUM, generator=rng)
        draw_points((len(batches), 3), 2, rng)
        epoch = apply_flip_crop(images[order], draw_flip_crop(NUM, rng), PADDING)
        expected += [epoch[batch] for batch in batches]
    seen = seen_in_training(networks("mlp"), settings)
    assert len(seen) == len(expected) == 6
    assert all(map(torch.equal, seen, expected))


def test_without_augmentation_a_connector_sees_the_images_as_they_are() -> None:
    seen = seen_in_training(networks("mlp"), SimplexArgs(epochs=1, samples=1, batch_size=16))
    order = torch.randperm(NUM, generator=seeded())
    assert torch.equal(torch.cat(seen), data().train_inputs[order])


GROWN = {"epochs": 2, "samples": 2, "batch_size": 16, "eval_samples": 2, "lr": 0.05}


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("augment", ["none", "flip_crop"])
def test_simplexes_grow_on_augmented_images_together_in_turn_and_alone_alike(
    name: str, augment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, args = networks(name, 2), {**GROWN, "augment": augment, "refresh_augment": augment}
    rngs = [[seeded(i) for i in range(2)] for _ in range(3)]
    together = espro_many(models, [(0,), (1,)], data(), rngs[0], **args)
    alone = [compute_espro([m], data(), r, **args) for m, r in zip(models, rngs[1], strict=True)]
    monkeypatch.setattr(strategies, "MAX_FUSED_BYTES", 0)
    in_turn = [compute_espro([m], data(), r, **args) for m, r in zip(models, rngs[2], strict=True)]
    assert together is not None
    for rows in zip(together, alone, in_turn, strict=True):
        bends = [row.artifacts["complex"]["connectors"] for row in rows]
        # 6 updates in float64, whose sums are in another order
        torch.testing.assert_close(bends[1], bends[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(bends[2], bends[0], rtol=1e-9, atol=1e-12)


def test_augmentation_moves_the_connector_and_not_the_images_of_the_losses() -> None:
    models, rows = networks("mlp"), []
    for augment in ("none", "flip_crop"):
        args = {**GROWN, "augment": augment, "eval_samples": 2}
        rows.append(compute_simplex(models[:2], data(), seeded(), **args).rows)
    plain, other = rows
    assert other["vertex_train_loss"][:2] == plain["vertex_train_loss"][:2]
    assert other["vertex_train_loss"][2] != plain["vertex_train_loss"][2]


def test_statistics_of_the_points_of_a_complex_are_those_of_augmented_images() -> None:
    models, args = networks("cnn")[:2], {**GROWN, "refresh_examples": 24}
    plain = compute_simplex(models, data(), seeded(), **args).rows
    other = compute_simplex(models, data(), seeded(), refresh_augment="flip_crop", **args).rows
    assert other["vertex_train_loss"][0] != plain["vertex_train_loss"][0]


def test_examples_that_refresh_are_augmented_by_the_recipes_rule() -> None:
    module = networks("cnn")[0]
    found = make_evaluator(module, data(), None, 16, seeded(), "flip_crop").refresh_inputs
    rng = seeded()
    order = torch.randperm(NUM, generator=rng)
    expected = apply_flip_crop(data().train_inputs[order], draw_flip_crop(NUM, rng), PADDING)
    assert found is not None
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, "flip_crop"), ("none", "none"), ("flip_crop", "flip_crop")],
)
def test_what_reads_a_complex_refreshes_as_it_was_trained_unless_told(
    asked: AsTrained, expected: Augment
) -> None:
    module, args = networks("cnn")[0], {"batch_size": 16, "refresh_augment": "flip_crop"}
    found = left_evaluator(args, module, data(), Refresh(24, asked), seeded()).refresh_inputs
    wanted = make_evaluator(module, data(), 24, 16, seeded(), expected).refresh_inputs
    assert found is not None
    assert wanted is not None
    assert torch.equal(found, wanted)


def on_plane(models: list[torch.nn.Module], source: Source, args: dict[str, Any]) -> object:
    three = {"vertices": ("w0", "c0", "w1"), "points": 2, **args}
    return plane(models, data(), seeded(), [source], **three)["test_loss"]


def on_path(models: list[torch.nn.Module], source: Source, args: dict[str, Any]) -> object:
    return vertex_path(models, data(), seeded(), [source], points=1, **args)["test_loss"]


def in_complex(models: list[torch.nn.Module], source: Source, args: dict[str, Any]) -> object:
    found = predictions(models, data(), seeded(), [source], points=2, **args)
    return found.artifacts["predictions"]["test"].tolist()


READERS = {"plane": on_plane, "vertex_path": on_path, "predictions": in_complex}


@pytest.mark.parametrize("read", READERS)
def test_readers_pass_on_how_statistics_are_recomputed(read: str) -> None:
    models, asked = networks("cnn")[:2], {"refresh_examples": 24, "refresh_augment": "flip_crop"}
    grown = compute_simplex(models, data(), seeded(), **GROWN)
    usual = {"sampling": "volume", "batch_size": 16}
    kept = Source(grown.artifacts["complex"], "complex", "simplex", usual)
    found = []
    for args, more in ((usual, asked), ({**usual, **asked}, {"refresh_examples": 24}), (usual, {})):
        source = replace(kept, args=args)
        found.append(READERS[read](models, source, more))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("metric", ["connectivity", "simplex", "espro"])
@pytest.mark.parametrize("argument", ["augment", "refresh_augment"])
def test_only_images_can_be_augmented(tmp_path: Path, metric: str, argument: str) -> None:
    text = """\
schema: 1
name: text
dataset: {name: language, root: ROOT, train: a, test: a, steps: 4}
model: {name: lstm, width: 4, depth: 1}
train: {epochs: 1, batch_size: 8}
seeds: 2
metrics:
  - METRIC: {ARGUMENT: flip_crop}
"""
    (tmp_path / "a").write_text("one two three four five six seven eight nine ten\n" * 20)
    text = text.replace("ROOT", str(tmp_path)).replace("METRIC", metric)
    (tmp_path / "s.yaml").write_text(text.replace("ARGUMENT", argument))
    with pytest.raises(SweepError, match=rf"8:\d+: .*\.{argument}: found flip_crop, but an input"):
        load_sweep(tmp_path / "s.yaml")
