"""Logs: all that were recorded, and lines of the reference's own printing put together."""

from __future__ import annotations

import json

import pytest

from doctor.told import GOLDEN, names, only

LOGS = GOLDEN / "logs"
GENERATED = {case["case"]: case["line"] for case in json.loads((LOGS / "generated.json").read_text()) if "line" in case}
EXPECTED = {  # by reading them
    "baseB.log": ["began-at-random"],  # the first run of its folder: the log does not say so
    "resumeA_tag10.log": [],
    "finetuneB.log": ["loss-of-random-weights"],  # 20 steps on noise: what it loaded knows nothing
    "rung_cont_univ.log": [],
    "both_flags_assert.log": ["ended-by-error"],
    "load_missing_universal_ValueError.log": ["ended-by-error"],
    "universalB_tp2_FAILS.log": ["ended-by-error"],
    "universalD_tp2_padded256.log": ["zeros-in-vocabulary"],
    "cooldown_flags_IGNORED_usecheckpoint.log": ["schedule-of-checkpoint"],
    "rung_trunk.log": ["began-at-random"],
    "baseA_vocab100_padded.log": ["began-at-random"],
    "full_console_baseA.log": [],  # the same run: here its arguments say that it saves to where it loads from
    "baseD_kv4.log": [],
    "universalB_np2.log": [],
    "lr0_finetune.log": [],
    "lr0_finetune_universal_FIRSTSTEP_USES_CKPT_LR.log": [],
    "rung_decay1.log": [],
    "rung_decay2.log": [],
    "rung_ft_plain.log": [],
    "rung_restart_plain.log": [],
    "rung_restart_univ.log": [],
    "rung_resume_univ.log": [],
}
LINE = (
    " iteration={i:8d}/   13987 | consumed_samples={s:12d} | consumed_tokens={t:12d} | elapsed_time_per_iteration_ms=3415.3 | "
    "learning_rate={lr:.6g} | global_batch_size=  384 |{loss} loss_scale=1.0 | grad_norm=1.234 | actual_seqlen= 4096 | "
    "number_of_skipped_iterations={skipped:3d} | number_of_nan_iterations=  0 | samples_per_second=112.400 |\n"
)


def line(iteration: int, lr: float, loss: float | None = 2.5, skipped: int = 0) -> str:
    printed = f" lm loss={loss:.6f} |" if loss is not None else ""
    samples = iteration * 384
    return LINE.format(i=iteration, s=samples, t=samples * 4096, lr=lr, loss=printed, skipped=skipped)


@pytest.fixture
def log(tmp_path, doctor):
    def run(*lines: str) -> list[dict]:
        (tmp_path / "out.log").write_text("".join(lines))
        return doctor(tmp_path / "out.log")

    return run


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_log(doctor, name):
    assert names(doctor(LOGS / name)) == EXPECTED[name]


@pytest.mark.parametrize("path", sorted((GOLDEN / "runs").glob("*.log")), ids=lambda path: path.stem)
def test_training_lines_of_recorded_runs_have_none(doctor, path):
    assert doctor(path) == []


def test_what_the_recorded_logs_say(doctor):
    found = doctor(
        LOGS / "cooldown_flags_IGNORED_usecheckpoint.log", LOGS / "both_flags_assert.log", LOGS / "baseB.log"
    )
    assert (
        only(found, "schedule-of-checkpoint")["evidence"] == "the flags say constant, the checkpoint's cosine is used"
    )
    assert only(found, "ended-by-error")["evidence"] == "AssertionError: both override and use-checkpoint are set."
    assert only(found, "ended-by-error")["fix"] == "OVERRIDE_CKPT_OPT_PARAM=1 in front of bash"
    assert only(found, "began-at-random")["evidence"] == (
        "the trainer found no checkpoint; the first loss is 4.8505, ln 128 = 4.8520"
    )


def test_the_cooldown_of_the_notes_began_with_the_loss_of_random_weights(log):
    lines = [text.strip() + "\n" for text in (LOGS / "samples.txt").read_text().splitlines() if "136100 |" in text]
    assert lines
    trap = only(log(*lines), "loss-of-random-weights")
    assert trap["evidence"].startswith("iteration 136,004 has loss 12.3165, ln 256,000 (of google/gemma-7B")


def test_a_good_log_has_none(log):
    assert log(*(line(i, 2e-4 * min(i, 5) / 5) for i in range(1, 40))) == []


def test_a_schedule_that_stands_still(log):
    found = log(*(line(i, 1e-4) for i in range(1, 6)), *(line(i, 1e-4, None, 1) for i in range(6, 10)))
    assert [(trap["name"], trap["evidence"]) for trap in found] == [
        ("frozen-rate", "4 iterations from 6 on are skipped, LR stays 0.0001")
    ]


def test_a_loss_scale_that_falls_is_none(log):
    scales = [text.replace("loss_scale=1.0", f"loss_scale={2.0**-i}") for i, text in enumerate(
        line(i, 1e-4, None, 1) for i in range(1, 4)
    )]  # fmt: skip
    assert log(*scales, line(4, 1e-4)) == []


def test_losses_that_are_not_printed(log):
    found = log(
        GENERATED["normal"] + "\n",
        GENERATED["nan loss, step applied"] + "\n",
        GENERATED["inf loss, step applied"] + "\n",
    )
    assert [trap["evidence"] for trap in found] == [
        "1 iterations from 2 on print no loss and are not skipped; grad_norm nan",
        "1 iterations from 3 on have a loss that is not finite; grad_norm inf",
    ]
    assert (
        log(GENERATED["normal"] + "\n", GENERATED["skipped, finite loss"].replace("       4/", "       2/") + "\n")
        == []
    )


def test_a_rate_that_jumps(log):
    rates = [2e-4] * 10 + [2.1e-5 - i * 1e-7 for i in range(10)]
    (trap,) = log(*(line(i, rate) for i, rate in enumerate(rates, start=1)))
    assert (trap["name"], trap["evidence"]) == ("rate-jumped", "LR 0.0002 at iteration 10, 2.1e-05 at 11")


def test_iterations_that_are_trained_again(log):
    found = log(*(line(i, 1e-4) for i in range(1, 120)), *(line(i, 1e-4) for i in range(101, 110)))
    assert [(trap["name"], trap["evidence"]) for trap in found] == [
        ("repeated-iterations", "iteration 101 follows 119: 19 iterations trained again")
    ]


def test_a_log_that_is_missing(log):
    (trap,) = log(*(line(i, 1e-4) for i in (1, 2, 3, 50, 51)))
    assert (trap["name"], trap["evidence"]) == ("iterations-missing", "iteration 50 follows 3")


def test_a_validation_that_is_nan(log):
    text = " validation loss at iteration 2 | lm loss value=nanlm loss PPL=485165195.409790\n"
    (trap,) = log(line(1, 1e-4), line(2, 1e-4), text)
    assert trap["evidence"] == "validation loss nan at iteration 2"


def test_a_run_that_saves_where_it_loads_began_as_it_should(log):
    start = "    will not load any checkpoints and will start from random\n"
    said = "  finetune ................ False\n  load .................... /x/ck\n  save .................... {}\n"
    assert log(said.format("/x/ck"), start, line(1, 1e-4)) == []
    assert names(log(said.format("/x/other"), start, line(1, 1e-4))) == ["began-at-random"]
