"""Define for each task its examples, batches, forward pass, loss and evaluation.

A data set names its task; no other package asks what its examples are. This module holds what is
known without torch; `phasegrid.tasks.operations` works on tensors. A task that carries a recurrent
state from batch to batch cuts its batches differently in `Operations.order` and `Operations.cut`,
and `phasegrid.tasks.carrying` passes the state on.
"""

from collections.abc import Mapping
from typing import Any

from phasegrid.declare import DatasetFacts, Finding, Tokens, Windows
from phasegrid.tasks.task import Task, too_few_examples

__all__ = ["TASKS", "Task", "mismatch"]


def mismatch(taker: str, takes: str, task: str, data: str = "the data set") -> str | None:
    """Return why `taker` (for example a model), which takes examples of the task `takes`, cannot
    take `data` of `task`; None if it can.
    """
    if takes == task:
        return None
    if takes not in TASKS:
        return f"{taker} declares that it takes {takes!r}; allowed: {', '.join(TASKS)}"
    if task not in TASKS:
        return f"the data set declares the task {task!r}; allowed: {', '.join(TASKS)}"
    return (
        f"{taker} takes {TASKS[takes].examples}, but {data} holds {TASKS[task].examples};"
        " choose another one, or another data set"
    )


def _batches_of_examples(recipe: Mapping[str, Any], facts: DatasetFacts) -> Finding | None:
    if recipe["batch_unit"] == "examples":
        return too_few_examples(recipe, facts)
    return (
        "train.batch_unit",
        f"found {recipe['batch_unit']}, but the data set has no sentence pairs; allowed: examples",
    )


def _batches_of_pairs(recipe: Mapping[str, Any], facts: DatasetFacts) -> Finding | None:
    if recipe["batch_unit"] == "examples":
        return too_few_examples(recipe, facts)
    assert facts.form is not None
    if recipe["batch_size"] >= facts.form.length:
        return None
    return (
        "train.batch_size",
        f"found {recipe['batch_size']} tokens, but a sentence has {facts.form.length}; allowed: at"
        f" least {facts.form.length}",
    )


TASKS: dict[str, Task] = {
    "classification": Task(
        examples="images or vectors",
        model_arguments=lambda input_shape, num_classes, _form: (input_shape, num_classes),
        batch_mistake=_batches_of_examples,
        operations="phasegrid.tasks.classification:OPERATIONS",
    ),
    "translation": Task(
        examples="sentence pairs",
        model_arguments=lambda _input_shape, _num_classes, form: (form,),
        batch_mistake=_batches_of_pairs,
        operations="phasegrid.tasks.translation:OPERATIONS",
        form=Tokens,
        one_shape=False,
        pixels=False,
        judged_by="loss",  # Yang et al. 2021, section 2
    ),
    "language": Task(
        examples="windows of running text",
        model_arguments=lambda _input_shape, _num_classes, form: (form,),
        batch_mistake=_batches_of_examples,
        operations="phasegrid.tasks.language:OPERATIONS",
        form=Windows,
        one_shape=False,
        perplexity=True,
        pixels=False,
        judged_by="loss",
    ),
}
