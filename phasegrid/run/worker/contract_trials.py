"""Try a plug-in on two examples before anything is planned with it, and report what breaks its
contract.

A network is built, run forward and backward in train mode, and in eval mode on two examples and on
one; a data set is loaded and compared with its facts; a metric measures untrained networks on two
made-up examples. Nothing is kept.
"""

import inspect
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from phasegrid.config.contracts import Verdict
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.load import load_dataset
from phasegrid.declare import DatasetFacts, Metric, Model, import_function
from phasegrid.errors import PhasegridError, StoreError
from phasegrid.fallbacks import collected
from phasegrid.jobs import MetricJob, Part
from phasegrid.metrics.measured import Measured
from phasegrid.models.build import build_model
from phasegrid.models.weights import has_batch_norm
from phasegrid.redaction import redact
from phasegrid.registry import resolve_metric, resolve_model
from phasegrid.run.worker.inputs import arguments_of
from phasegrid.run.worker.write_checks import kept_settings
from phasegrid.seeding import seeded_draws
from phasegrid.store.schemas import metric_schema, to_table
from phasegrid.tasks.batches import epoch_bounds
from phasegrid.tasks.operations import operations_of
from phasegrid.user_code import where, where_raised

LIMIT_S = 10.0
"""Seconds to try a plug-in. One that takes longer may be correct, and is accepted with a note."""

NUM = 2
_EMPTY = (torch.empty, torch.empty_like, torch.empty_strided, Tensor.new_empty)
_MISTAKES = (TypeError, NameError, AttributeError, ImportError)
"""Errors that a metric would raise on any input; others may be due to the two examples and
untrained networks.
"""


class _TooSlowError(BaseException):
    """Trying took longer than `LIMIT_S`. Not an `Exception`, so that user code does not catch
    it.
    """


class _FaultError(Exception):
    """What is wrong, and where."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what + f" ({place})" * bool(place))


def try_network(part: Part, facts: DatasetFacts, batches: Sequence[tuple[int, bool]]) -> Verdict:
    """Try a network on made-up data of the shape of a data set; `batches` are its batch sizes, with
    drop_last.
    """
    return _tried(lambda: _check_network(part, facts, batches))


def try_dataset(part: Part) -> tuple[Verdict, DatasetFacts | None]:
    """Load a data set and return its properties. Files that are missing here may exist where the
    jobs run.
    """
    loaded: list[Dataset] = []
    verdict = _tried(lambda: loaded.append(load_dataset(part)))
    return verdict, _facts_of(loaded[0]) if loaded else None


def try_metric(job: MetricJob, networks: Sequence[Part], facts: DatasetFacts) -> Verdict:
    """Try a metric on untrained networks, as many as `networks`, and two made-up examples; its rows
    must fit its columns.
    """
    return _tried(lambda: _check_metric(job, networks, facts))


class _NothingInEmpty(TorchFunctionMode):
    """Fills uninitialised tensors with NaN, which an initialisation overwrites."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _EMPTY and isinstance(made, Tensor) and made.is_floating_point():
            made.fill_(math.nan)
        return made


def _tried(work: Callable[[], str | None]) -> Verdict:
    """Run a trial within `LIMIT_S`, with its own random draws."""
    try:
        with (
            _time_limit(),
            kept_settings(),
            seeded_draws(0),
            warnings.catch_warnings(),
            collected(),  # what it does another way, the run will say
        ):
            warnings.simplefilter("ignore")
            note = work()
        return Verdict(note=None if note is None else redact(note))
    except _TooSlowError:
        return Verdict(
            note=f"takes longer than {LIMIT_S:.0f} s on {NUM} examples; the check was stopped"
        )
    except (_FaultError, PhasegridError) as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, PhasegridError):
            return Verdict(note=redact(f"not tried: {error}"))
        return Verdict(fault=redact(str(error)))


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise `_TooSlowError` after `LIMIT_S`; no limit without alarm signals, or in a thread."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return

    def end(_signum: int, _frame: object) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _told(doing: str, error: Exception) -> _FaultError:
    return _FaultError(
        f"{doing}: {type(error).__name__}: {' '.join(str(error).split())}", where_raised(error)
    )


# --- networks


