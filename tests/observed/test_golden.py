"""Every recorded console and line of the real trainer: all points read, and the story that each is known for told."""

from __future__ import annotations

import json
import math
import re

import pytest

from keepwarm.lineage.foreign_logs import training_line
from keepwarm.lineage.log_points import TEST, read_console
from keepwarm.schedule import schedule as schedules
from observed.make import LOGS, Place, line, place_of

TOKENS = 8 * 16
GENERATED = json.loads((LOGS / "generated.json").read_text())
CONSOLES = sorted(path.name for path in LOGS.glob("*.log"))
# What a person finds with grep: training lines, validation lines.
EXPECTED = {
    "baseA_vocab100_padded.log": (20, 5), "baseB.log": (20, 5), "baseD_kv4.log": (12, 3), "both_flags_assert.log": (0, 0),
    "cooldown_flags_IGNORED_usecheckpoint.log": (10, 3), "finetuneB.log": (20, 5), "full_console_baseA.log": (20, 5),
    "load_missing_universal_ValueError.log": (0, 0), "lr0_finetune.log": (5, 2),
    "lr0_finetune_universal_FIRSTSTEP_USES_CKPT_LR.log": (5, 2), "resumeA_tag10.log": (10, 3), "rung_cont_univ.log": (10, 1),
    "rung_decay1.log": (14, 1), "rung_decay2.log": (6, 1), "rung_ft_plain.log": (10, 1), "rung_restart_plain.log": (10, 1),
    "rung_restart_univ.log": (10, 1), "rung_resume_univ.log": (10, 1), "rung_trunk.log": (20, 1),
    "universalB_np2.log": (10, 3), "universalB_tp2_FAILS.log": (0, 0), "universalD_tp2_padded256.log": (2, 1),
}  # fmt: skip


def events(found, name):
    return [each["text"] for each in found.records if each.get("event") == name]


def trained(found):
    return [(each["step"], each["loss"]) for each in found.records if each["kind"] == "train"]


@pytest.fixture
def place(tmp_path):
    """place(steps, schedule): an attempt of the recorded runs' batch and length."""

    def make(steps: int, schedule=None) -> Place:
        return place_of(tmp_path, steps, schedule)

    return make


def recorded(name: str) -> bytes:
    return (LOGS / name).read_bytes()


def test_every_recorded_console_is_expected():
    assert set(CONSOLES) == set(EXPECTED)


@pytest.mark.parametrize("name", CONSOLES)
def test_all_points_of_a_console_are_read(name):
    found = read_console(LOGS / name)
    training, validation = EXPECTED[name]
    assert len(found.training) == training and len(found.points) - len(found.training) == validation
    assert found.unread == () and found.cut is None
    text = (LOGS / name).read_text(errors="replace")
    printed = [(int(i), float(loss)) for i, loss in re.findall(r"iteration= *(\d+)/.*?lm loss=([\d.]+)", text)]
    assert [(each.iteration, each.loss) for each in found.training] == printed


NOT_FINITE = {  # how a loss is known not to be finite: it is absent of a step that was not skipped, or printed as inf
    "nan loss, step applied", "inf loss, step applied", "zero loss", "negative loss", "[training_log_alcf.py] nan",
    "log_interval 10: one NaN not skipped poisons the average -> loss absent, nan iterations 0", "[old style] nan",
    "[old style] inf", "skipped, nan loss",
}  # fmt: skip
ABSENT = (NOT_FINITE - {"inf loss, step applied", "[old style] inf"}) | {"skipped, finite loss", "[old style] skipped"}


