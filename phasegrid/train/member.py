"""One trial while it trains: its history, its kept weights, how it ended, and its snapshots."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Trial
from phasegrid.keys import stream_seed
from phasegrid.models.evaluation import Evaluation
from phasegrid.models.weights import Weights, own_copy
from phasegrid.tasks.batches import Lengths
from phasegrid.train.batches import DataStream
from phasegrid.train.compat import recipe_of
from phasegrid.train.epoch import EpochNumbers
from phasegrid.train.optimizers import Slots
from phasegrid.train.pruning import density_of
from phasegrid.train.recipe import Recipe
from phasegrid.train.snapshots import under_prefix, with_prefix
from phasegrid.train.stack import MemberState
from phasegrid.train.stopping import judge


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch, counted from 1.

    `lr` is that of the last update. Training loss and accuracy are means over the examples in train
    mode, while the weights change. Test loss and accuracy are of the weights at the end of the
    epoch in eval mode, and None if not evaluated. They are evaluated after the last epoch, every
    `test_every` epochs, and after every epoch under ``keep: best_test`` or ``best_test_loss``.
    `seconds` is the member's share of its stack's time.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy_percent: float
    test_loss: float | None
    test_accuracy_percent: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a trial's training.

    `weights` is the full state (parameters and buffers, on the CPU) after `kept_epoch`; epoch 0 is
    the initialisation. If the training diverged, it is the last kept state, which is always finite.
    `published` maps the artifacts published during the training to their SHA-256. `history` holds
    the finite epochs; `epochs_run` and `updates_run` count them and their updates. `stopped_epoch`
    is the first epoch at which the stop rule's test held, None if none. `diverged_epoch` and
    `diverged_update` count from 1 over the whole training: the first whose loss or weights are not
    finite. `density` is the share of prunable weights that are not zero, if the recipe prunes.
    """

    weights: Weights
    published: dict[str, str]
    history: list[EpochRecord]
    outcome: Literal["done", "diverged"]
    diverged_epoch: int | None
    diverged_update: int | None
    epochs_run: int
    updates_run: int
    kept_epoch: int
    stopped_epoch: int | None
    strategy: str
    num_parameters: int
    seconds: float
    density: float | None = None


@dataclass(frozen=True, slots=True)
class BestOfRun:
    """The lowest test loss and the highest test accuracy of a run, each with its (first) epoch."""

    test_loss: float
    test_loss_epoch: int
    test_accuracy_percent: float
    test_accuracy_epoch: int


def best_of_run(recipe: Recipe, history: Sequence[EpochRecord]) -> BestOfRun | None:
    """Return the result of *optimal early stopping* (Yang et al. 2021, appendix D.4).

    None if the test set was not evaluated repeatedly, which ``keep: best_test``, ``best_test_loss``
    and `test_every` do.
    """
    if not (recipe.test_every or recipe.keep in ("best_test", "best_test_loss")):
        return None
    tested = [
        (record.test_loss, record.test_accuracy_percent, record.epoch)
        for record in history
        if record.test_loss is not None and record.test_accuracy_percent is not None
    ]
    if not tested:
        return None
    loss, _, loss_epoch = min(tested, key=lambda each: each[0])
    _, accuracy, accuracy_epoch = max(tested, key=lambda each: each[1])
    return BestOfRun(loss, loss_epoch, accuracy, accuracy_epoch)


@dataclass(slots=True)
class TrialState:
    """A trial in training.

    - `state`: its network and optimizer outside a stack; inside one, the stack's tensors are newer.
    - `publish`: publishes an artifact of the trial; None if nothing is to be published.
    - `before`: updates that its optimizer had made when training began.
    - `kept_slots`: the optimizer state after `kept_epoch` and `kept_updates`, if the recipe
      publishes it.
    - `prunable`: the names of the weights that may be pruned; `mask` (P,) is 0 where they are.
    - `collected`: the state of its collector.
    """

    trial: Trial
    recipe: Recipe
    data: Dataset
    feed: DataStream
    num_parameters: int
    state: MemberState
    kept: Weights
    publish: Callable[[str, Mapping[str, Tensor]], str] | None = None
    before: int = 0
    kept_slots: Slots = field(default_factory=dict)
    kept_updates: int = 0
    published: dict[str, str] = field(default_factory=dict)
    prunable: Sequence[str] = ()
    mask: Tensor | None = None
    collected: dict[str, Tensor] = field(default_factory=dict)
    strategy: str = "loop"
    history: list[EpochRecord] = field(default_factory=list)
    kept_epoch: int = 0
    held_epoch: int | None = None
    diverged_epoch: int | None = None
    diverged_update: int | None = None
    updates: int = 0
    seconds: float = 0.0
    finished: bool = False


def new_member(
    trial: Trial,
    data: Dataset,
    state: MemberState,
    num_parameters: int,
    lengths: Lengths | None = None,
    before: int = 0,
    num_aside: int = 0,
) -> TrialState:
    """Return a trial before its first epoch, with fresh random streams. The last `num_aside`
    examples of its training set are examples set aside.
    """
    recipe = recipe_of(trial)
    order, augment = (
        torch.Generator().manual_seed(stream_seed(trial.stream, name))
        for name in ("order", "augment")
    )
    rates = recipe.lr, recipe.weight_decay
    feed = DataStream(data, trial.stream, order, augment, *rates, lengths, num_aside)
    return TrialState(
        trial,
        recipe,
        data,
        feed,
        num_parameters,
        state,
        state.tensors,
        before=before,
        kept_slots=state.slots if recipe.keeps_optimizer else {},
        kept_updates=before,
    )


