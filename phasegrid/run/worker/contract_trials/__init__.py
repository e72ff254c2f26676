"""Try a plug-in on two examples before anything is planned with it, and report what breaks its
contract.

A network is built, run forward and backward in train mode, and in eval mode on two examples and on
one; a data set is loaded and compared with its facts; an objective is computed and differentiated
for made-up outputs of two examples, and what it declares is checked; a schedule is asked for its
factor at the updates of its trainings; a metric measures untrained networks on two made-up
examples. Nothing is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from phasegrid.config.contracts import Verdict
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.load import load_dataset
from phasegrid.declare import DatasetFacts
from phasegrid.jobs import MetricJob, Part
from phasegrid.run.worker.contract_trials.metrics import check_metric
from phasegrid.run.worker.contract_trials.networks import check_network
from phasegrid.run.worker.contract_trials.objectives import check_objective
from phasegrid.run.worker.contract_trials.schedules import check_schedule
from phasegrid.run.worker.contract_trials.trying import tried


def try_network(part: Part, facts: DatasetFacts, batches: Sequence[tuple[int, bool]]) -> Verdict:
    """Try a network on made-up data of the shape of a data set; `batches` are its batch sizes, with
    drop_last.
    """
    return tried(lambda: check_network(part, facts, batches))


def try_dataset(part: Part) -> tuple[Verdict, DatasetFacts | None]:
    """Load a data set and return its properties. Files that are missing here may exist where the
    jobs run.
    """
    loaded: list[Dataset] = []
    verdict = tried(lambda: loaded.append(load_dataset(part)))
    return verdict, _facts_of(loaded[0]) if loaded else None


def try_objective(recipe: Mapping[str, Any], facts: DatasetFacts) -> Verdict:
    """Try the objective of a recipe on made-up outputs of two examples of a data set."""
    return tried(lambda: check_objective(recipe, facts))


def try_schedule(recipe: Mapping[str, Any], facts: DatasetFacts) -> Verdict:
    """Try the schedule of a recipe over the updates of a training on a data set."""
    return tried(lambda: check_schedule(recipe, facts))


def try_metric(job: MetricJob, networks: Sequence[Part], facts: DatasetFacts) -> Verdict:
    """Try a metric on untrained networks, as many as `networks`, and two made-up examples; its rows
    must fit its columns.
    """
    return tried(lambda: check_metric(job, networks, facts))


def _facts_of(data: Dataset) -> DatasetFacts:
    return DatasetFacts(
        len(data.train_labels),
        len(data.test_labels),
        data.input_shape,
        data.num_classes,
        data.task,
        data.form,
    )
