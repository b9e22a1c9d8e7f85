"""What the reference's scheduler is made of: built from flags, then changed by the state that a checkpoint holds.

Everything that stops the trainer before its first iteration is raised here as PlanError or LineageError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from keepwarm.errors import LineageError, PlanError
from keepwarm.schedule.batch import Batches, BatchRamp, batches
from keepwarm.schedule.megatron_curve import Values
from keepwarm.schedule.megatron_flags import STYLES, Flags, option

SCHEDULER = "megatron/optimizer_param_scheduler.py"
ARGUMENTS = "megatron/arguments.py, validate_args"
_CHECKED = (  # (key of the state, field of Values, what the reference calls it), in the order of its checks
    ("max_lr", "max_lr", "learning rate"),
    ("min_lr", "min_lr", "minimum learning rate"),
    ("lr_warmup_steps", "warmup_samples", "warmup iterations"),
    ("lr_warmup_tokens", "warmup_tokens", "warmup tokens"),
    ("lr_decay_steps", "decay_samples", "total number of iterations"),
    ("lr_decay_tokens", "decay_tokens", "decay tokens"),
    ("lr_decay_style", "style", "learning rate decay style"),
)
MOST_TOKENS = 2**62  # positions are 64-bit integers
STATE_KEYS = (*(key for key, _, _ in _CHECKED), "num_steps", "num_tokens")


def build(flags: Flags) -> Values:
    """The scheduler's values at its construction. Raises PlanError where the trainer stops there or before."""
    _refuse_missing(flags)
    _refuse_arguments(flags)
    _refuse_weight_decay(flags)
    batch = flags.global_batch_size or 0
    if flags.train_iters:
        decay = (flags.lr_decay_iters if flags.lr_decay_iters is not None else flags.train_iters) * batch
        warmup: float = flags.lr_warmup_iters * batch
    else:
        decay = flags.lr_decay_samples if flags.lr_decay_samples is not None else flags.train_samples or 0
        warmup = flags.lr_warmup_samples
    if flags.lr_warmup_fraction is not None:
        warmup = flags.lr_warmup_fraction * decay
    assert flags.lr is not None
    values = Values(
        style=flags.lr_decay_style, max_lr=flags.lr, min_lr=flags.min_lr, constant_lr=flags.constant_lr,
        warmup_samples=warmup, warmup_tokens=flags.lr_warmup_tokens,
        decay_samples=decay, decay_tokens=flags.lr_decay_tokens, end_samples=decay, end_tokens=flags.train_tokens,
        infinite_cooldown_samples=flags.lr_cooldown_fraction * decay,
        infinite_constant_samples=flags.lr_constant_fraction * decay,
        cools=flags.lr_constant_plus_cooldown,
        cooldown_samples=int(flags.lr_constant_plus_cooldown_frac * decay),
    )  # fmt: skip
    _refuse_lengths(flags, values)
    return values


def cut(flags: Flags) -> Batches:
    """How the trainer cuts samples into iterations. Raises PlanError on a ramp that it refuses."""
    batch = flags.global_batch_size or 0
    if flags.rampup_batch_size is None:
        return batches(batch)
    return batches(batch, BatchRamp(*flags.rampup_batch_size))


def last_step(flags: Flags, cuts: Batches) -> int:
    """The iteration that the trainer stops after. Raises PlanError on more tokens than can be counted."""
    steps = _last_step(flags, cuts)
    if steps * cuts.largest * max(1, flags.seq_length or 0) >= MOST_TOKENS:
        raise PlanError(
            f"{steps:,} iterations of {cuts.largest:,} sequences",
            "no run is that long, and its learning rate by iteration could not be counted",
            f"{option('train_iters')} 2000",
        )
    return steps


def _last_step(flags: Flags, cuts: Batches) -> int:
    if flags.train_iters:
        return flags.train_iters
    ramp_samples, total = (flags.rampup_batch_size or (0, 0, 0))[2], flags.train_samples or 0
    steps = cuts.steps(ramp_samples + 1) if flags.rampup_batch_size else 0
    return steps + (total - cuts.samples(steps)) // (flags.global_batch_size or 1)


