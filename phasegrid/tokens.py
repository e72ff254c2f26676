"""Keep the token of a cluster, and the keys of an object store, out of everything that is written, sent or shown.

Ray itself reads the token: from ``RAY_AUTH_TOKEN``, else the file ``RAY_AUTH_TOKEN_PATH`` names, else ``~/.ray/auth_token``, where
``RAY_AUTH_MODE=token``. (A head on which that is unset asks for a token if its user has one.) Here it is only looked for, to
be left out: an exception of a plug-in may hold anything.
"""

import os
from pathlib import Path

from phasegrid.errors import SweepError

_SECRETS = ("RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SHORTEST = 8  # characters; hiding anything shorter would hide ordinary words


def how_to_set() -> str:
    """Say how Ray is given the token of a cluster: one in the file of its user needs but be sent."""
    if _own_file().is_file():
        return (
            "set RAY_AUTH_MODE=token, which sends the token in ~/.ray/auth_token, and if the cluster's is another, "
            "that in RAY_AUTH_TOKEN"
        )
    return (
        "set RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, "
        "or in ~/.ray/auth_token"
    )


def known_tokens() -> tuple[str, ...]:
    """Return the tokens that this process could find, in the same places as Ray, in use or not, and the secrets of S3."""
    paths = [os.environ.get("RAY_AUTH_TOKEN_PATH", ""), str(_own_file())]
    found = [
        *(os.environ.get(name, "") for name in _SECRETS),
        *(_read(path) for path in paths if path),
    ]
    return tuple(dict.fromkeys(text.strip() for text in found if len(text.strip()) >= _SHORTEST))


def redact(text: str) -> str:
    """Return `text` with every known token replaced by ``[token]``."""
    for token in known_tokens():
        text = text.replace(token, "[token]")
    return text


def refuse_secrets(url: str, what: str) -> None:
    """Refuse a URL that holds a user name or a password: it would be seen in lists, logs and rows.

    Raises:
        SweepError: saying so, without the URL.
    """
    authority = url.partition("://")[2].partition("/")[0] if "://" in url else ""
    if "@" in authority:
        raise SweepError(
            f"{what}: the URL holds credentials, which lists and logs would show; leave out what stands before @ "
            "and give them in the environment"
        )


def _own_file() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
