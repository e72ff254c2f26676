"""The one way out of a command: what is printed, to stdout (data) and stderr (talk), as any
terminal can take it.

What a store holds was written by others: an exception's text, the answer to a query. Secrets are
taken out of it, control characters are shown and not obeyed, nothing in it is taken for markup or
the code of an emoji, and characters that the stream's encoding does not have are replaced.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any, cast

import click
from rich.console import Console, ConsoleRenderable, RenderHook
from rich.text import Text

from phasegrid.redaction import clean

_PLAIN = str.maketrans(
    {
        **dict.fromkeys("─━═╌╍┄┅┈┉╴╶╸╺", "-"),
        **dict.fromkeys("│┃║╎╏┆┇┊┋╵╷╹╻", "|"),
        **dict.fromkeys("┌┐└┘├┤┬┴┼┏┓┗┛┣┫┳┻╋┡┢┩┪╇╈╞╡╪╭╮╯╰╔╗╚╝╠╣╦╩╬", "+"),
        "…": "...",
        "→": "->",
        "×": "x",
        "–": "-",
        "—": "-",
        "’": "'",
    }
)
"""What stands for a character that a terminal does not have: the rules of tables, and a few that
texts use.
"""


def echo(text: str, end: str = "\n") -> None:
    """Print data to stdout."""
    click.echo(encodable(clean(text) + end, getattr(sys.stdout, "encoding", None)), nl=False)


def encodable(text: str, encoding: str | None) -> str:
    """Return `text` if it can be written in an encoding, else with plain characters, or escapes,
    for what cannot.

    >>> encodable("a ─ ü ψ", "latin-1")
    'a - ü \\\\u03c8'
    """
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    return text


def talking_console() -> Console:
    """Return a console on stderr that prints texts as they are: no markup, no emoji codes, nothing
    that a terminal obeys.
    """
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    console.push_render_hook(cast(RenderHook, _Cleaning()))
    return console


def clean_logs() -> None:
    """Have what phasegrid logs in this process go through the same sieve."""
    logger = logging.getLogger("phasegrid")
    if _clean_record not in logger.filters:
        logger.addFilter(_clean_record)


def _clean_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = clean(record.getMessage()), None
    return True


class _Cleaning:
    """Cleans every text that a console is given, whoever prints it."""

    def process_renderables(self, renderables: Sequence[Any]) -> list[ConsoleRenderable]:
        """Return what is to be shown instead of `renderables`."""
        return [_cleaned(shown) if isinstance(shown, Text) else shown for shown in renderables]


def _cleaned(text: Text) -> Text:
    fixed = clean(text.plain)
    if fixed == text.plain:
        return text
    copy = text.copy()
    copy.plain = fixed
    return copy
