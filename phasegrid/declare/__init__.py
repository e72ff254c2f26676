"""Declarations of models, data sets, metrics, objectives, schedules and figures: facts as data,
read without importing torch.

A declaration holds three things: its arguments, as a frozen dataclass (types, defaults, and bounds
as ``typing.Annotated[..., pydantic.Field(...)]``); its version; and a reference to the function
that does the work, either the function itself or ``"package.module:name"``, which is imported when
first used. The sweep reader validates arguments against the dataclass, the planner reads `over`,
the store reads `columns`, and the analysis draws any column.

Raise `version` by hand when the numbers change.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, Literal, TypeAlias, TypeVar

from phasegrid.declare.columns import UNIT_OF_LOSS as UNIT_OF_LOSS
from phasegrid.declare.columns import Column as Column
from phasegrid.declare.columns import Shown as Shown
from phasegrid.declare.columns import list_column as list_column
from phasegrid.declare.figures import FigureKind as FigureKind
from phasegrid.declare.figures import FigureRequest as FigureRequest
from phasegrid.declare.figures import Grid as Grid
from phasegrid.declare.figures import Needs as Needs
from phasegrid.declare.findings import Finding as Finding
from phasegrid.declare.findings import Rule as Rule
from phasegrid.declare.findings import SourceRule as SourceRule
from phasegrid.estimates import Guess, Measurement, ModelCounts
from phasegrid.jobs import Part
from phasegrid.keys import Json

T = TypeVar("T")

MAX_COUNT = 1_000_000_000
"""The largest count that an argument can mean: of epochs, updates, examples, points, probes, ..."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The form of a data set of sentence pairs.

    An example is an integer array (2, L) with two rows: the source sentence, and the input of the
    decoder (the target sentence after a start token). Both are padded with 0 to `length` = L. Its
    labels (L,) are the target sentence with an end token, padded with `IGNORE` of
    `phasegrid.tasks.tokens`. Both vocabulary sizes include the special tokens; `target_vocabulary`
    is the number of classes.
    """

    length: int
    source_vocabulary: int
    target_vocabulary: int


@dataclass(frozen=True, slots=True)
class Windows:
    """The form of a data set of running text.

    An example is an integer array (`length`,): a window of consecutive words. Its labels
    (`length`,) are the next word after each of them. Consecutive examples are consecutive text.
    `vocabulary` is the number of words, which is also the number of classes.
    """

    length: int
    vocabulary: int


Form: TypeAlias = Tokens | Windows
"""What a task needs to know about examples beyond their shape."""


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What planning needs to know about a data set before anything is loaded.

    `task` is a key of `phasegrid.tasks.TASKS`. `form` is a `Tokens` for ``translation``, a
    `Windows` for ``language`` and None for ``classification``. `labels_per_example` is the mean
    number of labels per training example; the cost grows with it. `num_aside` is the number of
    training examples set aside; `num_train` does not count them.
    """

    num_train: int
    num_test: int
    input_shape: tuple[int, ...]
    num_classes: int
    task: str = "classification"
    form: Form | None = None
    labels_per_example: float = 1.0
    num_aside: int = 0


