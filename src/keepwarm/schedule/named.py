"""A schedule in one line of words: `wsd lr_max=3e-4 tokens=22B warmup=1% global_batch_size=3072 sequence_length=4096`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from keepwarm.errors import PlanError
from keepwarm.plan.values import Length
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.schedule import BUILDERS, Schedule
from keepwarm.units import lr_of, parse_count, parse_lr

Value = TypeVar("Value")
_ALWAYS = ("lr_max", "tokens", "global_batch_size", "sequence_length")
_KEYS: dict[
    str, tuple[str, ...]
] = {  # beside those, by name of the schedule; all of these have a default but constant_lr
    "constant": (),
    "wsd": ("warmup", "cooldown", "cooldown_shape", "lr_min"),
    "cosine": ("warmup", "lr_min"),
    "rewarm": ("warmup", "then", "lr_min"),
    "inverse-square-root": ("warmup",),
    "infinite-cosine": ("warmup", "decay", "constant", "constant_lr", "lr_min"),
    "infinite-inv-sqrt": ("warmup", "decay", "constant", "constant_lr", "lr_min"),
    "cooldown": ("cooldown_shape", "lr_min"),
    "decay-then-introduce": ("shape", "lr_min"),
}
_EXAMPLE = "wsd lr_max=3e-4 tokens=22B warmup=1% cooldown=10% global_batch_size=3072 sequence_length=4096"


@dataclass(frozen=True, slots=True)
class Named:
    """A schedule and how its tokens are cut into steps. Its length is in whole steps, at least what was asked for."""

    name: str
    schedule: Schedule
    global_batch_size: int
    sequence_length: int

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimizer step."""
        return self.global_batch_size * self.sequence_length


def named_schedule(text: str) -> Named:
    """The schedule that a line of `name key=value ...` says. Raises PlanError on an unknown name, key or value."""
    name, *pairs = text.split() or [""]
    if name not in _KEYS:
        _refuse(f"{name!r} is not the name of a schedule", name, _KEYS, "")
    asked: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not value:
            raise PlanError(f"--schedule: {pair!r} is not KEY=VALUE", "what it should set is not known", _EXAMPLE)
        if key not in (*_ALWAYS, *_KEYS[name]):
            _refuse(f"{name} has no {key!r}", key, (*_ALWAYS, *_KEYS[name]), f"{name} ")
        if key in asked:
            raise PlanError(f"--schedule: {key} is given twice", "which one counts is not known", f"{key}={value}")
        asked[key] = value
    missing = [
        key for key in (*_ALWAYS, *(("constant_lr",) if "constant_lr" in _KEYS[name] else ())) if key not in asked
    ]
    if missing:
        raise PlanError(
            f"--schedule {name}: {', '.join(missing)} missing", "its curve has no scale without it", _EXAMPLE
        )
    batch, sequence = (_read(parse_count, asked, key) for key in ("global_batch_size", "sequence_length"))
    step_tokens, tokens = batch * sequence, _read(parse_count, asked, "tokens")
    if not step_tokens or not tokens:
        raise PlanError("--schedule: a length of 0", "there would be no step", _EXAMPLE)
    return Named(name, _build(name, asked, tokens, -(-tokens // step_tokens) * step_tokens), batch, sequence)


def _build(name: str, asked: Mapping[str, str], tokens: int, total: int) -> Schedule:
    lr_max = _read(lambda text: parse_lr(text, 1.0), asked, "lr_max")
    lr_min = _read(lambda text: lr_of(text, lr_max), asked, "lr_min") if "lr_min" in asked else 0.0
    warmup, cooldown, decay, constant = (
        _length(asked, key, tokens) for key in ("warmup", "cooldown", "decay", "constant")
    )
    if name == "constant":
        return schedules.constant(lr_max, total)
    if name == "wsd":
        return schedules.wsd(lr_max, warmup, total, cooldown, asked.get("cooldown_shape", "1-sqrt"), lr_min)
    if name == "cosine":
        return schedules.cosine(lr_max, warmup, total, lr_min)
    if name == "rewarm":
        return schedules.rewarm(lr_max, warmup, total, asked.get("then", "constant"), lr_min)
    if name == "inverse-square-root":
        return schedules.inverse_square_root(lr_max, warmup, total)
    if name == "cooldown":
        return schedules.cooldown(lr_max, total, asked.get("cooldown_shape", "1-sqrt"), lr_min)
    if name == "decay-then-introduce":
        return schedules.decay_then_introduce(lr_max, total, asked.get("shape", "cosine"), lr_min)
    constant_lr = _read(lambda text: parse_lr(text, lr_max), asked, "constant_lr")
    if "constant" not in asked:
        constant = total - warmup - decay
    anneal = total - warmup - decay - constant
    if anneal < 0:
        raise PlanError(
            f"--schedule {name}: warm-up, decay and plateau are {-anneal:,} tokens longer than tokens={asked['tokens']}",
            "the schedule would be cut off", "shorten them, or leave out constant= for all that is left",
        )  # fmt: skip
    return BUILDERS[name](lr_max, constant_lr, warmup, decay, constant, anneal, lr_min)


def _length(asked: Mapping[str, str], key: str, tokens: int) -> int:
    return _read(Length.parse, asked, key).tokens_of(tokens) if key in asked else 0


def _read(parse: Callable[[str], Value], asked: Mapping[str, str], key: str) -> Value:
    try:
        return parse(asked[key])
    except ValueError as error:
        raise PlanError(f"--schedule: {key}: {error}", "the curve would not be the one you mean", _EXAMPLE) from None


def _refuse(what: str, word: str, known: Collection[str], before: str) -> None:
    near = difflib.get_close_matches(word, known, 1, 0.5)
    raise PlanError(
        f"--schedule: {what}; there are {', '.join(known)}",
        "another curve than you mean would be shown",
        f"{before}{near[0]}{'=...' if before else ''}" if near else _EXAMPLE,
    )
