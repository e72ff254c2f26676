"""Laws of a commit: what the winner wrote stays together, whoever comes between its steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from phasegrid.store.committing import commit
from phasegrid.store.files.base import Files
from phasegrid.store.files.opening import open_files

PARTS = {"checkpoints/a": b"weights", "histories/a": b"history"}


@pytest.fixture(params=["folder", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return open_files(str(tmp_path) if request.param == "folder" else f"memory://{tmp_path.name}")


class Interrupted:
    """Files that do something once, before a step of theirs."""

    def __init__(self, files: Files, step: str, name: str, then: Callable[[], object]) -> None:
        self.files, self.at, self.then = files, (step, name), then

    def __getattr__(self, step: str) -> Any:
        method = getattr(self.files, step)

        def call(name: str, *args: Any, **kwargs: Any) -> Any:
            if (step, name) == self.at:
                self.at = ("", "")
                self.then()
            return method(name, *args, **kwargs)

        return call

    def replace(
        self, name: str, write: Callable[[BinaryIO], object], unless: str | None = None
    ) -> bool:
        """Be interrupted when the content is written, before it is seen whether another has won."""

        def late(file: BinaryIO) -> None:
            write(file)
            if self.at == ("replace", name):
                self.at = ("", "")
                self.then()

        return self.files.replace(name, late, unless)


def held(files: Files) -> list[bytes]:
    return [files.read(name) for name in [*PARTS, "trials/a"]]


def test_all_files_are_written_and_the_second_changes_nothing(files: Files) -> None:
    assert commit(files, PARTS, "trials/a", b"row")
    assert not commit(files, dict.fromkeys(PARTS, b"other"), "trials/a", b"other")
    assert held(files) == [b"weights", b"history", b"row"]


def test_what_an_attempt_that_died_left_is_replaced(files: Files) -> None:
    files.create("checkpoints/a", b"left")
    assert commit(files, PARTS, "trials/a", b"row")
    assert held(files) == [b"weights", b"history", b"row"]


STEPS = [("exists", "trials/a"), *[("replace", name) for name in PARTS], ("create", "trials/a")]


@pytest.mark.parametrize("step", STEPS)
def test_a_whole_commit_between_any_two_steps_wins_and_stays_together(
    files: Files, step: tuple[str, str]
) -> None:
    other = dict.fromkeys(PARTS, b"theirs")
    slow: Any = Interrupted(files, *step, lambda: commit(files, other, "trials/a", b"theirs"))
    assert not commit(slow, PARTS, "trials/a", b"row")
    assert held(files) == [b"theirs"] * 3


@pytest.mark.parametrize("name", list(PARTS))
def test_the_winner_writes_again_what_a_loser_replaced(files: Files, name: str) -> None:
    def replace() -> None:
        files.replace(name, lambda file: file.write(b"theirs"), unless="trials/a")

    slow: Any = Interrupted(files, "create", "trials/a", replace)
    assert commit(slow, PARTS, "trials/a", b"row")
    assert held(files) == [b"weights", b"history", b"row"]
