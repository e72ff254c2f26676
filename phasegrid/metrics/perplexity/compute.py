"""Perplexity of a language model: exp(-(1/K) sum_k log p(w_k | the words before)), K words.

A model that chose evenly among this many words would be equally uncertain: V for a model that has
learnt nothing about V words. It is null for an objective without probabilities. The state of a
recurrent network is carried along the text (`phasegrid.tasks.language`). Exact; nothing is drawn.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.models.evaluation import evaluate
from phasegrid.tasks.language import perplexity
from phasegrid.tasks.losses import CROSS_ENTROPY


def compute(
    models: Sequence[nn.Module], data: Dataset, _rng: torch.Generator, **_args: object
) -> dict[str, float | int | None]:
    """Measure one model on the whole of each text.

    Raises:
        MetricError: if there is not one model, or a perplexity is not finite.
    """
    if len(models) != 1:
        raise MetricError(f"perplexity is measured on one model, got {len(models)}")
    scoring = replace(data.scoring, objective=CROSS_ENTROPY)
    row: dict[str, float | int | None] = {}
    for name, inputs, labels in (
        ("train", data.train_inputs, data.train_labels),
        ("test", data.test_inputs, data.test_labels),
        ("valid", data.aside_inputs, data.aside_labels),
    ):
        if len(labels) == 0:  # there is no such text
            row |= {f"{name}_perplexity": None, f"num_{name}": None}
            continue
        found = evaluate(models[0], inputs, labels, scoring)
        value = perplexity(found.loss) if data.objective.probabilities else None
        if value is None and data.objective.probabilities:
            raise MetricError(
                f"perplexity: the mean loss on the {name} text is {found.loss}, whose"
                f" exponential is not finite"
            )
        row[f"{name}_perplexity"] = value
        row[f"num_{name}"] = found.num
    return row
