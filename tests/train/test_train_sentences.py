"""Laws of training on sentence pairs."""

from collections.abc import Collection
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from train_support import MLP, largest_difference, without_seconds

import phasegrid.train.beginning
import phasegrid.train.loop
from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import Tokens
from phasegrid.jobs import Part, Trial
from phasegrid.keys import Json, stream_seed
from phasegrid.models.evaluation import evaluate
from phasegrid.tasks.batches import Batch
from phasegrid.tasks.losses import Criterion
from phasegrid.tasks.losses import cross_entropy as per_label
from phasegrid.tasks.scoring import training_losses
from phasegrid.tasks.tokens import IGNORE
from phasegrid.tasks.translation import OPERATIONS, token_batches
from phasegrid.train.loop import train_pack
from phasegrid.train.member import BestOfRun, EpochRecord, best_of_run
from phasegrid.train.recipe import Recipe, Schedule

WORDS = 11


class Copier(nn.Module):
    """The smallest network on sentences: each target token from the one before it and the mean of
    the source.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(WORDS, 6, padding_idx=0)
        self.target = nn.Embedding(WORDS, 6)
        self.output = nn.Linear(6, WORDS)

    def forward(self, inputs: Tensor) -> Tensor:
        source, target = inputs.unbind(dim=1)
        count = (source != 0).sum(dim=1, keepdim=True).clamp(min=1)
        mean = self.source(source).sum(dim=1) / count
        logits: Tensor = self.output(torch.tanh(self.target(target) + mean[:, None]))
        return logits


def make_sentences(num: int = 30, longest: int = 7, seed: int = 0) -> Dataset:
    """Make random sentence pairs of 1 to `longest` - 1 words."""
    rng = torch.Generator().manual_seed(seed)

    def part(count: int) -> tuple[Tensor, Tensor]:
        inputs = torch.zeros(count, 2, longest, dtype=torch.int64)
        labels = torch.full((count, longest), IGNORE)
        for i in range(count):
            size, other = torch.randint(1, longest, (2,), generator=rng).tolist()
            source = torch.randint(4, WORDS, (other,), generator=rng)
            target = torch.randint(4, WORDS, (size,), generator=rng)
            inputs[i, 0, : other + 1] = torch.cat([source, torch.tensor([2])])
            inputs[i, 1, : size + 1] = torch.cat([torch.tensor([1]), target])
            labels[i, : size + 1] = torch.cat([target, torch.tensor([2])])
        return inputs, labels

    one = torch.ones(1)
    tokens = Tokens(longest, WORDS, WORDS)
    return Dataset("random", *part(num), *part(9), WORDS, one, one, task="translation", form=tokens)


def make_trial(seed: int, **recipe: Any) -> Trial:
    fields = asdict(Recipe(**{"batch_size": 8, "epochs": 3, "stop": None, **recipe}))
    return Trial(f"trial-{seed}", Part("random", 1, {}), MLP, fields, seed)


@pytest.fixture(autouse=True)
def copier(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_part: Part, data: Dataset, seed: int) -> nn.Module:
        assert (data.task, data.form) == ("translation", Tokens(7, WORDS, WORDS))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return Copier()

    monkeypatch.setattr(phasegrid.train.beginning, "build_begun", build)


def fresh(seed: int) -> Copier:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, "init"))
        return Copier()


@pytest.mark.parametrize("batch_tokens", [None, 40])
def test_training_on_sentences_equals_a_loop_written_by_hand(batch_tokens: int | None) -> None:
    data = make_sentences()
    unit = "examples" if batch_tokens is None else "tokens"
    trial = make_trial(
        4,
        optimizer="adam",
        lr=0.01,
        weight_decay=0.0,
        label_smoothing=0.1,
        keep="last",
        batch_size=batch_tokens or 8,
        batch_unit=unit,
        updates=10,
        schedule=Schedule("inverse_sqrt", warmup_updates=3),
    )
    result = train_pack([trial], [data], device="cpu")[0]
    net, order = fresh(4), torch.Generator().manual_seed(stream_seed(4, "order"))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    longest = (data.train_inputs != 0).sum(dim=2).amax(dim=1)
    done = 0
    for record in result.history:
        parts = (
            torch.split(torch.randperm(30, generator=order), 8)
            if batch_tokens is None
            else token_batches(longest, batch_tokens, order)
        )
        total, right, tokens = 0.0, 0, 0
        for index in parts[: 10 - done]:
            done += 1
            optimizer.param_groups[0]["lr"] = 0.01 * min(done / 3, (3 / done) ** 0.5)
            labels = data.train_labels[index]
            there = labels != IGNORE
            logits = net(data.train_inputs[index])[
                there
            ]  # nothing trimmed: padding must not matter
            loss = cross_entropy(logits, labels[there], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * int(there.sum())
            right += int((logits.argmax(1) == labels[there]).sum())
            tokens += int(there.sum())
        assert record.train_loss == pytest.approx(total / tokens, rel=1e-5)
        assert record.train_accuracy_percent == pytest.approx(100 * right / tokens)
    assert done == 10 == result.updates_run
    for name, value in net.state_dict().items():
        assert torch.allclose(result.weights[name], value, atol=1e-5), name


@pytest.mark.parametrize("budget", [8, 20, 64])
def test_batches_of_tokens_hold_every_sentence_once_and_no_more_than_they_may(budget: int) -> None:
    longest = torch.randint(1, 9, (200,), generator=torch.Generator().manual_seed(1))
    batches = token_batches(longest, budget, torch.Generator().manual_seed(2))
    assert sorted(torch.cat(batches).tolist()) == list(range(200))
    assert all(len(b) * int(longest[b].max()) <= budget for b in batches)


def test_batches_of_tokens_are_of_like_length() -> None:
    longest = torch.randint(1, 60, (3000,), generator=torch.Generator().manual_seed(1))
    batches = token_batches(longest, 300, torch.Generator().manual_seed(2))
    room = sum(len(b) * int(longest[b].max()) for b in batches)
    assert room < 1.1 * int(longest.sum())


def test_a_sentence_longer_than_a_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="a sentence has 9; batch_size must be at least 9"):
        token_batches(torch.tensor([3, 9]), 8, torch.Generator())


def test_members_of_a_pack_are_those_alone() -> None:
    data = make_sentences()
    trials = [make_trial(seed, updates=9, test_every=1) for seed in (0, 1)]
    together = train_pack(trials, [data, data], device="cpu")
    for trial, packed in zip(trials, together, strict=True):
        alone = train_pack([trial], [data], device="cpu")[0]
        assert largest_difference(alone, packed) == 0
        assert without_seconds(alone) == without_seconds(packed)
        assert packed.strategy == "loop"


@pytest.mark.parametrize("strategy", ["vmap", "fused"])
def test_stacks_of_sentences_are_refused(strategy: Any) -> None:
    with pytest.raises(ValueError, match="cannot train on sentence pairs"):
        train_pack([make_trial(0)], [make_sentences()], device="cpu", strategy=strategy)


@pytest.mark.parametrize("batch", [{}, {"batch_unit": "tokens", "batch_size": 30, "updates": 21}])
def test_a_snapshot_goes_on_bit_for_bit(batch: dict[str, Any]) -> None:
    data, trial = make_sentences(), make_trial(5, **{"updates": 14, "keep": "last", **batch})
    whole = train_pack([trial], [data], device="cpu")[0]
    kept: dict[int, tuple[dict[str, Tensor], Json]] = {}

    class Kept:
        def epochs(self, _trial: str) -> list[int]:
            return list(kept)

        def load(self, _trial: str, epoch: int) -> tuple[dict[str, Tensor], Json] | None:
            return kept.get(epoch)

        def save(self, _trial: str, epoch: int, tensors: dict[str, Tensor], meta: Json) -> None:
            kept[epoch] = {name: value.clone() for name, value in tensors.items()}, meta

        def delete(self, _trial: str, epochs: Collection[int]) -> None:
            for epoch in epochs:
                kept.pop(epoch, None)

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_pack([trial], [data], device="cpu", snapshots=Kept(), on_epoch=stop)
    assert list(kept) == [2]
    resumed = train_pack([trial], [data], device="cpu", snapshots=Kept())[0]
    assert largest_difference(whole, resumed) == 0
    assert resumed.updates_run == whole.updates_run


def test_updates_end_in_the_middle_of_an_epoch() -> None:
    result = train_pack([make_trial(0, updates=6)], [make_sentences()], device="cpu")[0]
    assert (result.epochs_run, result.updates_run) == (2, 6)  # 30 examples are 4 batches of 8
    assert result.history[-1].test_loss is not None


def test_the_best_of_the_run_is_that_of_the_tested_epochs() -> None:
    result = train_pack(
        [make_trial(0, updates=40, lr=0.5, test_every=2)], [make_sentences()], device="cpu"
    )[0]
    tested = [r for r in result.history if r.test_loss is not None]
    assert [r.epoch for r in tested] == [2, 4, 6, 8, 10]
    best = best_of_run(Recipe(test_every=2), result.history)
    assert best is not None
    assert best.test_loss == min(r.test_loss for r in tested if r.test_loss is not None)


def test_the_best_of_the_run_is_the_first_of_equals_and_none_unless_asked_for() -> None:
    rows = [(1, 2.0, 50.0), (2, 1.0, 60.0), (3, 1.0, 60.0)]
    history = [EpochRecord(n, 0.1, 1.0, 50.0, loss, accuracy, 0.0) for n, loss, accuracy in rows]
    assert best_of_run(Recipe(test_every=1), history) == BestOfRun(1.0, 2, 60.0, 2)
    assert best_of_run(Recipe(keep="best_test_loss"), history) == BestOfRun(1.0, 2, 60.0, 2)
    assert best_of_run(Recipe(), history) is None
    untested = [replace(record, test_loss=None) for record in history]
    assert best_of_run(Recipe(test_every=9), untested) is None


def test_the_lowest_test_loss_is_kept() -> None:
    trial = make_trial(0, updates=60, lr=1.0, keep="best_test_loss")
    data = make_sentences()
    result = train_pack([trial], [data], device="cpu")[0]
    losses = [r.test_loss for r in result.history]
    assert result.kept_epoch == 1 + losses.index(min(loss for loss in losses if loss is not None))
    net = Copier()
    net.load_state_dict(result.weights)
    kept = evaluate(net, data.test_inputs, data.test_labels, data.scoring)
    assert kept.loss == losses[result.kept_epoch - 1]


def test_an_evaluation_is_the_mean_over_tokens_in_any_order_of_sentences() -> None:
    data, net = make_sentences(), fresh(0).double()
    found = evaluate(net, data.train_inputs, data.train_labels, data.scoring, batch_size=7)
    there = data.train_labels != IGNORE
    logits = net(data.train_inputs)[there]
    labels = data.train_labels[there]
    assert found.loss == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-12)
    assert found.accuracy_percent == 100 * int((logits.argmax(1) == labels).sum()) / len(labels)
    assert found.num == int(there.sum())


def test_losses_of_sentences_are_those_of_their_scored_tokens() -> None:
    data, net = make_sentences(), fresh(1).double()
    inputs, labels = data.train_inputs[:5], data.train_labels[:5]
    logits = net(inputs)
    there = labels != IGNORE
    flat, target = OPERATIONS.scored(logits[None], labels[None])
    assert torch.equal(flat[0], logits[there])
    assert torch.equal(target[0], labels[there])
    smooth = Criterion(partial(per_label, label_smoothing=0.2))
    losses = training_losses(OPERATIONS, smooth, logits[None], Batch(inputs[None], labels[None]))
    expected = cross_entropy(flat[0], target[0], label_smoothing=0.2, reduction="none")
    assert torch.equal(losses.view(labels.shape)[there], expected)
    assert not bool(losses.view(labels.shape)[~there].any())
    mean = data.scoring.mean(logits, inputs, labels)
    assert torch.allclose(mean, cross_entropy(flat[0], target[0]))
    short, few = OPERATIONS.trim(inputs, labels)
    assert short.shape[2] == few.shape[1] == int((inputs != 0).sum(2).max())
    assert torch.allclose(data.scoring.mean(net(short), short, few), mean)
