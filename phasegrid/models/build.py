"""Build the network of a trial, built in or a plug-in, from a seed."""

import copy

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import DatasetFacts, Form, Model, import_function
from phasegrid.errors import SweepError
from phasegrid.jobs import Part
from phasegrid.models.network_state import copy_network, hidden_tensors, outputs_of
from phasegrid.models.shapes import require_sound, require_task
from phasegrid.registry import resolve_model
from phasegrid.seeding import seeded_draws
from phasegrid.tasks import TASKS
from phasegrid.tasks.operations import operations_of


def build_model(
    part: Part,
    input_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    task: str = "classification",
    form: Form | None = None,
) -> nn.Module:
    """Build the model `part` on the CPU, with its own initialisation drawn from `seed`.

    `task` and `form` come from the data set; they determine the arguments of `make` (an input shape
    and a number of classes, or the form of tokens).

    The same seed gives the same weights. The global random state of every device is restored.

    Raises:
        SweepError: if no model has this name, its `make` function does not return a module, its
            ``state_dict()`` holds more than parameters and buffers, or the module draws tensors
            that are neither in its ``state_dict()`` nor computed from it: they would be lost with
            the process.
        DataError: if the model cannot take such inputs, or is for another kind of data.
    """
    declared = resolve_model(part.name)
    require_task(part.name, declared.takes, task)
    require_sound(part.name, declared, part.args, input_shape, num_classes)
    shape = TASKS[task].model_arguments(input_shape, num_classes, form)
    module = _make(declared, part, shape, seed)
    _refuse_unknown(part, module)
    if hidden_tensors(module):  # no checkpoint holds them
        example, _ = operations_of(task).made_up(input_shape, num_classes, form, 2)[0]
        _refuse_drawn(part, module, _make(declared, part, shape, seed ^ 1), example)
    return module


def build_for(part: Part, data: Dataset | DatasetFacts, seed: int) -> nn.Module:
    """Build the model `part` names for the examples of a data set (see `build_model`)."""
    return build_model(part, data.input_shape, data.num_classes, seed, data.task, data.form)


def build_begun(part: Part, data: Dataset | DatasetFacts, seed: int) -> nn.Module:
    """Build the network with which a training begins: initialised from `seed`, then given the
    weights that its family begins with, if any (see `build_model`).
    """
    module = build_for(part, data, seed)
    begin = resolve_model(part.name).begin
    if begin is not None:
        import_function(begin)(module, **copy.deepcopy({**part.args, **part.locators}))
    return module


def _make(declared: Model, part: Part, shape: tuple[object, ...], seed: int) -> nn.Module:
    make = import_function(declared.make)
    with seeded_draws(seed), torch.device("cpu"):
        module = make(*shape, **copy.deepcopy({**part.args, **part.locators}))
    if not isinstance(module, nn.Module):
        raise SweepError(
            f"building model {part.name}: its make function returned {type(module).__name__}; "
            "it must return a torch.nn.Module"
        )
    return module


def _refuse_unknown(part: Part, module: nn.Module) -> None:
    known = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    for name, value in module.state_dict().items():
        if name not in known:
            raise SweepError(
                f"building model {part.name}: {name!r} in state_dict() is a {type(value).__name__}"
                " that is neither a parameter nor a buffer; nothing else is stored; register"
                " it: register_buffer(name, tensor)"
            )


def _refuse_drawn(part: Part, module: nn.Module, other: nn.Module, example: Tensor) -> None:
    """Refuse a network with random tensors that are not stored; `other` has another seed.

    A tensor that differs may be computed from stored ones (weight norm, spectral norm and pruning
    in their old form keep such tensors). Then the other network has the same tensor after it has
    received the stored ones and has run.
    """
    drawn = _different(module, other)
    if drawn:
        module = copy_network(module)
        try:
            other.load_state_dict(module.state_dict())
            with torch.no_grad():
                outputs_of(module.eval(), example)
                outputs_of(other.eval(), example)
            drawn = _different(module, other)
        except (
            Exception
        ):  # a network that does not run computes nothing; its training will fail by name
            drawn = drawn[:1]
    if drawn:
        raise SweepError(
            f"building model {part.name}: {drawn[0]!r} is drawn at random, but is not in"
            f" state_dict(); the stored trial would lack it, and networks that train together"
            f" would all use the first one's. Register it: register_buffer(name, tensor),"
            f" persistent (the default)"
        )


def _different(module: nn.Module, other: nn.Module) -> list[str]:
    others = hidden_tensors(other)
    return [
        name
        for name, value in hidden_tensors(module).items()
        if name not in others or not torch.equal(value, others[name])
    ]