@dataclass(frozen=True, slots=True)
class DatasetKind:
    """A data set.

    ``load(root, **args)`` returns a `phasegrid.datasets.dataset.Dataset`. ``facts(args)`` returns
    its `DatasetFacts` without importing torch, or None if they are not known before loading.

    For data sets made of the user's own files, ``fingerprint(args)`` returns arguments that
    identify their contents (a SHA-256); they become part of the key. It raises `DataError` if the
    files are missing. ``vocabulary(dataset)`` returns the map from words to numbers as JSON, which
    is stored once per data set. `rules` check the arguments against each other.
    """

    args: type
    load: str | Callable[..., object]
    facts: str | Callable[[Mapping[str, Json]], DatasetFacts | None]
    version: int = 1
    fingerprint: str | Callable[[Mapping[str, Json]], Mapping[str, Json]] | None = None
    vocabulary: str | Callable[[Any], Json] | None = None
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A family of networks: ``make(input_shape, num_classes, **args) -> torch.nn.Module``.

    The module may write into its inputs: they are copies. Draws from global generators are seeded
    by the trial. All of its state must be in ``state_dict()``, and in eval mode it must draw
    nothing.

    `takes` is the task whose examples it reads (a key of `phasegrid.tasks.TASKS`). A model for
    ``translation`` or ``language`` is made by ``make(form, **args)`` with the data set's `Tokens`
    or `Windows`. A translation model maps (N, 2, L) to logits (N, L, target vocabulary) for every
    L, and must ignore padding and later target words.

    ``count(facts, **args)`` returns the `ModelCounts` of a network for a data set with these facts.
    Without it, every job is planned at 10 s and with a whole GPU. `smallest_image` is the smallest
    height and width of an image (channels, height, width) that the model accepts, and `channels`
    its number of channels. `rules` check the arguments against each other;
    ``fits(args, input_shape, num_classes)`` checks them against the data.

    ``begin(module, **args)`` gives a network its first weights where a training begins, for example
    those of a file; measured networks have theirs from the store. ``fingerprint(args)`` returns
    arguments that identify such a file, as that of a `DatasetKind`.
    """

    args: type
    make: str | Callable[..., object]
    version: int = 1
    takes: str = "classification"
    count: str | Callable[..., ModelCounts] | None = None
    smallest_image: int | None = None
    rules: tuple[Rule, ...] = ()
    channels: int | None = None
    begin: str | Callable[..., object] | None = None
    fingerprint: str | Callable[[Mapping[str, Json]], Mapping[str, Json]] | None = None
    fits: str | Callable[[Mapping[str, Any], tuple[int, ...], int], Finding | None] | None = None


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss per label: networks are trained with it and scored by it.

    ``loss(logits, batch, **args)`` maps the logits (M, B, C) of M networks and a
    `phasegrid.tasks.batches.Batch` to differentiable losses (M, B). The loss of one label must not
    depend on another label. Scoring passes float64 logits and sets the arguments in `training_only`
    to their defaults.

    ``curvature(logits, **args)`` returns the Hessian of the loss in the logits (N, C) as sizes (N,
    K) and columns (N, K, C), with H = sum_k sizes_k columns_k columns_k^T; exact traces are
    computed from it. ``reduced(logits, labels, reduction, **args)`` returns the sum or the mean of
    the losses for logits (K, C) and labels (K,); networks train faster with it. `tasks` are the
    tasks that it works for (empty: all).

    `predicts` says what the outputs of a network mean. ``probabilities``: their softmax is the
    probability of each class. The mean of several networks is the mean of these, scored by the loss
    at its logarithm; calibration, perplexity and the CKA of the softmax exist. ``values``: the mean
    of several networks is the mean of their outputs, scored by the loss; those numbers are null.

    `unit` is the unit of the loss as networks are scored by it, for figures and tables: ``nats``
    for a cross-entropy. The phases of a sweep compare a training loss with a threshold only if it
    is in nats.

    `aside` names the argument, in [0, 1), that sets the share of every training batch that is taken
    from the examples set aside (``dataset.aside``). ``batch.extra["aside"]`` (M, B) marks these
    examples. Scoring uses none of them, and training loss and accuracy do not count them.
    """

    args: type
    loss: str | Callable[..., Any]
    version: int = 1
    training_only: tuple[str, ...] = ()
    curvature: str | Callable[..., Any] | None = None
    reduced: str | Callable[..., Any] | None = None
    tasks: tuple[str, ...] = ()
    aside: str = ""
    predicts: Literal["probabilities", "values"] = "values"
    unit: str = ""


