import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.errors import PlanError
from keepwarm.schedule.curves import SHAPES
from keepwarm.schedule.schedule import (
    BUILDERS,
    Piece,
    Schedule,
    constant,
    cooldown,
    cosine,
    decay_then_introduce,
    infinite_cosine,
    infinite_inv_sqrt,
    inverse_square_root,
    rewarm,
    wsd,
)

LR = 3e-3
lrs = st.floats(1e-8, 1.0)
lengths = st.integers(1, 10**13)
shapes = st.sampled_from(sorted(SHAPES))


def test_wsd_values() -> None:
    schedule = wsd(LR, warmup_tokens=100, total_tokens=1000, cooldown_tokens=400, lr_min=0.0)
    assert schedule.tokens == 1000
    assert [schedule.lr(t) for t in (0, 100, 599, 600, 1000, 5000)] == [0.0, LR, LR, LR, 0.0, 0.0]
    assert schedule.lr(25) == LR * 0.25
    assert schedule.lr(700) == LR * 0.5  # 1 - sqrt(1/4)


def test_arrays_of_any_shape_give_the_scalar_values() -> None:
    schedule = infinite_inv_sqrt(LR, LR / 2, 10, 200, 300, 90, LR / 100)
    t = np.array([[0, 9, 10, 209], [210, 509, 510, 700]])
    assert schedule.lr(t).shape == (2, 4)
    assert schedule.lr(t).tolist() == [[schedule.lr(int(x)) for x in row] for row in t]


def test_lr_stays_at_the_end_of_a_constant_schedule() -> None:
    assert constant(LR, 10).lr(10**12) == LR


def test_phases_of_wsd() -> None:
    schedule = wsd(LR, 100, 1000, 400)
    at = {0: "warming", 99: "warming", 100: "peak", 600: "peak", 601: "decaying", 999: "decaying", 1000: "cooled"}
    assert {t: schedule.phase(t) for t in at} == at
    assert schedule.phase(10**9) == "cooled"


def test_a_trunk_is_at_peak_from_its_first_token_to_beyond_its_end() -> None:
    assert {constant(LR, 10).phase(t) for t in (0, 5, 10, 11)} == {"peak"}


def test_a_decay_from_peak_is_at_peak_until_it_has_begun() -> None:
    schedule = decay_then_introduce(LR, 100, "cosine", LR / 100)
    assert [schedule.phase(t) for t in (0, 1, 100)] == ["peak", "decaying", "cooled"]


def test_the_infinite_plateau_is_the_peak() -> None:
    schedule = infinite_cosine(LR, LR / 2, 10, 200, 300, 90, LR / 100)
    at = {0: "warming", 10: "decaying", 209: "decaying", 210: "peak", 510: "peak", 511: "decaying", 600: "cooled"}
    assert {t: schedule.phase(t) for t in at} == at
    assert schedule.lr_max == LR / 2


def test_a_warm_up_alone_ends_at_peak() -> None:
    assert wsd(LR, 10, 10).phase(10) == "peak"


def test_a_plateau_behind_a_decay_is_cooled() -> None:
    low = Piece("constant", 5, LR / 10, LR / 10, "cooled")
    assert Schedule((*cooldown(LR, 5, lr_min=LR / 10).pieces, low), LR).phase(7) == "cooled"


@pytest.mark.parametrize(
    ("shape", "share"),
    [
        ("cosine", math.acos(2 * (0.2 - 0.01) / 0.99 - 1) / math.pi),  # 71.1 %
        ("linear", 0.8 / 0.99),  # 80.8 %
        ("1-sqrt", (0.8 / 0.99) ** 2),  # 65.3 %
    ],
)
def test_a_fifth_of_lr_max_is_crossed_where_the_curve_says(shape: str, share: float) -> None:
    tokens = 10**12
    schedule = decay_then_introduce(LR, tokens, shape, LR / 100)
    found = schedule.where(LR / 5)
    assert found == pytest.approx(share * tokens, rel=1e-9)
    assert schedule.lr(found) <= LR / 5 < schedule.lr(found - 1)


def test_crossings_of_every_shape_in_thousandths() -> None:
    crossings = {shape: decay_then_introduce(LR, 1000, shape, LR / 100).where(LR / 5) for shape in SHAPES}
    assert crossings == {
        "linear": 809,
        "cosine": 712,
        "1-sqrt": 653,
        "exponential": 350,
        "inverse-sqrt": 428,
        "inverse-square-root": 3,
    }


@given(shapes, lrs, st.integers(1, 10**12), st.floats(0.02, 1.0))
def test_where_is_the_first_token_count_at_or_below(shape: str, lr: float, tokens: int, share: float) -> None:
    schedule = rewarm(lr, 7, 7 + tokens, shape, lr / 100)
    found = schedule.where(lr * share)
    assert 7 <= found <= 7 + tokens and schedule.lr(found) <= lr * share * (1 + 1e-15)
    assert found == 7 or schedule.lr(found - 1) > lr * share


