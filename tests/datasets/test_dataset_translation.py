"""Sentence pairs from text files: which files, which pairs, which words, how they lie in tensors,
and every refusal.
"""

import hashlib
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import phasegrid.datasets.translation.parallel_text as parallel_text
from phasegrid.datasets import DATASETS, TranslationOptions
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.load import check_dataset, load_dataset
from phasegrid.datasets.text_files import options_of
from phasegrid.datasets.translation.load import load, vocabulary_record
from phasegrid.datasets.translation.parallel_text import (
    facts,
    fingerprint,
    read_parallel_text,
)
from phasegrid.datasets.translation.vocabulary import (
    SPECIAL_WORDS,
    detokenize,
    encode,
    make_vocabulary,
    numbering,
    tokenize,
    words_of,
)
from phasegrid.declare import DatasetFacts, Tokens, import_function, make_part
from phasegrid.errors import DataError
from phasegrid.tasks.tokens import END, IGNORE, PADDING, START, UNKNOWN

SOURCE = ["Ein Hund .", "Ein Hund läuft .", "", "Eine Katze schläft dort .", "Ein Tier ."]
TARGET = ["A dog.", "A dog runs.", "Nothing.", "A cat sleeps there.", "An animal."]
TEST_SOURCE, TEST_TARGET = ["Ein Hund schläft .", ""], ['A "dog" sleeps .', "Nobody  knows."]


def write(folder: Path, name: str, sentences: list[str]) -> None:
    (folder / name).write_bytes("".join(f"{text}\n" for text in sentences).encode())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, sentences in (
        ("train.de", SOURCE),
        ("train.en", TARGET),
        ("test.de", TEST_SOURCE),
        ("test.en", TEST_TARGET),
    ):
        write(tmp_path, name, sentences)
    return tmp_path


def options(root: Path, **changes: Any) -> dict[str, Any]:
    return asdict(replace(TranslationOptions(root=str(root), min_frequency=1), **changes))


def words(root: Path, **changes: Any) -> parallel_text.ParallelText:
    return read_parallel_text(options_of(TranslationOptions, options(root, **changes)))


def test_the_options_are_those_of_the_declaration(root: Path) -> None:
    declared = DATASETS["translation"]
    part = make_part("translation", declared.version, declared.args, options(root))
    assert part.locators == {"root": str(root)}
    assert import_function(declared.load) is load
    assert import_function(declared.facts) is facts
    assert declared.fingerprint is not None
    assert import_function(declared.fingerprint) is fingerprint
    assert load_dataset(part).name == "translation"


# words


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Zwei Männer, drei Hunde.", ["Zwei", "Männer", ",", "drei", "Hunde", "."]),
        ("It's saftig-grün -- really...", ["It's", "saftig-grün", "--", "really", "..."]),
        ("um 10:30 für 1,000.50 €!?", ["um", "10:30", "für", "1,000.50", "€", "!", "?"]),
        ("3. Platz", ["3", ".", "Platz"]),
        ("<s> a_b </s>", ["<", "s", ">", "a_b", "<", "/", "s", ">"]),
        ("  \u00a0\t ", []),
        ("e\u0301te\u0301", ["été"]),
        ("猫は寝る。", ["猫は寝る", "。"]),
    ],
)
def test_a_sentence_is_split_into_numbers_words_and_marks(
    sentence: str, expected: list[str]
) -> None:
    assert tokenize(sentence) == expected


def test_lower_case_is_taken_before_splitting() -> None:
    assert tokenize("Der STRASSE ß", lowercase=True) == ["der", "strasse", "ß"]


@pytest.mark.parametrize(
    "sentence",
    ["Look, a dog (and [two] cats)!", "One; two: three?", "Wait... what?!", "It's 3.5 m.", ""],
)
def test_ordinary_sentences_are_put_together_as_they_were(sentence: str) -> None:
    assert detokenize(tokenize(sentence)) == sentence


def test_an_unknown_word_is_one_mark_in_text() -> None:
    assert detokenize(["the", "<unk>", "."]) == "the ⁇."


def test_words_end_with_the_end_token_and_special_ones_are_left_out() -> None:
    vocabulary = (*SPECIAL_WORDS, "a", "b")
    assert words_of(vocabulary, [START, 4, PADDING, UNKNOWN, IGNORE, 5, END, 4]) == [
        "a",
        "<unk>",
        "b",
    ]


