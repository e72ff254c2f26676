"""What produced a row: host, device, versions, the commit of phasegrid. No user names, paths or environment."""

import json
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from phasegrid import __version__

COMMIT_FILE = "phasegrid/commit.json"  # of a checkout that was sent elsewhere without its .git


def provenance(device: str) -> dict[str, str | bool | None]:
    """Return the columns that every row of a result carries, for work done on `device` in this process.

    `git_commit` and `git_dirty` (tracked files changed) are those of phasegrid's own checkout, or of the one whose files were
    sent here (`commit_record`), None where it is installed without one. They are looked up once per process: an edit after that
    is not seen, nor imported.
    """
    commit, dirty = _checkout(Path(__file__).resolve().parent.parent)
    return {
        "device": device,
        "host": platform.node() or None,
        "phasegrid_version": __version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "torch_version": _torch_version(),
    }


def commit_record(checkout: Path) -> bytes:
    """Return what goes along, as `COMMIT_FILE`, with the tracked files of a checkout."""
    commit, dirty = _checkout(checkout)
    return json.dumps({"git_commit": commit, "git_dirty": dirty}).encode()


@cache
def _torch_version() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


@cache
def _checkout(folder: Path) -> tuple[str | None, bool | None]:
    """Return commit and dirtiness of the checkout whose root is `folder`; never those of one further up."""
    if not (folder / ".git").exists():
        return _sent(folder / COMMIT_FILE)
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or status is None:
        return None, None
    return commit, status != ""


def _sent(record: Path) -> tuple[str | None, bool | None]:
    """Return what `commit_record` said, None of each where there is none."""
    try:
        known = json.loads(record.read_bytes())
    except FileNotFoundError:
        return None, None
    return known["git_commit"], known["git_dirty"]


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