def load(values: Values, flags: Flags, state: Mapping[str, Any]) -> Values:
    """The values after load_state_dict, by the two flags that say whose values count.

    Raises PlanError where the trainer's own check fails.
    """
    if flags.override_opt_param_scheduler:
        return values
    found: dict[str, Any] = {}
    for key, field, words in _CHECKED:
        ours, theirs = getattr(values, field), state[key]
        if not flags.use_checkpoint_opt_param_scheduler and ours != theirs:
            crash(
                f"AssertionError: class input value {ours} and checkpoint value {theirs} for {words} do not match",
                f"{SCHEDULER}:342",
                "--override-opt_param-scheduler takes the flags' values (position kept), "
                "--use-checkpoint-opt_param-scheduler the checkpoint's",
            )
        found[field] = theirs
    return replace(values, **found)


def refuse_state(state: Mapping[str, Any]) -> None:
    """Raise LineageError if the state of a checkpoint's scheduler lacks a key, or holds what no trainer writes there."""
    missing = [key for key in STATE_KEYS if key not in state]
    if missing:
        raise LineageError(
            f"the scheduler state has no {', '.join(missing)}",
            "where the run stands and which curve it was on cannot be known",
            "write the checkpoint's `lr_scheduler` dict to the file: "
            "json.dump(torch.load('mp_rank_00_model_states.pt', weights_only=False)['lr_scheduler'], file)",
        )
    for key in (key for key in (*STATE_KEYS, "iteration", "lr") if key in state):
        kind, right = _KINDS[key]
        if not right(state[key]):
            raise LineageError(
                f"the scheduler state's {key} is {state[key]!r}, not {kind}",
                "where the run stands and which curve it was on cannot be known",
                f"write the checkpoint's own {key} to the file",
            )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_size(value: Any) -> bool:
    return _is_count(value) or (isinstance(value, float) and 0 <= value < math.inf)


_RATE = ("a finite number of 0 or more", _is_size)
_COUNT = ("a whole number", _is_count)
_TOKENS = ("a whole number or null", lambda value: value is None or _is_count(value))
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "max_lr": _RATE, "min_lr": _RATE, "lr": _RATE, "lr_warmup_steps": _RATE,
    "lr_warmup_tokens": _TOKENS, "lr_decay_tokens": _TOKENS,
    "lr_decay_steps": ("a number above 0", lambda value: _is_size(value) and value > 0),
    "lr_decay_style": (f"one of {', '.join(STYLES)}", lambda value: value in STYLES),
    "num_steps": _COUNT, "num_tokens": _COUNT, "iteration": _COUNT,
}  # fmt: skip


def crash(error: str, where: str, fix: str) -> NoReturn:
    """Raise what a trainer that stops at start amounts to."""
    raise PlanError(
        f"the reference stops at start: {error} ({where})", "nothing would be trained, and the job's time is lost", fix
    )


def _refuse_missing(flags: Flags) -> None:
    for name, example in (("lr", "2e-4"), ("global_batch_size", "3072")):
        if getattr(flags, name) is None:
            raise PlanError(
                f"{option(name)} is missing", "no step's learning rate can be known", f"{option(name)} {example}"
            )
    if flags.global_batch_size is not None and flags.global_batch_size < 1:
        crash("the global batch must be positive", ARGUMENTS, "--global-batch-size 3072")
    by_tokens = flags.lr_decay_tokens is not None or flags.lr_warmup_tokens is not None
    if by_tokens and flags.seq_length is None:
        raise PlanError(
            "--seq-length is missing, and the learning rate is counted in tokens",
            "samples and tokens cannot be compared without it",
            "--seq-length 4096",
        )
    if not flags.train_iters and not flags.train_samples:
        crash(
            "either train-iters or train-samples should be provided",
            "megatron/training.py, get_optimizer_param_scheduler",
            "--train-iters 2000",
        )


