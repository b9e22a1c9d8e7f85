"""Schedules of ours in the reference's flags, and the nearest where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm.errors import PlanError
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.batch import BatchRamp, batches
from keepwarm.schedule.megatron import nearest, parse_flags, reference_schedule, to_flags
from keepwarm.schedule.schedule import Schedule

BATCH, SEQUENCE = 8, 16
STEP = BATCH * SEQUENCE
TOTAL = 2000 * STEP
LR = 2e-4

SAID = {
    "constant": (schedules.constant(LR, TOTAL), "--lr-decay-style constant --train-iters 2000"),
    "wsd": (
        schedules.wsd(LR, 20 * STEP, TOTAL, 200 * STEP),
        "--lr-decay-style constant --min-lr 0.0 --lr-warmup-iters 20 --lr_constant_plus_cooldown "
        "--lr_constant_plus_cooldown_frac 0.1 --train-iters 2000",
    ),
    "cosine": (
        schedules.cosine(LR, 20 * STEP, TOTAL, 2e-6),
        "--lr-decay-style cosine --min-lr 2e-06 --lr-warmup-iters 20 --train-iters 2000",
    ),
    "linear": (
        schedules.rewarm(LR, 20 * STEP, TOTAL, "linear"),
        "--lr-decay-style linear --min-lr 0.0 --lr-warmup-iters 20 --train-iters 2000",
    ),
    "inverse-square-root": (
        schedules.inverse_square_root(LR, 20 * STEP, TOTAL),
        "--lr-decay-style inverse-square-root --min-lr 2e-05 --lr-warmup-iters 20 --train-iters 2000",
    ),
    "infinite-cosine": (
        schedules.infinite_cosine(LR, 1e-4, 20 * STEP, 600 * STEP, 800 * STEP, 580 * STEP, 2e-6),
        "--lr-decay-style infinite-cosine --min-lr 2e-06 --lr-warmup-iters 20 --constant-lr 0.0001 "
        "--lr-cooldown-fraction 0.3 --lr-constant-fraction 0.4 --train-iters 2000",
    ),
    "infinite-inv-sqrt, still on its plateau": (
        schedules.infinite_inv_sqrt(LR, 1e-4, 20 * STEP, 600 * STEP, 1380 * STEP),
        "--lr-decay-style infinite-inv-square-root --min-lr 1e-06 --lr-warmup-iters 20 --constant-lr 0.0001 "
        "--lr-cooldown-fraction 0.3 --lr-constant-fraction 1.0 --train-iters 2000",
    ),
    "cooldown alone": (
        schedules.cooldown(LR, TOTAL),
        "--lr-decay-style constant --min-lr 0.0 --lr_constant_plus_cooldown --lr_constant_plus_cooldown_frac 1.0 "
        "--train-iters 2000",
    ),
    "decay-then-introduce": (
        schedules.decay_then_introduce(LR, TOTAL, "cosine", 2e-6),
        "--lr-decay-style cosine --min-lr 2e-06 --train-iters 2000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_flags_and_their_curve(name: str) -> None:
    schedule, words = SAID[name]
    found = to_flags(schedule, BATCH, SEQUENCE)
    assert " ".join(found) == f"--lr 0.0002 {words} --global-batch-size 8"
    steps = np.arange(2001)
    reference = reference_schedule(parse_flags(found))
    assert reference.error is None
    np.testing.assert_allclose(reference.lr(steps), schedule.lr(steps * STEP), rtol=1e-9, atol=1e-18)


def test_a_cooldown_as_a_resume_of_its_trunk() -> None:
    words = to_flags(schedules.cooldown(LR, 200 * STEP, lr_min=2e-6), BATCH, SEQUENCE, after_steps=1800)
    assert words[-1] == "--override-opt_param-scheduler"
    state = {
        "max_lr": LR, "min_lr": 0.0, "lr_warmup_steps": 160, "lr_warmup_tokens": None, "lr_decay_steps": 14400,
        "lr_decay_tokens": None, "lr_decay_style": "constant", "num_steps": 14400, "num_tokens": 230272,
    }  # fmt: skip
    found = reference_schedule(parse_flags(words), state)
    assert found.lr([1800, 2000]).tolist() == pytest.approx([LR, 2e-6], rel=1e-12) and found.findings == ()


REFUSED = {
    "a linear cooldown": (schedules.wsd(LR, 20 * STEP, TOTAL, 200 * STEP, "linear"), "never by linear", 0.13),
    "an inverse-sqrt cooldown": (schedules.wsd(LR, 20 * STEP, TOTAL, 200 * STEP, "inverse-sqrt"), "never by inverse-sqrt", 0.06),
    "half a step": (schedules.wsd(LR, 20 * STEP, TOTAL - 60, 200 * STEP), "no whole number of steps of 128", 0.08),
    "a warm-up from above 0": (
        Schedule.from_dict({"lr_max": LR, "pieces": [
            {"shape": "linear", "tokens": 20 * STEP, "lr_start": 1e-4, "lr_end": LR, "phase": "warming"},
            {"shape": "constant", "tokens": 80 * STEP, "lr_start": LR, "lr_end": LR, "phase": "peak"},
        ]}),
        "it warms up once, at the start, and from LR 0", 0.51,
    ),
    "an infinite schedule to 0": (
        Schedule.from_dict({"lr_max": 1e-4, "pieces": [
            {"shape": "cosine", "tokens": 600 * STEP, "lr_start": LR, "lr_end": 1e-4, "phase": "decaying"},
            {"shape": "constant", "tokens": 800 * STEP, "lr_start": 1e-4, "lr_end": 1e-4, "phase": "peak"},
            {"shape": "1-sqrt", "tokens": 600 * STEP, "lr_start": 1e-4, "lr_end": 0.0, "phase": "decaying"},
        ]}),
        "behind the plateau of an infinite schedule LR falls exponentially, and not to 0", 0.06,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused_with_the_nearest(name: str) -> None:
    schedule, said, most = REFUSED[name]
    with pytest.raises(PlanError, match=said) as caught:
        to_flags(schedule, BATCH, SEQUENCE)
    best = nearest(schedule, BATCH, SEQUENCE)
    assert caught.value.fix == " ".join(best.words) and f"at step {best.step:,}" in caught.value.why
    steps = np.arange(-(-schedule.tokens // STEP) + 1)
    reference = reference_schedule(parse_flags(best.words)).lr(steps)
    apart = np.abs(reference - schedule.lr(np.minimum(steps * STEP, schedule.tokens)))
    assert apart.max() == best.difference == apart[best.step]
    assert 1e-5 < best.relative < most


@settings(max_examples=60)
@given(
    st.sampled_from(["wsd", "cosine", "linear", "infinite-cosine", "infinite-inv-sqrt"]),
    st.integers(1, 12), st.integers(0, 40), st.integers(1, 60), st.integers(0, 60), st.integers(1, 60),
    st.floats(1e-6, 1e-2), st.floats(0.01, 0.9),
)  # fmt: skip
def test_a_round_trip_gives_the_same_curve(
    kind: str, batch: int, warmup: int, first: int, flat: int, last: int, lr: float, low: float
) -> None:  # fmt: skip
    step = batch * SEQUENCE
    total = (warmup + first + flat + last) * step
    made = {
        "wsd": lambda: schedules.wsd(lr, warmup * step, total, last * step, lr_min=low * lr),
        "cosine": lambda: schedules.cosine(lr, warmup * step, total, low * lr),
        "linear": lambda: schedules.rewarm(lr, warmup * step, total, "linear", low * lr),
        "infinite-cosine": lambda: schedules.infinite_cosine(
            lr, 0.9 * lr, warmup * step, first * step, flat * step, last * step, low * 0.9 * lr
        ),
        "infinite-inv-sqrt": lambda: schedules.infinite_inv_sqrt(
            lr, 0.9 * lr, warmup * step, first * step, flat * step, last * step, low * 0.9 * lr
        ),
    }[kind]()
    found = reference_schedule(parse_flags(to_flags(made, batch, SEQUENCE)))
    steps = np.arange(total // step + 1)
    assert found.last_step == steps[-1] and found.error is None
    np.testing.assert_allclose(found.lr(steps), made.lr(steps * step), rtol=0, atol=1e-5 * lr)


def test_a_run_of_a_million_steps_is_found_and_checked() -> None:
    schedule = schedules.wsd(3e-4, 10**4 * STEP, 10**6 * STEP, 10**5 * STEP)
    words = to_flags(schedule, BATCH, SEQUENCE)
    steps = np.arange(0, 10**6 + 1, 997)
    np.testing.assert_allclose(reference_schedule(parse_flags(words)).lr(steps), schedule.lr(steps * STEP), atol=3e-12)


def test_an_infinite_cosine_on_its_plateau_keeps_its_style_and_phase() -> None:
    schedule = schedules.infinite_cosine(
        LR, 1e-4, 20 * STEP, 600 * STEP, 1380 * STEP
    )  # a cosine that is over, by LR alone
    words = to_flags(schedule, BATCH, SEQUENCE)
    assert words[words.index("--lr-decay-style") + 1] == "infinite-cosine"
    assert reference_schedule(parse_flags(words)).phase(2000) == schedule.phase(TOTAL) == "peak"


@pytest.mark.parametrize("kind", ["wsd", "cosine", "infinite"])
def test_a_growing_batch_is_said_in_samples(kind: str) -> None:
    ramp = BatchRamp(2, 2, 1000)
    cut = batches(BATCH, ramp)
    total = cut.samples(700) * SEQUENCE
    schedule = {
        "wsd": schedules.wsd(LR, 50 * STEP, total, 200 * STEP),
        "cosine": schedules.cosine(LR, 50 * STEP, total, 2e-6),
        "infinite": schedules.infinite_cosine(LR, 1e-4, 50 * STEP, 200 * STEP, total - 250 * STEP),
    }[kind]
    words = to_flags(schedule, BATCH, SEQUENCE, ramp=ramp)
    assert words[-4:] == ["--rampup-batch-size", "2", "2", "1000"] and "--lr-warmup-samples 400" in " ".join(words)
    found, steps = reference_schedule(parse_flags(words)), np.arange(701)
    assert found.last_step == 700
    np.testing.assert_allclose(found.lr(steps), schedule.lr(cut.samples_of(steps) * SEQUENCE), rtol=1e-9, atol=1e-18)