def needs_test(member: TrialState, numbers: EpochNumbers) -> bool:
    """Say whether to evaluate the weights at the end of this epoch on the test set."""
    recipe, epoch = member.recipe, len(member.history) + 1
    if numbers.bad_update is not None:
        return False
    if recipe.keep in ("best_test", "best_test_loss") or _is_last(member, numbers):
        return True
    if recipe.test_every and epoch % recipe.test_every == 0:
        return True
    losses = [*(record.train_loss for record in member.history), numbers.train_loss]
    return judge(recipe, losses, [], [], member.held_epoch is not None).stop


def record_epoch(
    member: TrialState,
    numbers: EpochNumbers,
    test: Evaluation | None,
    copy_state: Callable[[], MemberState],
    seconds: float,
) -> None:
    """Record an epoch in a member: its history, its kept weights, and whether it is finished.

    `copy_state` copies the member's state at the end of the epoch.
    """
    epoch = len(member.history) + 1
    member.seconds += seconds
    if numbers.bad_update is not None:
        member.diverged_epoch = epoch
        member.diverged_update = member.updates + numbers.bad_update + 1
        member.finished = True
        return
    last = _is_last(member, numbers)
    member.updates += numbers.num_updates
    member.history.append(
        EpochRecord(
            epoch,
            numbers.lr,
            numbers.train_loss,
            numbers.train_accuracy_percent,
            test.loss if test and math.isfinite(test.loss) else None,
            test.accuracy_percent if test else None,
            seconds,
        )
    )
    verdict = judge(
        member.recipe,
        [record.train_loss for record in member.history],
        [record.test_accuracy_percent or 0.0 for record in member.history],
        [math.inf if record.test_loss is None else record.test_loss for record in member.history],
        member.held_epoch is not None,
    )
    if verdict.held and member.held_epoch is None:
        member.held_epoch = epoch
    if verdict.keep:
        state = copy_state()
        member.kept, member.kept_epoch = state.tensors, epoch
        if member.recipe.keeps_optimizer:
            member.kept_slots, member.kept_updates = state.slots, member.before + member.updates
    member.finished = verdict.stop or last


def _is_last(member: TrialState, numbers: EpochNumbers) -> bool:
    """Say whether an epoch that is not yet recorded is the last one of the recipe."""
    if member.recipe.updates is not None:
        return member.updates + numbers.num_updates >= member.recipe.updates
    return len(member.history) + 1 == member.recipe.epochs


def result_of(member: TrialState) -> Trained:
    """Return the result of a finished member."""
    return Trained(
        weights=_on_cpu(member.kept),
        published=member.published,
        history=member.history,
        outcome="done" if member.diverged_epoch is None else "diverged",
        diverged_epoch=member.diverged_epoch,
        diverged_update=member.diverged_update,
        epochs_run=len(member.history),
        updates_run=member.updates,
        kept_epoch=member.kept_epoch,
        stopped_epoch=member.held_epoch,
        strategy=member.strategy,
        num_parameters=member.num_parameters,
        seconds=member.seconds,
        density=density_of(member.kept, member.prunable),
    )


def undoing(member: TrialState) -> Callable[[], None]:
    """Return a function that makes a member again what it is now, with its random streams."""
    now = {each.name: getattr(member, each.name) for each in fields(member)}
    now |= {"history": list(member.history), "published": dict(member.published)}
    streams = member.feed.order, member.feed.augment
    states = [stream.get_state() for stream in streams]

    def undo() -> None:
        for name, value in now.items():
            setattr(member, name, value)
        for stream, state in zip(streams, states, strict=True):
            stream.set_state(state)

    return undo


def release(member: TrialState) -> None:
    """Let go of the tensors of a member whose result is known or not wanted."""
    member.state, member.kept, member.kept_slots = MemberState({}), {}, {}
    member.collected, member.mask = {}, None


_FACTS = (
    "strategy",
    "kept_epoch",
    "kept_updates",
    "held_epoch",
    "diverged_epoch",
    "diverged_update",
    "updates",
    "seconds",
)


def write_member(member: TrialState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return everything that an unfinished member needs to resume, as tensors on the CPU and
    JSON.
    """
    tensors = {
        **with_prefix("state", member.state.tensors),
        **with_prefix("slot", member.state.slots),
        **with_prefix("kept", member.kept),
        **with_prefix("kept_slot", member.kept_slots),
        **with_prefix("collected", member.collected),
        "random/order": member.feed.order.get_state(),
        "random/augment": member.feed.augment.get_state(),
    }
    facts = {name: getattr(member, name) for name in _FACTS}
    return tensors, {
        **facts,
        "history": [asdict(record) for record in member.history],
        "published": member.published,
    }


def read_member(
    member: TrialState,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    device: torch.device,
) -> None:
    """Restore a fresh member to the state saved by `write_member`, bit for bit."""
    for name in _FACTS:
        setattr(member, name, facts[name])
    member.history = [EpochRecord(**record) for record in facts["history"]]
    member.state = MemberState(
        _on(device, under_prefix("state", tensors)), _on(device, under_prefix("slot", tensors))
    )
    member.kept = _on(device, under_prefix("kept", tensors))
    member.kept_slots = _on(device, under_prefix("kept_slot", tensors))
    member.collected = _on(device, under_prefix("collected", tensors))
    member.published = dict(facts["published"])
    member.feed.order.set_state(tensors["random/order"])
    member.feed.augment.set_state(tensors["random/augment"])


def _on(device: torch.device, tensors: Weights) -> Weights:
    return {name: value.to(device) for name, value in tensors.items()}


def _on_cpu(weights: Weights) -> Weights:
    return {name: own_copy(value) for name, value in weights.items()}
