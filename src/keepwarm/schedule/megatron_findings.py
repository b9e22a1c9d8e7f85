"""What is no error of the reference's scheduler and still not what its flags seem to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keepwarm.schedule.megatron_curve import Values, warming
from keepwarm.schedule.megatron_flags import Flags, option
from keepwarm.schedule.megatron_position import checkpoint_lr, first_where

if TYPE_CHECKING:
    from keepwarm.schedule.megatron_scheduler import ReferenceSchedule

JUMP = 1e-3  # of the highest LR: a change within no time from here on is a jump
LONG = 0.5  # a cooldown over more of the run than this is rarely meant
ROUNDS = 40  # halvings of a step: what is left of a continuous change is far below JUMP
MOST_STEPS = 2_000_000  # of a longer run only so many are searched for jumps,
BLOCK = 50_000  # and so many at a time
OVERRIDE = "--override-opt_param-scheduler in place of --use-checkpoint-opt_param-scheduler"


@dataclass(frozen=True, slots=True)
class Finding:
    """One of them: its kind in a word, the three lines of an error, and the step where it shows."""

    kind: str
    what: str
    why: str
    fix: str
    step: int | None = None

    def __str__(self) -> str:
        return f"{self.what}\n  why: {self.why}\n  fix: {self.fix}"

    def to_dict(self) -> dict[str, Any]:
        """JSON value."""
        return asdict(self)


def findings_of(found: ReferenceSchedule, built: Values, state: Mapping[str, Any] | None) -> tuple[Finding, ...]:
    """All findings, the weightiest kinds first."""
    resumed = state is not None and not found.flags.finetune
    return (
        *(_ignored_by_state(found, built) if resumed else ()),
        *_ignored(found.flags, found.values),
        *(_position(found, state) if state is not None and resumed else ()),
        *_start(found),
        *_against_checkpoint(found, built, state),
        *_jumps(found),
        *_length(found),
        *_tokens(found.values),
    )


def _ignored_by_state(found: ReferenceSchedule, built: Values) -> Iterator[Finding]:
    flags, used = found.flags, found.values
    if flags.override_opt_param_scheduler:
        return
    pairs = (
        ("lr", built.max_lr, used.max_lr), ("min_lr", built.min_lr, used.min_lr),
        ("lr_decay_style", built.style, used.style),
        (_warmup_flag(flags), built.warmup_samples, used.warmup_samples),
        ("lr_warmup_tokens", built.warmup_tokens, used.warmup_tokens),
        (_decay_flag(flags), built.decay_samples, used.decay_samples),
        ("lr_decay_tokens", built.decay_tokens, used.decay_tokens),
    )  # fmt: skip
    for name, given, taken in pairs:
        if given != taken:
            unit = (
                " samples"
                if isinstance(given, (int, float)) and not name.endswith("lr") and "token" not in name
                else ""
            )
            ignored = "does not move the decay's end" if name.startswith("train") else "is ignored"
            yield Finding(
                "ignored",
                f"{option(name)} {ignored} on this resume: given {_text(given)}{unit}, used {_text(taken)}{unit}",
                "--use-checkpoint-opt_param-scheduler takes the checkpoint's scheduler, without a warning",
                OVERRIDE,
            )


def _warmup_flag(flags: Flags) -> str:
    if flags.lr_warmup_fraction is not None:
        return "lr_warmup_fraction"
    return "lr_warmup_iters" if flags.train_iters else "lr_warmup_samples"


def _decay_flag(flags: Flags) -> str:
    length = _length_flag(flags)
    decay = length.replace("train", "lr_decay")
    return decay if decay in flags.given else length


def _length_flag(flags: Flags) -> str:
    return "train_iters" if flags.train_iters else "train_samples"


def _decay_until(found: ReferenceSchedule, step: int) -> str:
    """The flag that ends the decay after `step`, in the unit that the run counts in."""
    at, position = np.array([step]), found.position
    if found.values.by_tokens:
        return f"--lr-decay-tokens {position.tokens(at)[0]}"
    samples = int(position.samples(at)[0])
    if not found.flags.train_iters:
        return f"--lr-decay-samples {samples}"
    return f"--lr-decay-iters {-(-samples // position.batches.largest)}"


def _ignored(flags: Flags, v: Values) -> Iterator[Finding]:
    """Flags that were given and have no effect with this style."""
    infinite = (
        "constant_lr",
        "lr_cooldown_fraction",
        "lr_constant_fraction",
        "lr_cooldown_tokens",
        "lr_constant_tokens",
    )
    cooling = ("lr_constant_plus_cooldown", "lr_constant_plus_cooldown_frac")
    because: dict[str, tuple[str, str]] = {}
    if not v.infinite:
        because |= dict.fromkeys(infinite, ("only the infinite styles read it", "--lr-decay-style infinite-cosine"))
    if v.style != "constant":
        because |= dict.fromkeys(cooling, ("only the constant style cools down this way", "--lr-decay-style constant"))
        if flags.lr_decay_style == "constant":
            because |= dict.fromkeys(cooling, ("the checkpoint's style is taken, and it is not constant", OVERRIDE))
    elif not flags.lr_constant_plus_cooldown:
        because[cooling[1]] = ("the cooldown itself is not switched on", "--lr_constant_plus_cooldown")
        because["min_lr"] = ("a constant LR does not fall", "--lr_constant_plus_cooldown")
    if flags.timescale != 10.0:
        because["timescale"] = ("the trainer never hands it to its scheduler, which uses 10", "leave out --timescale")
    for name in (each for each in because if each in flags.given):
        why, fix = because[name]
        yield Finding("ignored", f"{option(name)} {_text(getattr(flags, name))} has no effect", why, fix)


def _position(found: ReferenceSchedule, state: Mapping[str, Any]) -> Iterator[Finding]:
    samples, step = found.position.first_samples, found.first_step
    expected = found.position.batches.samples(step)
    if step and samples == 2 * expected:
        yield Finding(
            "double-load",
            f"the scheduler stands at sample {samples:,} after {step:,} iterations, twice the {expected:,} they consumed",
            "its load_state_dict adds to the position, so a state that was loaded twice counts double",
            f'set "num_steps" to {expected} in the checkpoint\'s scheduler state',
            step,
        )
    elif samples != expected:
        yield Finding(
            "position",
            f"the scheduler stands at sample {samples:,}, but {step:,} iterations of this batch size make {expected:,}",
            "LR goes on from the samples, the iterations from their own count: the run ends before or behind its curve",
            f"choose {option(_length_flag(found.flags))} so that {samples:,} samples and the rest end where the decay ends",
            step,
        )
    if step >= found.last_step:
        yield Finding(
            "nothing-to-train",
            f"the checkpoint is at iteration {step:,}, and the run ends at {found.last_step:,}",
            "the trainer stops at once, with exit code 0",
            f"--train-iters {step + 1000}"
            if found.flags.train_iters
            else f"--train-samples {found.position.samples(np.array([step + 1000]))[0]}",
            step,
        )


def _start(found: ReferenceSchedule) -> Iterator[Finding]:
    flags, first = found.flags, found.first_step
    curve, following = found.between(np.array([first, first + 1]), np.zeros(2)).tolist()
    warm = bool(warming(found.values, np.zeros(1), np.zeros(1))[0])
    rising = _warmup_flag(flags) if found.values.warmup_tokens is None else "lr_warmup_tokens"
    if flags.finetune and flags.universal_checkpoint:
        why = "DeepSpeed loads a universal checkpoint's optimizer whatever --finetune says"
        fix = "to restart, set lr, step, exp_avg and exp_avg_sq to 0 in a copy of the universal checkpoint first"
        if found.first_lr is not None and abs(found.first_lr - curve) <= JUMP * curve:
            yield Finding("moments-kept", "Adam's moments are those of the universal checkpoint", why, fix, 0)
            return
        shown = f"LR {found.first_lr:.6g}" if found.first_lr is not None else "the checkpoint's LR"
        what = f"the first step uses {shown} and Adam's moments of the universal checkpoint, not LR {curve:.6g} of the flags"
        yield Finding("first-step", what, why, fix, 0)
    elif curve == 0 and following > 0:
        yield Finding(
            "warmup-from-0",
            "the first step is taken with LR 0",
            "the warm-up counts the samples before the step: it moves Adam's moments, but no weight",
            f"{option(rising)} 0 where LR need not rise",
            first,
        )
    elif not found.position.first_samples and found.values.max_lr - curve > JUMP * found.values.max_lr and not warm:
        yield Finding(
            "starts-below",
            f"the run starts at LR {curve:.6g} and never reaches --lr {found.values.max_lr:.6g}",
            *_start_cut_off(found.values, rising),
            0,
        )


def _start_cut_off(v: Values, rising: str) -> tuple[str, str]:
    if v.warmup_samples < 0 or (v.warmup_tokens or 0) < 0:
        return "a warm-up of less than 0 starts the decay before the run", f"{option(rising)} 0"
    if v.cools:
        fix = "--lr_constant_plus_cooldown_frac 0.1"
        return "the cooldown is longer than the run, so its beginning is cut off", fix
    return "a first cooldown of less than 0 is over before the run starts", "--lr-cooldown-fraction 0.3"


def _against_checkpoint(found: ReferenceSchedule, built: Values, state: Mapping[str, Any] | None) -> Iterator[Finding]:
    """LR at the first step against the checkpoint's, as far as its state holds it."""
    flags, first = found.flags, found.first_step
    if state is None:
        if flags.load is not None and not flags.finetune:
            yield Finding(
                "state-missing",
                "--load without --finetune goes on from the scheduler state of the checkpoint, which was not given",
                "the curve shown starts at iteration 0",
                f"--state {flags.load}",
            )
        return
    before, lr = checkpoint_lr(state), float(found.lr([first])[0])
    asked = flags.finetune and bool(warming(built, np.zeros(1), np.zeros(1))[0])  # a warm-up is meant to begin anew
    if before is None or asked or abs(lr - before) <= JUMP * max(lr, before):
        return
    other, style = state["lr_decay_style"], found.values.style
    where = f" in the middle of a {style} curve" if other != style else ""
    cooling = "lr" not in state and _same_run(built, state)
    yield Finding(
        "jump",
        f"LR jumps from {before:.6g} to {lr:.6g} at the first step{where}"
        + (", unless the checkpoint was in this cooldown already" if cooling else ""),
        f"the checkpoint's curve ({other}) stands elsewhere than the new one does after {found.position.first_samples:,} "
        "samples",
        'add the "lr" of the checkpoint\'s optimizer to the state to know' if cooling else _resume_fix(found, before),
        first,
    )


