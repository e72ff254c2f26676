"""Record what produced a row: host, device, versions, the commits of phasegrid and of the user's
code. No user names, paths or environment variables.
"""

import json
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from phasegrid.user_code import USER_COMMIT_FILE
from phasegrid.version import __version__

OWN_CHECKOUT = Path(__file__).resolve().parents[2]
COMMIT_FILE = (
    "phasegrid/commit.json"  # the commit of a checkout that was sent elsewhere without its .git
)


def provenance(
    device: str, user: tuple[str | None, bool | None] = (None, None), name: str | None = None
) -> dict[str, str | bool | None]:
    """Return the columns that every row of a result carries, for work that this process does on
    `device`, a GPU with its `name`; `user` is the answer of `user_commit` on the machine where the
    run began.

    `git_commit` and `git_dirty` (tracked files changed) describe phasegrid's own checkout, or the
    checkout that was sent here (`commit_record`); they are None if phasegrid is installed without a
    checkout. They are read once per process: this process does not import later edits either.
    """
    commit, dirty = _checkout(OWN_CHECKOUT)
    return {
        "device": device,
        "device_name": name,
        "host": platform.node() or None,
        "phasegrid_version": __version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "torch_version": _torch_version(),
        "user_git_commit": user[0],
        "user_git_dirty": user[1],
    }


def commit_record(checkout: Path) -> bytes:
    """Return the text of `COMMIT_FILE`, which is sent with the tracked files of a checkout."""
    return _record(*_checkout(checkout))


def user_commit(files: Sequence[Path]) -> tuple[str | None, bool | None]:
    """Return the commit of the repository of the user's first file, and whether one of its tracked
    files, or one of `files`, differs from that commit; both are None without a repository or
    without git.
    """
    if not files:
        return None, None
    for folder in files[0].absolute().parents:
        if (folder / USER_COMMIT_FILE).is_file():
            return _sent(folder / USER_COMMIT_FILE)
        if (folder / ".git").exists():
            commit, dirty = _state(folder)
            inside = [str(file.absolute()) for file in files if folder in file.absolute().parents]
            listed = _git(folder, "ls-files", "--error-unmatch", "--", *inside)
            return commit, None if dirty is None else dirty or listed is None
    return None, None


def user_commit_record(files: Sequence[Path]) -> bytes:
    """Return the text of `USER_COMMIT_FILE`, which is sent with the files of a sweep."""
    return _record(*user_commit(files))


@cache
def _torch_version() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


@cache
def _checkout(folder: Path) -> tuple[str | None, bool | None]:
    """Return the commit and the dirtiness of the checkout whose root is `folder`, never of a parent
    folder.
    """
    if not (folder / ".git").exists():
        return _sent(folder / COMMIT_FILE)
    return _state(folder)


def _state(folder: Path) -> tuple[str | None, bool | None]:
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or status is None:
        return None, None
    return commit, status != ""


def _record(commit: str | None, dirty: bool | None) -> bytes:
    return json.dumps({"git_commit": commit, "git_dirty": dirty}).encode()


def _sent(record: Path) -> tuple[str | None, bool | None]:
    """Return the commit and the dirtiness from a record; both are None if it is missing or
    unreadable.
    """
    try:
        known = json.loads(record.read_bytes())
        return known["git_commit"], known["git_dirty"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            # A repository's own settings could name a program to run.
            ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
