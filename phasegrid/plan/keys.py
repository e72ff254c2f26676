"""Compute the keys of a plan's trials quickly: parts that trials share become JSON only once."""

from collections.abc import Mapping, Sequence

from phasegrid.config.types import GridPoint
from phasegrid.jobs import Part, Start, Trial
from phasegrid.keys import Json, canonical_json, text_key
from phasegrid.train.recipe import RECIPE_VERSION, hashed_recipe


class Texts:
    """Canonical JSON of shared parts, written once: keys of 100,000 trials in seconds.

    Objects are remembered by identity and kept alive here, so an id is never reused.
    """

    def __init__(self) -> None:
        self._texts: dict[int, tuple[object, str]] = {}

    def text(self, owner: object, spec: Json) -> str:
        known = self._texts.get(id(owner))
        if known is None:
            known = (owner, canonical_json(spec))
            self._texts[id(owner)] = known
        return known[1]

    def args(self, args: Mapping[str, Json]) -> str:
        return self.text(args, args)

    def recipe(self, recipe: Mapping[str, Json]) -> str:
        known = self._texts.get(id(recipe))
        return known[1] if known else self.text(recipe, hashed_recipe(recipe))

    def part(self, part: Part) -> str:
        known = self._texts.get(id(part))
        return known[1] if known else self.text(part, part.spec())

    def trials(
        self,
        point: GridPoint,
        recipe: Mapping[str, Json],
        seeds: Sequence[int],
        starts: Sequence[Start] = (),
    ) -> tuple[Trial, ...]:
        """Return the trials of a cell by one recipe, each from its start if there are any."""
        dataset, model = point.dataset, point.model
        head = (
            f'["trial",{RECIPE_VERSION},{{"dataset":{self.part(dataset)},'
            f'"model":{self.part(model)},"recipe":{self.recipe(recipe)},"seed":'
        )
        if not starts:
            return tuple(
                Trial(text_key(f"{head}{seed}}}]"), dataset, model, recipe, seed) for seed in seeds
            )
        tails = [f',"start":{canonical_json(start.spec())}}}]' for start in starts]
        return tuple(
            Trial(text_key(f"{head}{seed}{tail}"), dataset, model, recipe, seed, start)
            for seed, tail, start in zip(seeds, tails, starts, strict=True)
        )
