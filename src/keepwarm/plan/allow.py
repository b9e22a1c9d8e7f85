"""`--allow NAME` and `--allow STAGE:NAME`: guards overridden by name on the command line, as the plan's `allow` does."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from keepwarm.errors import PlanError
from keepwarm.plan.model import Plan
from keepwarm.plan.parts import GUARDS

OVERRIDABLE = tuple(name for name in GUARDS if name != "append-only")


def with_allowed(plan: Plan, words: Sequence[str]) -> Plan:
    """The plan with these guards overridden, everywhere or in one stage; PlanError for a word that names none."""
    for word in words:
        stage, colon, name = word.rpartition(":")
        if name not in OVERRIDABLE:
            raise _not_allowed(word, stage + colon, name)
        stages = ("base", *(each.name for each in plan.stages))
        if colon and stage not in stages:
            raise PlanError(
                f"--allow {word}: the plan has no stage {stage!r}",
                "nothing was trained",
                f"--allow {name} (everywhere), or one of: {', '.join(f'{each}:{name}' for each in stages)}",
            )
        plan = plan.allowing((name,), stage if colon else None)
    return plan


def _not_allowed(word: str, before: str, name: str) -> PlanError:
    if name == "append-only":
        return PlanError(
            f"--allow {word}: append-only can't be overridden",
            "lineage that is overwritten makes every record about it false",
            "use another run folder: --set run.folder=...",
        )
    close = get_close_matches(name, OVERRIDABLE, 1)
    others = f"one of: {', '.join(OVERRIDABLE)}"
    return PlanError(
        f"--allow {word}: {name!r} is not a guard",
        "nothing was trained",
        f"--allow {before}{close[0]}" if close else others,
    )