def test_the_vocabulary_lists_frequent_words_first_and_ties_by_code_point() -> None:
    sentences = [["b", "a", "B"], ["b", "c", "a"], ["é", "d", "d", "c"]]
    found = make_vocabulary(sentences, 2)
    assert found == (*SPECIAL_WORDS, "a", "b", "c", "d")
    assert make_vocabulary(sentences[::-1], 2) == found
    assert make_vocabulary(sentences, 1)[4:] == ("a", "b", "c", "d", "B", "é")


def test_a_word_that_is_not_in_the_vocabulary_is_unknown() -> None:
    ids = numbering((*SPECIAL_WORDS, "a"))
    assert encode(["a", "z", "a"], ids) == [4, UNKNOWN, 4]


# which pairs


def test_empty_and_long_pairs_are_skipped_and_counted(root: Path) -> None:
    text = words(root, max_length=4, subset="first")
    assert [list(sentence) for sentence in text.train_target] == [
        ["A", "dog", "."],
        ["A", "dog", "runs", "."],
        ["An", "animal", "."],
    ]
    assert text.num_skipped == 2


def test_the_first_pairs_are_the_first_that_can_be_kept(root: Path) -> None:
    text = words(root, pairs=3, subset="first", max_length=4)
    assert [sentence[1] for sentence in text.train_source] == ["Hund", "Hund", "Tier"]
    assert text.num_skipped == 2


def test_where_fewer_pairs_can_be_kept_all_are_and_the_facts_say_so(root: Path) -> None:
    assert facts(options(root, pairs=100)).num_train == 4
    assert facts(options(root, pairs=None)).num_train == 4


def numbered(folder: Path, num: int) -> None:
    """Write `num` pairs, every third with an empty target."""
    write(folder, "train.de", [f"s{i}" for i in range(num)])
    write(folder, "train.en", ["" if i % 3 == 0 else f"t{i}" for i in range(num)])


def sampled(root: Path, pairs: int, seed: int = 0) -> list[int]:
    text = words(root, pairs=pairs, sample_seed=seed)
    assert [s[0][1:] for s in text.train_source] == [t[0][1:] for t in text.train_target]
    return [int(sentence[0][1:]) for sentence in text.train_source]


def test_a_sample_is_in_file_order_and_a_smaller_one_is_part_of_a_larger_one(root: Path) -> None:
    numbered(root, 60)
    large, small = sampled(root, 20), sampled(root, 7)
    assert len(large) == 20
    assert len(small) == 7
    assert large == sorted(set(large))
    assert set(small) < set(large)
    assert all(i % 3 for i in large)
    assert sampled(root, 20) == large
    assert sampled(root, 20, seed=1) != large


def test_every_pair_is_sampled_equally_often(root: Path) -> None:
    """400 draws of 3 of 6 pairs: each 200 times, standard error 10."""
    numbered(root, 9)
    drawn = Counter(i for seed in range(400) for i in sampled(root, 3, seed))
    assert set(drawn) == {1, 2, 4, 5, 7, 8}
    assert all(abs(count - 200) < 40 for count in drawn.values())


def test_test_pairs_are_all_kept_and_cut_but_references_are_not(root: Path) -> None:
    text = words(root, max_length=3, subset="first")
    assert [list(sentence) for sentence in text.test_source] == [["Ein", "Hund", "schläft"], []]
    assert [list(sentence) for sentence in text.test_target] == [
        ["A", '"', "dog"],
        ["Nobody", "knows", "."],
    ]
    assert list(text.test_references) == TEST_TARGET


def test_lower_case_is_of_words_and_references(root: Path) -> None:
    text = words(root, lowercase=True)
    assert "Hund" not in text.source_words
    assert "hund" in text.source_words
    assert text.test_references == ('a "dog" sleeps .', "nobody  knows.")


def test_vocabularies_hold_words_of_the_kept_training_pairs_only(root: Path) -> None:
    text = words(root, pairs=2, subset="first")
    assert text.source_words == (*SPECIAL_WORDS, ".", "Ein", "Hund", "läuft")
    assert words(root, min_frequency=3).source_words == (*SPECIAL_WORDS, ".", "Ein")


# tensors


