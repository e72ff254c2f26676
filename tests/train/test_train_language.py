"""Training on running text: parallel streams in order, the state carried, gradients that reach back
through one window.
"""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.language.load import as_windows
from phasegrid.declare import Windows
from phasegrid.jobs import Part, Trial
from phasegrid.keys import stream_seed
from phasegrid.models.build import build_model
from phasegrid.tasks.carrying import Reader
from phasegrid.tasks.operations import operations_of
from phasegrid.train.loop import train_pack
from phasegrid.train.recipe import SAM, Recipe

WORDS, STEPS = 6, 5
LSTM = Part(
    "lstm",
    1,
    {"width": 4, "depth": 2, "embedding": None, "tied": False, "dropout": 0.0, "init": 0.3},
)


def data(num: int = 23) -> Dataset:
    rng = torch.Generator().manual_seed(0)
    parts = [
        as_windows(torch.randint(WORDS, (n * STEPS + 1,), generator=rng).tolist(), STEPS, n)
        for n in (num, 6)
    ]
    unit = torch.zeros(1)
    return Dataset(
        "text", *parts[0], *parts[1], WORDS, unit, unit, task="language", form=Windows(STEPS, WORDS)
    )


def trial(model: Part = LSTM, **recipe: Any) -> Trial:
    plain = {
        "lr": 0.5,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch_size": 4,
        "epochs": 2,
        "stop": None,
    }
    return Trial(
        "t", Part("text", 1, {}), model, asdict(Recipe(**{**plain, "keep": "last", **recipe})), 3
    )


def by_hand(
    text: Dataset, recipe: Recipe, carry: bool = True
) -> tuple[dict[str, Tensor], list[float]]:
    """Train as Zaremba et al. 2014 do: streams of 6, 6, 6 and 5 windows, one window of each a
    batch.
    """
    module = build_model(
        LSTM, (STEPS,), WORDS, stream_seed(3, "init"), "language", text.form
    ).train()
    starts, losses = [0, 6, 12, 18], []
    for _ in range(recipe.epochs):
        state, total = module.start(4), 0.0
        for step in range(6):
            chosen = torch.tensor([s + step for s in starts if s + step < 23])
            state = (state if carry else module.start(4))[: len(chosen)].detach()
            module.zero_grad()
            logits, state = module(text.train_inputs[chosen], state)
            loss = cross_entropy(logits.flatten(0, 1), text.train_labels[chosen].flatten())
            loss.backward()
            if recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
            with torch.no_grad():
                for p in module.parameters():
                    p -= recipe.lr * p.grad
            total += float(loss.detach()) * len(chosen) / 23
        losses.append(total)
    return dict(module.state_dict()), losses


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_training_is_that_on_parallel_streams_with_the_state_carried(
    clip_norm: float | None,
) -> None:
    text = data()
    trained = train_pack([trial(clip_norm=clip_norm)], [text], device="cpu")[0]
    recipe = Recipe(lr=0.5, epochs=2, clip_norm=clip_norm)
    weights, losses = by_hand(text, recipe)
    assert [h.train_loss for h in trained.history] == pytest.approx(losses, rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(trained.weights[name], value, rtol=1e-4, atol=1e-6)
    forgetful, _ = by_hand(text, recipe, carry=False)
    assert any(
        float((forgetful[name] - value).abs().max()) > 1e-4 for name, value in weights.items()
    )


def test_sharpness_aware_training_reads_a_batch_twice_from_the_same_state() -> None:
    text = data()
    plain, sharp = (
        train_pack([trial(sam=sam, epochs=1)], [text], device="cpu")[0]
        for sam in (None, SAM(rho=0.0))
    )
    for name, value in plain.weights.items():
        assert torch.equal(value, sharp.weights[name])


def test_a_trial_depends_on_its_seed_alone_and_dropout_draws_anew_each_epoch() -> None:
    text, part = data(), Part("lstm", 1, {**LSTM.args, "dropout": 0.5})
    alone = train_pack([trial(part)], [text], device="cpu")[0]
    beside = train_pack([trial(LSTM), trial(part)], [text] * 2, device="cpu")[1]
    for name, value in alone.weights.items():
        assert torch.equal(value, beside.weights[name])


def test_streams_that_a_batch_has_more_begin_at_the_start() -> None:
    seen: list[Tensor] = []

    class Network(torch.nn.Module):
        def start(self, num: int) -> Tensor:
            return torch.zeros(num, 1)

        def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(state.flatten())
            return inputs, state + 1

    network = Network()
    read = Reader(operations_of("language"), network, network)
    for num in (2, 2, 1, 3):
        read(torch.zeros(num, STEPS))
        read(torch.zeros(num, STEPS))  # the same batch again
        read.turn()
    assert [state.tolist() for state in seen[::2]] == [[0, 0], [1, 1], [2], [3, 0, 0]]
    assert [state.tolist() for state in seen[1::2]] == [[0, 0], [1, 1], [2], [3, 0, 0]]


def test_other_tasks_and_networks_without_a_state_are_run_as_they_are() -> None:
    network = torch.nn.Linear(2, 2)
    for task in ("language", "classification", "translation"):
        read, x = Reader(operations_of(task), network, network), torch.ones(3, 2)
        read.turn()
        assert torch.equal(read(x), network(x))


def test_stacks_are_refused_for_what_must_be_read_in_order() -> None:
    with pytest.raises(ValueError, match="strategy vmap cannot train on windows of running text"):
        train_pack([trial()], [data()], device="cpu", strategy="vmap")


def test_mixed_precision_trains_to_nearly_the_same_losses() -> None:
    losses = [
        [h.train_loss for h in train_pack([trial(precision=p)], [data()], device="cpu")[0].history]
        for p in ("fp32", "bf16")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)  # bf16 has 8 bits
    assert losses[0] != losses[1]
