"""Look up what the names in one sweep refer to, each once."""

from pathlib import Path

from phasegrid import plugin_files, registry
from phasegrid.config.types import UserCode
from phasegrid.config.validate import fields_of
from phasegrid.declare import (
    DatasetKind,
    FigureKind,
    Metric,
    Model,
    Objective,
    ScheduleKind,
)
from phasegrid.errors import SweepError
from phasegrid.tasks import TASKS
from phasegrid.texts import suggest


class References:
    """Looks up names relative to the sweep's folder, and refuses two plug-in files with one file
    name, because keys could not distinguish them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[tuple[registry.Kind, str], registry.Declaration] = {}
        self._files: dict[str, Path] = {}
        self._code: list[UserCode] = []

    @property
    def code(self) -> tuple[UserCode, ...]:
        """The plug-ins that were looked up, with their code."""
        return tuple(self._code)

    def model(self, name: str) -> Model:
        """Return a model family, or raise `SweepError`."""
        found = self._resolve("model", name)
        assert isinstance(found, Model)
        return found

    def dataset(self, name: str) -> DatasetKind:
        """Return a data set, or raise `SweepError`."""
        found = self._resolve("dataset", name)
        assert isinstance(found, DatasetKind)
        return found

    def metric(self, name: str) -> Metric:
        """Return a metric, or raise `SweepError`."""
        found = self._resolve("metric", name)
        assert isinstance(found, Metric)
        return found

    def figure(self, name: str) -> FigureKind:
        """Return a kind of figure, or raise `SweepError`."""
        found = self._resolve("figure", name)
        assert isinstance(found, FigureKind)
        return found

    def schedule(self, name: str) -> ScheduleKind:
        """Return a schedule, or raise `SweepError`."""
        found = self._resolve("schedule", name)
        assert isinstance(found, ScheduleKind)
        return found

    def objective(self, name: str) -> Objective:
        """Return an objective, or raise `SweepError`."""
        found = self._resolve("objective", name)
        assert isinstance(found, Objective)
        _check_objective(name, found)
        return found

    def _resolve(self, kind: registry.Kind, name: str) -> registry.Declaration:
        key = (kind, name)
        if key not in self._found:
            self._found[key] = registry.resolve(kind, name, self._folder)
            self._remember(name)
            self._keep_code(kind, name, self._found[key].version)
        return self._found[key]

    def _keep_code(self, kind: registry.Kind, name: str, version: int) -> None:
        code = registry.code_of(kind, name, self._folder)
        if code is not None:
            shown = name.rpartition(":")[0] or name
            self._code.append(UserCode(kind, registry.identity(name), version, shown, code))

    def _remember(self, name: str) -> None:
        file = plugin_files.plugin_file(name, self._folder)
        if file is None:
            return
        other = self._files.setdefault(file.name, file)
        if other != file:
            raise SweepError(
                f"found two files called {file.name} ({other} and {file}); rename one: keys"
                f" contain only the name"
            )
        plugin_files.remember_folder(file.parent)


def _check_objective(name: str, objective: Objective) -> None:
    """Refuse an objective whose declaration names arguments or tasks that do not exist."""
    args = fields_of(objective.args)
    for field, found, allowed in (
        ("training_only", objective.training_only, args),
        ("aside", (objective.aside,) if objective.aside else (), args),
        ("tasks", objective.tasks, TASKS),
        ("predicts", (objective.predicts,), ("probabilities", "values")),
    ):
        for each in found:
            if each not in allowed:
                known = ", ".join(allowed) or "none"
                raise SweepError(
                    f"objective {name!r} declares {field} {each!r}; allowed: {known}"
                    f"{suggest(each, allowed)}"
                )