def test_sentences_lie_in_the_tensors_as_declared(root: Path) -> None:
    data = load(**options(root, pairs=2, subset="first"))
    # the longest sentence is 'A "dog" sleeps .', six tokens and one that starts or ends it
    assert data.form == Tokens(7, 8, 8)
    assert data.text is not None
    assert data.text.target_words == (*SPECIAL_WORDS, ".", "A", "dog", "runs")
    assert data.train_inputs.dtype == data.train_labels.dtype == torch.int64
    assert data.train_inputs[0].tolist() == [[5, 6, 4, END, 0, 0, 0], [START, 5, 6, 4, 0, 0, 0]]
    assert data.train_labels[0].tolist() == [5, 6, 4, END, IGNORE, IGNORE, IGNORE]
    assert data.train_inputs[1].tolist() == [[5, 6, 7, 4, END, 0, 0], [START, 5, 6, 7, 4, 0, 0]]
    # 'A "dog" sleeps .' in which quotation marks and the verb are unknown; an empty source sentence
    assert data.test_labels[0].tolist() == [5, UNKNOWN, 6, UNKNOWN, UNKNOWN, 4, END]
    assert data.test_inputs[1, 0].tolist() == [END, 0, 0, 0, 0, 0, 0]
    assert data.num_classes == 8
    assert data.pixel.shape == data.padding.shape == (1,)


def test_facts_known_before_loading_are_true_after(root: Path) -> None:
    args = options(root, max_length=4)
    data = load(**args)
    scored = int((data.train_labels != IGNORE).sum())
    assert facts(args) == DatasetFacts(
        len(data.train_labels),
        len(data.test_labels),
        data.input_shape,
        data.num_classes,
        "translation",
        data.form,
        scored / len(data.train_labels),
    )


def test_facts_are_remembered_by_the_contents_of_the_files(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = parallel_text.read_parallel_text
    calls: list[TranslationOptions] = []

    def counted(options: TranslationOptions) -> parallel_text.ParallelText:
        calls.append(options)
        return read(options)

    monkeypatch.setattr(parallel_text, "read_parallel_text", counted)
    args = options(root)
    first = facts({**args, **fingerprint(args)})
    assert facts({**args, **fingerprint(args)}) == facts(args) == first
    assert len(calls) == 1
    write(root, "train.de", [*SOURCE[:4], "Zwei neue Tiere ."])
    assert facts(args).form != first.form
    assert len(calls) == 2


def test_the_record_of_the_vocabulary_says_how_words_became_numbers(root: Path) -> None:
    data = load(**options(root, pairs=2, subset="first"))
    assert vocabulary_record(data) == {
        "tokenizer": "words-and-marks",
        "tokenizer_version": 1,
        "source_words": [*SPECIAL_WORDS, ".", "Ein", "Hund", "läuft"],
        "target_words": [*SPECIAL_WORDS, ".", "A", "dog", "runs"],
    }
    with pytest.raises(DataError, match="data set translation has no vocabulary"):
        vocabulary_record(replace(data, text=None))


def test_the_tokeniser_is_what_it_was() -> None:
    """Stored results name the tokeniser by its version: with another splitting it must have
    another.
    """
    text = "Don't “quote” 1.000,5 Stück (saftig-grün)... a/b @x #y 5% 10:30h — né\u0301e"
    found = hashlib.sha256("\n".join(tokenize(text)).encode()).hexdigest()[:16]
    assert found == "b1fdfc5b2f29a7e4"


# files


def to_iwslt(root: Path) -> None:
    """Turn the plain files into IWSLT's layout."""
    for language in ("de", "en"):
        lines = (root / f"train.{language}").read_text().splitlines()
        head = ["<url>http://x</url>", "<title>T</title>"]
        tagged = [*head, *(f" {line} " for line in lines), "<speaker>Me</speaker>"]
        write(root, f"train.tags.de-en.{language}", tagged)
        segments = (root / f"test.{language}").read_text().splitlines()
        body = "\n".join(f'<seg id="{i}"> {s} </seg>' for i, s in enumerate(segments))
        xml = (
            '<?xml version="1.0"?>\n<mteval><doc'
            f' docid="1">\n<title>no</title>\n{body}\n</doc></mteval>\n'
        )
        (root / f"IWSLT16.TED.tst2013.de-en.{language}.xml").write_text(xml)
        (root / f"train.{language}").unlink()
        (root / f"test.{language}").unlink()


def test_the_layout_of_iwslt_gives_what_plain_files_give(root: Path) -> None:
    write(root, "test.en", ["A dog sleeps .", "Nobody knows."])  # xml has no double spaces
    plain = words(root)
    to_iwslt(root)
    assert words(root, test="tst2013") == plain


def test_either_order_of_the_languages_in_a_name_will_do(root: Path) -> None:
    to_iwslt(root)
    assert len(words(root, source="en", target="de", test="tst2013").test_source) == 2


def test_xml_is_read_as_text_and_only_predefined_entities_mean_something(root: Path) -> None:
    to_iwslt(root)
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b SYSTEM "file:///etc/passwd">]>'
    segments = (
        '<seg id="1">R&amp;D &lt;3 &quot;x&quot; &apos; &amp;lt; &a; &b;</seg><SEG id=2>a\n '
        " &\nb</SEG>"
    )
    for language in ("de", "en"):
        (root / f"IWSLT16.TED.tst2013.de-en.{language}.xml").write_text(bomb + segments)
    references = words(root, test="tst2013").test_references
    assert references == ('R&D <3 "x" \' &lt; &a; &b;', "a & b")


