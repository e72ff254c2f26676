"""Report the mistakes of cells: each once, at its place in the file, with the first cell that has
it.
"""

from collections.abc import Sequence

from phasegrid.config.axes import Scale, overlap
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.points import Point
from phasegrid.config.template import TrialTemplate, place_of, split_path
from phasegrid.config.ties import Tied
from phasegrid.config.types import FIRST_STAGE, GridPoint
from phasegrid.config.yaml import Place, plain_text
from phasegrid.declare import Finding
from phasegrid.keys import as_label


class CellMistakes:
    """Notes mistakes of cells in `diagnostics`, and remembers which are noted."""

    def __init__(
        self,
        scales: Sequence[Scale],
        template: TrialTemplate,
        tied: Tied,
        diagnostics: Diagnostics,
    ) -> None:
        self._scales = scales
        self._template = template
        self._tied = tied
        self._diagnostics = diagnostics
        self._on_axis = {scale.axis.path: index for index, scale in enumerate(scales)}
        self._blamed: set[tuple[Place, str, str]] = set()

    def report_of(
        self,
        section: str,
        read_in_train: Sequence[str],
        finding: Finding,
        point: Point,
        also: Sequence[str] = (),
    ) -> None:
        """Report a mistake of a training at its own section, if the training has a say in it."""
        reads = (*read_in_train, *(of_section(read, section) for read in read_in_train))
        if section == FIRST_STAGE or self._is_own(section, reads):
            place, message = of_section(finding[0], section), finding[1]
            self.report((place, message), point, (*also, *reads))

    def _is_own(self, section: str, reads: Sequence[str]) -> bool:
        """Say whether a stage has a field of its own among those read, and no field read is broken.
        A mistake in the fields of the first training is reported there.
        """
        stage = next(stage for stage in self._template.stages if stage.section == section)
        own = [f"{section}.{name}" for name in stage.own]
        own += [path for path in (*self._on_axis, *self._tied) if split_path(path)[0] == section]
        is_own = any(overlap(read, path) for read in reads for path in own)
        return is_own and not self._diagnostics.is_broken(*reads)

    def report(self, finding: Finding | None, point: Point, reads: Sequence[str]) -> None:
        """Report what a rule found, if it found something; see `blame`."""
        if finding is not None:
            self.blame(finding[0], finding[1], point, reads)

    def blame(
        self, path: str, message: str, point: Point, reads: Sequence[str], what: str = ""
    ) -> None:
        """Note a mistake of a cell once for each place and `what`; name the first cell with the
        mistake if a field that it `reads` varies.
        """
        place = self._place(path, point)
        if (place, path, what) in self._blamed:
            return
        self._blamed.add((place, path, what))
        varied = [*self._on_axis, *self._tied]
        varies = any(overlap(read, other) for read in reads for other in varied)
        self._diagnostics.add(place, path, message + (self._where(point) if varies else ""))

    def blame_tie(self, path: str, message: str, point: Point, what: str) -> None:
        """Note a mistake of ``couple`` in a cell; see `blame`."""
        self.blame(path, message, point, (path,), what)

    def _where(self, point: Point) -> str:
        named = [
            f"{scale.axis.path}={plain_text(scale.value(i), 30)}"
            for scale, i in zip(self._scales, point, strict=True)
        ]
        return f" (in the cell {', '.join(named)})" if named else ""

    def _place(self, path: str, point: Point) -> Place:
        """Return the place of a field's value: on an axis, in ``couple`` or in its section; for a
        default, the place of its section.
        """
        for candidate, index in self._on_axis.items():
            if path == candidate or path.startswith(f"{candidate}."):
                return self._scales[index].nodes[point[index]].place
        if path in self._tied:
            return self._tied[path][1].place
        return place_of(self._template, path)


def of_section(path: str, section: str) -> str:
    """Return the path of a field of ``train`` in the recipe of another training."""
    return path.replace(FIRST_STAGE, section, 1) if path.startswith(FIRST_STAGE) else path


def in_cell(point: GridPoint) -> str:
    """Return words that name a cell by its values, to follow a message."""
    values = [*point.facet, ("load", point.load), ("temperature", point.temperature)]
    named = [f"{name} {as_label(value)}" for name, value in values if value is not None]
    return f" (in the cell {', '.join(named)})" if named else ""
