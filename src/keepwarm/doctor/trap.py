"""A trap, and the table of all that are known: each is one function, which says what it saw and what helps.

The table is filled where the functions stand, so what the documentation lists is what is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Examined = Literal["command", "script", "list", "cache", "tokens", "checkpoint", "log"]
# What it costs, worst first: `silent` something else is trained and the exit code is 0; `lost` hours of work are lost;
# `stops` the job stops, and its time in the queue is lost.
Grade = Literal["silent", "lost", "stops"]
EXAMINED: tuple[Examined, ...] = ("command", "script", "list", "cache", "tokens", "checkpoint", "log")
GRADES: tuple[Grade, ...] = ("silent", "lost", "stops")


@dataclass(frozen=True, slots=True)
class Trap:
    """One that was found: where, the evidence with its numbers, what would happen, and text to paste."""

    name: str
    grade: Grade
    where: str  # file:line, or the flag or variable
    evidence: str
    harm: str
    fix: str
    source: str  # file of the reference that shows it


@dataclass(frozen=True, slots=True)
class Sight:
    """What a trap's function saw. `harm` where the numbers say more than the table does."""

    where: str
    evidence: str
    fix: str
    harm: str = ""


Find = Callable[[Any], Iterator[Sight]]


@dataclass(frozen=True, slots=True)
class Known:
    """A trap in the table."""

    name: str
    examined: Examined
    grade: Grade
    seen: str
    harm: str
    source: str
    find: Find

    def found(self, subject: Any) -> Iterator[Trap]:
        """The trap as often as `subject` has it."""
        for sight in self.find(subject):
            harm = sight.harm or self.harm
            yield Trap(self.name, self.grade, sight.where, sight.evidence, harm, sight.fix, self.source)


KNOWN: dict[str, Known] = {}


def trap(name: str, examined: Examined, grade: Grade, *, seen: str, harm: str, source: str) -> Callable[[Find], Find]:
    """Put the decorated function into the table. `seen` and `harm` are for the table; `source` says what shows it."""

    def register(find: Find) -> Find:
        assert name not in KNOWN, f"{name} stands in the table twice"
        KNOWN[name] = Known(name, examined, grade, seen, harm, source, find)
        return find

    return register


def traps_in(examined: Examined, subject: Any) -> list[Trap]:
    """All traps of a kind that a parsed subject has, the worst first."""
    found = [one for known in KNOWN.values() if known.examined == examined for one in known.found(subject)]
    return sorted(found, key=lambda one: GRADES.index(one.grade))


def known() -> list[dict[str, str]]:
    """The table of all traps for JSON and pages, by what is examined and the worst first."""
    order = sorted(KNOWN.values(), key=lambda one: (EXAMINED.index(one.examined), GRADES.index(one.grade), one.name))
    return [
        {"examined": one.examined, "name": one.name, "grade": one.grade, "seen": one.seen, "harm": one.harm, "source": one.source}
        for one in order
    ]  # fmt: skip
