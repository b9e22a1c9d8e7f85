"""What kind of trouble an attempt is in, read off two domains, and which rungs help: a table.

Old data beyond its tolerance means one thing while the new data is being learned and another while it is not; and what
helps against one makes the other worse. So the verdict names the trouble, not only the outcome. From the cookbook, "The
verdict" and "Rungs", and what was measured on three kinds of text: replay beats a lowered rate while there is more of
it to give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["forgetting", "under-adapting", "broken optimisation", "data bug"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """One row: how it looks on the old and the new data, and what to do. `rungs` are names a ladder knows."""

    kind: Kind
    old: str
    new: str
    rungs: tuple[str, ...]
    advice: str

    def words(self) -> str:
        """What helps, in a sentence."""
        return f"{self.advice}{': ' if self.rungs else ''}{', '.join(self.rungs)}"


TROUBLES: dict[Kind, Trouble] = {
    trouble.kind: trouble
    for trouble in (
        Trouble(
            "forgetting", "beyond tolerance", "learned",
            ("replay", "replay-previous-mix", "buffer-mix", "thermostat", "merge"),
            "from the checkpoint before the switch with more old data (1, then 5, then 25 %), or with B",
        ),
        Trouble(
            "under-adapting", "within tolerance", "gained too little",
            ("naive", "replay", "replay-rewarm", "rewarm-converged"),
            "less replay, a higher rate to warm up to, or more tokens",
        ),
        Trouble(
            "broken optimisation", "beyond tolerance", "got worse, or training did",
            ("decay-then-introduce",),
            "half the learning rate, a longer warm-up; look at the training loss of each source",
        ),
        Trouble(
            "data bug", "jumped far beyond what no replay costs", "any",
            (),
            "stop, and look at the data before the science: tokenizer, document ends, packing",
        ),
    )
}  # fmt: skip
_SOURCE = "Source: the cookbook, The verdict and Rungs."
BY_OUTCOME: dict[str, Kind] = {
    "not-recovering": "forgetting", "under-adapting": "under-adapting", "diverged": "broken optimisation",
}  # fmt: skip


def trouble_of(outcome: str, *, learning: bool) -> Kind | None:
    """The trouble behind an outcome; None where there is none. Where the old data is lost and the new one is not being
    learned either (`learning`), another mix will not mend it."""
    if outcome == "not-recovering" and not learning:
        return "broken optimisation"
    return BY_OUTCOME.get(outcome)


def helps(kind: Kind | None) -> str | None:
    """What helps against a trouble, in words."""
    return TROUBLES[kind].words() if kind is not None else None


def explained() -> dict[str, str]:
    """The table in words, by name: what `explain` shows."""
    return {
        each.kind.replace(" ", "-"): f"Old data {each.old}; new data {each.new}.\n\nWhen: {each.words()}.\n\n{_SOURCE}"
        for each in TROUBLES.values()
    }
