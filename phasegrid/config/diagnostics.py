"""Gather all mistakes of a sweep, so that they are reported together."""

from collections.abc import Iterable, Sequence

from phasegrid.config.yaml import Node, Place
from phasegrid.errors import Mistake, SweepError
from phasegrid.texts import counted

MAX_SHOWN = 100


class Diagnostics:
    """Gathers mistakes and the paths of their fields, so that one mistake is not reported twice.

    If the YAML itself was wrong at a place, later mistakes at that place are consequences and are
    left out.
    """

    def __init__(self) -> None:
        self._mistakes: dict[Mistake, None] = {}
        self._misread: set[tuple[str, int, int, str]] = set()
        self._broken: set[str] = set()

    @property
    def mistakes(self) -> list[Mistake]:
        """The mistakes so far, in the order they were found, each once."""
        return list(self._mistakes)

    def add(self, where: Node | Place, path: str, message: str) -> None:
        """Note a mistake at a node or place; the field at `path` counts as broken."""
        place = where.place if isinstance(where, Node) else where
        self._broken.add(path)
        if _spot(place.file, place.line, place.column, path) not in self._misread:
            self._mistakes[Mistake(place.file, place.line, place.column, path, message)] = None

    def mark_broken(self, path: str) -> None:
        """Count the field at `path` as broken because of a mistake noted elsewhere."""
        self._broken.add(path)

    def add_key(self, node: Node, path: str, message: str) -> None:
        """Note a mistake about the key of an entry."""
        self.add(node.key_place or node.place, path, message)

    def take(self, other: "Diagnostics", suffix: str) -> None:
        """Take over the mistakes of another diagnostics, with `suffix` after each message."""
        for mistake in other.mistakes:
            place = Place(mistake.file, mistake.line, mistake.column)
            self.add(place, mistake.path, mistake.message + suffix)

    def add_misread(self, mistakes: Iterable[Mistake]) -> None:
        """Note mistakes of the YAML itself."""
        for mistake in mistakes:
            self._mistakes[mistake] = None
            self._broken.add(mistake.path)
            if mistake.line or mistake.path:
                spot = _spot(mistake.file, mistake.line, mistake.column, mistake.path)
                self._misread.add(spot)

    def is_noted(self, place: Place, path: str) -> bool:
        """Say whether there is a mistake of a field at a place."""
        spot = (place.file, place.line, place.column, path)
        return any((m.file, m.line, m.column, m.path) == spot for m in self._mistakes)

    def is_broken(self, *paths: str) -> bool:
        """Say whether a field at, above or below one of these paths has a mistake."""
        return any(
            path == broken or path.startswith(f"{broken}.") or broken.startswith(f"{path}.")
            for path in paths
            for broken in self._broken
        )

    def raise_if_any(self, file: str) -> None:
        """Raise what was gathered, the sweep's own file first, in the order of lines.

        Raises:
            SweepError: if there is a mistake.
        """
        if self._mistakes:
            raise sweep_error(file, self.mistakes)


def _spot(file: str, line: int, column: int, path: str) -> tuple[str, int, int, str]:
    """Return what tells two places apart: the path only where there are no lines."""
    return file, line, column, "" if line else path


def sweep_error(file: str, mistakes: Sequence[Mistake]) -> SweepError:
    """Build the error that lists mistakes, one a line, and counts them in the last."""
    ordered = sorted(mistakes, key=lambda m: (m.file != file, m.file, m.line, m.column, m.path))
    lines = [str(mistake) for mistake in ordered[:MAX_SHOWN]]
    if len(ordered) > MAX_SHOWN:
        lines.append(f"... and {len(ordered) - MAX_SHOWN} more")
    count = counted(len(ordered), "mistake")
    return SweepError("\n".join([*lines, f"{count} in {file}"]), ordered)
