"""What the trainer swallows: an exception of its scheduler, after which it goes on with a frozen learning rate."""

from __future__ import annotations

from keepwarm.errors import PlanError
from keepwarm.schedule.megatron_build import SCHEDULER
from keepwarm.schedule.megatron_curve import Fault, Values
from keepwarm.schedule.megatron_flags import Flags

SWALLOWED_AT = "megatron/training.py:943"


def swallowed(flags: Flags, values: Values, fault: Fault, step: int, frozen_lr: float) -> PlanError:
    """The error behind a run that ends with exit code 0 and was not trained as its flags say."""
    return PlanError(
        f"from iteration {step:,} on the reference's scheduler raises {fault.error} ({SCHEDULER}:{fault.line}), and LR "
        f"stays frozen at {frozen_lr:.6g}",
        f"the trainer swallows it ({SWALLOWED_AT}): the optimizer step is applied all the same, every iteration counts as "
        "skipped, its loss is not logged, and the exit code is 0",
        _fix(flags, values, fault),
    )


def _fix(flags: Flags, v: Values, fault: Fault) -> str:
    if v.infinite and v.max_lr <= 0:
        return "--lr 2e-4"
    if fault.line == 193 or (fault.line == 192 and v.constant_lr <= 0):
        return f"--constant-lr {v.max_lr / 2:g}" + (f" --min-lr {v.max_lr / 100:g}" if v.min_lr >= v.max_lr / 2 else "")
    if fault.line in (192, 232):
        return f"--min-lr {min(v.constant_lr, v.max_lr) / 100:g}"
    if fault.line == 285 and flags.seq_length and flags.global_batch_size:
        return f"--lr-warmup-tokens {round(v.warmup_samples) * flags.seq_length}" + (
            " in place of the warm-up by samples" if v.warmup_samples else ""
        )
    return _by_iterations(flags, v)


def _by_iterations(flags: Flags, v: Values) -> str:
    """The token flags' lengths in what these styles can count: iterations, or samples, and shares of them."""
    tokens = v.decay_tokens or 1
    sample = flags.seq_length or 1
    unit, by = ("iters", sample * (flags.global_batch_size or 1)) if flags.train_iters else ("samples", sample)
    words = [f"--lr-decay-{unit} {tokens // by}", f"--lr-warmup-fraction {(v.warmup_tokens or 0) / tokens:g}"]
    if v.infinite:
        for name, length in (("cooldown", flags.lr_cooldown_tokens), ("constant", flags.lr_constant_tokens)):
            words += [f"--lr-{name}-fraction {length / tokens:g}"] if length else []
    return " ".join(words) + " in place of the -tokens flags"
