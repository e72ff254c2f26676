"""The training recipe of a trial: the ``train:`` section of a sweep.

Defaults are the standard recipe of Yang et al. 2021, "Taxonomizing local versus global structure in
neural network loss landscapes" (section 3 and appendix B): SGD, constant learning rate 0.05, batch
128, weight decay 5e-4, no augmentation, at most 150 epochs, stop when the training loss changes by
less than 1e-4 for 5 epochs. The paper never mentions momentum; its published code trains with 0.9,
and so do we.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, TypeAdapter
from pydantic_core import PydanticCustomError

from phasegrid.declare import MAX_COUNT, later
from phasegrid.keys import Json
from phasegrid.registry import is_known, known_names

CROSS_ENTROPY_NAME = "cross_entropy"
"""The objective of a recipe that names none."""

RECIPE_VERSION = 1  # bump when the same recipe gives other numbers
COLLECT_VERSION = 2  # likewise, of trainings with a collector; 1 left out the weights of from_epoch

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _known_schedule(name: str) -> str:
    """Refuse the name of a schedule that does not exist; a reference is looked up by the sweep
    reader.
    """
    if ":" in name or is_known("schedule", name):
        return name
    allowed = ", ".join(repr(each) for each in known_names("schedule"))
    raise PydanticCustomError("literal_error", "no such schedule", {"expected": allowed})


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate as a factor of `lr`, after an optional linear warm-up of `warmup_updates`
    updates. U is the number of updates after the warm-up, u those already made.

    - ``constant``: 1.
    - ``step``: multiplied by `factor` at each epoch in `at_epochs` (counted from 0: 75 means before
      the 76th epoch).
    - ``cosine``: f + (1 - f) (1 + cos(pi u/U)) / 2, from 1 to f = `final`.
    - ``linear``: 1 - (1 - f) u/U, from 1 to f = `final`.
    - ``inverse_sqrt``: sqrt(w/n) with n the update counted from 1 and w = max(warmup_updates, 1),
      the schedule of Vaswani et al. 2017.
    - ``pieces``: linear interpolation between the points [share of updates done, factor] of
      `pieces`.
    - ``cyclic``: linear from 1 down to `low` and back to 1 in every cycle (Garipov et al. 2018,
      section 4).
    - ``cosine_restarts``: half a cosine wave from 1 to `low` in every cycle (Loshchilov and Hutter
      2017); each cycle is `growth` times as long as the one before.

    Give the cycle length by one of `cycle_epochs`, `cycle_updates` or `cycles`; with `cycles`, the
    number of cycles, a cycle has ceil(U / cycles) updates. A sweep writes the arguments of your own
    schedule, ``file.py:NAME``, beside its name; they are kept in `args`.
    """

    name: Annotated[str, AfterValidator(_known_schedule)] = "constant"
    at_epochs: tuple[Annotated[int, Field(gt=0, le=MAX_COUNT)], ...] = ()
    factor: Positive = 0.1
    final: Fraction = 0.0
    warmup_updates: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    low: Fraction = later(0.0)
    cycle_epochs: Positive | None = later(None)
    cycle_updates: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = later(None)
    cycles: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = later(None)
    growth: Annotated[float, Field(ge=1, allow_inf_nan=False)] = later(1.0)
    pieces: tuple[tuple[Fraction, NonNegative], ...] = later(())
    args: Mapping[str, JsonValue] = field(default_factory=dict, metadata={"later": True})


@dataclass(frozen=True, slots=True)
class Stop:
    """When to stop before `epochs`.

    ``plateau`` (the paper): stop once the training loss, the mean over the epoch as it trains, has
    changed by less than `min_delta` (in absolute value) in each of the last `patience` epochs.
    ``published_code``: never stop; from epoch 30 on, the first epoch at which the same test holds
    (with <=) gives the kept weights, whatever `keep` says; if it never holds, `keep` decides.
    """

    rule: Literal["plateau", "published_code"] = "plateau"
    min_delta: NonNegative = 1e-4
    patience: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 5


@dataclass(frozen=True, slots=True)
class RMSprop:
    """The arguments of ``optimizer: rmsprop``, with the names and defaults of
    torch.optim.RMSprop.
    """

    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    eps: Positive = 1e-8
    centered: bool = False


