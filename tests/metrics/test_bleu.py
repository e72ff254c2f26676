"""BLEU against sacreBLEU called directly, and greedy decoding against known sentences."""

import sys
from dataclasses import replace

import pytest
import torch
from point_support import dataset, generator, mlp, seeded
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset, Text
from phasegrid.datasets.translation.load import as_tensors
from phasegrid.datasets.translation.vocabulary import (
    SPECIAL_WORDS,
    detokenize,
    encode,
    make_vocabulary,
    numbering,
    tokenize,
)
from phasegrid.declare import Tokens, import_function
from phasegrid.errors import MetricError
from phasegrid.metrics import METRICS
from phasegrid.metrics.bleu.compute import compute, greedy_decode, texts_of, translate
from phasegrid.models.transformer import Transformer, make
from phasegrid.tasks.tokens import END, PADDING, START, UNKNOWN
from phasegrid.tasks.translation import OPERATIONS

sacrebleu = pytest.importorskip("sacrebleu")

SENTENCES = [
    "A dog runs in the park, fast.",
    "Two men (one old) are talking.",
    "The cat sleeps!",
    "A man and a dog are in the park.",
    "What is the man doing there?",
    "The old man talks.",
]


def sentence_data(min_frequency: int = 1) -> Dataset:
    """Make a task of copying sentences; rare words are unknown in the target."""
    words = [tokenize(sentence) for sentence in SENTENCES]
    source, target = make_vocabulary(words, 1), make_vocabulary(words, min_frequency)
    tokens = Tokens(max(len(sentence) for sentence in words) + 1, len(source), len(target))
    ids = [
        [encode(sentence, numbering(vocabulary)) for sentence in words]
        for vocabulary in (source, target)
    ]
    inputs, labels = as_tensors(ids[0], ids[1], tokens.length)
    one = torch.ones(1)
    text = Text(source, target, tuple(SENTENCES))
    return Dataset(
        "copies",
        inputs,
        labels,
        inputs,
        labels,
        len(target),
        one,
        one,
        task="translation",
        form=tokens,
        text=text,
    )


class Reciter(nn.Module):
    """Says the sentence it was given for each source, whatever it has said so far; ends where that
    ends.
    """

    def __init__(self, sources: Tensor, said: Tensor, words: int) -> None:
        super().__init__()
        self.said = {
            tuple(row[row > 0].tolist()): ids for row, ids in zip(sources, said, strict=True)
        }
        self.words = words
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        logits = torch.zeros(len(inputs), inputs.shape[2], self.words)
        for i, row in enumerate(inputs[:, 0]):
            said = self.said[tuple(row[row > 0].tolist())]
            for t in range(inputs.shape[2]):
                logits[i, t, max(0, int(said[t])) if t < len(said) else END] = 1.0
        return logits


def reciting(data: Dataset, said: Tensor) -> Reciter:
    return Reciter(data.test_inputs[:, 0], said, data.num_classes)


def test_a_model_that_copies_the_references_has_a_bleu_of_100() -> None:
    data = sentence_data()
    row = compute([reciting(data, data.test_labels)], data, generator(0))
    assert list(row) == [column.name for column in METRICS["bleu"].columns]
    assert import_function(METRICS["bleu"].compute) is compute
    assert row["bleu"] == pytest.approx(100, abs=1e-9)
    assert row["brevity_penalty"] == row["length_ratio"] == 1
    assert row["precisions"] == [100.0] * 4
    assert (row["num_sentences"], row["num_unfinished"]) == (len(SENTENCES), 0)


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "char"])
def test_the_score_is_that_of_sacrebleu_called_directly(tokenizer: str) -> None:
    data = sentence_data(min_frequency=2)  # unknown words
    said = data.test_labels.clone()
    said[1], said[3, 2:] = said[4], END  # a wrong sentence and one cut short
    row = compute([reciting(data, said)], data, generator(0), tokenize=tokenizer)
    assert data.text is not None
    hypotheses = texts_of(data.text, said)
    assert "⁇" in hypotheses[0]
    assert hypotheses[3] == "A man"
    expected = sacrebleu.corpus_bleu(hypotheses, [SENTENCES], tokenize=tokenizer)
    assert 0 < expected.score < 60
    assert row["bleu"] == expected.score
    assert row["brevity_penalty"] == expected.bp < 1
    assert row["precisions"] == expected.precisions
    assert row["length_ratio"] == pytest.approx(expected.sys_len / expected.ref_len)
    assert f"tok:{tokenizer}" in str(row["signature"])
    assert f"version:{sacrebleu.__version__}" in str(row["signature"])


def test_an_unknown_word_counts_as_one_wrong_word() -> None:
    data = sentence_data()
    assert data.text is not None
    text = detokenize(["the", "dog", "<unk>", "the", "ball"])
    score = sacrebleu.corpus_bleu([text], [["the dog eats the ball"]])
    assert (score.sys_len, score.counts[0]) == (5, 4)


