"""Try an objective: compute and differentiate its losses for made-up outputs, and check what it
declares.

Letters: M members, B labels, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import grad

from phasegrid.declare import DatasetFacts, Objective
from phasegrid.registry import declared_objective
from phasegrid.run.worker.contract_trials.trying import NUM, FaultError, made_up, start_of, told
from phasegrid.tasks.batches import ASIDE, Batch
from phasegrid.tasks.losses import Criterion
from phasegrid.train.compat import share_aside
from phasegrid.train.objectives import criterion_of, training_criterion
from phasegrid.train.recipe import Recipe

_RTOL = 1e-4  # of numbers that one formula gives in two ways; it may round to float32
_MOST_CLASSES = 1_000  # a curvature has columns (B, C, C)


@dataclass(frozen=True, slots=True)
class _Case:
    """Made-up outputs (M, B, C) in float64 with their batch; where the objective is, for faults."""

    logits: Tensor
    batch: Batch
    place: str


def check_objective(recipe: Mapping[str, Any], facts: DatasetFacts) -> str | None:
    """Raise `FaultError` if the objective of a recipe breaks its contract on outputs for a data
    set; return what may be sound as a note.
    """
    chosen = recipe["objective"]
    declared, resolved = declared_objective(chosen["name"]), Recipe(objective=dict(chosen))
    training, scoring = training_criterion(resolved), criterion_of(resolved)
    case = _made_up_case(declared, facts)
    _check_training(training, _with_aside(case, share_aside(recipe)))
    losses = _losses(scoring, case, "scoring")
    _check_each_alone(scoring, case, losses)
    if declared.predicts == "probabilities":
        _check_probabilities(scoring, case, losses)
    for criterion, what in ((training, "training"), (scoring, "scoring")):
        _check_reduced(criterion, case, what)
    return _check_curvature(scoring, case) if facts.num_classes <= _MOST_CLASSES else None


def _made_up_case(declared: Objective, facts: DatasetFacts) -> _Case:
    """Return outputs of two members for two labels each, in another order for each member."""
    inputs = made_up(facts)[0][0]
    order = torch.arange(NUM).flip(0)
    labels = torch.arange(NUM) % facts.num_classes
    rng = torch.Generator().manual_seed(0)
    shape = (2, NUM, facts.num_classes)
    logits = torch.randn(shape, generator=rng, dtype=torch.float64)
    batch = Batch(torch.stack([inputs, inputs[order]]), torch.stack([labels, labels[order]]))
    return _Case(logits, batch, start_of(declared.loss))


def _with_aside(case: _Case, share: float) -> _Case:
    """Mark one label of each member as set aside, if the objective asks for a share."""
    if not share:
        return case
    marks = (torch.arange(NUM) == 0).expand(2, NUM)
    return replace(case, batch=replace(case.batch, extra={ASIDE: marks}))


def _losses(criterion: Criterion, case: _Case, what: str) -> Tensor:
    """Return the losses of a case, after checking that they are losses."""
    given = case.logits.clone()
    try:
        losses: object = criterion(case.logits, case.batch)
    except Exception as error:
        raise told(f"its loss fails in {what}", error, case.place) from error
    wanted = tuple(case.batch.labels.shape)
    allowed = f"allowed: a floating-point tensor (M, B), here {wanted}"
    if not isinstance(losses, Tensor):
        raise FaultError(f"its loss returns a {type(losses).__name__}; {allowed}", case.place)
    if tuple(losses.shape) != wanted:
        shape = f"its loss maps outputs (M, B, C), here {tuple(given.shape)}, to the shape"
        raise FaultError(f"{shape} {tuple(losses.shape)}; {allowed}", case.place)
    if not losses.is_floating_point():
        dtype = str(losses.dtype).removeprefix("torch.")
        raise FaultError(f"its loss returns {dtype}; {allowed}", case.place)
    if not bool(losses.isfinite().all()):
        raise FaultError(f"its loss gives NaN or infinities in {what}", case.place)
    if not torch.equal(given, case.logits):
        raise FaultError("its loss writes into the outputs; allowed: a new tensor", case.place)
    return losses


def _check_training(criterion: Criterion, case: _Case) -> None:
    """Check that the losses of training can be differentiated in float32."""
    logits = case.logits.float().requires_grad_()
    losses = _losses(criterion, replace(case, logits=logits), "training")
    if not losses.requires_grad:
        raise FaultError("its loss cannot be differentiated in the outputs", case.place)
    try:
        (gradient,) = grad(losses.sum(), logits)
    except Exception as error:
        raise told("the gradient of its loss fails", error, case.place) from error
    if not bool(gradient.isfinite().all()):
        raise FaultError("the gradient of its loss is NaN or infinite", case.place)


def _check_each_alone(criterion: Criterion, case: _Case, losses: Tensor) -> None:
    """Check that the loss of each label depends on its own outputs only."""
    for m in range(len(losses)):
        for b in range(NUM):
            here = slice(m, m + 1), slice(b, b + 1)
            batch = Batch(case.batch.inputs[here], case.batch.labels[here])
            alone = _losses(criterion, _Case(case.logits[here], batch, case.place), "scoring")
            if not _agree(alone[0, 0], losses[m, b]):
                what = (
                    f"the loss of a label is {float(losses[m, b]):.6g} among others and"
                    f" {float(alone):.6g} alone; allowed: a loss of each label by itself"
                )
                raise FaultError(what, case.place)


def _check_probabilities(criterion: Criterion, case: _Case, losses: Tensor) -> None:
    """Check that the loss is one of the softmax of the outputs, as it declares."""
    same = replace(case, logits=case.logits.log_softmax(dim=-1))
    if not _agree(_losses(criterion, same, "scoring"), losses):
        what = (
            'it declares predicts="probabilities", but its loss is no function of the softmax of'
            " the outputs: it changes where the same number is added to all of them; allowed:"
            ' predicts="values"'
        )
        raise FaultError(what, case.place)


def _check_reduced(criterion: Criterion, case: _Case, what: str) -> None:
    """Check that `reduced`, if declared, is the sum and the mean of the losses."""
    if criterion.reduced is None:
        return
    losses = _losses(criterion, case, what)
    logits, labels = case.logits.flatten(0, 1), case.batch.labels.flatten()
    reductions: tuple[Literal["sum", "mean"], ...] = ("sum", "mean")
    for reduction in reductions:
        wanted = losses.sum() if reduction == "sum" else losses.mean()
        try:
            found = torch.as_tensor(criterion.reduced(logits, labels, reduction))
        except Exception as error:
            raise told(f"its reduced function fails in {what}", error, case.place) from error
        if found.shape != wanted.shape or not _agree(found, wanted):
            shown = f"{float(found):.6g}" if found.numel() == 1 else f"{tuple(found.shape)}"
            message = (
                f"its reduced function gives {shown} for the {reduction} of its losses in {what};"
                f" allowed: their {reduction}, here {float(wanted):.6g}"
            )
            raise FaultError(message, case.place)


def _check_curvature(criterion: Criterion, case: _Case) -> str | None:
    """Check that `curvature`, if declared, is the Hessian of the loss, by its product with a
    vector.
    """
    if criterion.curvature is None:
        return None
    z = case.logits[0]
    v = torch.linspace(-1.0, 2.0, z.shape[1], dtype=z.dtype).expand_as(z)
    try:
        sizes, columns = criterion.curvature(z)
        found = torch.einsum("bk,bkc,bkd,bd->bc", sizes, columns, columns, v)
    except Exception as error:
        raise told("its curvature fails", error, case.place) from error
    try:
        wanted = _hessian_product(criterion, case, v)
    except RuntimeError as error:
        return f"its curvature is not checked: {told('a second derivative fails', error)}"
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=_RTOL, atol=1e-6):
        what = "its curvature is not the Hessian of its loss in the outputs (in scoring)"
        raise FaultError(what, case.place)
    return None


def _hessian_product(criterion: Criterion, case: _Case, v: Tensor) -> Tensor:
    """Return the product of the Hessian of the first member's losses with `v` (B, C)."""
    z = case.logits[:1].clone().requires_grad_()
    first = Batch(case.batch.inputs[:1], case.batch.labels[:1])
    (slope,) = grad(criterion(z, first).sum(), z, create_graph=True)
    if not slope.requires_grad:  # the loss is linear in the outputs
        return torch.zeros_like(v)
    (product,) = grad(slope, z, v[None], allow_unused=True)
    return torch.zeros_like(v) if product is None else product[0]


def _agree(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found.double(), wanted.double(), rtol=_RTOL, atol=1e-6)