@dataclass(frozen=True, slots=True)
class ScheduleKind:
    """A learning-rate schedule: ``factor(moment, args) -> float`` is multiplied by the recipe's
    `lr`.

    `moment` is a `phasegrid.train.schedules.Moment`, and `args` an instance of the dataclass
    `args`. `reads` are the fields of `phasegrid.train.recipe.Schedule` that it reads, beside the
    warm-up.
    """

    args: type
    factor: str | Callable[..., float]
    version: int = 1
    reads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """A measurement over one trial, a pair of trials, the trials of a cell, or another metric's
    artifact.

    ``compute(models, data, rng, **args)`` returns one row or a list of rows; a row maps column
    names to values. `models` are the trained modules in eval mode, in the order of the job's
    trials; `data` is the data set; `rng` is a generator seeded with the job's key. Other metrics
    use the same modules and data, so ``compute`` must not change them.

    ``compute_many(models, groups, data, rngs, **args)`` is optional. It computes several jobs at
    once and returns one result per group; a group is a tuple of indices into `models`. If it
    returns None, each job is computed by itself.

    ``by_turns(models, data, rng, **args)`` is for built-in metrics that train. It is ``compute`` as
    a generator, which yields after every update: on a GPU the jobs of a pack take turns.

    - `over`: what one job measures. `min_trials`: the fewest trials that it needs. `pairs`: the
      default choice of pairs. `usual_over`: what a job of a request measures that says neither
      ``over`` nor ``networks``, if it is not `over`: a metric of cells may usually be over a trial.
    - `takes`: the task that its data must have (a key of `phasegrid.tasks.TASKS`, or ``any``).
    - `heavy`: it trains something. Each job gets its own pack; where ``compute_many`` can compute
      them together, all jobs of a cell share one.
    - `cost`: seconds of a job on one CPU core, as a `phasegrid.estimates.Guess` (default: 10 s).
      `recorded`: on a GPU, CUDA graphs start its kernels, which makes its forecast shorter.
    - `memory`: bytes of GPU memory of a job, without the data set and the networks. `gpu_share`: a
      fixed share of a GPU, in (0, 1], used instead of `memory`. Without both, a job gets a whole
      GPU.
    - `rules`: check the arguments against each other. ``fits(args, recipe, facts)`` checks them
      against the recipe of a cell and its data set. What they find is reported as a mistake of the
      sweep.
    - `of_networks`: ``rule(args, num)`` checks the arguments against the number of networks of a
      job, or of the job whose artifact it reads. `for_fewer`: the metric of one network that is
      named to who asks for it with one.
    - `untypical`: values of arguments with which it measures something else than its name says (a
      curve of no bends is not trained). Such a way has the plain name only if there is no other.
    - `one_model`: it compares or joins weights; its networks must have as many parameters.
    - `source_rules`: by artifact, ``rule(args, source)`` checks its arguments against those of the
      request that it reads (``of``). A mistake is reported at the argument, or at ``of``.
    - `of_only`: arguments that say something about what it reads only, each with the artifacts that
      it is about. Elsewhere they are a mistake.
    - `leaves`: the artifacts that it can leave for other metrics; ``compute`` then returns a
      `phasegrid.metrics.measured.Measured`.
    - `reads`: the artifacts of other metrics that it can read. A request reads the first of them
      that the request leaves which it is ``of``. ``compute`` then also gets ``sources``,
      `phasegrid.metrics.measured.Source`, empty without ``of``, and `models` are the networks of
      the other measurement. A metric over ``artifact`` always needs ``of``.
    - `passes(args, num_train)`: how many times what it trains goes forward and backward through the
      training set, of so many examples; an epoch of a training does once.
    - `samples`: with ``at: swag`` it draws networks from the moments of the weights that a training
      collected. ``sources`` are these ``moments``, and `models` the means of such networks.
    - `moments`: ``compute`` also gets ``moments``: each network's epochs done, and last rate.
    - `through`: the metric by which each of its networks is measured first (or the artifact that it
      is ``of``). Planning adds these jobs, and other requests share them. Arguments with the same
      name are passed on; those in `of_only` only where they say something.
      `sources` are then what these jobs leave, in the order of the networks, and `models` need not
      be loaded. If that metric does not take the task of the data, nothing is added.
    """

    over: Literal["trial", "pair", "cell", "artifact"]
    args: type
    columns: tuple[Column, ...]
    compute: str | Callable[..., object]
    compute_many: str | Callable[..., object] | None = None
    by_turns: str | None = None
    version: int = 1
    pairs: Literal["first", "from_first", "ring", "all"] = "all"
    min_trials: int = 1
    heavy: bool = False
    label: str = ""
    takes: str = "any"
    cost: Callable[[Measurement], Guess] | None = None
    recorded: bool = False
    memory: Callable[[Measurement], int] | None = None
    disk: Callable[[Measurement], int] | None = None
    gpu_share: float | None = None
    rules: tuple[Rule, ...] = ()
    fits: Callable[[Mapping[str, Any], Mapping[str, Any], DatasetFacts], Finding | None] | None = (
        None
    )
    of_networks: Callable[[Mapping[str, Any], int], Finding | None] | None = None
    for_fewer: str = ""
    one_model: bool = False
    source_rules: Mapping[str, SourceRule] = field(default_factory=dict)
    leaves: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    passes: Callable[[Mapping[str, Any], int], float] | None = None
    samples: bool = False
    moments: bool = False
    through: str | None = None
    of_only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    untypical: Mapping[str, Json] = field(default_factory=dict)
    usual_over: Literal["trial", "pair"] | None = None

    def __post_init__(self) -> None:
        for name in ("leaves", "reads"):
            if isinstance(found := getattr(self, name), str):
                raise TypeError(f"{name}: found the text {found!r}; allowed: a tuple of names")


def shown_of(metric: Metric, defaults: Mapping[str, Json]) -> Shown:
    """Return what figures and tables need to know about a metric whose arguments have these
    defaults.
    """
    return Shown(metric.columns, defaults, metric.over, metric.leaves, metric.untypical)


def locator(default: T) -> T:
    """Declare an argument that says where to find something; it is not part of the key."""
    value: T = field(default=default, metadata={"locator": True})
    return value


def later(default: T) -> T:
    """Declare an argument added after version 1; at its default it is left out of the key."""
    value: T = field(default=default, metadata={"later": True})
    return value


def make_part(name: str, version: int, args_type: type, args: Mapping[str, Json]) -> Part:
    """Split resolved arguments into those that are hashed and those that only locate data."""
    hashed: dict[str, Json] = {}
    locators: dict[str, Json] = {}
    for spec in fields(args_type):
        value = args[spec.name]
        if spec.metadata.get("locator"):
            locators[spec.name] = value
        elif not (spec.metadata.get("later") and value == _default(spec)):
            hashed[spec.name] = value
    return Part(name, version, hashed, locators)


def import_function(reference: str | Callable[..., T]) -> Callable[..., T]:
    """Return the function that a declaration refers to; import it if necessary."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    function: Callable[..., T] = getattr(importlib.import_module(module), name)
    return function


@cache
def later_defaults(args_type: type) -> Mapping[str, Json]:
    """Return the arguments declared by `later` with their defaults; `make_part` leaves them out."""
    return {spec.name: _default(spec) for spec in fields(args_type) if spec.metadata.get("later")}


def _default(spec: Any) -> Any:
    return spec.default_factory() if spec.default is MISSING else spec.default
