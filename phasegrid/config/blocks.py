"""Begin the blocks that are null by default, such as ``train.sam``, where an axis or ``couple``
gives a field of one.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from phasegrid.config.template import Option, TrialTemplate, split_path
from phasegrid.config.types import FIRST_STAGE, Stage
from phasegrid.config.validate import default_args, fields_of
from phasegrid.keys import Json

Blocks = Mapping[str, Json]


def with_blocks(template: TrialTemplate, paths: Collection[str]) -> TrialTemplate:
    """Return a template in which every block that `paths` lead into has its defaults instead of
    null.

    A block stays null if the file says that it is null, or if it has a required field that no path
    gives. A stage has the blocks of ``train`` and begins others.
    """
    for section in template.sections:
        written = template.nodes[section].mapping or {}
        given = _given(section, paths)
        for name, choice in template.choices[section].items():
            begun = {
                block: default_args(owner)
                for block, owner in _null_blocks(choice).items()
                if block not in written and _is_whole(owner, given.get(block, ()))
            }
            if begun:
                template = _begin(template, section, name, begun)
    return template


def _given(section: str, paths: Collection[str]) -> dict[str, set[str]]:
    """Return the fields of each block of a section that paths lead to."""
    found: dict[str, set[str]] = {}
    for path in paths:
        owner, parts = split_path(path)
        if owner == section and len(parts) > 1:
            found.setdefault(parts[0], set()).add(parts[1])
    return found


def _null_blocks(choice: Option) -> dict[str, type]:
    """Return the dataclass of each block of a choice that is null."""
    return {
        name: field.nested
        for name, field in fields_of(choice.owner).items()
        if field.nested is not None and choice.args[name] is None
    }


def _is_whole(owner: type, given: Collection[str]) -> bool:
    """Say whether some field of a block is given, and every field that is required."""
    known = fields_of(owner)
    return bool(given) and all(name in given for name, field in known.items() if field.required)


def _begin(template: TrialTemplate, section: str, name: str, begun: Blocks) -> TrialTemplate:
    """Put blocks into a choice, and those of ``train`` into the stages without their own."""
    choices = {key: dict(found) for key, found in template.choices.items()}
    choices[section][name] = _with(choices[section][name], begun)
    for stage in template.stages if section == FIRST_STAGE else ():
        inherited = {block: args for block, args in begun.items() if block not in stage.own}
        choices[stage.section][""] = _with(choices[stage.section][""], inherited)
    stages = tuple(_owning(stage, section, begun) for stage in template.stages)
    return replace(template, choices=choices, stages=stages)


def _with(choice: Option, begun: Blocks) -> Option:
    return replace(choice, args={**choice.args, **begun})


def _owning(stage: Stage, section: str, begun: Blocks) -> Stage:
    if stage.section != section:
        return stage
    return replace(stage, own=tuple(dict.fromkeys([*stage.own, *begun])))