@dataclass(frozen=True, slots=True)
class SAM:
    """Sharpness-aware minimization: take every gradient at the worst point within `rho`.

    Plain SAM (Foret et al. 2021, whose usual `rho` is 0.05), or `adaptive` to the size of each
    weight (Kwon et al. 2021, who use 0.5 to 2). Equations: `phasegrid.train.sharpness`. With a
    `rho` of 0 the result is that of the optimizer alone, at twice its cost.
    """

    rho: NonNegative = 0.05
    adaptive: bool = False


MOMENT = r"^(end|(epoch|update)-(0|[1-9][0-9]*))$"
END = "end"


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Which weights are published as checkpoints during a training.

    Checkpoints are published every so many epochs or updates (both start with 0, the
    initialisation), at listed epochs and updates, and, with ``at: lowest_rate``, whenever the
    learning rate is at a minimum (`phasegrid.train.schedules.lowest_updates`). `optimizer` lists
    checkpoints for which the state of the optimizer is published as well: ``end``, ``epoch-40``,
    ``update-900``; a later stage that keeps the optimizer adds its own. A training that stops early
    leaves fewer checkpoints.
    """

    every_epochs: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    every_updates: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    epochs: tuple[Annotated[int, Field(ge=0, le=MAX_COUNT)], ...] = ()
    updates: tuple[Annotated[int, Field(ge=0, le=MAX_COUNT)], ...] = ()
    at: Literal["lowest_rate"] | None = None
    optimizer: tuple[Annotated[str, Field(pattern=MOMENT)], ...] = ()


@dataclass(frozen=True, slots=True)
class Collect:
    """When a collector (`phasegrid.train.collectors`) takes the weights: after every epoch, every
    so many epochs or updates, or whenever the learning rate is at a minimum. The first weights that
    it can take are those after epoch `from_epoch`; it never takes the initialisation. `rank` is the
    number of deviations that ``swag`` keeps.
    """

    name: Literal["swa", "swag"]
    from_epoch: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    every_epochs: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    every_updates: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    at: Literal["lowest_rate"] | None = None
    rank: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 20


@dataclass(frozen=True, slots=True)
class Prune:
    """Keep the share `density` of the weights of linear layers and convolutions: those that are
    largest in magnitude when training starts, in the whole network or in each layer. The others
    stay zero (`phasegrid.train.pruning`).
    """

    density: Annotated[float, Field(gt=0, le=1)]
    scope: Literal["global", "layer"] = "global"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a trial is trained.

    - `lr`, `weight_decay`: per update. `batch_size`: in examples, unless `batch_unit` says
      otherwise. `epochs`: passes over the data; with 0 the network is measured as it begins, drawn
      at random or with given weights.
    - `optimizer`: ``sgd`` (with `momentum` and `nesterov`), ``adam`` (`betas`, `adam_eps`; weight
      decay is added to the gradient), ``adamw`` (the same, but weight decay shrinks the weights
      directly) or ``rmsprop``.
    - `keep`: the weights that the trial is known by: the epoch of lowest training loss
      (``best_train_loss``, as in the paper), the ``last``, or the epoch of highest test accuracy
      (``best_test``) or lowest test loss (``best_test_loss``).
    - `keep_every`: also store the weights every so many epochs (0: never).
    - `updates`: train for this many updates instead of `epochs` passes; the last pass may be
      incomplete.
    - `batch_unit`: ``tokens`` fills a batch with sentence pairs of similar length, up to
      `batch_size` tokens of source and of target each, padding included. It needs `updates`,
      because the number of batches varies between passes.
    - `test_every`: evaluate the test set every so many epochs (0: only when needed), so that the
      best value of the run (*optimal early stopping*: Yang et al. 2021, appendix D.4) is stored
      beside the final one.
    - `sam`: take every gradient at the worst point nearby, with any optimizer.
    - `clip_norm`: scale a gradient of the loss with a larger norm to this norm, before the
      optimizer's step.
    - `accumulate`: pass every batch through the network in so many parts and add up their
      gradients, which takes so many times less memory for activations. The update is that of the
      whole batch, but BatchNorm normalises each part by itself. A part has two examples or more.
    - `objective`: the loss for training and scoring, a name of `phasegrid.tasks.objectives` or your
      own, with its arguments; null is cross-entropy with `label_smoothing`.
    - `precision`: ``fp32``, ``tf32`` (float32 with TF32 products on a GPU) or ``bf16`` (autocast
      with float32 weights).
    """

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    lr: Positive = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    adam_eps: Positive = 1e-8
    weight_decay: NonNegative = 5e-4
    batch_size: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 128
    epochs: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 150
    drop_last: bool = False
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    stop: Stop | None = field(default_factory=Stop)
    keep: Literal["best_train_loss", "last", "best_test", "best_test_loss"] = "best_train_loss"
    keep_every: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    updates: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = later(None)
    batch_unit: Literal["examples", "tokens"] = later("examples")
    test_every: Annotated[int, Field(ge=0, le=MAX_COUNT)] = later(0)
    rmsprop: RMSprop = later(RMSprop())
    sam: SAM | None = later(None)
    clip_norm: Positive | None = later(None)
    checkpoints: Checkpoints | None = later(None)
    objective: dict[str, JsonValue] | None = later(None)
    prune: Prune | None = later(None)
    collect: Collect | None = later(None)
    accumulate: Annotated[int, Field(ge=1, le=MAX_COUNT)] = later(1)

    @property
    def keeps_optimizer(self) -> bool:
        """Whether the optimizer's state is published beside the final weights."""
        return self.checkpoints is not None and END in self.checkpoints.optimizer


