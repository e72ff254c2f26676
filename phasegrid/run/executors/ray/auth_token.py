"""Make the token by which the processes of a Ray on this machine recognise each other."""

import os
import secrets
import uuid
from contextlib import suppress
from pathlib import Path


def keep_one_token() -> None:
    """Make Ray's token in one step, readable by this user only, unless there is one.

    Ray itself first looks for a token and then writes one. If two start at once, each makes its
    own, and processes of the first use a token that the second does not know.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    if path.exists():
        return
    new = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with suppress(OSError):  # then Ray reports it
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(new, path)  # the first one stays
        new.unlink()