def _resume_fix(found: ReferenceSchedule, before: float) -> str:
    v, left = found.values, found.last_step - found.first_step
    if v.cools and left > 0:
        share = left / found.last_step
        return f"--lr_constant_plus_cooldown_frac {share!r} cools over the {left:,} iterations that are left"
    return f"--lr {before:.6g}, or the checkpoint's own --lr-decay-style and lengths"


def _same_run(built: Values, state: Mapping[str, Any]) -> bool:
    """A state that holds what the flags say: the same run goes on, perhaps in its cooldown, which no state records."""
    kept = (built.style, built.max_lr, built.min_lr, built.warmup_samples, built.decay_samples)
    there = tuple(state[key] for key in ("lr_decay_style", "max_lr", "min_lr", "lr_warmup_steps", "lr_decay_steps"))
    return kept == there and built.cools


def _jumps(found: ReferenceSchedule) -> Iterator[Finding]:
    """Steps within which LR changes however finely the step is cut: found on the curve, whatever the cause."""
    end = min(found.last_step, found.first_step + MOST_STEPS)
    if found.frozen_from is not None:
        end = min(end, found.frozen_from - 1)
    for first in range(found.first_step, end, BLOCK):
        for step, old, new in _breaks(found, first, min(first + BLOCK, end)):
            yield Finding(
                "jump",
                f"LR jumps from {old:.6g} to {new:.6g} between steps {step:,} and {step + 1:,}",
                _cause(found, step),
                _jump_fix(found),
                step + 1,
            )


