"""BLEU of greedy translations of the test set (Papineni et al. 2002), computed by sacreBLEU (Post
2018).

    BLEU = 100 BP exp(1/4 sum_n log p_n),   BP = min(1, exp(1 - r/c)),   n = 1..4

with the corpus' precisions p_n of n-grams, c tokens of translations and r of references;
sacreBLEU's `signature` names its version, tokenisation and smoothing. Translations are made into
text (`phasegrid.datasets.translation.vocabulary.detokenize`) and references are the untokenised
sentences of the file, so that numbers are comparable between vocabularies. Exact; nothing is drawn.

Letters: N sentences, l positions of the longest source, V words.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset, Text
from phasegrid.datasets.translation.vocabulary import detokenize, words_of
from phasegrid.errors import MetricError
from phasegrid.metrics.bleu import BleuArgs
from phasegrid.models.network_state import evaluating
from phasegrid.tasks.operations import FEWEST, MOST
from phasegrid.tasks.tokens import END, PADDING, START

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

Step = Callable[[Tensor], Tensor]


def compute(
    models: Sequence[nn.Module], data: Dataset, _rng: torch.Generator, **args: object
) -> dict[str, float | int | str | list[float]]:
    """Translate the test set with one model and compare it with the references; `args` are the
    fields of `BleuArgs`.

    A translation ends with its end token, or after as many words as the longest sentence of the
    data set has.

    Raises:
        MetricError: if there is not one model, the data set holds no sentence pairs with their
            text, sacreBLEU is not installed, or the outputs of the network are not finite.
    """
    settings = BleuArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if len(models) != 1:
        raise MetricError(f"bleu is measured on one model, got {len(models)}")
    if data.form is None or data.text is None:
        raise MetricError(
            f"bleu compares translations, but data set {data.name} holds no sentence pairs with"
            " their text; leave the metric out, or choose the data set translation"
        )
    scorer = _scorer(settings)
    ids = translate(models[0], data.test_inputs[:, 0], data.form.length)
    score = scorer.corpus_score(texts_of(data.text, ids), [list(data.text.test_references)])
    return {
        "bleu": float(score.score),
        "brevity_penalty": float(score.bp),
        "precisions": [float(value) for value in score.precisions],
        "length_ratio": float(score.sys_len / max(1, score.ref_len)),
        "num_sentences": len(ids),
        "num_unfinished": int((ids != END).all(dim=1).sum()),
        "signature": str(scorer.get_signature()),
    }


def texts_of(text: Text, ids: Tensor) -> list[str]:
    """Return as text the target sentences (N) for which ids or labels (N, l) stand."""
    return [detokenize(words_of(text.target_words, row)) for row in ids.tolist()]


def translate(
    module: nn.Module, source: Tensor, max_length: int, batch_size: int | None = None
) -> Tensor:
    """Return greedy translations (N, max_length) of `source` (N, L) in eval mode; then restore the
    modes.

    Sentences of like length are translated together, so the order of `source` does not change the
    cost; the results are in this order.

    Raises:
        MetricError: as `greedy_decode`.
    """
    size = batch_size or (FEWEST if source.device.type == "cpu" else MOST)
    lengths = (source != PADDING).sum(dim=1)
    translations = source.new_full((len(source), max_length), PADDING)
    with evaluating(module):
        for rows in torch.split(lengths.argsort(stable=True), size):
            used = max(1, int(lengths[rows].max()))
            found = greedy_decode(module, source[rows, :used], max_length)
            translations[rows, : found.shape[1]] = found
    return translations


def greedy_decode(module: nn.Module, source: Tensor, max_length: int) -> Tensor:
    """Translate `source` (N, l) by taking the likeliest next word each time; return ids (N, m), m
    <= `max_length`.

    A row ends with the end token and padding after it; a row without an end token was cut off.
    Padding and start tokens are never chosen; a tie goes to the lower id. A module with a method
    `start_decoding(source)` (see `phasegrid.models.transformer.Decoding`) computes one position at
    a time; any other module runs on the whole sentence so far at each step.

    Raises:
        MetricError: if a logit is not finite.
    """
    step = _start(module, source)
    words = source.new_full((len(source),), START)
    ended = torch.zeros_like(words, dtype=torch.bool)
    found: list[Tensor] = []
    while len(found) < max_length and not bool(ended.all()):
        logits = step(words)
        if not bool(torch.isfinite(logits[~ended]).all()):
            raise MetricError("bleu: the network's outputs are not finite")
        logits[:, [PADDING, START]] = -torch.inf
        words = logits.argmax(dim=-1).masked_fill(ended, PADDING)
        ended = ended | (words == END)
        found.append(words)
    return torch.stack(found, dim=1) if found else source.new_empty(len(source), 0)


def _start(module: nn.Module, source: Tensor) -> Step:
    start: Callable[[Tensor], Step] | None = getattr(module, "start_decoding", None)
    return start(source) if start is not None else _on_whole_sentences(module, source)


def _on_whole_sentences(module: nn.Module, source: Tensor) -> Step:
    """Return a function that takes the next words (N,) and runs the module on all words so
    far.
    """
    given: list[Tensor] = []

    def step(words: Tensor) -> Tensor:
        given.append(words)
        length = max(source.shape[1], len(given))
        inputs = source.new_full((len(source), 2, length), PADDING)
        inputs[:, 0, : source.shape[1]] = source
        inputs[:, 1, : len(given)] = torch.stack(given, dim=1)
        logits: Tensor = module(inputs)[:, len(given) - 1]
        return logits

    return step


def _scorer(settings: BleuArgs) -> "BLEU":
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MetricError(
            "bleu needs the package sacrebleu, which is not installed here; install phasegrid with"
            " its extra: pip install 'phasegrid[text]'"
        ) from error
    return BLEU(tokenize=settings.tokenize)
