"""The reference's schedules from its flags, against every curve, error and log recorded from it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from keepwarm.errors import LineageError, PlanError
from keepwarm.schedule.megatron import Flags, flags_of_args, parse_flags, reference_schedule

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {case["name"]: case for case in json.loads((GOLDEN / "lr" / "cases.json").read_text())["cases"]}
CURVES = [name for name in CASES if "flags" in CASES[name]]
SWALLOWED = [name for name in CURVES if CASES[name]["error"] and CASES[name]["error"]["at_iteration"]]
CRASHED = [name for name in CURVES if CASES[name]["error"] and not CASES[name]["error"]["at_iteration"]]
RUN = ["--global-batch-size", "8", "--seq-length", "16"]


def flags(text: str) -> Flags:
    return parse_flags([*RUN, *text.split()])


def recorded(name: str) -> dict[str, np.ndarray]:
    with open(GOLDEN / "lr" / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    whole = {key: np.array([int(row[key]) for row in rows]) for key in ("iteration", "num_steps", "num_tokens")}
    return {**whole, "lr": np.array([float(row["lr"]) for row in rows])}


@pytest.mark.parametrize("name", [name for name in CURVES if name not in CRASHED])
def test_every_recorded_row(name: str, flags_of) -> None:
    found, rows = reference_schedule(flags_of(name), CASES[name].get("resumed_from_state_dict")), recorded(name)
    assert len(rows["lr"]) > 20
    np.testing.assert_array_equal(found.position.samples(rows["iteration"]), rows["num_steps"])
    np.testing.assert_array_equal(found.position.tokens(rows["iteration"]), rows["num_tokens"])
    np.testing.assert_allclose(found.lr(rows["iteration"]), rows["lr"], rtol=1e-12, atol=0)
    assert found.first_step == rows["iteration"][0] and found.last_step == CASES[name]["extra"]["train_iters"]
    assert (found.error is None) == (name not in SWALLOWED)


@pytest.mark.parametrize("name", SWALLOWED)
def test_a_swallowed_error_is_told_and_lr_stays_frozen(name: str, flags_of) -> None:
    found, error = reference_schedule(flags_of(name)), CASES[name]["error"]
    assert found.error is not None and found.frozen_from == error["at_iteration"]
    assert f"from iteration {error['at_iteration']:,} on" in found.error.what
    assert f"optimizer_param_scheduler.py:{error['line']}" in found.error.what and error["type"] in found.error.what
    assert "exit code is 0" in found.error.why and "training.py:943" in found.error.why
    last = recorded(name)["lr"][-1]
    assert found.lr([error["at_iteration"] - 1, error["at_iteration"], found.last_step]).tolist() == [last] * 3
    assert f"frozen at {last:.6g}" in found.error.what


@pytest.mark.parametrize("name", SWALLOWED)
def test_the_fix_of_a_swallowed_error_can_be_pasted(name: str, flags_of) -> None:
    given = flags_of(name)
    error = reference_schedule(given).error
    assert error is not None
    instead = error.fix.removesuffix(" in place of the -tokens flags")
    words = given.words()
    if instead != error.fix:
        words = [
            word
            for at, word in enumerate(words)
            if not any(w.endswith("-tokens") for w in words[max(at - 1, 0) : at + 1])
        ]
    assert reference_schedule(parse_flags([*words, *instead.split()])).error is None


@pytest.mark.parametrize("name", CRASHED)
def test_what_stops_the_trainer_at_start_is_an_error(name: str, flags_of) -> None:
    error = CASES[name]["error"]
    with pytest.raises(PlanError, match="stops at start") as caught:
        reference_schedule(flags_of(name), CASES[name].get("resumed_from_state_dict"))
    assert f"optimizer_param_scheduler.py:{error['line']}" in caught.value.what and error["type"] in caught.value.what


def test_the_first_value_that_differs_is_named(flags_of) -> None:
    case = CASES["resume_longer_neither"]
    with pytest.raises(PlanError, match=r"class input value 240\.0 and checkpoint value 160\.0 for warmup iterations"):
        reference_schedule(flags_of(case["name"]), case["resumed_from_state_dict"])


STATE = CASES["resume_same_override"]["resumed_from_state_dict"]
SHORT = "--lr 2e-4 --lr-decay-style cosine --lr-warmup-fraction .1 --train-iters 20"
B10 = {  # the scheduler state of baseB's checkpoint at iteration 10
    "max_lr": 2e-4, "min_lr": 0.0, "lr_warmup_steps": 16.0, "lr_warmup_tokens": None, "lr_decay_steps": 160,
    "lr_decay_tokens": None, "lr_decay_style": "cosine", "num_steps": 80, "num_tokens": 1152, "start_wd": 0.1,
    "end_wd": 0.1, "wd_incr_style": "constant", "wd_incr_steps": 160,
}  # fmt: skip
DECAY = "--lr 2e-4 --lr-decay-style cosine --lr-warmup-fraction 0 --min-lr 2e-6 --lr-decay-iters 20"
D14 = B10 | {"min_lr": 2e-6, "lr_warmup_steps": 0.0, "num_steps": 112, "num_tokens": 1664}
TRUNK = "--lr 2e-4 --lr-decay-style constant --lr-warmup-fraction .1"
T10 = B10 | {"lr_decay_style": "constant"}
RUNS = {
    "baseB": (SHORT, None),
    "baseD_kv4": (SHORT.replace("20", "12"), None),
    "cooldown_flags_IGNORED_usecheckpoint": (
        SHORT.replace("cosine", "constant") + " --min-lr 2e-5 --lr_constant_plus_cooldown"
        " --lr_constant_plus_cooldown_frac .25 --use-checkpoint-opt_param-scheduler",
        B10,
    ),
    "rung_decay1": (f"{DECAY} --train-iters 14 --finetune --universal-checkpoint", T10),
    "rung_decay2": (f"{DECAY} --train-iters 20", D14),
    "rung_trunk": (f"{TRUNK} --train-iters 20", None),
    "rung_resume_univ": (f"{TRUNK} --train-iters 20 --universal-checkpoint", T10),
    "rung_cont_univ": (TRUNK.replace(".1", "0") + " --train-iters 10 --finetune --universal-checkpoint", T10),
    "rung_restart_plain": (TRUNK.replace(".1", ".2") + " --train-iters 10 --finetune", T10),
    "lr0_finetune_universal_FIRSTSTEP_USES_CKPT_LR": (
        SHORT.replace("2e-4", "0").replace("20", "5") + " --finetune --universal-checkpoint", B10
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_the_real_trainers_log(name: str) -> None:
    text = (GOLDEN / "runs" / f"{name}.log").read_text()
    logged = re.findall(r"iteration= *(\d+)/ *(\d+) .*?learning_rate=(\S+)", text)
    found = reference_schedule(flags(RUNS[name][0]), RUNS[name][1])
    assert len(logged) >= 5 and found.last_step == int(logged[0][1])
    assert [f"{lr:.6g}" for lr in found.lr([int(step) for step, _, _ in logged])] == [lr for _, _, lr in logged]


def test_the_first_step_behind_a_universal_checkpoint_uses_its_lr() -> None:
    found = reference_schedule(flags(RUNS["lr0_finetune_universal_FIRSTSTEP_USES_CKPT_LR"][0]), B10)
    assert f"{found.lr([0])[0]:.6g}" == "0.000117365" and found.lr([1, 2]).tolist() == [0, 0]
    assert next(each for each in found.findings if each.kind == "first-step").step == 0


def test_finetune_begins_at_0_whatever_the_state_says() -> None:
    found = reference_schedule(flags(f"{SHORT} --finetune"), B10)
    assert found.first_step == 0 and found.lr([0, 1, 2]).tolist() == [0, 1e-4, 2e-4]


def test_phases_are_those_of_the_same_schedule_here(flags_of) -> None:
    name = "infinite-cosine_T2000_cd0.3_c0.4_constlr1e-4_min2e-6"
    found = reference_schedule(flags_of(name))
    steps = [0, 19, 20, 619, 620, 1420, 1421, 1999, 2000]
    assert found.phases(steps).tolist() == [
        "warming", "warming", "decaying", "decaying", "peak", "peak", "decaying", "decaying", "cooled",
    ]  # fmt: skip
    assert found.lr_max == 1e-4 and found.phase(620) == "peak"
    cooling = reference_schedule(flags_of("constcool_f0.1_T2000_min2e-6"))
    assert cooling.phases([19, 20, 1800, 1801, 2000]).tolist() == ["warming", "peak", "peak", "decaying", "cooled"]
    assert reference_schedule(flags_of("constant_T2000")).phases([0, 20, 2000, 2500]).tolist()[1:] == ["peak"] * 3


def test_a_batch_ramp_moves_the_curve_with_the_samples() -> None:
    ramp = "--lr 2e-4 --lr-decay-style linear --train-samples 800 --rampup-batch-size 2 2 60"
    found = reference_schedule(flags(ramp))
    sizes = np.diff(found.position.samples(np.arange(found.last_step + 1))).tolist()
    assert sizes[:20] == [2] * 10 + [4] * 5 + [6] * 4 + [8] and set(sizes[20:]) == {8}
    samples = found.position.samples(np.arange(found.last_step + 1))
    np.testing.assert_allclose(found.lr(np.arange(found.last_step + 1)), 2e-4 * (1 - samples / 800), rtol=1e-12)
    resumed = reference_schedule(
        flags(f"{ramp} --override-opt_param-scheduler"), B10 | {"num_steps": int(samples[12]), "num_tokens": 0}
    )
    assert resumed.first_step == 12
    np.testing.assert_array_equal(resumed.lr(np.arange(12, 30)), found.lr(np.arange(12, 30)))


def test_samples_and_iterations_give_the_same_curve() -> None:
    by_steps = flags("--lr 2e-4 --lr-decay-style cosine --train-iters 100 --lr-warmup-iters 5 --min-lr 2e-6")
    by_samples = flags("--lr 2e-4 --lr-decay-style cosine --train-samples 800 --lr-warmup-samples 40 --min-lr 2e-6")
    steps = np.arange(103)
    np.testing.assert_array_equal(reference_schedule(by_steps).lr(steps), reference_schedule(by_samples).lr(steps))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--lr 2e-4", "either train-iters or train-samples"),
        ("--train-iters 20", "--lr is missing"),
        ("--lr 2e-4 --train-iters 20 --train-samples 160", "counted in iterations, and --train-samples is in samples"),
        ("--lr 2e-4 --train-samples 160 --lr-decay-iters 20", "counted in samples, and --lr-decay-iters"),
        ("--lr 2e-4 --train-iters 20 --rampup-batch-size 2 2 60", "batch ramp needs a run counted in samples"),
        ("--lr 2e-4 --train-iters 20 --lr-warmup-iters 2 --lr-warmup-fraction .1", "can only specify one of"),
        ("--lr 2e-4 --train-iters 20 --lr-warmup-iters 20", "warm-up .* is not shorter than the decay"),
        ("--lr 2e-4 --train-iters 20 --min-lr 3e-4", "--min-lr 0.0003 is above --lr 0.0002"),
        ("--lr 2e-4 --train-iters 20 --min-lr -1", "minimum LR is negative"),
        ("--lr 2e-4 --train-iters 20 --lr-decay-iters 0", "the decay has no length"),
        ("--lr 2e-4 --train-iters 20 --end-weight-decay .1", "constant weight decay has no start and end"),
        ("--lr 2e-4 --train-iters 20 --weight-decay-incr-style linear", "needs both ends"),
        ("--lr 2e-4 --train-iters 20 --lr-decay-style infinite-cosine --lr-cooldown-fraction 0", "ZeroDivisionError"),
        ("--lr 1e-4 --train-iters 20 --lr-decay-style infinite-cosine", "constant LR > maximum LR.*before training"),
    ],
)
def test_what_the_trainer_refuses_at_start(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        reference_schedule(flags(text))


def test_tokens_need_the_sequence_length() -> None:
    words = "--lr 2e-4 --train-iters 20 --lr-decay-tokens 2560 --lr-warmup-tokens 128 --global-batch-size 8"
    with pytest.raises(PlanError, match="--seq-length is missing"):
        reference_schedule(parse_flags(words.split()))


def test_a_state_that_lacks_something_is_refused() -> None:
    with pytest.raises(LineageError, match="no num_steps, num_tokens"):
        reference_schedule(flags(SHORT), {key: value for key, value in B10.items() if not key.startswith("num")})
    with pytest.raises(LineageError, match="num_steps is 80.5"):
        reference_schedule(flags(SHORT), B10 | {"num_steps": 80.5})
    with pytest.raises(LineageError, match="no whole number of these flags' steps"):
        reference_schedule(flags(f"{SHORT} --override-opt_param-scheduler"), B10 | {"num_steps": 81})


def test_flags_of_a_checkpoints_args(flags_of) -> None:
    name = "infinite-cosine_T2000_cd0.3_c0.4_constlr1e-4_min2e-6"
    given = flags_of(name)
    args = {key: getattr(given, key) for key in Flags.__dataclass_fields__ if key not in ("given", "others")}
    stored = args | {"lr_decay_iters": 2000, "start_weight_decay": 0.01, "end_weight_decay": 0.01, "hidden_size": 32}
    found = flags_of_args(stored)
    steps = np.arange(0, 2001, 7)
    np.testing.assert_array_equal(reference_schedule(found).lr(steps), reference_schedule(given).lr(steps))
    assert found.lr_decay_iters is None and found.given == given.given
    by_samples = flags_of_args({"lr": 2e-4, "train_samples": 800, "train_iters": 100, "lr_decay_samples": 800})
    assert (by_samples.train_iters, by_samples.train_samples, by_samples.lr_decay_samples) == (None, 800, None)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("max_lr", "2e-4", "a finite number"), ("max_lr", float("nan"), "a finite number"), ("min_lr", -1.0, "0 or more"),
        ("lr_warmup_steps", None, "a finite number"), ("lr_warmup_tokens", 1.5, "a whole number or null"),
        ("lr_decay_steps", 0, "a number above 0"), ("lr_decay_style", "cosin", "one of constant, linear"),
        ("num_tokens", None, "a whole number"), ("iteration", True, "a whole number"), ("lr", [1e-4], "a finite number"),
    ],
)  # fmt: skip
def test_a_state_that_no_trainer_writes_is_refused(key: str, value: object, kind: str) -> None:
    for how in ("--use-checkpoint-opt_param-scheduler", "--finetune --universal-checkpoint"):
        with pytest.raises(LineageError, match=f"the scheduler state's {key} is .*, not .*{kind}"):
            reference_schedule(flags(f"{SHORT} {how}"), B10 | {key: value})


def test_a_run_beyond_counting_is_refused() -> None:
    with pytest.raises(PlanError, match="999,999,999,999,999 iterations of 2,048 sequences"):
        reference_schedule(flags("--lr 2e-4 --train-iters 999999999999999 --global-batch-size 2048"))


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("--lr -2e-4 --train-iters 20", "--lr 2e-4"),
        ("--lr 2e-4 --train-iters -20", "--train-iters 2000"),
        ("--lr 2e-4 --train-iters 20 --lr-decay-iters 0", "leave out --lr-decay-iters"),
        ("--lr 2e-4 --train-samples 160 --lr-decay-samples 0", "leave out --lr-decay-samples"),
        ("--lr 0 --train-iters 20 --lr-decay-style infinite-cosine", "--lr 2e-4"),
        ("--lr 2e-4 --train-iters 20 --lr-decay-style infinite-cosine --constant-lr -1", "--constant-lr 0.0001"),
        ("--lr 2e-4 --train-iters 20 --lr-decay-style cosine --lr-decay-tokens 2560", "--lr-warmup-tokens 0"),
        ("--lr 2e-4", "--train-iters 2000"),
    ],
)
def test_the_fix_of_what_stops_at_start(text: str, fix: str) -> None:
    with pytest.raises(PlanError) as caught:
        reference_schedule(flags(text))
    assert caught.value.fix == fix
    if fix.startswith("--"):
        assert (
            reference_schedule(flags(f"{text} {fix} --min-lr 0 ".replace("infinite-cosine", "cosine"))).last_step >= 20
        )


def test_a_plateau_to_the_last_step_is_at_peak_there(flags_of) -> None:
    found = reference_schedule(flags_of("infinite-cosine_T2000_fracsum_eq1"))
    assert found.phases([1999, 2000, 2001]).tolist() == ["peak", "peak", "cooled"] and found.lr([2000]) == 1.1e-4
