"""The words of sentence pairs."""

from dataclasses import dataclass

from phasegrid.declare import Form, Tokens


@dataclass(frozen=True, slots=True)
class Text:
    """The words of a data set of sentence pairs: the words for which token ids stand, and the
    target sentences of the test set.

    `source_words[i]` and `target_words[i]` are the text of token i, special tokens included;
    `test_references` are the untokenised target sentences of the test set, in its order.
    """

    source_words: tuple[str, ...]
    target_words: tuple[str, ...]
    test_references: tuple[str, ...]

    def mistakes(self, form: Form | None, num_test: int) -> list[str]:
        """Return how these words do not fit a data set of sentence pairs."""
        found = (len(self.source_words), len(self.target_words), len(self.test_references))
        if not isinstance(form, Tokens):
            return ["text is given, but the examples are no sentence pairs"]
        expected = (form.source_vocabulary, form.target_vocabulary, num_test)
        if found == expected:
            return []
        return [
            f"text has {found[0]} source words, {found[1]} target words and {found[2]} references;"
            f" expected: {expected[0]}, {expected[1]} and {expected[2]}"
        ]