def _breaks(found: ReferenceSchedule, first: int, end: int) -> Iterator[tuple[int, float, float]]:
    """(step, LR before, LR behind) of each jump between `first` and `end`."""
    curve = found.between(np.arange(first, end + 1, dtype=np.int64), np.zeros(end - first + 1))
    least = JUMP * max(float(curve.max()), found.values.max_lr)
    steps = first + np.flatnonzero(np.abs(np.diff(curve)) > least)
    low, high = np.zeros(len(steps)), np.ones(len(steps))
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        left, here, right = (found.between(steps, share) for share in (low, middle, high))
        before = np.abs(here - left) >= np.abs(right - here)
        low, high = np.where(before, low, middle), np.where(before, middle, high)
    for step, old, new in zip(steps, found.between(steps, low), found.between(steps, high), strict=True):
        if abs(new - old) > least:
            yield int(step), float(old), float(new)


def _cause(found: ReferenceSchedule, step: int) -> str:
    v = found.values
    if v.cools and v.cooldown_samples > v.end_samples - v.warmup_samples:
        return "the cooldown is longer than what is left behind the warm-up, so its beginning is cut off"
    if found.past(np.array([step + 1]))[0]:
        return "the decay's length is over, and the rest runs at the minimum LR"
    return "two pieces of the curve do not meet there"


