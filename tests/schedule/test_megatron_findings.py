"""What is no error of the reference and still not what its flags seem to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.schedule.megatron import Finding, parse_flags, reference_schedule

STEPS = "--lr 2e-4 --train-iters 2000 --global-batch-size 8 "


def told(text: str, state: dict[str, Any] | None = None) -> dict[str, Finding]:
    return {each.kind: each for each in reference_schedule(parse_flags((STEPS + text).split()), state).findings}


@pytest.fixture
def told_of(cases, flags_of) -> Callable[[str], dict[str, list[Finding]]]:
    """Findings of a recorded case, by kind."""

    def told(name: str) -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = {}
        for each in reference_schedule(flags_of(name), cases[name].get("resumed_from_state_dict")).findings:
            found.setdefault(each.kind, []).append(each)
        return found

    return told


QUIET = {"constant_T2000", "cosine_T2000_min2e-6", "constcool_f0.1_T2000_min2e-6", "linear_T2000_min0"}


@pytest.mark.parametrize("name", sorted(QUIET))
def test_a_plain_run_only_hears_of_its_first_step(name: str, told_of) -> None:
    assert set(told_of(name)) == {"warmup-from-0"}


def test_a_resume_that_does_what_it_says_hears_nothing(told_of) -> None:
    assert told_of("resume_same_override") == {} == told_of("resume_infinite_same_usecheckpoint")
    assert told_of("resume_const1800_cooldown0.1_to2000_override") == {}


def test_flags_that_a_resume_ignores_are_listed_with_both_values(told_of) -> None:
    found = [each.what for each in told_of("resume_cosine_to_constcool0.1_usecheckpoint")["ignored"]]
    assert found == [
        "--min-lr is ignored on this resume: given 2e-05, used 2e-06",
        "--lr-decay-style is ignored on this resume: given constant, used cosine",
        "--lr_constant_plus_cooldown True has no effect",
        "--lr_constant_plus_cooldown_frac 0.1 has no effect",
    ]
    longer = told_of("resume_longer_usecheckpoint")
    assert [each.what for each in longer["ignored"]] == [
        "--lr-warmup-fraction is ignored on this resume: given 240 samples, used 160 samples",
        "--train-iters does not move the decay's end on this resume: given 24000 samples, used 16000 samples",
    ]
    assert longer["stays-at-minimum"][0].step == 2001
    assert longer["stays-at-minimum"][0].fix.startswith("--override-opt_param-scheduler")


def test_flags_without_effect(told_of) -> None:
    (found,) = told_of("infinite-inv-square-root_T2000_timescale100flag")["ignored"]
    assert found.what == "--timescale 100 has no effect" and found.fix == "leave out --timescale"
    assert "not switched on" in told("--lr-decay-style constant --lr_constant_plus_cooldown_frac .1")["ignored"].why
    assert "does not fall" in told("--lr-decay-style constant --min-lr 1e-5")["ignored"].why
    assert "only the infinite styles" in told("--lr-decay-style cosine --constant-lr 1e-5")["ignored"].why


def test_a_cooldown_over_nine_tenths_is_told(told_of) -> None:
    found = told_of("constcool_f0.9_T2000_min2e-6")["long-cooldown"][0]
    assert found.what == "LR cools over the last 90% of the run, not over the last 10%"
    assert found.fix == "--lr_constant_plus_cooldown_frac 0.1"


def test_a_resume_into_the_middle_of_a_cooldown_jumps(told_of) -> None:
    (found,) = told_of("resume_const1800_cooldown0.9_to2000_override")["jump"]
    assert found.what == "LR jumps from 0.0002 to 3.02944e-05 at the first step" and found.step == 1800
    assert found.fix == "--lr_constant_plus_cooldown_frac 0.1 cools over the 200 iterations that are left"


def test_a_style_overridden_on_a_resume_jumps_into_its_middle(b10) -> None:
    text = "--lr 2e-4 --train-iters 20 --global-batch-size 8 --lr-decay-style {} --override-opt_param-scheduler"
    found = reference_schedule(parse_flags(text.format("linear").split()), b10).findings
    assert [each.kind for each in found] == ["jump"]
    assert found[0].what == "LR jumps from 0.000117365 to 0.0001 at the first step in the middle of a linear curve"


def test_a_resume_within_its_cooldown_may_be_a_jump_and_the_checkpoints_lr_settles_it(b10) -> None:
    text = (
        "--lr-decay-style constant --lr-warmup-fraction .1 --min-lr 0 --lr_constant_plus_cooldown "
        "--lr_constant_plus_cooldown_frac .6 --override-opt_param-scheduler"
    )
    state = b10 | {"lr_decay_style": "constant", "lr_warmup_steps": 1600.0, "lr_decay_steps": 16000, "num_steps": 8000}
    found = reference_schedule(parse_flags((STEPS + text).split()), state)
    (jump,) = (each for each in found.findings if each.kind == "jump")
    assert jump.what.endswith("unless the checkpoint was in this cooldown already") and '"lr"' in jump.fix
    lr = float(found.lr([1000])[0])
    assert (
        "jump" not in told(text, state | {"lr": lr}) and "unless" not in told(text, state | {"lr": 2e-4})["jump"].what
    )


def test_a_trunk_that_goes_on_keeps_its_moments(b10) -> None:
    state = b10 | {"lr_decay_style": "constant"}
    found = told("--lr-decay-style constant --finetune --universal-checkpoint", state)
    assert set(found) == {"moments-kept"}
    assert "first-step" in told("--lr 1e-4 --lr-decay-style constant --finetune --universal-checkpoint", state)


def test_a_cooldown_that_does_not_fit_jumps_behind_the_warmup() -> None:
    found = told(
        "--lr-decay-style constant --lr-warmup-iters 200 --lr_constant_plus_cooldown --lr_constant_plus_cooldown_frac 1"
    )
    assert found["jump"].step == 201 and "cut off" in found["jump"].why
    assert found["jump"].fix == "--lr_constant_plus_cooldown_frac 0.1 (at most 0.9)"


def test_no_cooldown_of_the_infinite_style_jumps(told_of) -> None:
    (found,) = told_of("infinite-cosine_T2000_cooldownfrac0")["jump"]
    assert found.what == "LR jumps from 0.0002 to 0.00011 between steps 20 and 21"


def test_fractions_that_fill_the_run_cut_the_annealing_off(told_of) -> None:
    (found,) = told_of("infinite-cosine_T2000_fracsum_eq1")["ends-early"]
    assert found.what == "the run ends at LR 0.00011, not at the minimum 2e-06" and "cut off" in found.why


def test_a_decay_shorter_or_longer_than_the_run(told_of) -> None:
    (found,) = told_of("cosine_T2000_decayiters1500")["stays-at-minimum"]
    assert found.what == "from step 1,501 on LR stays at the minimum 2e-06: 500 of 2,000 steps"
    assert told("--lr-decay-style cosine --lr-decay-iters 4000")["ends-early"].what.startswith(
        "the run ends at LR 0.0001,"
    )


def test_tokens_lag(told_of) -> None:
    assert set(told_of("tokens_cosine_stepwarmup_T2000")) == {"warmup-from-0", "token-lag"}


def test_a_state_loaded_twice_and_one_of_another_batch(cases, b10) -> None:
    double = cases["double_load_state_dict"]
    state = b10 | {"iteration": 1000, "num_steps": double["num_steps_after_second"]}
    found = told("--lr-decay-style cosine --override-opt_param-scheduler", state)["double-load"]
    assert f'"num_steps" to {double["num_steps_after_first"]}' in found.fix
    other = told("--lr-decay-style cosine --override-opt_param-scheduler", state | {"num_steps": 4000})["position"]
    assert "at sample 4,000, but 1,000 iterations of this batch size make 8,000" in other.what


def test_a_run_that_is_over_trains_nothing(b10) -> None:
    state = b10 | {"num_steps": 16000}
    assert told("--lr-decay-style cosine --override-opt_param-scheduler", state)["nothing-to-train"].step == 2000


def test_a_load_without_its_state_says_what_is_not_shown() -> None:
    assert told("--lr-decay-style cosine --load ckpt")["state-missing"].fix == "--state ckpt"
    assert "state-missing" not in told("--lr-decay-style cosine --load ckpt --finetune")


@given(
    st.sampled_from(["linear", "cosine", "infinite-cosine", "infinite-inv-square-root", "constant"]),
    st.integers(0, 30), st.floats(0.05, 0.6), st.integers(8, 300),
)  # fmt: skip
def test_a_continuous_curve_never_jumps(style: str, warmup: int, share: float, steps: int) -> None:
    text = (
        f"--lr 2e-4 --min-lr 1e-6 --constant-lr 1e-4 --lr-decay-style {style} --train-iters {steps + warmup} --lr-warmup-iters "
        f"{warmup} --lr-cooldown-fraction {share * steps / (steps + warmup)} --global-batch-size 8"
    )
    if style == "constant":
        text += f" --lr_constant_plus_cooldown --lr_constant_plus_cooldown_frac {share * steps / (steps + warmup)}"
    found = reference_schedule(parse_flags(text.split()))
    assert "jump" not in {each.kind for each in found.findings}


def test_every_recorded_curve_has_findings_that_can_be_written(told_of, cases) -> None:
    for name, case in cases.items():
        if "flags" in case and case["error"] is None:
            for kind, found in told_of(name).items():
                assert all(each.kind == kind and each.what and each.why and each.fix for each in found)


@pytest.mark.parametrize(
    ("text", "start", "fix"),
    [
        ("--lr-decay-style linear --lr-warmup-fraction -0.5", "0.000133333", "--lr-warmup-fraction 0"),
        ("--lr-decay-style linear --lr-warmup-iters -1000", "0.000133333", "--lr-warmup-iters 0"),
        ("--lr_constant_plus_cooldown --lr_constant_plus_cooldown_frac 2 --lr-decay-style constant", "5.85786e-05",
         "--lr_constant_plus_cooldown_frac 0.1"),
        ("--lr-decay-style infinite-cosine --min-lr 1e-6 --lr-cooldown-fraction -1", "1.05004e-05", "--lr-cooldown-fraction 0.3"),
    ],
)  # fmt: skip
def test_a_run_that_starts_behind_its_peak(text: str, start: str, fix: str) -> None:
    found = told(text)["starts-below"]
    assert found.what == f"the run starts at LR {start} and never reaches --lr 0.0002" and found.fix == fix
    words = " ".join(each for each in text.split() if not each.startswith("--lr-warmup-iters") and each != "-1000")
    assert not {"starts-below", "long-cooldown"} & set(told(f"{words} {fix}"))


SAMPLES = "--lr 2e-4 --lr-decay-style linear --train-samples 800 --global-batch-size 8"


@pytest.mark.parametrize(
    ("text", "kind", "fix"),
    [
        (f"{SAMPLES} --lr-decay-samples 400", "stays-at-minimum", "--lr-decay-samples 800"),
        (f"{SAMPLES} --lr-decay-samples 1200", "ends-early", "--lr-decay-samples 800"),
        (f"{SAMPLES} --lr-warmup-samples 80", "warmup-from-0", "--lr-warmup-samples 0 where LR need not rise"),
        (f"{SAMPLES} --train-samples 0 --train-iters 100 --lr-warmup-iters 9", "warmup-from-0",
         "--lr-warmup-iters 0 where LR need not rise"),
    ],
)  # fmt: skip
def test_a_fix_is_in_the_unit_that_the_run_counts_in(text: str, kind: str, fix: str) -> None:
    def kinds(words: str) -> dict[str, str]:
        return {each.kind: each.fix for each in reference_schedule(parse_flags(words.split())).findings}

    assert kinds(text)[kind] == fix
    assert kind not in kinds(f"{text} {fix.partition(' where')[0]}")


def test_a_resume_by_samples_that_is_over_is_told_in_samples(b10) -> None:
    words = f"{SAMPLES} --override-opt_param-scheduler".split()
    found = {each.kind: each for each in reference_schedule(parse_flags(words), b10 | {"num_steps": 800}).findings}
    assert found["nothing-to-train"].fix == "--train-samples 8800"
