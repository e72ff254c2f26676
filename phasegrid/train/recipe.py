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

from pydantic import Field

from phasegrid.declare import later
from phasegrid.jobs import Json

RECIPE_VERSION = 1  # bump when the same recipe gives other numbers

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate as a factor of `lr`, after an optional linear warm-up of `warmup_updates`
    updates.

    - ``constant``: 1.
    - ``step``: multiplied by `factor` at each epoch in `at_epochs` (counted from 0: 75 means before
      the 76th epoch).
    - ``cosine``: (1 + cos(pi u/U)) / 2, from 1 to `final`, over all updates U after the warm-up.
    - ``linear``: from 1 to `final` over all updates after the warm-up.
    - ``inverse_sqrt``: sqrt(w/u) with w = max(warmup_updates, 1), the schedule of Vaswani et al.
      2017.
    """

    name: Literal["constant", "step", "cosine", "linear", "inverse_sqrt"] = "constant"
    at_epochs: tuple[Annotated[int, Field(gt=0)], ...] = ()
    factor: Positive = 0.1
    final: Fraction = 0.0
    warmup_updates: Annotated[int, Field(ge=0)] = 0


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
    patience: Annotated[int, Field(ge=1)] = 5


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a trial is trained. Rates are per update, `batch_size` counts examples, `epochs` passes
    over the data.

    `keep` names the weights that the trial is known by: those of the epoch with the lowest training
    loss (``best_train_loss``, the paper's), the ``last``, or those with the highest test accuracy
    (``best_test``) or the lowest test loss (``best_test_loss``). `keep_every` stores intermediate
    weights too, every so many epochs (0: none). `updates` trains for so many updates instead of
    `epochs` passes; the last pass ends where they do. `batch_unit` ``tokens``: a batch holds
    sentence pairs of like length, as many as fit into `batch_size` tokens of source and as many of
    target, padding counted (needs `updates`: the number of batches varies from pass to pass).
    `test_every`: the test set is evaluated every so many epochs too (0: only where something asks
    for it), so that the best of the run, *optimal early stopping* (Yang et al. 2021, appendix D.4),
    is stored beside the final numbers. `precision`: ``fp32``, ``tf32`` (float32 with TF32 matrix
    products on a GPU), ``bf16`` (autocast; float32 weights).
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Positive = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    adam_eps: Positive = 1e-8
    weight_decay: NonNegative = 5e-4
    batch_size: Annotated[int, Field(ge=1)] = 128
    epochs: Annotated[int, Field(ge=1)] = 150
    drop_last: bool = False
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    stop: Stop | None = field(default_factory=Stop)
    keep: Literal["best_train_loss", "last", "best_test", "best_test_loss"] = "best_train_loss"
    keep_every: Annotated[int, Field(ge=0)] = 0
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    updates: Annotated[int, Field(ge=1)] | None = later(None)
    batch_unit: Literal["examples", "tokens"] = later("examples")
    test_every: Annotated[int, Field(ge=0)] = later(0)


LATER: Mapping[str, Any] = {
    spec.name: spec.default for spec in fields(Recipe) if spec.metadata.get("later")
}
"""The fields that were added later, at their defaults; a trial that was stored before does not have
them.
"""


def hashed_recipe(recipe: Mapping[str, Json]) -> dict[str, Json]:
    """Return what of a resolved recipe is in a trial's key: a field added later is left out at its
    default.
    """
    return {k: v for k, v in recipe.items() if not (k in LATER and v == LATER[k])}