def test_all_lines_that_the_reference_itself_printed_of_odd_values():
    read = {}
    for number, each in enumerate(GENERATED, start=1):
        if "loss value" not in each["line"]:
            read[each["case"]] = training_line(each["line"], f"generated:{number}")
    assert len(read) == 24 and None not in read.values()
    assert {case for case, found in read.items() if found.loss is None} == ABSENT
    assert {case for case, found in read.items() if found.not_finite} == NOT_FINITE
    assert (read["huge loss"].loss, read["big iteration >8 digits"].iteration) == (1.23e9, 123456789)
    assert (
        read["grad_norm None (pipeline/zero0)"].grad_norm is None
        and read["grad norm -1 (ds inf marker)"].grad_norm == -1
    )
    assert read["loss_scale None"].loss_scale is None and read["lr 2e-4"].lr == 2e-4 and read["lr zero"].lr == 0
    assert (read["[old style] skipped"].skipped, read["skipped, nan loss"].nans) == (1, 1)
    assert math.isnan(read["[old style] nan"].grad_norm) and round(read["normal"].seconds, 6) == 3.4153


def test_all_validation_lines_that_the_reference_itself_printed(tmp_path):
    lines = [each["line"] for each in GENERATED if "loss value" in each["line"]]
    (tmp_path / "x.log").write_text("\n".join(lines) + "\n")
    found = read_console(tmp_path / "x.log")
    assert len(found.points) == len(lines) == 8 and found.unread == ()
    assert [each.loss for each in found.points if each.drawn == TEST] == [2.5]


def test_all_samples_from_notes_and_issues():
    found = read_console(LOGS / "samples.txt")
    text = [each for each in (LOGS / "samples.txt").read_text().splitlines() if not each.startswith("#")]
    like = [each for each in text if re.search(r"iteration[= ] *\d+/", each)]
    assert len(found.training) == len(like) == 19 and found.unread == ()
    nan = [each.iteration for each in found.training if each.loss is None and not each.skipped]
    assert nan == [5426, 9]  # two issues about NaN; that of ten skipped iterations is none


def test_the_real_continuation_of_a_trunk(place):
    made = place(10)
    made.launch("1-train", 0, 10)
    made.log("1-train", "001-7.log", recorded("rung_cont_univ.log"))
    found = made.observe()
    assert found.step == 10 and found.logged and found.warnings == () and found.unread == ()
    first = next(each for each in found.records if each["kind"] == "train")
    assert (first["loss"], first["lr"], first["grad_norm"]) == (5.988955, 2e-4, 4.052)
    assert sum(first["samples"].values()) == 8 and first["tokens"] == TOKENS
    assert trained(found)[1] == (2, 6.287919) and trained(found)[-1] == (10, 5.80324)


def test_decay_then_introduce_is_two_launches_of_one_attempt(place):
    made = place(20, schedules.cosine(2e-4, 0, 20 * TOKENS, 2e-6))
    made.launch("1-decay", 0, 14)
    made.launch("2-introduce", 14, 20, begins="resume")
    made.log("1-decay", "001-7.log", recorded("rung_decay1.log"))
    made.log("2-introduce", "001-8.log", recorded("rung_decay2.log"))
    found = made.observe()
    assert [step for step, _ in trained(found)] == list(range(1, 21)) and found.warnings == ()
    assert events(found, "resumed") == []  # another launch is no restart
    used = {each["step"]: each["lr"] for each in found.records if each["kind"] == "train"}
    assert f"{used[15]:.6g}" == "4.28093e-05" and f"{used[16]:.6g}" == "3.09964e-05"
    assert [(each.name, each.logged) for each in found.launches] == [("1-decay", 14), ("2-introduce", 20)]


def test_the_trunk_begins_from_random_weights_and_nothing_is_wrong(place):
    made = place(20, schedules.wsd(2e-4, 2 * TOKENS, 20 * TOKENS))
    made.launch("1-train", 0, 20, begins="trunk", load=None)
    made.log("1-train", "001-7.log", recorded("rung_trunk.log"))
    assert "will start from random" in (LOGS / "rung_trunk.log").read_text()
    assert made.observe().warnings == ()


def test_the_same_log_of_a_launch_that_was_to_load_something(place):
    made = place(20, schedules.wsd(2e-4, 2 * TOKENS, 20 * TOKENS))
    made.launch("1-train", 0, 20)
    made.log("1-train", "001-7.log", recorded("rung_trunk.log"))
    found = made.observe()
    said, first = [each for each in found.warnings if each["event"] == "weights-not-loaded"]
    assert "began from random weights (launches/1-train/logs/001-7.log:16)" in said["text"]
    assert (first["loss"], round(first["random"], 3)) == (6.437216, round(math.log(640), 3))
    assert "first loss behind a checkpoint is 6.437, and that of random weights is ln 640 = 6.461" in first["text"]