def test_where_upwards_looks_at_the_warm_up() -> None:
    assert wsd(LR, 100, 1000, 400).where(LR / 4, falling=False) == 25


def test_where_downwards_ignores_the_warm_up() -> None:
    assert wsd(LR, 100, 1000, 400).where(LR / 2) == 700


def test_where_finds_a_jump() -> None:
    jump = Schedule((*constant(LR, 10).pieces, *cooldown(LR / 2, 10).pieces), LR)
    assert jump.where(LR * 0.7) == 10


@pytest.mark.parametrize("lr", [LR * 1.01, LR / 101])
def test_where_refuses_an_lr_that_is_never_crossed(lr: float) -> None:
    with pytest.raises(PlanError, match="never crossed on the way down"):
        decay_then_introduce(LR, 100, "cosine", LR / 100).where(lr)


def test_a_branch_cools_and_leaves_the_trunk() -> None:
    trunk = wsd(LR, 100, 1000)
    branch = trunk.branch(600, cooldown(LR, 200, "linear", LR / 10).pieces[0])
    assert branch.tokens == 800 and trunk.tokens == 1000
    assert branch.lr(np.arange(601)).tolist() == trunk.lr(np.arange(601)).tolist()
    assert branch.lr(700) == pytest.approx(LR * 0.55) and branch.lr(800) == LR / 10
    assert [branch.phase(t) for t in (600, 601, 800)] == ["peak", "decaying", "cooled"]


def test_a_branch_at_the_start_or_end_of_the_trunk() -> None:
    piece = cooldown(LR, 5).pieces[0]
    assert constant(LR, 10).branch(0, piece).pieces == (piece,)
    assert constant(LR, 10).branch(10, piece).pieces == (*constant(LR, 10).pieces, piece)


@pytest.mark.parametrize(("at", "text"), [(50, "is warming"), (700, "is decaying"), (1001, "is 1000 tokens long")])
def test_a_branch_off_the_peak_is_refused(at: int, text: str) -> None:
    with pytest.raises(PlanError, match=f"{text}(.|\n)*after 600 tokens"):
        wsd(LR, 100, 1000, 400).branch(at, cooldown(LR, 10).pieces[0])


def test_a_branch_with_another_lr_is_refused() -> None:
    with pytest.raises(PlanError, match=r"cooldown starts at LR 0.0015, the trunk is at 0.003"):
        constant(LR, 10).branch(5, cooldown(LR / 2, 10).pieces[0])


@given(shapes, lrs, lengths, lengths, lengths)
def test_curves_are_continuous_rise_then_fall_and_stay_within(
    shape: str, lr: float, warmup: int, plateau: int, fall: int
) -> None:
    schedule = wsd(lr, warmup, warmup + plateau + fall, fall, shape, lr / 100)
    points = np.unique(np.linspace(0, schedule.tokens, 200).astype(np.int64))
    rising, falling = schedule.lr(points[points <= warmup]), schedule.lr(points[points >= warmup])
    slack = 1e-12 * lr
    assert np.all(np.diff(rising) >= 0) and np.all(np.diff(falling) <= slack)
    assert np.all(schedule.lr(points) <= lr) and np.all(falling >= lr / 100 - slack)
    for first, second in zip(schedule.pieces, schedule.pieces[1:], strict=False):
        assert first.lr_end == second.lr_start


@given(shapes, lrs, st.integers(0, 10**13), lengths)
def test_json_round_trip_is_exact(shape: str, lr: float, warmup: int, rest: int) -> None:
    schedule = rewarm(lr, warmup, warmup + rest, shape, lr / 3)
    assert Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


@pytest.mark.parametrize("value", [{}, {"lr_max": 1.0, "pieces": [{"shape": "linear"}]}, {"lr_max": "x", "pieces": []}])
def test_a_damaged_record_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="not a schedule"):
        Schedule.from_dict(value)


def test_a_zero_warm_up_leaves_no_piece() -> None:
    assert cosine(LR, 0, 10, 0.0).pieces == cooldown(LR, 10, "cosine").pieces


