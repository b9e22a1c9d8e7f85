"""A schedule of ours in the reference's flags, or the nearest that they can say.

The flags are found from the schedule's pieces and believed only after evaluating them on every step. Where none of the
reference's styles has the schedule's shape, each style's numbers are fitted to it, and the best is what the refusal names.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from keepwarm.errors import PlanError
from keepwarm.schedule.batch import Batches, BatchRamp, batches
from keepwarm.schedule.megatron_curve import Values, fault_of, rates
from keepwarm.schedule.megatron_flags import INFINITE, parse_flags
from keepwarm.schedule.megatron_scheduler import reference_schedule
from keepwarm.schedule.piece import CONSTANT
from keepwarm.schedule.schedule import Schedule

SAME = 1e-5  # of the highest LR: a cooldown in whole samples, which is all that the reference has
EVERY_STEP = 200_000  # longer runs are compared at so many steps, and around the pieces' borders
FITTED_AT = 2_000  # steps at which a nearest curve is fitted
COARSE, FINE = 0.1, 1e-5  # of the run's length and of the highest LR: first and last step of the fit


@dataclass(frozen=True, slots=True)
class Match:
    """Flags, and how far their curve is from the schedule's: the largest difference, and the step where it is.

    `same_phase`: the trainer's last checkpoint stands in the schedule's phase, so that a later stage may go on from it.
    """

    words: tuple[str, ...]
    difference: float
    relative: float  # of the schedule's highest LR
    step: int
    same_phase: bool


@dataclass(frozen=True, slots=True)
class _Target:
    """A schedule as the reference would count it, in samples from the run's own start."""

    schedule: Schedule
    batch: int
    sequence: int
    after_steps: int
    ramp: BatchRamp | None

    @property
    def cuts(self) -> Batches:
        return batches(self.batch, self.ramp)

    @property
    def steps(self) -> int:
        return self.cuts.steps(-(-self.schedule.tokens // self.sequence))

    @property
    def end(self) -> int:
        return self.after_steps * self.batch + self.cuts.samples(self.steps)

    @property
    def unit(self) -> int:
        """Samples of what the flags count in: iterations of one size, or samples themselves."""
        return 1 if self.ramp else self.batch

    @property
    def highest(self) -> float:
        return max(max(piece.lr_start, piece.lr_end) for piece in self.schedule.pieces)

    @property
    def borders(self) -> list[tuple[float, float]]:
        """(sample, LR there) of each place where a piece begins or ends."""
        ends = accumulate((piece.tokens for piece in self.schedule.pieces), initial=0)
        rate = [self.schedule.pieces[0].lr_start, *(piece.lr_end for piece in self.schedule.pieces)]
        before = self.after_steps * self.batch
        return [(before + tokens / self.sequence, lr) for tokens, lr in zip(ends, rate, strict=True)]

    def grid(self, most: int) -> NDArray[np.int64]:
        """Step counts within the schedule to compare at: all, or `most` and the borders' neighbours."""
        if self.steps <= most:
            return np.arange(self.steps + 1)
        near = [self.cuts.steps(int(at)) - self.after_steps + k for at, _ in self.borders for k in (-1, 0, 1, 2)]
        spread = np.linspace(0, self.steps, most).astype(np.int64)
        return np.unique(np.clip(np.concatenate([spread, near]), 0, self.steps)).astype(np.int64)

    def lr(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.schedule.lr(np.minimum(self.cuts.samples_of(steps) * self.sequence, self.schedule.tokens))


def to_flags(
    schedule: Schedule,
    global_batch_size: int,
    sequence_length: int,
    after_steps: int = 0,
    ramp: BatchRamp | None = None,
) -> list[str]:
    """The reference's flags whose curve is `schedule`, checked on every step to within SAME of its highest LR.

    `after_steps` > 0: for a resume with --override-opt_param-scheduler of a run that has taken so many steps. With a
    `ramp` of the batch the flags count in samples. Raises PlanError if no flags say it; the message holds the nearest
    ones and their largest difference.
    """
    found = nearest(schedule, global_batch_size, sequence_length, after_steps, ramp)
    if found.relative <= SAME:
        return list(found.words)
    raise PlanError(
        f"the reference's flags cannot say this schedule: {_reason(schedule, global_batch_size * sequence_length)}",
        f"the nearest that they can say differs by up to {found.difference:.3g}, {100 * found.relative:.3g}% of the highest "
        f"LR, at step {found.step:,}",
        shlex.join(found.words),
    )


def nearest(
    schedule: Schedule,
    global_batch_size: int,
    sequence_length: int,
    after_steps: int = 0,
    ramp: BatchRamp | None = None,
) -> Match:
    """The flags whose curve is nearest to `schedule` by its largest difference; exact ones where there are any.

    Of several exact ones the shortest whose run ends in the schedule's phase: an infinite schedule that stops on its
    plateau is no cosine that is over.
    """
    target = _Target(schedule, global_batch_size, sequence_length, after_steps, ramp)
    starts = sorted(_from_pieces(target), key=lambda values: _distance(values, target))
    firsts = {values.style + str(values.cools): values for values in reversed(starts)}  # the nearest of each style
    tried = [_verified(values, target) for values in firsts.values()]
    exact = [match for match in tried if match.relative <= SAME]
    if exact:
        return min(exact, key=lambda match: (not match.same_phase, len(match.words), match.difference))
    fitted = sorted((_fitted(v, target) for v in firsts.values()), key=lambda values: _distance(values, target))
    return min((*tried, *(_verified(values, target) for values in fitted[:3])), key=lambda match: match.difference)


def _from_pieces(target: _Target) -> Iterator[Values]:
    """Every style with the lengths and rates that the schedule's own borders suggest."""
    borders, highest, end = target.borders, target.highest, target.end
    rising = target.schedule.pieces[0].phase == "warming"
    begin = float(target.after_steps * target.batch)  # a resumed run decays from here on if its warm-up ends here
    warmup = borders[1][0] if rising else begin
    last = borders[-1][1]
    plain = Values(
        CONSTANT, highest, 0.0, highest, warmup if rising else 0.0, None, end, None, end, None, 0.0, 0.0, False, 0,
    )  # fmt: skip
    yield plain
    later = [(at, lr) for at, lr in borders if at >= warmup]
    for at, _ in later[:-1]:
        yield replace(plain, cools=True, cooldown_samples=max(1, round(end - at)), min_lr=min(last, highest))
    falling = replace(plain, warmup_samples=warmup)
    for at, lr in later[1:]:
        decay = max(round(at / target.unit), math.floor(warmup / target.unit) + 1) * target.unit
        for style in ("linear", "cosine", "inverse-square-root"):
            yield replace(falling, style=style, decay_samples=decay, end_samples=decay, min_lr=min(lr, highest))
    yield replace(falling, style="inverse-square-root")
    for number, (first, lr) in enumerate(later[1:], start=1):
        for second, _ in later[number:]:
            if lr > 0:
                least = last if 0 < last < lr else lr / 100
                flat = second - first if second < end else float(end)  # no annealing within the run
                yield from (
                    replace(
                        plain, style=style, constant_lr=lr, min_lr=least,
                        infinite_cooldown_samples=first - warmup, infinite_constant_samples=flat,
                    )
                    for style in INFINITE
                )  # fmt: skip


def _distance(values: Values, target: _Target) -> float:
    steps = target.grid(FITTED_AT)
    samples = (target.after_steps * target.batch + target.cuts.samples_of(steps)).astype(float)
    if fault_of(values) is not None:
        return math.inf
    return float(np.max(np.abs(rates(values, samples, samples) - target.lr(steps)), initial=0.0))


def _fitted(values: Values, target: _Target) -> Values:
    """`values` with each of their numbers moved while that brings the curve nearer, in ever smaller steps."""
    best, distance, size = values, _distance(values, target), COARSE
    while size > FINE:
        moved = False
        for other in _moves(best, target, size):
            if (there := _distance(other, target)) < distance:
                best, distance, moved = other, there, True
        size = size if moved else size / 2
    return replace(
        best,
        max_lr=_short(best.max_lr), min_lr=_short(best.min_lr), constant_lr=_short(best.constant_lr),
        infinite_cooldown_samples=float(round(best.infinite_cooldown_samples)),
        infinite_constant_samples=float(round(best.infinite_constant_samples)),
    )  # fmt: skip


def _short(lr: float) -> float:
    return float(f"{lr:.5g}")


def _moves(v: Values, target: _Target, size: float) -> Iterator[Values]:
    length, rate = size * target.end, size * target.highest
    for sign in (1, -1):
        lr = v.max_lr + sign * rate
        if lr >= max(v.min_lr, v.constant_lr if v.infinite else 0) and lr > 0:
            yield replace(v, max_lr=lr)
        low = v.min_lr + sign * rate
        if 0 < low < v.constant_lr if v.infinite else 0 <= low <= v.max_lr:
            yield replace(v, min_lr=low)
        warmup = round((v.warmup_samples + sign * length) / target.unit) * target.unit
        if 0 <= warmup < v.decay_samples:
            yield replace(v, warmup_samples=float(warmup))
        cooldown = round(v.cooldown_samples + sign * length)
        if v.cools and 0 < cooldown <= v.end_samples:
            yield replace(v, cooldown_samples=cooldown)
        if v.infinite:
            if v.min_lr < v.constant_lr + sign * rate <= v.max_lr:
                yield replace(v, constant_lr=v.constant_lr + sign * rate)
            for name in ("infinite_cooldown_samples", "infinite_constant_samples"):
                if getattr(v, name) + sign * length > 0:
                    yield replace(v, **{name: getattr(v, name) + sign * length})
        decay = round((v.decay_samples + sign * length) / target.unit) * target.unit
        if v.style in ("linear", "cosine") and decay > v.warmup_samples:
            yield replace(v, decay_samples=decay, end_samples=decay)


def _verified(values: Values, target: _Target) -> Match:
    """The flags of `values`, read back and run as the trainer would, against the schedule on every step."""
    words = _words(values, target)
    state = None
    if target.after_steps:
        state = {
            "max_lr": values.max_lr, "min_lr": 0.0, "lr_warmup_steps": 0, "lr_warmup_tokens": None,
            "lr_decay_steps": target.end, "lr_decay_tokens": None, "lr_decay_style": CONSTANT,
            "num_steps": target.after_steps * target.batch, "num_tokens": 0, "iteration": target.after_steps,
        }  # fmt: skip
    found = reference_schedule(parse_flags(words), state)
    steps = target.grid(EVERY_STEP)
    apart = np.abs(found.lr(steps + target.after_steps) - target.lr(steps))
    last = target.after_steps + target.steps
    if found.error is not None or found.last_step != last:
        apart = np.full(apart.shape, math.inf)
    at = int(np.argmax(apart))
    same_phase = found.phase(last) == target.schedule.phase(target.schedule.tokens)
    return Match(tuple(words), float(apart[at]), float(apart[at]) / target.highest, int(steps[at]), same_phase)


def _words(v: Values, target: _Target) -> list[str]:
    unit, kind = target.unit, "samples" if target.ramp else "iters"
    words = ["--lr", _number(v.max_lr), "--lr-decay-style", v.style]
    if v.style != CONSTANT or v.cools:
        words += ["--min-lr", _number(v.min_lr)]
    if v.warmup_samples % unit == 0:
        words += [f"--lr-warmup-{kind}", str(int(v.warmup_samples) // unit)] if v.warmup_samples else []
    else:
        words += ["--lr-warmup-fraction", repr(v.warmup_samples / v.decay_samples)]
    if v.cools:
        share = _share(v.cooldown_samples, v.end_samples)
        words += ["--lr_constant_plus_cooldown", "--lr_constant_plus_cooldown_frac", repr(share)]
    if v.infinite:
        words += ["--constant-lr", _number(v.constant_lr)]
        for name, length in (("cooldown", v.infinite_cooldown_samples), ("constant", v.infinite_constant_samples)):
            words += [f"--lr-{name}-fraction", repr(length / v.decay_samples)]
    if v.decay_samples != target.end:
        words += [f"--lr-decay-{kind}", str(v.decay_samples // unit)]
    words += [f"--train-{kind}", str(target.end // unit), "--global-batch-size", str(target.batch)]
    if target.ramp:
        words += ["--rampup-batch-size", *(str(value) for value in target.ramp.to_dict().values())]
    return words + (["--override-opt_param-scheduler"] if target.after_steps else [])


def _share(wanted: int, total: int) -> float:
    """A share f for which the reference's int(f * total) is `wanted`."""
    share = wanted / total
    while int(share * total) < wanted:
        share = math.nextafter(share, math.inf)
    return share


def _number(lr: float) -> str:
    return repr(float(lr))


def _reason(schedule: Schedule, step_tokens: int) -> str:
    for number, piece in enumerate(schedule.pieces):
        if piece.phase == "warming" and (number or piece.lr_start):
            return "it warms up once, at the start, and from LR 0"
        before = schedule.pieces[number - 1] if number else None
        if piece.phase == "decaying" and before is not None and before.shape == CONSTANT:
            if piece.shape not in ("1-sqrt", "exponential"):
                return f"behind a plateau LR falls by 1-sqrt or exponentially, never by {piece.shape}"
            if number > 1 and schedule.pieces[number - 2].phase == "decaying" and piece.shape != "exponential":
                return "behind the plateau of an infinite schedule LR falls exponentially, and not to 0"
    if schedule.tokens % step_tokens:
        return f"its {schedule.tokens:,} tokens are no whole number of steps of {step_tokens:,}"
    return "none of its styles has this shape"