def test_a_resume_of_a_universal_copy_goes_on_in_the_same_course(place):
    made = place(20, schedules.wsd(2e-4, 2 * TOKENS, 20 * TOKENS))
    made.launch("1-train", 0, 20, begins="trunk", load=None)
    made.log("1-train", "001-7.log", recorded("rung_trunk.log"))
    whole = trained(made.observe())
    made.log("1-train", "002-8.log", recorded("rung_resume_univ.log"))
    found = made.observe()
    assert trained(found) == whole  # 11 to 20 were trained again, to the same digits
    assert events(found, "resumed") == [
        "from step 10: 10 logged iterations behind it were trained again, and count as logged then "
        "(launches/1-train/logs/002-8.log:20)"
    ]


def test_cooldown_flags_that_the_trainer_ignored(place):
    made = place(10, schedules.constant(2e-4, 10 * TOKENS))
    made.launch("1-cooldown", 10, 20, first_iteration=10)
    made.log("1-cooldown", "001-7.log", recorded("cooldown_flags_IGNORED_usecheckpoint.log"))
    (warning,) = made.observe().warnings
    assert (warning["event"], warning["step"], warning["iteration"], warning["lines"]) == ("lr-differs", 1, 11, 9)
    assert (warning["logged"], warning["due"]) == (1e-4, 2e-4)
    assert "iteration 11 logs LR 0.0001, the attempt's schedule has 0.0002" in warning["text"]


def test_a_job_that_found_no_copy_to_load(place):
    made = place(10)
    made.launch("1-train", 0, 10)
    made.log("1-train", "001-7.log", recorded("load_missing_universal_ValueError.log"))
    found = made.observe()
    (warning,) = found.warnings
    assert warning["event"] == "job-failed"
    assert (
        "ValueError: Invalid for universal checkpoint: $WORK/nonexist/latest_universal does not exist"
        in warning["text"]
    )
    assert (found.step, found.next.do) == (0, "resubmit")


def test_a_schedule_whose_error_the_trainer_hid(place):
    """As the infinite cosine with --min-lr 0 was seen: from iteration 15 on skipped, no loss, LR standing still."""
    made = place(20, schedules.constant(1e-4, 20 * TOKENS))
    made.launch("1-train", 0, 20)
    lines = [line(i, 20, lr=1e-4) if i < 15 else line(i, 20, lr=1e-4, loss=None, skipped=1) for i in range(1, 21)]
    made.log("1-train", "001-7.log", "".join(lines))
    found = made.observe()
    (warning,) = found.warnings
    assert (warning["event"], warning["step"], warning["skipped"]) == ("scheduler-failed", 15, 6)
    assert "iterations 15 to 20: 6 are logged as skipped, LR standing still at 0.0001" in warning["text"]
    assert events(found, "skipped") == [] and found.step == 20  # the weights were updated: no step was left out


def test_the_verdict_of_logs_alone_is_undecided(place):
    made = place(10)
    made.launch("1-train", 0, 10)
    made.log("1-train", "001-7.log", recorded("rung_ft_plain.log"))
    assert made.observe().verdict.outcome == "undecided"


def test_validation_lines_are_the_trainers_own_and_of_no_corpus(place):
    made = place(20, schedules.cosine(2e-4, 2 * TOKENS, 20 * TOKENS, 0.0))
    made.launch("1-train", 0, 20, begins="trunk", load=None, padded_vocab_size=128)
    made.log("1-train", "001-7.log", recorded("baseB.log"))
    found = made.observe()
    own = [(each["step"], each["loss"], each["drawn"]) for each in found.records if each.get("event") == "validation"]
    assert own == [
        (5, 4.84502, ""), (10, 4.805429, ""), (15, 4.807949, ""), (20, 4.79292, ""),
        (20, 4.792433, "8-sample draw from validation set"),
    ]  # fmt: skip