def test_translations_are_cut_off_at_the_longest_sentence() -> None:
    data = sentence_data()
    endless = torch.full_like(data.test_labels, 5)
    row = compute([reciting(data, endless)], data, generator(0))
    assert row["num_unfinished"] == len(SENTENCES)
    assert row["bleu"] < 5  # type: ignore[operator]  # a number


# greedy decoding


def test_decoding_stops_at_the_end_and_pads_after_it() -> None:
    data = sentence_data()
    source = data.test_inputs[:, 0]
    model = reciting(data, data.test_labels)
    found = greedy_decode(model, source, 50)
    expected = data.test_labels.clamp(min=PADDING)
    assert torch.equal(found, expected[:, : found.shape[1]])
    assert model.calls == found.shape[1] == int((expected != PADDING).sum(1).max())
    assert greedy_decode(model, source, 3).shape == (len(source), 3)
    assert greedy_decode(model, source, 0).shape == (len(source), 0)


def test_start_and_padding_are_never_chosen_and_a_tie_goes_to_the_lower_id() -> None:
    class Silent(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            logits = torch.zeros(*inputs[:, 0].shape, 7)
            logits[..., [PADDING, START]] = 9.0
            logits[..., [UNKNOWN, 5]] = 1.0
            return logits

    found = greedy_decode(Silent(), torch.full((2, 4), 5), 3)
    assert torch.equal(found, torch.full((2, 3), UNKNOWN))


def transformer(data: Dataset, seed: int = 0) -> Transformer:
    assert data.form is not None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make(data.form, width=32, depth=1, heads=4, feed_forward=2)


class Whole(nn.Module):
    """A Transformer without its way to decode word by word."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits


def test_word_by_word_and_whole_sentences_give_the_same_translations() -> None:
    data = sentence_data()
    assert data.form is not None
    source = data.test_inputs[:, 0]
    for seed in range(3):
        model = transformer(data, seed).double()
        one = translate(model, source, data.form.length)
        assert torch.equal(one, translate(Whole(model), source, data.form.length))
        assert len(one.unique()) > 3


def test_translations_do_not_depend_on_the_batch_nor_on_padding() -> None:
    data = sentence_data()
    source = data.test_inputs[:, 0]
    model = transformer(data).double().train()
    whole = translate(model, source, 9)
    assert model.training
    assert torch.equal(whole, translate(model, source, 9, batch_size=1))
    assert torch.equal(whole[2:4], translate(model, source[2:4], 9, batch_size=2))
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    assert torch.equal(whole[order], translate(model, source[order], 9, batch_size=4))


def test_a_transformer_that_has_learnt_its_sentences_translates_them() -> None:
    data = sentence_data()
    model = transformer(data).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    inputs, labels = OPERATIONS.trim(data.train_inputs, data.train_labels)
    for _ in range(60):
        optimizer.zero_grad()
        data.scoring.mean(model(inputs), inputs, labels).backward()
        optimizer.step()
    row = compute([model], data, generator(0))
    assert row["bleu"] == pytest.approx(100, abs=1e-9)
    assert row["num_unfinished"] == 0


# what is refused


def test_data_without_sentences_is_an_error() -> None:
    data = dataset(torch.ones(4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(MetricError, match="data set test holds no sentence pairs with their text"):
        compute([seeded(mlp)], data, generator(0))
    with pytest.raises(MetricError, match="data set copies holds no sentence pairs"):
        compute([seeded(mlp)], replace(sentence_data(), text=None), generator(0))


def test_two_models_are_an_error() -> None:
    data = sentence_data()
    with pytest.raises(MetricError, match="one model, got 2"):
        compute([transformer(data)] * 2, data, generator(0))


def test_without_sacrebleu_the_message_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)  # type: ignore[arg-type]  # not there
    data = sentence_data()
    with pytest.raises(MetricError, match=r"needs the package sacrebleu.*'phasegrid\[text\]'"):
        compute([reciting(data, data.test_labels)], data, generator(0))


def test_outputs_that_are_not_finite_are_an_error() -> None:
    data = sentence_data()
    model = transformer(data)
    model.classifier.bias.data[5] = torch.nan
    with pytest.raises(MetricError, match="outputs are not finite"):
        compute([model], data, generator(0))


def test_special_words_are_never_part_of_a_text() -> None:
    data = sentence_data()
    assert data.text is not None
    ids = torch.tensor([[START, 6, PADDING, START, 7, END, 8]])
    assert texts_of(data.text, ids) == [detokenize([data.text.target_words[i] for i in (6, 7)])]
    assert data.text.target_words[:4] == SPECIAL_WORDS
