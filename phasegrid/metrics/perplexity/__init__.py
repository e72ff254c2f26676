"""Perplexity of a trained language model."""

from dataclasses import dataclass

from phasegrid.declare import Column, Metric
from phasegrid.estimates import evaluation, evaluation_bytes


@dataclass(frozen=True, slots=True)
class PerplexityArgs:
    """Perplexity of the training text, of the test text and, where the data set has one, of the
    validation text. There are no arguments.
    """


PERPLEXITY = Metric(
    over="trial",
    args=PerplexityArgs,
    compute="phasegrid.metrics.perplexity.compute:compute",
    label="Perplexity",
    cost=lambda job: evaluation(job.work),
    memory=lambda job: evaluation_bytes(job.work),
    takes="language",
    columns=(
        Column(
            "train_perplexity",
            "float64",
            "",
            "exp of the mean cross-entropy of a word of the training text, eval mode",
            label="training perplexity",
            better="lower",
            scale="log",
        ),
        Column(
            "test_perplexity",
            "float64",
            "",
            "exp of the mean cross-entropy of a word of the test text, eval mode",
            label="test perplexity",
            better="lower",
            scale="log",
        ),
        Column(
            "valid_perplexity",
            "float64",
            "",
            "the same on the validation text; null without one",
            label="validation perplexity",
            better="lower",
            scale="log",
            idle="without a validation text",
        ),
        Column("num_train", "int64", "labels", "words of the training text scored"),
        Column("num_test", "int64", "labels", "words of the test text scored"),
        Column("num_valid", "int64", "labels", "words of the validation text scored"),
    ),
)
