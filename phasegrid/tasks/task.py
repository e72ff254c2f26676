"""Declare the facts of a task that are known before loading. No torch here: reading a sweep needs
this module.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from phasegrid.declare import DatasetFacts, Finding, Form

ModelArguments: TypeAlias = Callable[[tuple[int, ...], int, "Form | None"], tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Task:
    """What a data set's examples are, and how networks are run and scored on them.

    `examples` names them in messages. `model_arguments` gives the first arguments of a model's
    `make` function, from the shape of an example, the number of classes and the data set's `form`.
    `form` is the type of that form; None if examples need none. `batch_mistake` says what is wrong
    between a recipe's batches and a data set of this task. With `one_shape`, all full batches of a
    recipe have one shape and do not depend on earlier batches, so members train as one stack and
    passes are recorded on a GPU. With `pixels` inputs are numbers that noise can be added to. With
    `perplexity`, the exponential of the mean loss is reported too. Whether networks fit and are
    connected is `judged_by` their training error or their training loss. `operations` names the
    `phasegrid.tasks.operations.Operations` on tensors.
    """

    examples: str
    model_arguments: ModelArguments
    batch_mistake: Callable[[Mapping[str, Any], DatasetFacts], Finding | None]
    operations: str
    form: type | None = None
    one_shape: bool = True
    perplexity: bool = False
    pixels: bool = True
    judged_by: Literal["error", "loss"] = "error"


def too_few_examples(recipe: Mapping[str, Any], facts: DatasetFacts) -> Finding | None:
    """Return what is wrong with a batch size in examples: the data set must have as many."""
    if recipe["batch_size"] <= facts.num_train:
        return None
    return (
        "train.batch_size",
        f"found {recipe['batch_size']}, more than the {facts.num_train} training examples; "
        f"allowed: at most {facts.num_train}",
    )