def _check_network(part: Part, facts: DatasetFacts, batches: Sequence[tuple[int, bool]]) -> None:
    declared = resolve_model(part.name)
    _check_parameters(_built(part, declared, facts), declared)
    faults = []
    for inputs, _ in _made_up(facts):  # a network may be made for numbers of one kind
        try:
            _check_passes(_built(part, declared, facts), declared, inputs, facts, batches)
        except _FaultError as fault:
            faults.append(fault)
        else:
            return
    raise faults[0]


def _built(part: Part, declared: Model, facts: DatasetFacts) -> nn.Module:
    """Build a network, with NaN in what it leaves uninitialised."""
    try:
        with _NothingInEmpty():
            return build_model(
                part, facts.input_shape, facts.num_classes, 0, facts.task, facts.form
            )
    except PhasegridError as error:
        raise _FaultError(str(error), _place_of(declared)) from error
    except Exception as error:
        raise _told("its make function fails", error) from error


def _check_parameters(module: nn.Module, declared: Model) -> None:
    place = _place_of(declared)
    for name, value in module.named_parameters():
        if is_lazy(value):
            what = (
                f"parameter {name} has no shape before the first forward pass; allowed: parameters"
                " made with their shape"
            )
            raise _FaultError(what, place)
        if value.dtype != torch.float32:
            raise _FaultError(f"parameter {name} is {_dtype(value)}; allowed: float32", place)
        if not bool(value.isfinite().all()):
            what = (
                f"parameter {name} holds NaN or infinities, or is never initialised; allowed:"
                " finite numbers"
            )
            raise _FaultError(what, place)
    if not any(value.requires_grad for value in module.parameters()):
        raise _FaultError("no parameter of the network can be trained", place)


def _check_passes(
    module: nn.Module,
    declared: Model,
    inputs: Tensor,
    facts: DatasetFacts,
    batches: Sequence[tuple[int, bool]],
) -> None:
    place = _place_of(declared, module)
    sizes = [NUM]
    for batch_size, drop_last in batches:
        bounds = epoch_bounds(facts.num_train, batch_size, drop_last, has_batch_norm(module))
        if any(bound.stop - bound.start == 1 for bound in bounds[-2:]):
            sizes = [NUM, 1]
    for mode, counts in (("eval", [NUM, 1]), ("train", sizes)):
        module.train(mode == "train")
        for count in counts:
            outputs = _forward(module, inputs[:count], facts, mode, place)
    try:
        labels = torch.zeros(outputs.shape[:-1], dtype=torch.int64)
        loss = cross_entropy(outputs.flatten(0, -2), labels.flatten())
        torch.autograd.backward(loss)
    except Exception as error:
        if not outputs.requires_grad:
            raise _FaultError(
                "its outputs do not depend on a parameter that can be trained", place
            ) from error
        raise _told("its backward pass fails", error) from error


def _forward(
    module: nn.Module, inputs: Tensor, facts: DatasetFacts, mode: str, place: str
) -> Tensor:
    num = len(inputs)
    batch = f"a batch of {num} example{'s' * (num != 1)}"
    try:
        outputs: object = module(inputs.clone())
    except Exception as error:
        raise _told(f"its forward pass fails on {batch} in {mode} mode", error) from error
    letters, wanted = operations_of(facts.task).output_shape(inputs, facts.num_classes)
    allowed = f"allowed: a float32 tensor {letters}, here {wanted}"
    if not isinstance(outputs, Tensor):
        raise _FaultError(f"forward returns a {type(outputs).__name__}; {allowed}", place)
    if tuple(outputs.shape) != wanted:
        raise _FaultError(
            f"forward maps {batch} to the shape {tuple(outputs.shape)}; {allowed}", place
        )
    if outputs.dtype != torch.float32:
        raise _FaultError(f"forward returns {_dtype(outputs)}; {allowed}", place)
    if not bool(outputs.isfinite().all()):
        raise _FaultError(
            f"the untrained network maps {batch} to NaN or infinities in {mode} mode", place
        )
    return outputs


def _made_up(facts: DatasetFacts) -> list[tuple[Tensor, Tensor]]:
    """Return inputs and labels that stand in for `NUM` examples of a data set."""
    made_up = operations_of(facts.task).made_up
    return made_up(facts.input_shape, facts.num_classes, facts.form, NUM)


