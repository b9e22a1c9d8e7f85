"""Candidates as a plan's ladder writes them: each as a rung with one value in every list, neighbours of a rung together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from keepwarm.plan.rungs import ALL, Candidate, name_of

Entry = dict[str, Any]
_ONE_OF = {"shares": "share", "mixes": "mix"}  # a list of a rung, and what one value of it is called


def written(candidate: Candidate) -> Entry:
    """The item of a ladder that stands for one candidate alone: its lists, and what is not as the rung has it anyway."""
    model: Any = next(rung for rung in ALL if name_of(rung) == candidate.rung)
    lists = {key for key, field in model.model_fields.items() if isinstance(field.default, tuple)}
    settings: dict[str, Any] = {}
    for key in model.model_fields:
        if (one := _ONE_OF.get(key, "")) in candidate.parameters:
            settings[key] = (candidate.parameters[one],)
        elif key in candidate.parameters:
            value = candidate.parameters[key]
            settings[key] = (value,) if key in lists and not isinstance(value, tuple) else value
    rung = model(rung=candidate.rung, **settings)
    said = {"rung", *lists, *rung.model_dump(exclude_defaults=True)}
    return {key: value for key, value in rung.model_dump(mode="json").items() if key in said}


def ladder_of(candidates: Iterable[Candidate]) -> list[Entry]:
    """A ladder that tries the candidates in this order; those behind one another that differ in one list are one item."""
    ladder: list[Entry] = []
    for entry in map(written, candidates):
        together = _list_apart(ladder[-1], entry) if ladder else None
        if together is None:
            ladder.append(entry)
        else:
            ladder[-1][together] = [*ladder[-1][together], *entry[together]]
    return ladder


def ladder_yaml(ladder: Sequence[Entry]) -> str:
    """`ladder: [...]`, an item a line, as it can stand in a stage that is written in either style."""
    items = [yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=10_000).strip() for entry in ladder]
    return "ladder: [\n  " + ",\n  ".join(items) + "]"


def _list_apart(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """The one list that two items of a rung differ in; None where it is not one list."""
    apart = [key for key in first.keys() | second.keys() if first.get(key) != second.get(key)]
    return apart[0] if len(apart) == 1 and isinstance(first.get(apart[0]), list) else None
