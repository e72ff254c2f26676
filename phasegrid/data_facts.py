"""Facts and fingerprints of data sets, looked up once for each file and fraction of a sweep."""

from collections.abc import Mapping
from dataclasses import fields

from phasegrid.datasets import Options
from phasegrid.declare import DatasetFacts, DatasetKind, import_function
from phasegrid.errors import DataError, PhasegridError
from phasegrid.jobs import Json, canonical_json

_COMMON = {spec.name for spec in fields(Options)}  # how data is treated, not which


class DataFacts:
    """Looks data sets up and remembers the answers for as long as one sweep is read."""

    def __init__(self) -> None:
        self._fingerprints: dict[str, Mapping[str, Json]] = {}
        self._facts: dict[str, DatasetFacts | None] = {}

    def look_up(
        self, name: str, kind: DatasetKind, args: Mapping[str, Json]
    ) -> tuple[Mapping[str, Json], DatasetFacts | None]:
        """Return the arguments with the fingerprint of the contents, and the facts.

        Raises:
            DataError: if the data is not there or does not fit.
        """
        own = _COMMON if issubclass(kind.args, Options) else set()
        which = {key: value for key, value in args.items() if key not in own}
        try:
            if kind.fingerprint is not None:
                place = canonical_json([name, which])
                if place not in self._fingerprints:
                    self._fingerprints[place] = import_function(kind.fingerprint)(args)
                args = {**args, **self._fingerprints[place]}
            size = canonical_json([name, which, args.get("fraction")])
            if size not in self._facts:
                self._facts[size] = import_function(kind.facts)(args)
        except PhasegridError as error:
            raise error if isinstance(error, DataError) else DataError(str(error)) from error
        except Exception as error:  # whatever a plug-in raises, its user must read where
            raise DataError(f"data set {name!r}: {type(error).__name__}: {error}") from error
        return args, self._facts[size]
