"""Print the output of commands, data to stdout and messages to stderr, so that any terminal can
show it. Commands print only through this module.

A store holds texts that others wrote: the text of an exception, the answer to a query. Secrets are
removed from them, control characters are made visible and harmless, markup and emoji codes are not
interpreted, and characters that the stream's encoding lacks are replaced.
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
"""Replacements for characters that a terminal may lack: the lines of tables, and a few in texts."""


def echo(text: str, end: str = "\n") -> None:
    """Print data to stdout."""
    click.echo(encodable(clean(text) + end, getattr(sys.stdout, "encoding", None)), nl=False)


def encodable(text: str, encoding: str | None) -> str:
    """Return `text`; replace characters that an encoding lacks with plain characters or escapes.

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
    """Return a console on stderr that prints texts literally: no markup, no emoji codes, no control
    characters.
    """
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    console.push_render_hook(cast(RenderHook, _Cleaning()))
    return console


def clean_logs() -> None:
    """Send the log messages of phasegrid in this process through the same cleaning."""
    logger = logging.getLogger("phasegrid")
    if _clean_record not in logger.filters:
        logger.addFilter(_clean_record)


def _clean_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = clean(record.getMessage()), None
    return True


class _Cleaning:
    """Cleans every text that goes to a console."""

    def process_renderables(self, renderables: Sequence[Any]) -> list[ConsoleRenderable]:
        """Return the cleaned forms of `renderables`."""
        return [_cleaned(shown) if isinstance(shown, Text) else shown for shown in renderables]


def _cleaned(text: Text) -> Text:
    fixed = clean(text.plain)
    if fixed == text.plain:
        return text
    copy = text.copy()
    copy.plain = fixed
    return copy
