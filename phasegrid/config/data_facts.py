"""Look up the facts of data sets, and the fingerprints of the files of data sets and models, once
for each file and fraction of a sweep.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields

from phasegrid.datasets import Options
from phasegrid.declare import DatasetFacts, DatasetKind, Model, import_function
from phasegrid.errors import DataError, PhasegridError
from phasegrid.keys import Json, canonical_json
from phasegrid.redaction import redact
from phasegrid.tasks import TASKS
from phasegrid.user_code import where_raised

_COMMON = {spec.name for spec in fields(Options)}  # how data is treated, not which data


class DataFacts:
    """Looks up data sets and remembers the answers while one sweep is read."""

    def __init__(self) -> None:
        self._fingerprints: dict[str, Mapping[str, Json]] = {}
        self._facts: dict[str, DatasetFacts | None] = {}

    def look_up(
        self, name: str, kind: DatasetKind, args: Mapping[str, Json]
    ) -> tuple[Mapping[str, Json], DatasetFacts | None]:
        """Return the arguments with the fingerprint of the contents, and the facts.

        Raises:
            DataError: if the data is missing or does not fit.
        """
        own = _COMMON if issubclass(kind.args, Options) else set()
        which = {key: value for key, value in args.items() if key not in own}
        with _explained(f"data set {name!r}"):
            args = self._identified(name, kind, args, which)
            size = canonical_json([name, which, args.get("fraction"), args.get("aside")])
            if size not in self._facts:
                self._facts[size] = _checked(name, import_function(kind.facts)(args))
        return args, self._facts[size]

    def identified(self, name: str, model: Model, args: Mapping[str, Json]) -> Mapping[str, Json]:
        """Return the arguments of a model with the fingerprint of the files that it reads.

        Raises:
            DataError: if a file is missing or does not fit.
        """
        with _explained(f"model {name!r}"):
            return self._identified(name, model, args, args)

    def _identified(
        self,
        name: str,
        declared: DatasetKind | Model,
        args: Mapping[str, Json],
        which: Mapping[str, Json],
    ) -> Mapping[str, Json]:
        if declared.fingerprint is None:
            return args
        place = canonical_json([type(declared).__name__, name, which])
        if place not in self._fingerprints:
            self._fingerprints[place] = import_function(declared.fingerprint)(args)
        return {**args, **self._fingerprints[place]}


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn whatever a plug-in raises into an error that says where."""
    try:
        yield
    except PhasegridError as error:
        raise error if isinstance(error, DataError) else DataError(str(error)) from error
    except Exception as error:
        place = where_raised(error)
        told = f"{type(error).__name__}: {error}" + f" ({place})" * bool(place)
        raise DataError(redact(f"{what}: {told}")) from error


def _checked(name: str, facts: object) -> DatasetFacts | None:
    """Refuse wrong facts of a plug-in; numbers of a wrong type would fail far from here."""
    if facts is None:
        return None
    if not isinstance(facts, DatasetFacts):
        raise DataError(
            f"data set {name!r}: its facts are of type {type(facts).__name__}; allowed: a "
            "phasegrid.declare.DatasetFacts, or None if they are not known before loading"
        )
    counts = (facts.num_train, facts.num_test, facts.num_classes, *facts.input_shape)
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise DataError(f"data set {name!r}: found {facts}; allowed: counts and sizes above 0")
    if facts.task not in TASKS:
        raise DataError(
            f"data set {name!r}: found the task {facts.task!r}; allowed: {', '.join(TASKS)}"
        )
    needed = TASKS[facts.task].form or type(None)
    if not isinstance(facts.form, needed):
        raise DataError(
            f"data set {name!r}: found the form {facts.form!r} with task {facts.task}; allowed: "
            + ("None" if needed is type(None) else f"a phasegrid.declare.{needed.__name__}")
        )
    return facts