def _place_of(declared: Model, module: nn.Module | None = None) -> str:
    """Return the place of a network's forward method if it is the user's, else that of its make
    function.
    """
    places = [type(module).forward] if module is not None else []
    for function in [*places, import_function(declared.make)]:
        code = getattr(inspect.unwrap(function), "__code__", None)
        place = where(code.co_filename, code.co_firstlineno) if code is not None else ""
        if place:
            return place
    return ""


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


# --- data sets


def _facts_of(data: Dataset) -> DatasetFacts:
    return DatasetFacts(
        len(data.train_labels),
        len(data.test_labels),
        data.input_shape,
        data.num_classes,
        data.task,
        data.form,
    )


# --- metrics


def _check_metric(job: MetricJob, networks: Sequence[Part], facts: DatasetFacts) -> str | None:
    metric = resolve_metric(job.metric.name)
    built = [
        build_model(part, facts.input_shape, facts.num_classes, seed, facts.task, facts.form).eval()
        for seed, part in enumerate(networks)
    ]
    compute = import_function(metric.compute)
    place = where(*_start_of(compute))
    arguments = arguments_of(job, metric)
    if metric.reads is not None:
        arguments["sources"] = []
    rng = torch.Generator().manual_seed(0)
    try:
        rows = compute(built, _made_up_data(facts), rng, **arguments)
    except _MISTAKES as error:
        raise _told("measuring fails", error) from error
    except Exception as error:
        return (
            f"{_told(f'on {NUM} made-up examples and untrained networks it raises', error)}; it may"
            " not on trained ones"
        )
    return _check_rows(job, metric, rows, place)


def _check_rows(job: MetricJob, metric: Metric, rows: object, place: str) -> str | None:
    rows = rows.rows if isinstance(rows, Measured) else rows
    several: list[Any] = rows if isinstance(rows, list) else [rows]
    if not several or not all(isinstance(row, Mapping) for row in several):
        found = "an empty list" if rows == [] else f"a {type(rows).__name__}"
        raise _FaultError(
            f"it returns {found}; allowed: a row (a mapping from columns to values), or a list of"
            " rows",
            place,
        )
    for column in metric.columns:
        if column.colours and column.colours not in matplotlib.colormaps:
            raise _FaultError(
                f"column {column.name!r}: colours is {column.colours!r}; allowed: a colour map of"
                " matplotlib, as viridis",
                place,
            )
    required = {"key": "0" * 32, "metric": job.metric.name, "version": 1, "over": metric.over}
    required |= {"trials": ["0" * 32], "outcome": "done"}
    table = f"metrics/{job.metric.name}"
    try:
        schema = metric_schema(job.metric.name, metric.columns)
        to_table(table, schema, [required | _without_nan(row) for row in several], "its rows")
    except StoreError as error:
        raise _FaultError(str(error).removeprefix("writing its rows: "), place) from error
    missing = [c.name for c in metric.columns if not any(c.name in row for row in several)]
    if missing:
        return f"returned no {', '.join(missing)}, which it declares"
    axes = [column.name for column in metric.columns if column.role == "axis"]
    places = {tuple(row.get(axis) for axis in axes) for row in several}
    if len(places) < len(several):
        return (
            f"returned {len(several)} rows, but no column tells them apart, so figures and tables"
            ' leave them out; set role="axis" on the column that does, as in Column("class",'
            ' "int64", "", "the class", role="axis")'
        )
    return None


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out values that are not finite: on two examples they mean nothing."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _made_up_data(facts: DatasetFacts) -> Dataset:
    inputs, labels = _made_up(facts)[0]
    unit = torch.full((1,) * len(facts.input_shape), 1 / 255)
    return Dataset(
        "made up",
        inputs,
        labels,
        inputs.flip(0),
        labels.flip(0),
        facts.num_classes,
        unit,
        torch.zeros_like(unit),
        task=facts.task,
        form=facts.form,
    )


def _start_of(function: Callable[..., object]) -> tuple[str, int]:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return ("", 0) if code is None else (code.co_filename, code.co_firstlineno)
