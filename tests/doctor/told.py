"""What a doctor's JSON says, in short."""

from __future__ import annotations

from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"


def names(found: list[dict]) -> list[str]:
    return [trap["name"] for trap in found]


def only(found: list[dict], name: str) -> dict:
    """The one trap of a name."""
    chosen = [trap for trap in found if trap["name"] == name]
    assert len(chosen) == 1, names(found)
    return chosen[0]
