"""No file outside its rooms asks what a data set's examples are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import phasegrid

ROOT = Path(phasegrid.__file__).parent

ROOMS = ("tasks/", "datasets/translation/", "models/transformer.py", "metrics/bleu/")
"""Where sentence pairs are the subject. bleu is a metric of the task ``translation`` alone."""

DECLARATIONS = (
    "declare/__init__.py", "datasets/__init__.py", "models/__init__.py", "models/counting.py",
    "train/recipe.py",
)  # fmt: skip
"""Where it is said what a thing takes: not a branch of the program."""

WORDS = frozenset({
    "IGNORE", "PADDING", "Tokens", "batch_tokens", "mean_tokens", "num_tokens", "sentence_pairs",
    "sentences", "sequence", "sequences", "token", "tokens", "translation", "trimmed",
})  # fmt: skip

OTHER_TOKENS = ("redaction.py", "submit/", "cli/", "run/executors/ray/", "models/vit.py")
"""These speak of the tokens of clusters, and of patches of an image."""


def asks_of(source: str) -> list[str]:
    """Return what of a program names the kind of an example, or tells it from the shape of
    labels.
    """
    return [found for node in ast.walk(ast.parse(source)) for found in _asked(node)]


def _asked(node: ast.AST) -> Iterator[str]:
    for name in (getattr(node, field, None) for field in ("id", "attr", "arg", "name", "value")):
        if isinstance(name, str) and name in WORDS:
            yield f"line {getattr(node, 'lineno', 0)}: {name}"
    if isinstance(node, ast.Attribute) and node.attr in ("dim", "ndim"):
        text = ast.unparse(node)
        if "label" in text or "target" in text:
            yield f"line {node.lineno}: {text}"


@pytest.mark.parametrize(
    "source",
    [
        "if data.tokens is None: pass",
        "if labels.dim() == 1: pass",
        "takes == 'tokens'",
        "from x import IGNORE",
        "f(tokens=1)",
        "if data.task == 'translation': pass",
    ],
)
def test_a_branch_on_the_kind_of_example_is_seen(source: str) -> None:
    assert asks_of(source)


def test_only_tasks_and_declarations_ask_what_examples_are() -> None:
    roots = {"": ROOT, "analysis/": (ROOT / "analysis").resolve()}
    files = {
        f"{prefix}{path.relative_to(root)}": path
        for prefix, root in roots.items()
        for path in sorted(root.rglob("*.py"))
    }
    looked_at = {
        name: path
        for name, path in files.items()
        if not name.startswith((*ROOMS, *DECLARATIONS, *OTHER_TOKENS))
    }
    assert len(looked_at) > 150
    found = {name: asks_of(path.read_text()) for name, path in looked_at.items()}
    assert {name: asked for name, asked in found.items() if asked} == {}
