"""Build the cells of a grid: each point's data set, model and recipe, resolved and checked.

Every distinct value of an axis was checked before. Here the values are put into their places; parts
that are equal in several cells are built and checked once, and shared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from phasegrid.config.axes import Scale, overlap
from phasegrid.config.cell_mistakes import CellMistakes
from phasegrid.config.data_facts import DataFacts
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.objectives import with_objective
from phasegrid.config.points import Point
from phasegrid.config.references import References
from phasegrid.config.rules import (
    DATA_READS,
    RECIPE_RULES,
    data_mistake,
    mistakes_of,
    model_mistake,
)
from phasegrid.config.schedules import with_schedule
from phasegrid.config.stages import place_in, stage_mistake, with_starts
from phasegrid.config.template import FROM, SECTIONS, TrialTemplate, place_of, put, split_path
from phasegrid.config.ties import Tied, Ties
from phasegrid.config.types import FIRST_STAGE, GridPoint, Stage
from phasegrid.config.validate import default_args
from phasegrid.config.varying import Variation, Varying, hashable
from phasegrid.declare import DatasetFacts, Model, make_part
from phasegrid.errors import DataError, SweepError
from phasegrid.jobs import Part
from phasegrid.keys import Json
from phasegrid.registry import identity
from phasegrid.train.recipe import Recipe

SectionKey: TypeAlias = tuple[str, str, tuple[int, ...], tuple[int | float | str, ...]]
Resolve: TypeAlias = Callable[[Mapping[str, Json], References], Mapping[str, Json]]
StageKey: TypeAlias = tuple[int, str, tuple[int, ...], tuple[int | float | str, ...]]


@dataclass(frozen=True, slots=True)
class Built:
    """A section of some cells: its arguments in the form that is hashed and with paths resolved,
    the facts of a data set, the arguments of a training as the sweep gives them to its stages, and
    the place from which a stage starts.
    """

    part: Part | None
    args: Mapping[str, Json]
    facts: DatasetFacts | None = None
    given: Mapping[str, Json] | None = None
    start: Mapping[str, Any] | None = None


class CellBuilder:
    """Builds cells and remembers what it built. `tied` holds the expressions and tables of
    ``couple``, each after those that it needs.
    """

    def __init__(
        self,
        scales: Sequence[Scale],
        template: TrialTemplate,
        tied: Tied,
        references: References,
        diagnostics: Diagnostics,
    ) -> None:
        self._scales = scales
        self._references = references
        self._template = template
        self._tied = tied
        self._diagnostics = diagnostics
        self._rules = [rule for rule in RECIPE_RULES if not diagnostics.is_broken(*rule.reads)]
        self._data_is_broken = diagnostics.is_broken("dataset")
        self._checks_data = not diagnostics.is_broken("dataset", *DATA_READS)
        self._is_sound = {section: not diagnostics.is_broken(section) for section in SECTIONS}
        self._facts = DataFacts()
        self._built: dict[SectionKey, Built | None] = {}
        self._stages_built: dict[StageKey, Built] = {}
        self._sections = template.sections
        self._checked: set[tuple[int, int]] = set()
        self._mistakes = CellMistakes(scales, template, tied, diagnostics)
        self._on_axis = {scale.axis.path: index for index, scale in enumerate(scales)}
        on_axes = [path for path in self._on_axis if path not in ("dataset.name", "model.name")]
        self._axes_of = {
            section: [self._on_axis[path] for path in on_axes if split_path(path)[0] == section]
            for section in self._sections
        }
        self._tied_of = {
            section: [path for path in tied if split_path(path)[0] == section]
            for section in self._sections
        }
        self._starts = {stage.name: self._starts_of(stage) for stage in template.stages}
        self._varying = Varying(scales, tied, template)
        self._names_are_fixed = {"dataset.name", "model.name"}.isdisjoint(self._on_axis)
        self._names = (
            {section: next(iter(template.choices[section])) for section in self._sections}
            if self._names_are_fixed
            else {}
        )
        self._ties = Ties(tied, scales, template, diagnostics, self._mistakes.blame_tie)

    def cell(self, point: Point) -> GridPoint | None:
        """Build one cell; if something in it is wrong, note the mistakes and return None."""
        names = self._names if self._names_are_fixed else self._names_at(point)
        tied = self._ties.values(names, point)
        if tied is None:
            return None
        dataset, model, train = (
            self._section(section, names[section], point, tied) for section in SECTIONS
        )
        if dataset is None or model is None or train is None:
            return None
        assert dataset.part is not None
        assert model.part is not None
        stages = self._stages(train, dataset, point, tied)
        if stages is None:
            return None
        self._check_data(train, dataset, FIRST_STAGE, point)
        self._check_fit(names["model"], model, dataset, point)
        values = {
            scale.axis.role: scale.value(i) for scale, i in zip(self._scales, point, strict=True)
        }
        return GridPoint(
            facet=tuple(
                (scale.axis.path, scale.value(i))
                for scale, i in zip(self._scales, point, strict=True)
                if scale.axis.role == "facet"
            ),
            load=values.get("load"),
            temperature=values.get("temperature"),
            dataset=dataset.part,
            model=model.part,
            recipe=train.args,
            facts=dataset.facts,
            stage_recipes=tuple(stage.args for stage in stages),
            starts=tuple(place_in(stage.start) for stage in stages if stage.start is not None),
            asks=self._varying.number(point, tied),
        )

    @property
    def variations(self) -> Sequence[Variation]:
        """The arguments of requests that vary, in the cells so far (`GridPoint.asks`)."""
        return self._varying.found

    def check_tables(self) -> None:
        """After every cell is built, note the entries of ``couple`` tables that no cell uses."""
        self._ties.check_tables()

    def _names_at(self, point: Point) -> dict[str, str]:
        return {section: self._name(section, point) for section in self._sections}

    def _name(self, section: str, point: Point) -> str:
        index = self._on_axis.get(f"{section}.name") if section in ("dataset", "model") else None
        if index is None:
            return next(iter(self._template.choices[section]))
        return str(self._scales[index].value(point[index]))

    def _section(
        self, section: str, name: str, point: Point, tied: Mapping[str, Json]
    ) -> Built | None:
        positions = tuple([point[index] for index in self._axes_of[section]])
        values = tuple([hashable(tied[path]) for path in self._tied_of[section]])
        key = (section, name, positions, values)
        if key not in self._built:
            self._built[key] = self._build(section, name, point, tied)
        return self._built[key]

    def _build(
        self, section: str, name: str, point: Point, tied: Mapping[str, Json]
    ) -> Built | None:
        choice = self._template.choices[section][name]
        args = self._varied(choice.args, section, name, point, tied)
        if section == FIRST_STAGE:
            return self._training(args, section, FIRST_STAGE, point)
        facts: DatasetFacts | None = None
        declared = choice.declared
        assert declared is not None
        if section == "dataset" and self._data_is_broken:
            return None  # its arguments are known to be wrong
        try:
            if not isinstance(declared, Model):
                args, facts = self._facts.look_up(name, declared, args)
            elif self._is_sound[section]:
                args = self._facts.identified(name, declared, args)
        except DataError as error:
            self._mistakes.blame(_file_path(section, args), str(error), point, (section,))
            return None
        if self._is_sound[section]:
            for field, message in mistakes_of(declared.rules, args):
                self._mistakes.report(
                    (f"{section}.{field}".rstrip("."), message), point, (section,)
                )
        return Built(make_part(identity(name), declared.version, choice.owner, args), args, facts)

    def _training(self, given: Mapping[str, Json], section: str, name: str, point: Point) -> Built:
        """Resolve and check the recipe of a training."""
        args = self._resolved(given, section, "schedule", with_schedule, point)
        args = self._resolved(args, section, "objective", with_objective, point)
        if not self._template.stages:
            self._check_recipe(args, section, point)
            return Built(None, args)
        args = with_starts(args, name, self._template.stages, self._starts)
        self._check_recipe(args, section, point)
        return Built(None, args, given=given)

    def _resolved(
        self, recipe: Mapping[str, Json], section: str, block: str, resolve: Resolve, point: Point
    ) -> Mapping[str, Json]:
        """Resolve the schedule or the objective of a recipe; an axis may give what the schedule or
        the objective does not have.
        """
        try:
            return resolve(recipe, self._references)
        except SweepError as error:
            path = f"{section}.{block}"
            self._mistakes.blame(path, str(error), point, (path,))
            return {**recipe, block: default_args(Recipe)[block]}

    def _varied(
        self,
        args: Mapping[str, Json],
        section: str,
        name: str,
        point: Point,
        tied: Mapping[str, Json],
    ) -> Mapping[str, Json]:
        """Return the arguments of a section with the values of a cell's axes and ties."""
        for index in self._axes_of[section]:
            scale = self._scales[index]
            value = scale.values[point[index]][name]
            args = put(args, split_path(scale.axis.path)[1], value)
        for path in self._tied_of[section]:
            args = put(args, split_path(path)[1], tied[path])
        return args

    def _stages(
        self, train: Built, dataset: Built, point: Point, tied: Mapping[str, Json]
    ) -> list[Built] | None:
        """Build the recipes of the stages of a cell; if one is wrong, note the mistakes and return
        None.
        """
        recipes = {FIRST_STAGE: train.args}
        built: list[Built] = []
        for stage in self._template.stages:
            made = self._stage(stage, train, point, tied)
            source = recipes[stage.source]
            if not self._diagnostics.is_broken(stage.section):
                assert made.start is not None
                mistake = stage_mistake(stage, made.start, made.args, source, dataset.facts)
                if mistake is not None:
                    field, message = mistake
                    self._mistakes.blame(
                        f"{stage.section}.{field}", message, point, ("train", "stages")
                    )
                    return None
                self._check_data(made, dataset, stage.section, point)
            recipes[stage.name] = made.args
            built.append(made)
        return built

    def _stage(self, stage: Stage, train: Built, point: Point, tied: Mapping[str, Json]) -> Built:
        """Build the recipe of a stage: the recipe of ``train`` in this cell, with the stage's own
        fields.
        """
        section = stage.section
        positions = tuple([point[index] for index in self._axes_of[section]])
        values = tuple([hashable(tied[path]) for path in self._tied_of[section]])
        key = (id(train), section, positions, values)
        if key not in self._stages_built:
            own = self._template.choices[section][""].args
            assert train.given is not None
            given = {**train.given, **{name: own[name] for name in (*stage.own, FROM)}}
            args = dict(self._varied(given, section, "", point, tied))
            start = args.pop(FROM)
            assert isinstance(start, Mapping)
            made = self._training(args, section, stage.name, point)
            self._stages_built[key] = replace(made, start=start)
        return self._stages_built[key]

    def _starts_of(self, stage: Stage) -> list[str | None]:
        """Return every checkpoint from which a stage starts in some cell."""
        start = self._template.choices[stage.section][""].args[FROM]
        assert isinstance(start, Mapping)
        places = [start]
        for index in self._axes_of[stage.section]:
            scale = self._scales[index]
            block, *unit = split_path(scale.axis.path)[1]
            if block == FROM:
                varied = [scale.value(i) for i in range(len(scale.values))]
                places = [{**place, unit[0]: value} for place in places for value in varied]
        return list(dict.fromkeys(map(place_in, places)))

    def _check_recipe(self, args: Mapping[str, Json], section: str, point: Point) -> None:
        """Check the recipe of a training; its mistakes are reported in its own section."""
        for rule in self._rules:
            finding = rule.check(args)
            if finding is not None:
                self._mistakes.report_of(section, rule.reads, finding, point)

    def _check_data(self, train: Built, dataset: Built, section: str, point: Point) -> None:
        pair = (id(train), id(dataset))
        if dataset.facts is not None and self._checks_data and pair not in self._checked:
            self._checked.add(pair)
            finding = data_mistake(train.args, dataset.facts)
            if finding is not None:
                self._mistakes.report_of(section, DATA_READS, finding, point, ("dataset",))

    def _check_fit(self, name: str, model: Built, dataset: Built, point: Point) -> None:
        """Check that a model fits the data; another kind of data is reported at its name."""
        declared, pair = self._template.choices["model"][name].declared, (id(model), id(dataset))
        if dataset.facts is not None and isinstance(declared, Model) and pair not in self._checked:
            self._checked.add(pair)
            finding = model_mistake(name, declared, model.args, dataset.facts)
            if finding is not None and finding[0] == "model.name":
                self._mistakes.report(finding, point, ("model.name", "dataset.name"))
            elif self._is_sound["model"]:
                self._mistakes.report(finding, point, ("model", "dataset"))


