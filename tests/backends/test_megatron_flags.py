"""train_alcf.sh as it was recorded: what it reads, what it makes of it, and the learning rate that follows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from keepwarm.backends.megatron.emulated import Host, command_line
from keepwarm.backends.megatron.flags import Span, apart, foreign_state, said, saved_state
from keepwarm.errors import PlanError
from keepwarm.schedule import schedule as schedules

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {case["name"]: case for case in json.loads((GOLDEN / "launch/dry_runs.json").read_text())["cases"]}
BATCH, LENGTH = 8, 16
STEP = BATCH * LENGTH


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["argv"]])
def test_the_command_line_is_the_recorded_one(name):
    case = CASES[name]
    environment = case["env"]
    if name == "comment_in_list":  # the recording has its list's path shortened, and not its stem
        environment = environment | {"DATA_FILE_LIST": "$TMP/comment.txt"}
    host = Host(case["machine"], case["nodes"], case["gpus_per_node"])
    made = command_line(environment, case["cli"], host, "$PBS_O_WORKDIR")
    wanted = [word.replace("=$TMP/x", "=$TMP/comment.txt").replace("$BIN/", "") for word in case["argv"]]
    assert made == wanted


def test_tokens_that_bash_cannot_count_stop_the_script():
    case = CASES["tokens_sci"]
    assert case["exit"] == 1
    with pytest.raises(PlanError, match="TRAIN_TOKENS=22e9: bash can't count with it"):
        command_line(case["env"], case["cli"], Host("aurora", 2, 12), "/w")


def test_what_stands_behind_the_script_comes_before_its_own_flags():
    case = CASES["cli_overridden_by_script"]
    made = command_line(case["env"], case["cli"], Host("aurora", 2, 12), "/w")
    for flag, last in (("--save-interval", "50"), ("--train-iters", "13987"), ("--seq-length", "4096")):
        assert [word.partition("=")[2] for word in made if word.startswith(f"{flag}=")][-1] == last


def recorded(run: str) -> dict[int, float]:
    """Iteration -> the rate that the one behind it uses, as the trainer logged it."""
    text = (GOLDEN / "runs" / f"{run}.log").read_text()
    return {int(n): float(lr) for n, lr in re.findall(r"iteration=\s*(\d+)/.*?learning_rate=([0-9.e+-]+)", text)}


def argv(rate, iterations: int, arguments: tuple[str, ...] = ()) -> list[str]:
    environment = {
        "TRAIN_ITERS": str(iterations), "GLOBAL_BATCH": str(BATCH), "SEQ": str(LENGTH), **rate.environment
    }  # fmt: skip
    return command_line(environment, (*arguments, *rate.arguments), Host("x4", 1, 2), "/w")[3:]


ANEW = ("--finetune", "--universal-checkpoint")
CONSTANT = schedules.constant(2e-4, 10 * STEP)
DECAY = schedules.decay_then_introduce(2e-4, 20 * STEP, "cosine", 2e-6)
AT_PEAK, RESET = foreign_state(2e-4, 2e-4, 0, 0), foreign_state(0.0, 2e-4, 0, 0)


@pytest.mark.parametrize(
    ("run", "schedule", "begin", "end", "anew", "start"),
    [
        ("rung_trunk", schedules.wsd(2e-4, 2 * STEP, 20 * STEP), 0, 20, (), None),
        ("rung_cont_univ", CONSTANT, 0, 10, ANEW, AT_PEAK),
        ("rung_restart_plain", schedules.rewarm(2e-4, 2 * STEP, 10 * STEP), 0, 10, ANEW, RESET),
        ("rung_decay1", DECAY, 0, 14, ANEW, AT_PEAK),
        ("rung_decay2", DECAY, 14, 20, (), "saved"),
    ],
)
def test_the_rate_that_was_logged_is_the_attempts(run, schedule, begin, end, anew, start):
    """Section 8 of the recordings: each way to begin, by the words that a launch has for its schedule."""
    rate = said(schedule, BATCH, LENGTH)
    words = argv(rate, end, anew)
    state = saved_state(argv(rate, 14, ANEW), begin) if start == "saved" else start
    assert apart(words, state, Span(schedule, STEP, 0, begin, end)) <= 1e-19
    logged = recorded(run)
    assert sorted(logged) == list(range(begin + 1, end + 1))
    for iteration, lr in logged.items():
        assert float(f"{schedule.lr(iteration * STEP):.6g}") == lr


def test_a_cooldown_overrides_the_checkpoints_schedule_and_keeps_its_position():
    cooldown = schedules.cooldown(2e-4, 5 * STEP, "1-sqrt", 2e-5)
    rate = said(cooldown, BATCH, LENGTH, after_steps=15)
    assert rate.environment == {
        "LR": "0.0002", "LR_DECAY_STYLE": "constant", "LR_WARMUP_FRAC": "0", "LR_DECAY_ITERS": "20",
        "OVERRIDE_CKPT_OPT_PARAM": "1",
    }  # fmt: skip
    assert rate.arguments == (
        "--override-opt_param-scheduler", "--min-lr=2e-05", "--lr_constant_plus_cooldown", "--lr_constant_plus_cooldown_frac=0.25",
    )  # fmt: skip
    words = argv(rate, 20)
    assert "--use-checkpoint-opt_param-scheduler" not in words
    assert apart(words, foreign_state(2e-4, 2e-4, 15, 15 * BATCH), Span(cooldown, STEP, 15, 15, 20)) == 0
    # the recorded run with these flags logged 0.000119502 behind iteration 16
    assert float(f"{cooldown.lr(STEP):.6g}") == 0.000119502


def test_the_first_step_of_a_universal_copy_uses_its_own_rate():
    """As recorded in runs/lr0_finetune_universal: the difference is named, and nothing is launched."""
    rate = said(CONSTANT, BATCH, LENGTH)
    with pytest.raises(PlanError) as refused:
        apart(argv(rate, 10, ANEW), foreign_state(1e-4, 1e-4, 0, 0), Span(CONSTANT, STEP, 0, 0, 10))
    assert "LR of iteration 1 would be 0.0001, the attempt's is 0.0002" in refused.value.what
    assert "50% of the highest LR; with --universal-checkpoint the first step uses" in refused.value.why


def test_a_schedule_that_no_style_has_is_refused_with_the_difference():
    falling = schedules.wsd(2e-4, 2 * STEP, 40 * STEP).branch(
        40 * STEP, schedules.cooldown(2e-4, 9 * STEP, "linear", 0).pieces[0]
    )
    with pytest.raises(PlanError, match="cannot say this schedule") as refused:
        said(falling, BATCH, LENGTH)
    assert "% of the highest LR, at step" in refused.value.why
