"""Estimate the bytes that jobs leave in the store: weights, checkpoints, collected weights and the
artifacts of measurements. Rows are small and not counted; nor are buffers. Pure, no torch.
"""

from phasegrid.estimates import FLOAT
from phasegrid.jobs import MetricJob, Trial
from phasegrid.plan.contents import Cell
from phasegrid.plan.cost import estimated, measurement_of
from phasegrid.registry import declared_metric
from phasegrid.train.collectors import COLLECTORS
from phasegrid.train.compat import recipe_of
from phasegrid.train.moments import checkpoint_moments
from phasegrid.train.recipe import Recipe, examples_per_batch


def left_bytes(cell: Cell, job: Trial | MetricJob) -> int | None:
    """Return the bytes of what a job leaves at most; None where its model or its metric does not
    say.
    """
    if isinstance(job, MetricJob):
        metric = declared_metric(job.metric.name)
        if not metric.leaves:
            return 0
        if metric.disk is None or cell.work is None:
            return None
        return estimated(job.metric.name, "disk", metric.disk, measurement_of(cell.work, job), int)
    if cell.work is None:
        return None
    recipe = recipe_of(job)
    batch = max(1, round(examples_per_batch(dict(job.recipe), cell.work.labels_per_example)))
    per_epoch = max(1, -(-cell.work.num_train // batch))
    vectors = 1 + num_checkpoints(recipe, per_epoch)
    if recipe.checkpoints is not None:
        vectors += len(recipe.checkpoints.optimizer) * (1 if recipe.optimizer == "sgd" else 2)
    if recipe.collect is not None:
        moments = COLLECTORS[recipe.collect.name].moments
        vectors += 1 + (moments(recipe.collect.rank) if moments else 0)
    return FLOAT * vectors * cell.work.num_parameters


def num_checkpoints(recipe: Recipe, per_epoch: int) -> int:
    """Return how many checkpoints a training leaves that runs to its end."""
    total = recipe.updates or recipe.epochs * per_epoch
    moments = checkpoint_moments(recipe, total, per_epoch)
    epochs = -(-total // per_epoch)
    found = sum(len(moments.after_epoch(epoch)) for epoch in range(epochs + 1))
    if moments.within_epochs:
        found += sum(len(moments.after_update(update)) for update in range(1, total + 1))
    return found