REFUSALS: dict[str, tuple[Any, str]] = {
    "warm-up too long": (lambda: wsd(LR, 600, 1000, 500), "a warmup of 600 .* cooldown of 500 .* into 1000 tokens"),
    "no room to decay": (lambda: cosine(LR, 1000, 1000, 0.0), "do not fit into 1000 tokens"),
    "negative warm-up": (lambda: wsd(LR, -1, 1000), "a warmup of -1 tokens"),
    "no tokens": (lambda: constant(LR, 0), "a schedule without pieces"),
    "negative tokens": (lambda: constant(LR, -5), "has -5 tokens"),
    "not whole": (lambda: constant(LR, 2.5), "has 2.5 tokens"),  # type: ignore[arg-type]
    "unknown shape": (lambda: cooldown(LR, 10, "cosin"), "'cosin' is not the shape of a decay(.|\n)*linear, cosine"),
    "rising decay": (lambda: cooldown(LR, 10, lr_min=2 * LR), "from LR 0.003 to 0.006 does not fall"),
    "flat decay": (lambda: cooldown(LR, 10, lr_min=LR), "does not fall(.|\n)*end it below 0.003"),
    "negative end": (lambda: cooldown(LR, 10, lr_min=-LR), "negative or not finite"),
    "nan end": (lambda: cooldown(LR, 10, lr_min=math.nan), "negative or not finite"),
    "zero LR_max": (lambda: constant(0.0, 10), "LR_max is 0.0"),
    "nan LR_max": (lambda: constant(math.nan, 10), "LR_max is nan"),
    "exponential to 0": (lambda: cooldown(LR, 10, "exponential"), "never reaches 0"),
    "false peak": (lambda: Schedule(constant(LR, 5).pieces, LR * 1.01), "is called peak, LR_max is 0.00303"),
    "unknown phase": (lambda: Piece("constant", 5, LR, LR, "hot"), "contradict"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    build, text = REFUSALS[case]
    with pytest.raises(PlanError, match=text) as error:
        build()
    assert error.value.why and error.value.fix


ALL = {
    "constant": constant(LR, 700),
    "wsd": wsd(LR, 50, 700, 200, lr_min=LR / 10),
    "cosine": cosine(LR, 50, 700, LR / 10),
    "rewarm": rewarm(LR, 50, 700, "linear", LR / 10),
    "inverse-square-root": inverse_square_root(LR, 50, 700),
    "infinite-cosine": infinite_cosine(LR, LR / 2, 50, 200, 300, 150, LR / 100),
    "infinite-inv-sqrt": infinite_inv_sqrt(LR, LR / 2, 50, 200, 300, 150, LR / 100),
    "cooldown": cooldown(LR, 700),
    "decay-then-introduce": decay_then_introduce(LR, 700, "cosine", LR / 100),
}
EVERYWHERE = np.arange(800)


def test_every_builder_is_looked_at() -> None:
    assert set(ALL) == set(BUILDERS)


@pytest.mark.parametrize("name", BUILDERS)
def test_an_lr_does_not_depend_on_where_a_resume_cuts(name: str) -> None:
    whole = ALL[name].lr(EVERYWHERE)
    for cut in range(0, 800, 61):
        resumed = Schedule.from_dict(json.loads(json.dumps(ALL[name].to_dict())))
        assert np.array_equal(resumed.lr(EVERYWHERE[cut:]), whole[cut:])


@pytest.mark.parametrize("name", BUILDERS)
def test_one_curve_in_steps_samples_and_tokens(name: str) -> None:
    in_steps, step_tokens = ALL[name], 16 * 128
    in_samples, in_tokens = in_steps.scaled(16), in_steps.scaled(step_tokens)
    assert in_tokens == in_samples.scaled(128) and in_tokens.tokens == 700 * step_tokens
    steps = np.arange(700)
    np.testing.assert_allclose(in_tokens.lr(steps * step_tokens), in_steps.lr(steps), rtol=1e-14)
    assert in_tokens.phases(steps * step_tokens).tolist() == in_steps.phases(steps).tolist()
    fine = np.arange(0, 700 * 16)  # the integral of LR: sums over samples and over steps, each step of 16 equal samples
    whole_steps = in_samples.lr(fine - fine % 16)
    assert whole_steps.sum() == pytest.approx(16 * in_steps.lr(steps).sum(), rel=1e-12)
    assert in_samples.lr(fine).sum() / 16 == pytest.approx(in_tokens.scaled(1).lr(fine * 128).sum() / 16, rel=1e-12)


@pytest.mark.parametrize("name", BUILDERS)
def test_no_step_of_a_curve_is_a_jump(name: str) -> None:
    fine = ALL[name].scaled(1000)
    rates = fine.lr(np.arange(fine.tokens + 2000))
    assert np.abs(np.diff(rates)).max() < LR * 0.003  # 1-sqrt begins with the steepest step: sqrt(1/700,000)


@pytest.mark.parametrize("name", BUILDERS)
def test_phases_of_an_array_are_those_of_its_numbers(name: str) -> None:
    assert ALL[name].phases(EVERYWHERE).tolist() == [ALL[name].phase(int(t)) for t in EVERYWHERE]


def test_an_inverse_square_root_falls_as_the_root_of_warm_up_over_tokens() -> None:
    schedule = inverse_square_root(LR, 50, 800)
    assert schedule.lr(50) == LR and schedule.lr(200) == pytest.approx(LR / 2, rel=1e-14)
    assert schedule.lr(800) == LR / 4 and schedule.phase(51) == "decaying"


@pytest.mark.parametrize("warmup", [0, 700])
def test_an_inverse_square_root_needs_its_warm_up(warmup: int) -> None:
    with pytest.raises(PlanError, match="so both must be there"):
        inverse_square_root(LR, warmup, 700)
