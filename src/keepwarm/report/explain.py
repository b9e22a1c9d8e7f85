"""`keepwarm explain NAME`: what a rung, schedule, guard or verdict is, when it is used, and where it comes from.

Generated from the code's own docstrings, so that the text can't drift from what is done.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, get_args

from keepwarm.errors import KeepwarmError
from keepwarm.lineage import guard
from keepwarm.plan import rungs
from keepwarm.plan.cookbook import load_cookbook, shipped
from keepwarm.plan.model import GUARDS
from keepwarm.schedule import curves, schedule
from keepwarm.strategy.verdict import OUTCOMES

_GUARD_FUNCTIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    "peak-start": (guard.peak_start,),
    "phase-match": (guard.not_converged, guard.converged_start, guard.decayed_end),
    "mixed-introduction": (guard.mixed_introduction,),
    "buffer-clean": (guard.buffer_clean,),
    "budget-and-identity": (guard.shares_complete, guard.within_epochs, guard.same_identity),
    "append-only": (guard.append_only,),
    "optimizer-state": (guard.optimizer_state,),
}
_SCHEDULES: dict[str, Callable[..., Any]] = {
    "wsd": schedule.wsd, "constant": schedule.constant, "cosine": schedule.cosine, "rewarm": schedule.rewarm,
    "infinite": schedule.infinite, "cooldown": schedule.cooldown, "decay_then_introduce": schedule.decay_then_introduce,
    "linear": curves.linear, "1-sqrt": curves.one_minus_sqrt, "exponential": curves.exponential,
    "inverse-sqrt": curves.inverse_sqrt,
}  # fmt: skip


def names() -> dict[str, list[str]]:
    """Everything that can be explained, by kind."""
    return {
        "rungs": [_name_of(rung) for rung in rungs.ALL],
        "schedules": list(_SCHEDULES),
        "guards": list(GUARDS),
        "verdicts": list(OUTCOMES),
        "cookbooks": shipped(),
    }


def explain(name: str) -> str:
    """The explanation of one name; KeepwarmError with a guess for one that is not known."""
    rung = next((each for each in rungs.ALL if _name_of(each) == name), None)
    if rung is not None:
        return _explain_rung(name, rung)
    if name in _GUARD_FUNCTIONS:
        words = "\n\n".join(inspect.getdoc(function) or "" for function in _GUARD_FUNCTIONS[name])
        override = "It can't be overridden." if name == "append-only" else f"To override it in a stage: allow: [{name}]"
        return f"{name} (guard)\n\n{words}\n\n{override}\nSource: the cookbook, Guards."
    if name in _SCHEDULES:
        return f"{name} (schedule)\n\n{inspect.getdoc(_SCHEDULES[name])}"
    if name in OUTCOMES:
        return f"{name} (verdict)\n\n{OUTCOMES[name]}\n\nSource: the cookbook, The verdict."
    if name in shipped():
        return _explain_cookbook(name)
    known = [each for kind in names().values() for each in kind]
    close = get_close_matches(name, known, 1)
    fix = f"keepwarm explain {close[0]}" if close else "keepwarm explain (lists every name)"
    raise KeepwarmError(f"{name!r} is not a name that can be explained", "nothing is known under it", fix)


def _name_of(rung: type[Any]) -> str:
    return str(get_args(rung.model_fields["rung"].annotation)[0])


def _explain_rung(name: str, rung: type[Any]) -> str:
    lines = [f"{name} (rung)", "", inspect.getdoc(rung) or ""]
    settings = {key: field for key, field in rung.model_fields.items() if key != "rung"}
    if settings:
        lines += ["", "Settings in a ladder:"]
        defaults = rung(rung=name).model_dump(mode="json")
        lines += [f"  {key}: {field.description} (default {defaults[key]})" for key, field in settings.items()]
    return "\n".join(lines)


def _explain_cookbook(name: str) -> str:
    cookbook = load_cookbook(name)
    lines = [f"{name} (cookbook)"]
    for kind, what in (("weak", "a weak shift"), ("strong", "a strong shift"), ("last", "the last stage of several")):
        tried = [each.label for rung in getattr(cookbook, kind) for each in rungs.candidates(rung)]
        lines += ["", f"For {what}:", *(f"  {number + 1:>2}. {label}" for number, label in enumerate(tried))]
    return "\n".join(lines)