def _refuse_arguments(flags: Flags) -> None:
    """The checks of the trainer's validate_args that concern these flags."""
    iterations = bool(flags.train_iters)
    kind, other = ("iterations", "samples") if iterations else ("samples", "iterations")
    wrong = (
        ("train_samples", "lr_decay_samples", "lr_warmup_samples")
        if iterations
        else ("lr_decay_iters", "lr_warmup_iters")
    )
    for name in wrong:
        if getattr(flags, name):
            crash(
                f"training is counted in {kind}, and {option(name)} is in {other}", ARGUMENTS,
                f"leave out {option(name)}, or count the whole run in {other}",
            )  # fmt: skip
    if iterations and flags.rampup_batch_size is not None:
        crash(
            "a batch ramp needs a run counted in samples", ARGUMENTS,
            f"--train-samples {(flags.train_iters or 0) * (flags.global_batch_size or 0)} in place of --train-iters",
        )  # fmt: skip
    length = "lr_warmup_iters" if iterations else "lr_warmup_samples"
    if flags.lr_warmup_fraction is not None and getattr(flags, length):
        crash(
            f"can only specify one of lr-warmup-fraction and {option(length)[2:]}", ARGUMENTS,
            f"leave out {option(length)} or --lr-warmup-fraction",
        )  # fmt: skip
    if flags.override_opt_param_scheduler and flags.use_checkpoint_opt_param_scheduler:
        crash(
            "AssertionError: both override and use-checkpoint are set.", f"{SCHEDULER}:79",
            "leave out --use-checkpoint-opt_param-scheduler (train_alcf.sh adds it by itself: OVERRIDE_CKPT_OPT_PARAM=1)",
        )  # fmt: skip


def _refuse_weight_decay(flags: Flags) -> None:
    ends = (flags.start_weight_decay, flags.end_weight_decay)
    if flags.weight_decay_incr_style == "constant" and ends != (None, None):
        crash(
            "a constant weight decay has no start and end", ARGUMENTS,
            "leave out --start-weight-decay and --end-weight-decay, or add --weight-decay-incr-style linear",
        )  # fmt: skip
    if flags.weight_decay_incr_style != "constant" and None in ends:
        crash(
            f"a {flags.weight_decay_incr_style} weight decay needs both ends", ARGUMENTS,
            "--start-weight-decay 0.01 --end-weight-decay 0.1",
        )  # fmt: skip


def _refuse_lengths(flags: Flags, v: Values) -> None:
    if v.min_lr < 0:
        crash("AssertionError: the minimum LR is negative", f"{SCHEDULER}, __init__", "--min-lr 0")
    if v.max_lr < v.min_lr:
        crash(
            f"AssertionError: --min-lr {v.min_lr:g} is above --lr {v.max_lr:g}",
            ARGUMENTS,
            f"--min-lr {v.max_lr / 100:g}" if v.max_lr > 0 else "--lr 2e-4",
        )
    if v.decay_samples <= 0:
        length, unit = ("train_iters", "iters") if flags.train_iters else ("train_samples", "samples")
        fix = f"leave out --lr-decay-{unit}" if (getattr(flags, length) or 0) > 0 else f"{option(length)} 2000"
        crash("AssertionError: the decay has no length", f"{SCHEDULER}, __init__", fix)
    if v.infinite and not v.warmup_samples and not v.infinite_cooldown_samples and v.warmup_tokens is None:
        crash("ZeroDivisionError: neither warm-up nor cooldown", f"{SCHEDULER}, get_lr", "--lr-cooldown-fraction 0.3")
    if v.warmup_samples >= v.decay_samples:
        crash(
            f"AssertionError: the warm-up ({v.warmup_samples:g} samples) is not shorter than the decay "
            f"({v.decay_samples:,})", f"{SCHEDULER}, __init__", "--lr-warmup-fraction 0.01",
        )  # fmt: skip
