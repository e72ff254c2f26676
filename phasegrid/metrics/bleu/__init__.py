"""BLEU of the translations of a trained network."""

from dataclasses import dataclass
from typing import Literal

from phasegrid.declare import Column, Metric
from phasegrid.estimates import evaluation_bytes


@dataclass(frozen=True, slots=True)
class BleuArgs:
    """BLEU of greedy translations of the whole test set, as sacreBLEU computes it.

    `tokenize`: how sacreBLEU splits translations and references before comparing: ``13a`` (its
    default, that of WMT), ``intl``, ``zh`` or ``char``.
    """

    tokenize: Literal["13a", "intl", "zh", "char"] = "13a"


BLEU = Metric(
    over="trial",
    args=BleuArgs,
    compute="phasegrid.metrics.bleu.compute:compute",
    label="BLEU",
    memory=lambda job: evaluation_bytes(job.work),
    takes="translation",
    columns=(
        Column(
            "bleu",
            "float64",
            "",
            "corpus BLEU on the test set, 0 to 100",
            label="BLEU",
            better="higher",
        ),
        Column(
            "brevity_penalty",
            "float64",
            "",
            "factor for translations that are too short",
            role="detail",
        ),
        Column("precisions", "list<float64>", "%", "precision of words, pairs, triples, fours"),
        Column(
            "length_ratio",
            "float64",
            "",
            "tokens of the translations per reference token",
            role="detail",
        ),
        Column("num_sentences", "int64", "examples", "sentences translated"),
        Column(
            "num_unfinished", "int64", "examples", "translations cut off before their end token"
        ),
        Column("signature", "string", "", "sacreBLEU's own description of how it was computed"),
    ),
)