def test_only_newlines_end_lines(root: Path) -> None:
    for language in ("de", "en"):
        text = "\ufeffeins\u2028zwei\r\ndrei\x0bvier\x85\r\nlast"
        (root / f"test.{language}").write_bytes(text.encode())
    assert words(root).test_references == ("eins\u2028zwei", "drei\x0bvier", "last")


def test_the_fingerprint_changes_with_every_file_and_with_nothing_else(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen = {fingerprint(options(root))["sha256"]}
    copy = tmp_path_factory.mktemp("copy")
    for name in ("train.de", "train.en", "test.de", "test.en"):
        (copy / name).write_bytes((root / name).read_bytes())
    assert fingerprint(options(copy, pairs=1))["sha256"] in seen
    for name in ("train.de", "train.en", "test.de", "test.en"):
        (root / name).write_bytes((root / name).read_bytes() + b"x\n")
        seen.add(fingerprint(options(root))["sha256"])
    assert len(seen) == 5


def test_a_changed_file_is_refused(root: Path) -> None:
    args = options(root) | fingerprint(options(root))
    load(**args)
    write(root, "test.de", ["Neu .", "Neu ."])
    with pytest.raises(DataError, match=r"have the SHA-256 \w+, but dataset.sha256 is \w+: a file"):
        load(**args)


def test_missing_files_are_named_with_what_is_there(root: Path) -> None:
    message = (
        r"found no files for 'tran': looked for tran.de and tran.en, tran.tags.de-en.de and .en, "
        r"\*.tran.de-en.de.xml and .en.xml; found no files for 'tst': .*"
        r"holds test.de, test.en, train.de, train.en\. Set dataset.root"
    )
    with pytest.raises(DataError, match=message):
        facts(options(root, train="tran", test="tst"))


def test_a_long_listing_is_cut_short(root: Path) -> None:
    for i in range(20):
        write(root, f"a{i:02}", ["x"])
    with pytest.raises(DataError, match=r"holds a00, a01, .*, a11 and 12 more"):
        facts(options(root, test="tst"))


def test_a_missing_folder_is_an_error(root: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the folder .*gone \(No such file"):
        fingerprint(options(root / "gone"))


def test_a_file_that_cannot_be_read_is_an_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"cannot read .*train.de \(Permission denied\)"):
        fingerprint(options(root))


def test_two_files_that_fit_are_an_error(root: Path) -> None:
    to_iwslt(root)
    for language in ("de", "en"):
        (root / f"IWSLT14.tst2013.de-en.{language}.xml").write_text("<seg>a</seg>")
    with pytest.raises(DataError, match=r"more than one file fits 'tst2013': IWSLT14.*, IWSLT16"):
        facts(options(root, test="tst2013"))


def test_unequal_numbers_of_sentences_are_an_error(root: Path) -> None:
    write(root, "train.en", TARGET[:-1])
    with pytest.raises(DataError, match=r"train.de holds 5 sentences, but .*train.en 4; each"):
        facts(options(root))


def test_text_that_is_not_utf8_is_an_error(root: Path) -> None:
    (root / "test.de").write_bytes("eins\nMänner\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 2 of .*test.de is not UTF-8 \(.*, byte 0xe4\)"):
        facts(options(root))


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \n"])
def test_a_file_without_sentences_is_an_error(root: Path, content: bytes) -> None:
    (root / "train.de").write_bytes(content)
    with pytest.raises(DataError, match=r"train.de holds no sentence; it is empty, or not laid"):
        facts(options(root))


def test_a_training_set_of_which_nothing_can_be_kept_is_an_error(root: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 5 pairs .* has 1 to 2 tokens on both sides"):
        facts(options(root, max_length=2))


# checks of loaded data


@pytest.fixture
def data(root: Path) -> Dataset:
    return load(**options(root))


def changed(values: torch.Tensor, place: tuple[int, ...], value: int) -> torch.Tensor:
    copy = values.clone()
    copy[place] = value
    return copy


def test_what_is_loaded_passes_the_check(data: Dataset) -> None:
    check_dataset("mine", data)


def mistaken(data: Dataset, what: str) -> Dataset:
    """Return the data set with one thing wrong."""
    x, y, last = data.train_inputs, data.train_labels, data.input_shape[1] - 1
    assert data.text is not None
    changes: dict[str, dict[str, Any]] = {
        "float": {"train_inputs": x.float()},
        "shape": {"test_inputs": data.test_inputs[:, :1]},
        "labels": {"train_labels": y[:, 0]},
        "number": {"train_labels": y[1:]},
        "source": {"train_inputs": changed(x, (0, 0, 0), 99)},
        "given": {"train_inputs": changed(x, (0, 1, 0), -1)},
        "class": {"train_labels": changed(y, (0, 0), 99)},
        "gap": {"train_inputs": changed(x, (0, 0, last), 5)},
        "empty": {"train_inputs": changed(x, (2, 0), 0)},
        "unscored": {"train_labels": changed(y, (1, slice(None)), IGNORE)},
        "padding": {"train_labels": changed(y, (3, 0), IGNORE)},
        "classes": {"num_classes": 3},
        "augment": {"augment": "flip_crop"},
        "text": {"text": replace(data.text, test_references=())},
    }
    return replace(data, **changes[what])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("float", r"train_inputs are torch.float32 \(4, 2, \d\), not int64 \(N, 2, \d\)"),
        ("shape", r"test_inputs are torch.int64 \(2, 1, \d\), not int64 \(N, 2, \d\)"),
        ("labels", r"train_labels are torch.int64 \(4,\), not int64 \(N, \d\)"),
        ("number", r"train has 4 inputs and 3 labels"),
        ("source", r"train source tokens run from 0 to 99; allowed: 0 to 12"),
        ("given", r"train decoder inputs run from -1 to \d+; allowed: 0 to \d+"),
        ("class", r"train labels run from 2 to 99; allowed: 0 to \d+"),
        ("gap", r"1 train pairs have a token after padding, first pair 0"),
        ("empty", r"1 train pairs have no source token, first pair 2"),
        ("unscored", r"1 train pairs have no label that is scored, first pair 1"),
        ("padding", r"1 train pairs do not have -100 as label exactly where .*, first pair 3"),
        ("classes", r"num_classes is 3, but form.target_vocabulary \d+"),
        ("augment", r"augment is flip_crop, but inputs of the shape .* are not images"),
        ("text", r"text has 13 source words, .* and 0 references; expected: 13, \d+ and 2"),
    ],
)
def test_malformed_token_data_is_refused(data: Dataset, what: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_dataset("mine", mistaken(data, what))


def test_data_without_its_text_is_fine(data: Dataset) -> None:
    check_dataset("mine", replace(data, text=None))


# real sentences


def test_real_sentences_load_as_their_facts_say(shared_data: Path) -> None:
    args = options(shared_data / "multi30k", min_frequency=2)
    found = facts(args)
    data = load_dataset(make_part("translation", 1, TranslationOptions, args))
    assert (found.num_train, found.num_test) == (4000, 1000)
    assert found.form == data.form
    assert found.input_shape == data.input_shape
    assert found.labels_per_example == pytest.approx(13.849)
    assert data.text is not None
    unknown = (data.test_labels == UNKNOWN).sum() / (data.test_labels != IGNORE).sum()
    assert 0.03 < unknown < 0.1
    texts = [detokenize(words_of(data.text.target_words, row)) for row in data.test_labels.tolist()]
    references = data.text.test_references
    whole = [t == r for t, r in zip(texts, references, strict=True) if "⁇" not in t]
    assert len(whole) > 300
    assert sum(whole) > 0.9 * len(whole)  # the rest have quotation marks, dashes or odd spaces
