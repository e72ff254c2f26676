"""Turn sentences into words, words into numbers, and back. Standard library only.

The tokeniser `TOKENIZER`, version `TOKENIZER_VERSION`, puts a sentence into Unicode form NFC and
then finds, from left to right, with Python's `re` (Unicode 14 or later), the first of

    a number with its inner points         \\d+(?:[.,:]\\d+)+             1,000   3.5   10:30
    a word with its inner apostrophes and  \\w+(?:['’-]\\w+)*             don't   saftig-grünes
    hyphens
    one mark, repeated                     ([^\\w\\s])\\1*                .   ...   --

White space separates and is dropped. This suits languages with letters and with spaces between
words. A line of Chinese becomes one word, and words of Hindi or Thai are cut at their vowel signs,
which are combining marks in Unicode. Yang et al. 2021 do not say how they split words; their sister
code uses spaCy, whose rules change with its releases and models, so numbers are comparable with it
in kind, not token by token.

A change of the pattern needs a new `TOKENIZER_VERSION`, and a new version of every data set that
uses it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from phasegrid.tasks.tokens import END, START, UNKNOWN

TOKENIZER = "words-and-marks"
TOKENIZER_VERSION = 1

SPECIAL_WORDS = ("<pad>", "<s>", "</s>", "<unk>")
"""The words of ids 0 to 3 in every vocabulary. The tokeniser cuts such text into pieces, so it
never gives one of these words.
"""

UNKNOWN_TEXT = "⁇"
"""The text of an unknown word: one mark, so that BLEU counts it as one wrong word (as SentencePiece
does).
"""

_TOKEN = re.compile(r"\d+(?:[.,:]\d+)+|\w+(?:['’-]\w+)*|([^\w\s])\1*")
_CLOSING, _OPENING = frozenset(",.!?;:)]}"), frozenset("([{")


def tokenize(sentence: str, lowercase: bool = False) -> list[str]:
    """Split a sentence into words and marks, as the module's docstring says.

    >>> tokenize("Don't look: it's 3.5 m (saftig-grün)...")
    ["Don't", 'look', ':', "it's", '3.5', 'm', '(', 'saftig-grün', ')', '...']
    """
    text = unicodedata.normalize("NFC", sentence)
    return [found.group() for found in _TOKEN.finditer(text.lower() if lowercase else text)]


def detokenize(words: Iterable[str]) -> str:
    """Join words with spaces, but with no space before a word that begins with one of ``,.!?;:)]}``
    and none after one of ``([{``.

    Unknown words become `UNKNOWN_TEXT`. This is the inverse of `tokenize` on ordinary sentences,
    except that quotation marks and dashes get a space on both sides.

    >>> detokenize(["Look", ":", "a", "(", "<unk>", ")", "dog", "!"])
    'Look: a (⁇) dog!'
    """
    text = ""
    for word in words:
        written = UNKNOWN_TEXT if word == SPECIAL_WORDS[UNKNOWN] else word
        joined = not text or written[0] in _CLOSING or text[-1] in _OPENING
        text += written if joined else f" {written}"
    return text


def words_of(vocabulary: Sequence[str], ids: Iterable[int]) -> list[str]:
    """Return the words of `ids` up to the first end token, without start and padding tokens.

    Labels of a data set may be given: labels that are not scored are negative and are left out too.

    >>> words_of([*SPECIAL_WORDS, "a", "dog"], [1, 4, 5, 2, 4])
    ['a', 'dog']
    """
    words = []
    for token in ids:
        if token == END:
            break
        if token > START:
            words.append(vocabulary[token])
    return words


def make_vocabulary(sentences: Iterable[Iterable[str]], min_frequency: int) -> tuple[str, ...]:
    """List the special words, then every word that occurs at least `min_frequency` times, the most
    frequent first.

    Equally frequent words are in the order of their code points, so the list does not depend on the
    order of the sentences.
    """
    counts = Counter(word for sentence in sentences for word in sentence)
    kept = (word for word, count in counts.items() if count >= min_frequency)
    return (*SPECIAL_WORDS, *sorted(kept, key=lambda word: (-counts[word], word)))


def numbering(vocabulary: Sequence[str]) -> Mapping[str, int]:
    """Return the id of every word of a vocabulary."""
    return {word: index for index, word in enumerate(vocabulary)}


def encode(words: Iterable[str], ids: Mapping[str, int]) -> list[int]:
    """Return the ids of `words`; `UNKNOWN` for words that are not in the vocabulary."""
    return [ids.get(word, UNKNOWN) for word in words]
