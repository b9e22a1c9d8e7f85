"""What a doctor found, for people: by thing, the worst first, each with a fix to paste; and the table of all traps."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_WIDTH = 100
_INDENT = " " * 10
GRADES = {
    "silent": "something else is trained, exit code 0",
    "lost": "hours of work are lost",
    "stops": "the job stops",
}


def doctored_lines(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of text for `found`: things with their traps and notes, as in the JSON."""
    for looked in found:
        count = len(looked["traps"])
        yield f"{looked['thing']} ({looked['kind']}): {_counted(count) if count else 'no trap'}"
        for trap in looked["traps"]:
            yield f"  {trap['grade']:<6}  {trap['name']}"
            yield from _wrapped("where", trap["where"])
            yield from _wrapped("seen", trap["evidence"])
            yield from _wrapped("harm", trap["harm"])
            yield f"{_INDENT}fix    {trap['fix']}"
        yield from (f"  note    {note}" for note in looked["notes"])
        yield ""
    yield _summary(found)


def _wrapped(label: str, text: str) -> Iterator[str]:
    first, rest = f"{_INDENT}{label:<5}  ", _INDENT + " " * 7
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _summary(found: Sequence[Mapping[str, Any]]) -> str:
    grades = [trap["grade"] for looked in found for trap in looked["traps"]]
    things = f"{len(found)} thing{'s' * (len(found) != 1)} looked at"
    if not grades:
        return f"{things}: no trap"
    words = ", ".join(f"{grades.count(name)} {name} ({why})" for name, why in GRADES.items() if name in grades)
    return f"{things}, {_counted(len(grades))}: {words}"


def _counted(count: int) -> str:
    return f"{count} trap{'s' * (count != 1)}"


def known_lines(known: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The table of all traps, by what is examined: grade, name, what is seen, what would happen."""
    width = max(len(each["name"]) for each in known)
    for examined in dict.fromkeys(each["examined"] for each in known):
        yield examined
        for each in (one for one in known if one["examined"] == examined):
            yield f"  {each['grade']:<6}  {each['name']:<{width}}  {each['seen']}"
            yield f"  {'':<6}  {'':<{width}}    -> {each['harm']}"
