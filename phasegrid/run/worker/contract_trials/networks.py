"""Try a network: build it, and run it forward and backward on made-up examples."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from phasegrid.declare import DatasetFacts, Model
from phasegrid.errors import PhasegridError
from phasegrid.jobs import Part
from phasegrid.models.build import build_model
from phasegrid.models.weights import has_batch_norm
from phasegrid.registry import resolve_model
from phasegrid.run.worker.contract_trials.trying import NUM, FaultError, made_up, start_of, told
from phasegrid.tasks.batches import epoch_bounds
from phasegrid.tasks.operations import operations_of
from phasegrid.texts import counted

_EMPTY = (torch.empty, torch.empty_like, torch.empty_strided, Tensor.new_empty)


class _NothingInEmpty(TorchFunctionMode):
    """Fills uninitialised tensors with NaN, which an initialisation overwrites."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _EMPTY and isinstance(made, Tensor) and made.is_floating_point():
            made.fill_(math.nan)
        return made


def check_network(part: Part, facts: DatasetFacts, batches: Sequence[tuple[int, bool]]) -> None:
    """Raise `FaultError` if a network breaks its contract."""
    declared = resolve_model(part.name)
    _check_parameters(_built(part, declared, facts), declared)
    faults = []
    for inputs, _ in made_up(facts):  # a network may be made for numbers of one kind
        try:
            _check_passes(_built(part, declared, facts), declared, inputs, facts, batches)
        except FaultError as fault:
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
        raise FaultError(str(error), _place_of(declared)) from error
    except Exception as error:
        raise told("its make function fails", error) from error


def _check_parameters(module: nn.Module, declared: Model) -> None:
    place = _place_of(declared)
    for name, value in module.named_parameters():
        if is_lazy(value):
            what = (
                f"parameter {name} has no shape before the first forward pass; allowed: parameters"
                " made with their shape"
            )
            raise FaultError(what, place)
        if value.dtype != torch.float32:
            raise FaultError(f"parameter {name} is {_dtype(value)}; allowed: float32", place)
        if not bool(value.isfinite().all()):
            what = (
                f"parameter {name} holds NaN or infinities, or is never initialised; allowed:"
                " finite numbers"
            )
            raise FaultError(what, place)
    if not any(value.requires_grad for value in module.parameters()):
        raise FaultError("no parameter of the network can be trained", place)


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
            raise FaultError(
                "its outputs do not depend on a parameter that can be trained", place
            ) from error
        raise told("its backward pass fails", error) from error


def _forward(
    module: nn.Module, inputs: Tensor, facts: DatasetFacts, mode: str, place: str
) -> Tensor:
    num = len(inputs)
    batch = f"a batch of {counted(num, 'example')}"
    try:
        outputs: object = module(inputs.clone())
    except Exception as error:
        raise told(f"its forward pass fails on {batch} in {mode} mode", error) from error
    letters, wanted = operations_of(facts.task).output_shape(inputs, facts.num_classes)
    allowed = f"allowed: a float32 tensor {letters}, here {wanted}"
    if not isinstance(outputs, Tensor):
        raise FaultError(f"forward returns a {type(outputs).__name__}; {allowed}", place)
    if tuple(outputs.shape) != wanted:
        raise FaultError(
            f"forward maps {batch} to the shape {tuple(outputs.shape)}; {allowed}", place
        )
    if outputs.dtype != torch.float32:
        raise FaultError(f"forward returns {_dtype(outputs)}; {allowed}", place)
    if not bool(outputs.isfinite().all()):
        raise FaultError(
            f"the untrained network maps {batch} to NaN or infinities in {mode} mode", place
        )
    return outputs


def _place_of(declared: Model, module: nn.Module | None = None) -> str:
    """Return the place of a network's forward method if it is the user's, else that of its make
    function.
    """
    place = start_of(type(module).forward) if module is not None else ""
    return place or start_of(declared.make)


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