def check_recipe(template: TrialTemplate, diagnostics: Diagnostics, varied: Sequence[str]) -> None:
    """Check the recipe alone, if no cell can be built: apply the rules that read no varied
    field.
    """
    try:
        args = with_schedule(template.choices["train"][""].args, template.references)
    except SweepError as error:
        diagnostics.add(place_of(template, "train.schedule"), "train.schedule", str(error))
        return
    for rule in RECIPE_RULES:
        depends = any(overlap(read, path) for read in rule.reads for path in varied)
        finding = rule.check(args)
        if finding is not None and not depends and not diagnostics.is_broken(*rule.reads):
            diagnostics.add(place_of(template, finding[0]), *finding)


def build_cells(
    points: Sequence[Point],
    scales: Sequence[Scale],
    template: TrialTemplate,
    tied: Tied,
    references: References,
    diagnostics: Diagnostics,
) -> tuple[tuple[GridPoint, ...], Sequence[Variation]]:
    """Build every cell, in order; leave out cells with a mistake. Also return the arguments of
    requests that vary from cell to cell.
    """
    grid = CellBuilder(scales, template, tied, references, diagnostics)
    cells = tuple(cell for point in points if (cell := grid.cell(point)) is not None)
    grid.check_tables()
    return cells, grid.variations


def _file_path(section: str, args: Mapping[str, Json]) -> str:
    """Return the field that names the folder or file of a data set or a model."""
    named = (name for name in ("path", "root", "weights") if name in args)
    return next((f"{section}.{name}" for name in named), section)