def _jump_fix(found: ReferenceSchedule) -> str:
    v = found.values
    if v.cools:
        most = max(0.0, 1 - v.warmup_samples / v.end_samples)
        return f"--lr_constant_plus_cooldown_frac {min(most, 0.1):.6g} (at most {most:.6g})"
    if v.decay_samples != v.end_samples:
        return OVERRIDE + " (the decay then takes the new length)"
    if v.infinite:
        return "--lr-cooldown-fraction and --lr-constant-fraction so that warm-up and both stay below 1 together"
    return _decay_until(found, found.last_step)


def _length(found: ReferenceSchedule) -> Iterator[Finding]:
    v, last = found.values, found.last_step
    if (found.frozen_from is not None and found.frozen_from <= last) or found.first_step >= last:
        return
    if v.cools and LONG * v.end_samples < v.cooldown_samples < v.end_samples:
        share = v.cooldown_samples / v.end_samples
        yield Finding(
            "long-cooldown",
            f"LR cools over the last {share:.0%} of the run, not over the last {1 - share:.0%}",
            "--lr_constant_plus_cooldown_frac is the share of all iterations spent cooling",
            f"--lr_constant_plus_cooldown_frac {1 - share:.6g}",
        )
    end = float(found.lr([last])[0])
    falls = v.style in ("linear", "cosine") or v.infinite or v.cools
    if falls and end - v.min_lr > JUMP * v.max_lr:
        cut = (
            v.infinite and v.warmup_samples + v.infinite_cooldown_samples + v.infinite_constant_samples >= v.end_samples
        )
        why = (
            "warm-up, cooldown and constant stretch fill the decay's length, so the annealing is cut off: LR would jump to "
            "the minimum one step later"
            if cut
            else "the decay is longer than the run"
        )
        fix = f"--lr-constant-fraction {_room(v):.6g}" if cut else _decay_until(found, last)
        yield Finding("ends-early", f"the run ends at LR {end:.6g}, not at the minimum {v.min_lr:.6g}", why, fix, last)
    past = found.past(np.array([last]))[0]
    if past:
        over = first_where(found.past, found.first_step)
        yield Finding(
            "stays-at-minimum",
            f"from step {over:,} on LR stays at the minimum {v.min_lr:.6g}: {last - over + 1:,} of {last:,} steps",
            "the decay is shorter than the run",
            OVERRIDE if v.decay_samples != v.end_samples else _decay_until(found, last),
            over,
        )


def _room(v: Values) -> float:
    """A constant share that leaves a tenth of the run to the annealing."""
    return max(0.0, 0.9 - (v.warmup_samples + v.infinite_cooldown_samples) / v.end_samples)


def _tokens(v: Values) -> Iterator[Finding]:
    if v.by_tokens or v.warmup_tokens is not None:
        yield Finding(
            "token-lag",
            "a learning rate counted in tokens lags one iteration behind",
            "the scheduler is told the tokens of the iterations before this one",
            "count in iterations: --lr-decay-iters and --lr-warmup-fraction",
        )


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