LEAVES = ("keep_every", "checkpoints", "collect")
"""The fields that say what a training publishes besides its final weights."""


def _later(owner: type) -> dict[str, Any]:
    """Return the fields of a dataclass that were added later, at their defaults, as JSON."""
    found = TypeAdapter(owner).dump_python(owner(), mode="json")
    return {spec.name: found[spec.name] for spec in fields(owner) if spec.metadata.get("later")}


LATER: Mapping[str, Any] = {**_later(Recipe), "schedule": _later(Schedule)}
"""The fields that were added later, at their defaults. Trials stored before that lack them; some
fields of ``schedule`` are later than others.
"""


def hashed_recipe(recipe: Mapping[str, Json]) -> dict[str, Json]:
    """Return the part of a resolved recipe that is in a trial's key: a field added later is left
    out at its default.
    """
    schedule = recipe["schedule"]
    assert isinstance(schedule, Mapping)
    hashed = _without_later(recipe, LATER)
    if isinstance(collect := hashed.get("collect"), Mapping):
        hashed["collect"] = {**collect, "version": COLLECT_VERSION}
    return {**hashed, "schedule": _without_later(schedule, LATER["schedule"])}


def _without_later(values: Mapping[str, Json], later: Mapping[str, Any]) -> dict[str, Json]:
    return {k: v for k, v in values.items() if not (k in later and _listed(v) == later[k])}


def _listed(value: Json) -> Json:
    return list(value) if isinstance(value, tuple) else value


def examples_per_batch(recipe: Mapping[str, Any], labels_per_example: float) -> float:
    """Return the mean number of examples in a batch of a resolved recipe, given the labels per
    example.
    """
    size = float(recipe["batch_size"])
    return size if recipe.get("batch_unit", "examples") == "examples" else size / labels_per_example


def with_checkpoint(
    recipe: Mapping[str, Json], at: str | None, optimizer: bool
) -> Mapping[str, Json]:
    """Return a resolved recipe that also publishes this checkpoint (``epoch-40``, ``update-900``;
    None: none), and the state of the `optimizer` with it if asked for.
    """
    if at is None and not optimizer:
        return recipe
    usual = TypeAdapter(Checkpoints).dump_python(Checkpoints(), mode="json")
    found: dict[str, Any] = {**usual, **(_mapping(recipe["checkpoints"]))}
    if at is not None:
        unit, _, number = at.partition("-")
        found[f"{unit}s"] = sorted({*found[f"{unit}s"], int(number)})
    if optimizer:
        found["optimizer"] = sorted({*found["optimizer"], at or END})
    return {**recipe, "checkpoints": found}


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}
