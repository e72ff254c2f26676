"""How a model, a data set, a metric, a schedule or a figure declares itself: facts as data, read
without importing torch.

A declaration names its arguments as a frozen dataclass (types, defaults, bounds through
``typing.Annotated[..., pydantic.Field(...)]``), its version, and where the function that does the
work lives, either as ``"package.module:name"`` (imported when first needed) or as the function
itself. The sweep reader validates against the dataclass, the planner reads `over`, the store reads
`columns`, the analysis draws any column.

A version is bumped by hand when the numbers change.
"""

import difflib
import importlib
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeAlias, TypeVar

from phasegrid.estimates import Guess, Measurement, ModelCounts
from phasegrid.jobs import Part
from phasegrid.keys import Json

T = TypeVar("T")

Finding: TypeAlias = tuple[str, str]
"""A mistake: the argument to blame, and what to say of it."""

Rule: TypeAlias = Callable[[Mapping[str, Any]], Finding | None]
"""Says what is wrong between resolved arguments, if anything is."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a metric's table: what is stored, and how figures and tables show it.

    `type` is an Arrow type by its short name; null is always allowed. `role` says what a column is
    for:

    - ``value``: a number that figures and tables show, if it is a ``float64``. One per job, or one
      per value of the metric's axes.
    - ``axis``: tells the rows of one job apart (a layer, a class, a point of a curve). Each of its
      values has numbers of its own, ``accuracy[class=3]``; those of the value `usual` have the
      plain name.
    - ``detail``: kept in the store, shown nowhere.

    A shown number has a `label` (default: the name in words), says what is `better`, and has
    colours: `scale`, the `centre` where a diverging colour map is neutral, `limits` where they are
    fixed, and the colour map of matplotlib called `colours` (default: chosen after `better` and
    `centre`). `stderr` names the column that holds its standard error. `transform` ``log_mean``
    shows the natural logarithm of the mean over seeds; a mean within rounding of the quantity
    `hidden_by` then counts as zero. `quantity` is what figures call it, if not `name`.
    """

    name: str
    type: Literal["float64", "int64", "bool", "string", "list<float64>", "list<list<float64>>"]
    unit: str
    doc: str
    label: str = ""
    better: Literal["higher", "lower"] | None = None
    role: Literal["value", "axis", "detail"] = "value"
    scale: Literal["linear", "log"] = "linear"
    centre: float | None = None
    limits: tuple[float, float] | None = None
    colours: str = ""
    stderr: str = ""
    transform: Literal["none", "log_mean"] = "none"
    hidden_by: str = ""
    usual: str | int | float | None = None
    quantity: str = ""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is special about a data set of sentence pairs.

    An example is an integer array (2, L): the source sentence, and what the decoder is given (the
    target sentence after a start token), both padded with 0 to `length` = L. Its labels (L,) are
    the target sentence with an end token, `IGNORE` of `phasegrid.tasks.tokens` where it is padded.
    The vocabularies are sizes, special tokens included; `target_vocabulary` is the number of
    classes.
    """

    length: int
    source_vocabulary: int
    target_vocabulary: int


@dataclass(frozen=True, slots=True)
class Windows:
    """What is special about a data set of running text.

    An example is an integer array (`length`,): a window of consecutive words. Its labels
    (`length`,) are the words after each of them. Consecutive examples are consecutive text.
    `vocabulary` is the number of words, and of classes.
    """

    length: int
    vocabulary: int


Form: TypeAlias = Tokens | Windows
"""What a task may need to know of examples beyond their shape."""


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What planning must know of a data set before anything is loaded.

    `task` is a name of `phasegrid.tasks.TASKS`, `form` what that task needs to know of examples
    beyond their shape: a `Tokens` for ``translation``, `Windows` for ``language``, nothing for
    ``classification``.
    `labels_per_example` is the mean number of labels of a training example: work grows with it.
    `num_aside` are the examples set aside, which `num_train` does not count.
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
    """A data set. ``load(root, **args) -> Dataset``; ``facts(args)`` without torch, None if not
    known before loading.

    `fingerprint(args)`, for sets that are the user's own files, returns arguments that stand for
    the contents (a SHA-256) and become part of the identity; it raises `DataError` when the files
    are not there. `vocabulary(dataset)` returns how words became numbers, as JSON, to be stored
    once beside the trials. `rules` are between its arguments.
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
    """A family of networks. ``make(input_shape, num_classes, **args) -> torch.nn.Module``.

    The network gets copies of inputs and may write into them; what it draws without being given a
    generator is seeded by its trial. All that it keeps must be in its ``state_dict()``; in eval
    mode it draws nothing.

    It `takes` examples of one task (`phasegrid.tasks.TASKS`). One that takes ``translation`` is
    for data sets of sentence pairs: ``make(form, **args)`` with their `Tokens`; it maps (N, 2, L)
    to logits (N, L, target vocabulary) for any L, and must not look at padding or ahead.

    ``count(facts, **args) -> ModelCounts`` says what a network for a data set of these facts has
    and does, for planning: without it jobs are planned at 10 s and a GPU each. One with a
    `smallest_image` takes images (channels, height, width) of at least so many pixels in height and
    width. `rules` are between its arguments.
    """

    args: type
    make: str | Callable[..., object]
    version: int = 1
    takes: str = "classification"
    count: str | Callable[..., ModelCounts] | None = None
    smallest_image: int | None = None
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss of each label, which networks train with and are scored by.

    ``loss(logits, batch, **args)`` maps logits (M, B, C) of M networks and a
    `phasegrid.tasks.batches.Batch` to losses (M, B), differentiably and label by label: what one
    label loses depends on no other. It is given float64 where networks are scored. Arguments in
    `training_only` are at their defaults there. ``curvature(logits, **args)`` returns its Hessian
    in logits (N, C) as sizes (N, K) and columns (N, K, C), sum_k sizes_k columns_k columns_k^T,
    from which exact traces follow. `tasks` are those it is for; none: all of them.

    `aside` names the argument, in [0, 1), that says which share of every training batch is of
    examples that the data set sets aside (``dataset.aside``); ``batch.extra["aside"]`` (M, B) then
    says which they are. Scored batches have none, and training loss and accuracy are of the others.
    """

    args: type
    loss: str | Callable[..., Any]
    version: int = 1
    training_only: tuple[str, ...] = ()
    curvature: str | Callable[..., Any] | None = None
    tasks: tuple[str, ...] = ()
    aside: str = ""


@dataclass(frozen=True, slots=True)
class ScheduleKind:
    """A learning rate over time. ``factor(moment, args) -> float`` is the factor of a recipe's `lr`
    at a `phasegrid.train.schedules.Moment`; `args` is an instance of the declared dataclass.
    """

    args: type
    factor: str | Callable[..., float]
    version: int = 1


@dataclass(frozen=True, slots=True)
class Metric:
    """A measurement over one trial, a pair of trials or the trials of a cell.

    ``compute(models, data, rng, **args) -> row | list[row]`` gets the trained modules (eval mode,
    in the order of the job's trials), the data set, and a generator seeded from the job's key; a
    row maps column names to values. Others use the same modules and data: it changes neither, or
    works on copies. `compute_many(models, groups, data, rngs, **args) -> list[row | list[row]] |
    None`, where a metric has it, does several jobs at once (all pairs from one product): `groups`
    are tuples of indices into `models`. It returns None where nothing is gained, and each job is
    then computed, and stored, by itself. `pairs` is the default choice of pairs. `heavy` metrics
    train something and get a pack of their own, or one for all of a cell that `compute_many` can
    do. `takes` names the task (`phasegrid.tasks.TASKS`) that its data must be of.

    `cost` and `memory` are for planning, in the terms of `phasegrid.estimates`, whose `Measurement`
    they are given: the time of a job on one CPU core, and the bytes that it takes of a GPU beside
    data set and networks. `gpu_share` in (0, 1] is the part of a GPU that a job gets whatever its
    memory. Without `cost` a job is planned at 10 s; without `memory` and `gpu_share` it gets a GPU
    for itself.

    `rules` are between its arguments; ``fits(args, recipe, facts)`` says what is wrong between
    these, the recipe of a cell and its data set. What they find is a mistake of the sweep.

    `leaves` names the artifacts that it may leave for other metrics: then ``compute`` returns a
    `phasegrid.metrics.measured.Measured`. `reads` names the artifact of another metric that it can
    read: then ``compute`` also gets ``sources``, a list of `phasegrid.metrics.measured.Source`,
    empty where a sweep does not say ``of``, and `models` are the networks that the other
    measurement was about. One that is over ``artifact`` is never measured without.
    """

    over: Literal["trial", "pair", "cell", "artifact"]
    args: type
    columns: tuple[Column, ...]
    compute: str | Callable[..., object]
    compute_many: str | Callable[..., object] | None = None
    version: int = 1
    pairs: Literal["first", "ring", "all"] = "all"
    min_trials: int = 1
    heavy: bool = False
    label: str = ""
    takes: str = "any"
    cost: Callable[[Measurement], Guess] | None = None
    memory: Callable[[Measurement], int] | None = None
    gpu_share: float | None = None
    rules: tuple[Rule, ...] = ()
    fits: Callable[[Mapping[str, Any], Mapping[str, Any], DatasetFacts], Finding | None] | None = (
        None
    )
    leaves: tuple[str, ...] = ()
    reads: str | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What figures and tables must know of a metric: its columns, the defaults of its arguments,
    from which ways of measuring are named, and what it is over.
    """

    columns: tuple[Column, ...]
    defaults: Mapping[str, Any]
    over: str = "trial"

    @property
    def axes(self) -> Mapping[str, str | int | float | None]:
        """The columns that tell the rows of one job apart, with the value that is not named."""
        return {column.name: column.usual for column in self.columns if column.role == "axis"}


def locator(default: T) -> T:
    """Declare an argument that says where to find a thing and is not part of its identity."""
    value: T = field(default=default, metadata={"locator": True})
    return value


def later(default: T) -> T:
    """Declare an argument added after release 1 of its owner: at its default it is left out of the
    key.
    """
    value: T = field(default=default, metadata={"later": True})
    return value


def make_part(name: str, version: int, args_type: type, args: Mapping[str, Json]) -> Part:
    """Split resolved arguments into what is hashed and what only locates."""
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
    """Return the function that a declaration refers to."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    function: Callable[..., T] = getattr(importlib.import_module(module), name)
    return function


def later_defaults(args_type: type) -> dict[str, Json]:
    """Return the arguments that `make_part` leaves out of a part's args at their default, at that
    default.
    """
    return {spec.name: _default(spec) for spec in fields(args_type) if spec.metadata.get("later")}


def _default(spec: Any) -> Any:
    return spec.default_factory() if spec.default is MISSING else spec.default


@dataclass(frozen=True, slots=True)
class Needs:
    """What a figure is made from: quantities by name, variants too, and metrics whose rows it
    reads.
    """

    quantities: Sequence[str] = ()
    rows: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """What a figure may be checked against before anything is measured: the labels of each axis
    that there is, in order, and how many cells.
    """

    labels: Mapping[str, Sequence[str]]
    num_cells: int

    def unknown_labels(
        self, argument: str, found: Sequence[str] | None, axis: str
    ) -> Iterator[Finding]:
        """Name each label that is not on an axis, as the item of an argument that it is."""
        known = self.labels.get(axis, ())
        there = textwrap.shorten(", ".join(known), 200, placeholder="...")
        allowed = there or f"none (the sweep has no axis {axis})"
        for index, label in enumerate(found or ()):
            if label not in known:
                close = difflib.get_close_matches(label, list(known), n=1, cutoff=0.6)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                message = f"found {label!r}, which is not on the axis {axis}; allowed: {allowed}"
                yield f"{argument}.{index}", message + hint


@dataclass(frozen=True, slots=True)
class FigureKind:
    """A kind of figure. ``draw(tables, args) -> matplotlib.figure.Figure``, where `args` is an
    instance of the declared dataclass, which has a `name`, the stem of the file; and `tables` a
    `phasegrid.analysis.report.requested.Tables`.

    ``needs(args)`` says what is drawn: of the quantities `tables` has those that are measured, and
    a figure of which nothing is measured yet is left out with a note. ``fits(args, grid)`` finds
    what does not fit the grid of the sweep. Arguments called `at` hold labels of an axis, which a
    sweep may write as numbers, `quantities` and `at` hold each item once, and one called `against`
    names another sweep of the store.
    """

    args: type
    draw: str | Callable[..., object]
    needs: Callable[[Mapping[str, Any]], Needs] = lambda _args: Needs()
    fits: Callable[[Mapping[str, Any], Grid], Iterable[Finding]] = lambda _args, _grid: ()
    version: int = 1


@dataclass(frozen=True, slots=True)
class FigureRequest:
    """A figure that a sweep asks for: its kind, and the arguments of that kind as they are
    written.
    """

    kind: str
    args: Mapping[str, Json]

    @property
    def name(self) -> str:
        """The stem of the file it becomes."""
        return str(self.args["name"])
