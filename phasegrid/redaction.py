"""Keep secrets out of everything that is stored, sent or shown, and control characters out of
texts.

Secrets are the token of a Ray cluster, the values of environment variables with secret-looking
names, and passwords and keys in URLs. An exception from a plug-in may contain any of them.

Ray reads the token from ``RAY_AUTH_TOKEN``, else from the file named by ``RAY_AUTH_TOKEN_PATH``,
else from ``~/.ray/auth_token``, if ``RAY_AUTH_MODE=token`` is set. (A head started without that
setting still asks for a token if its user has one.) This module only looks the token up in order to
remove it.
"""

import os
import re
from pathlib import Path
from urllib.parse import quote

from phasegrid.errors import SweepError

_SHORTEST = 8  # characters; hiding anything shorter would hide ordinary words
_SECRET_NAME = re.compile(
    r"(^|[_-])(KEYS?|PAT)([_-]|$)|(API|ACCESS|PRIVATE|SECRET|AUTH)_?KEY|TOKENS?([_-]|$)|SECRET|PASSW(OR)?D|PASSPHRASE|"
    r"CREDENTIAL|CONNECTION_STRING",
    re.IGNORECASE,
)
_NO_SECRET_NAME = re.compile(r"_(PATH|FILE|DIR|MODE|NAME|URL|URI)$", re.IGNORECASE)
_USER_IN_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@:'\"<>]*:[^\s@'\"<>]*@")
_PARAMETER = re.compile(
    r"([?&;][\w.-]*(?:key|token|secret|passw(?:or)?d|credential|signature|\bsig)[\w.-]*=)[^&;\s'\"<>]+",
    re.IGNORECASE,
)
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Characters that move, colour or reorder the text of a terminal (except newline and tab), and lone
surrogates, which no encoding can write.
"""


def how_to_set() -> str:
    """Return advice on how to give Ray the token of a cluster; shorter if the token file exists."""
    if _own_file().is_file():
        return (
            "set RAY_AUTH_MODE=token, which makes Ray send the token in ~/.ray/auth_token; if the"
            " cluster has another token, put that one in RAY_AUTH_TOKEN"
        )
    return (
        "set RAY_AUTH_MODE=token, and put the cluster's token in RAY_AUTH_TOKEN, in"
        " ~/.ray/auth_token, or in a file named by RAY_AUTH_TOKEN_PATH"
    )


def cluster_token() -> str | None:
    """Return the cluster token from the places where Ray looks, whether or not Ray uses it."""
    paths = [os.environ.get("RAY_AUTH_TOKEN_PATH", ""), str(_own_file())]
    found = [os.environ.get("RAY_AUTH_TOKEN", ""), *(_read(path) for path in paths if path)]
    return next((text.strip() for text in found if len(text.strip()) >= _SHORTEST), None)


def known_secrets() -> tuple[str, ...]:
    """Return all texts to hide: cluster tokens and the values of variables with secret-looking
    names.
    """
    paths = [os.environ.get("RAY_AUTH_TOKEN_PATH", ""), str(_own_file())]
    found = [
        *(value for name, value in os.environ.items() if _looks_secret(name, value)),
        *(_read(path) for path in paths if path),
    ]
    lines = [line.strip() for text in found for line in (text, *text.splitlines())]
    return tuple(dict.fromkeys(line for line in lines if len(line) >= _SHORTEST))


def redact(text: str) -> str:
    """Return `text` with ``[token]`` in place of every known secret (plain or percent-encoded) and
    of credentials in URLs.
    """
    for secret in sorted(known_secrets(), key=len, reverse=True):
        for form in (secret, quote(secret, safe="")):
            text = text.replace(form, "[token]")
    if "://" in text:
        text = _USER_IN_URL.sub(r"\1[credentials]@", text)
        text = _PARAMETER.sub(r"\1[credentials]", text)
    return text


def visible(text: str) -> str:
    """Return `text` with control characters as escapes, so that a terminal shows them and does not
    execute them.

    >>> visible("red: \x1b[31m" + chr(0x202E))
    'red: \\\\x1b[31m\\\\u202e'
    """
    return _CONTROL.sub(lambda match: _escape(match[0]), text)


def clean(text: str) -> str:
    """Return `text` without secrets and with escaped control characters, ready to be stored or
    shown.
    """
    return visible(redact(text))


def refuse_secrets(url: str, what: str) -> None:
    """Refuse a URL that contains a user name, a password or a key: lists, logs and rows would show
    it.

    A password may contain a slash, as keys of object stores often do. Then `authority` ends inside
    the password, before the @.

    Raises:
        SweepError: with a message that does not contain the URL.
    """
    rest = url.partition("://")[2]
    authority = rest.partition("/")[0]
    if "@" in authority or ("@" in rest and ":" in authority):
        raise SweepError(
            f"{what}: the URL holds credentials, which lists and logs would show; remove them"
            " (everything before @) and set them in the environment"
        )
    if rest and _PARAMETER.search(url):
        raise SweepError(
            f"{what}: the URL holds credentials, which lists and logs would show; remove them"
            " (everything after ?) and set them in the environment"
        )


def _looks_secret(name: str, value: str) -> bool:
    if not _SECRET_NAME.search(name) or _NO_SECRET_NAME.search(name):
        return False
    return not (value[:1] in ("/", "~") and Path(value).expanduser().exists())


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _own_file() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
