"""Courses of several jobs and launches, records, warnings, evaluations, the verdict, the manifest and the next command."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from keepwarm.attempt.model import EvaluationPlan
from keepwarm.attempt.records import read_metrics, write_verdict
from keepwarm.errors import DataError, KeepwarmError, LineageError
from keepwarm.lineage.manifest import read_manifest
from keepwarm.schedule import schedule as schedules
from keepwarm.strategy.judge_log import judge_metrics
from observed.make import BATCH, LENGTH, base_manifest, line, place_of

TOKENS = BATCH * LENGTH
LOG = "001-7.log"


@pytest.fixture
def place(tmp_path):
    """An attempt of 20 steps at 2e-4, launched as one."""
    made = place_of(tmp_path, 20)
    made.launch("1-train", 0, 20)
    return made


def lines(first: int, last: int, **more) -> str:
    return "".join(line(i, 20, **more) for i in range(first, last + 1))


def kinds(found, kind):
    return [each for each in found.records if each["kind"] == kind]


def events(found, name):
    return [each for each in found.records if each.get("event") == name]


def warned(found):
    return [each["event"] for each in found.warnings]


def save(
    place, iteration: int, *, lr: float = 2e-4, batch: int = BATCH, end: int = 20, style: str = "constant"
) -> Path:
    """A step's folder as far as its state is read, and `latest`."""
    folder = place.folder / "checkpoints-megatron" / f"global_step{iteration}"
    folder.mkdir(parents=True)
    samples = iteration * batch
    args = argparse.Namespace(
        lr=2e-4, min_lr=0.0, lr_decay_style=style, lr_warmup_fraction=0.0, train_iters=end, global_batch_size=batch,
        seq_length=LENGTH, consumed_train_samples=samples, consumed_train_tokens=samples * LENGTH, padded_vocab_size=640,
        lr_decay_iters=end,
    )  # fmt: skip
    scheduler = {
        "max_lr": 2e-4, "lr_warmup_steps": 0, "num_steps": samples, "lr_decay_style": style,
        "lr_decay_steps": end * batch, "min_lr": 0.0, "start_wd": 0.1, "end_wd": 0.1, "wd_incr_style": "constant",
        "wd_incr_steps": 0, "lr_warmup_tokens": None, "lr_decay_tokens": None, "num_tokens": samples * LENGTH,
    }  # fmt: skip
    state = {"iteration": iteration, "args": args, "lr_scheduler": scheduler, "mp_world_size": 1, "dp_world_size": 1}
    torch.save(state, folder / "mp_rank_00_model_states.pt")
    groups = {"base_optimizer_state": {"state": {0: {}}, "param_groups": [{"lr": lr}]}, "partition_count": [1]}
    torch.save({"optimizer_state_dict": groups}, folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (folder.parent / "latest").write_text(folder.name)
    return folder


def test_a_restart_drops_what_was_logged_behind_its_checkpoint(place):
    place.log(
        "1-train", LOG, lines(1, 14, loss=4.0) + " validation loss at iteration 12 | lm loss value=3.9lm loss PPL=49\n"
    )
    place.log("1-train", "002-8.log", lines(11, 13, loss=3.0))
    found = place.observe()
    assert found.step == 13  # 14 was trained by a job whose weights are gone
    assert [each["loss"] for each in kinds(found, "train")] == [4.0] * 10 + [3.0] * 3
    (resumed,) = events(found, "resumed")
    assert (resumed["step"], resumed["again"]) == (10, 4) and events(found, "validation") == []
    assert resumed["text"].endswith("(launches/1-train/logs/002-8.log:1)") and warned(found) == []


def test_restarts_within_one_log_and_jobs_that_repeat_nothing(place):
    place.log("1-train", LOG, lines(1, 5) + lines(3, 8))
    place.log("1-train", "002-8.log", lines(9, 10))
    found = place.observe()
    assert [(each["step"], each["again"]) for each in events(found, "resumed")] == [(2, 3), (8, 0)]
    assert [each["step"] for each in kinds(found, "train")] == list(range(1, 11))


def test_logs_are_read_by_their_numbers(place):
    place.log("1-train", "1000-9.log", lines(11, 20))
    place.log("1-train", "999-8.log", lines(1, 10))
    assert place.observe().step == 20 and warned(place.observe()) == []


def test_several_launches_and_iterations_that_go_on_in_anothers_count(tmp_path):
    made = place_of(tmp_path, 6)
    made.launch("1-train", 100, 104, first_iteration=100, train_iterations=104)
    made.launch("2-train", 104, 106, first_iteration=100, begins="resume")
    made.log("1-train", LOG, "".join(line(i, 104) for i in range(101, 105)))
    made.log("2-train", LOG, "".join(line(i, 106) for i in (105, 106)))
    found = made.observe()
    assert [each["step"] for each in kinds(found, "train")] == [1, 2, 3, 4, 5, 6] and warned(found) == []


def test_iterations_that_are_in_no_log(place):
    place.log("1-train", LOG, lines(1, 4) + lines(8, 9))
    (warning,) = place.observe().warnings
    assert (warning["event"], warning["step"], warning["steps"]) == ("iterations-missing", 8, [5, 7])
    assert warning["text"] == "iterations 5 to 7 are in no log (next: launches/1-train/logs/001-7.log:5)"


def test_a_line_may_stand_for_several_iterations(tmp_path):
    made = place_of(tmp_path, 25)
    made.launch("1-train", 0, 25, environment={"LOG_INTERVAL": "10"})
    made.log("1-train", LOG, line(10, 25) + line(20, 25))
    found = made.observe()
    assert warned(found) == [] and found.logged  # of 21 to 25 no line will come
    assert [sum(each["samples"].values()) for each in kinds(found, "train")] == [80, 80]


def test_words_of_other_processes_in_the_lines(place):
    whole = line(2, 20)
    broken = whole.replace(" | lm loss=4.000000", " | lm lo[rank1]: NCCL WARN here\nss=4.000000")
    glued = line(4, 20).rstrip("\n") + line(5, 20)
    mixed = line(6, 20).replace("lm loss=4.000000 |", "lm loss=4.00[rank3]: oops 0000 |")
    coloured = line(7, 20).replace("iteration=", "\x1b[36miteration\x1b[0m=")
    place.log("1-train", LOG, line(1, 20) + broken + line(3, 20) + "0: " + glued + mixed + coloured)
    found = place.observe()
    assert [each["step"] for each in kinds(found, "train")] == [1, 3, 4, 5, 7]
    assert found.unread == ("launches/1-train/logs/001-7.log:2", "launches/1-train/logs/001-7.log:6")
    assert events(found, "nan-loss") == []  # a loss that is not there would be NaN
    assert warned(found).count("iterations-missing") == 2
    (unread,) = events(found, "unread-lines")
    assert unread["text"].startswith("2 lines look like training or validation and can't be read: launches/1-train")


def test_a_cut_last_line_is_told_and_is_no_nan(place):
    place.log("1-train", LOG, lines(1, 3) + line(4, 20)[:-150])
    found = place.observe()
    assert found.step == 3 and found.unread == () and warned(found) == []
    assert found.cut == ("launches/1-train/logs/001-7.log:4",)


@pytest.mark.parametrize("norm", [None, math.nan, math.inf, -1.0])
def test_a_norm_that_is_no_finite_number_is_left_out(place, norm):
    place.log("1-train", LOG, lines(1, 2) + line(3, 20, norm=norm))
    found = place.observe()
    assert [each.get("grad_norm") for each in kinds(found, "train")] == [0.5, 0.5, None]
    assert "NaN" not in (place.folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize("loss", [None, math.inf])
def test_a_loss_that_is_not_finite_among_finite_ones(place, loss):
    place.log("1-train", LOG, lines(1, 2) + line(3, 20, loss=loss) + lines(4, 5))
    found = place.observe()
    (event,) = events(found, "nan-loss")
    assert event["text"].startswith("the training loss is not a finite number at iteration 3 (launches/")
    assert event["text"].endswith("; later ones are") and found.verdict.outcome == "undecided"


def test_losses_that_stay_not_finite_are_the_end(place):
    place.log("1-train", LOG, lines(1, 2) + line(3, 20, loss=None))
    assert place.observe().verdict.outcome == "undecided"  # one may be its batch's fault
    place.log("1-train", LOG, lines(1, 2) + lines(3, 6, loss=None))
    found = place.observe()
    assert (found.verdict.outcome, found.finished, found.next.do) == ("diverged", True, "run")
    assert found.verdict.reasons[0].startswith(
        "the training loss is not a finite number at iteration 3 (launches/1-train"
    )
    assert found.verdict.reasons[0].endswith(", and no later one up to iteration 6 is")
    assert judge_metrics(read_metrics(place.folder / "metrics.jsonl")).outcome == "diverged"


def test_skipped_steps_of_a_loss_scale_and_the_rate_that_comes_late(tmp_path):
    warm = schedules.wsd(2e-4, 10 * TOKENS, 20 * TOKENS)
    made = place_of(tmp_path, 20, warm)
    made.launch("1-train", 0, 20)
    text = line(1, 20, lr=0.0, loss=None, skipped=1, scale=65536.0) + line(
        2, 20, lr=0.0, loss=None, skipped=1, scale=32768.0
    )
    made.log(
        "1-train", LOG, text + "".join(line(i, 20, lr=min(2e-4, 2e-5 * (i - 2)), scale=32768.0) for i in range(3, 21))
    )
    found = made.observe()
    assert warned(found) == [] and [each["samples"] for each in events(found, "skipped")] == [[0, 8], [8, 16]]
    assert events(found, "skipped")[0]["text"] == (
        "no update: iteration logged as skipped, loss scale 65536 (launches/1-train/logs/001-7.log:1)"
    )
    assert kinds(found, "train")[0]["lr"] == 0.0  # the line before says so, whatever the schedule would have
    assert "no update at 2 steps" in found.verdict.reasons[1]


def test_skipped_steps_whose_loss_was_nan_are_no_divergence(place):
    place.log("1-train", LOG, lines(1, 5) + lines(6, 7, loss=None, skipped=1, nans=1, scale=8.0))
    found = place.observe()
    assert found.verdict.outcome == "undecided" and len(events(found, "skipped")) == 2 and not events(found, "nan-loss")


def test_a_rate_that_is_rounded_in_the_last_digit_agrees(tmp_path):
    falling = schedules.cosine(2e-4, 0, 20 * TOKENS, 2e-6)
    made = place_of(tmp_path, 20, falling)
    made.launch("1-train", 0, 20)
    rates = [float(f"{falling.lr(i * TOKENS) * (1 + 3e-7):.6g}") for i in range(1, 21)]
    made.log("1-train", LOG, "".join(line(i, 20, lr=lr) for i, lr in enumerate(rates, start=1)))
    assert warned(made.observe()) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"batch": 16}, "global batch size 16, not 8"),
        ({"samples": 99}, "consumed samples 99, not 16"),
        ({"tokens": 7}, "consumed tokens 7, not 256"),
    ],
)
def test_a_position_that_is_not_the_launchs(place, more, words):
    place.log("1-train", LOG, line(1, 20) + line(2, 20, **more))
    (warning,) = place.observe().warnings
    assert (warning["event"], warning["step"]) == ("position-differs", 2)
    assert f"iteration 2 logs {words} (launches/1-train/logs/001-7.log:2)" in warning["text"]


def test_a_launch_of_another_length_and_lines_behind_its_end(place):
    place.log("1-train", LOG, "".join(line(i, 30) for i in range(1, 23)))
    first, second = place.observe().warnings
    assert "iterations in all 30, not 20" in first["text"] and second["places"] == [
        "launches/1-train/logs/001-7.log:21", "launches/1-train/logs/001-7.log:22",
    ]  # fmt: skip
    assert place.observe().step == 20


def test_weights_that_were_lost_on_the_way(place):
    place.log("1-train", LOG, lines(1, 12))
    place.log(
        "1-train", "002-8.log", "    will not load any checkpoints and will start from random\n" + lines(1, 2, loss=6.4)
    )
    found = place.observe()
    assert warned(found) == ["weights-not-loaded"] * 2 and found.next.do == "mend"
    assert found.next.command.startswith("keepwarm doctor ")


def test_a_resume_of_a_model_that_had_learned_nothing_yet_is_no_warning(place):
    place.log("1-train", LOG, lines(1, 4, loss=6.45))
    place.log("1-train", "002-8.log", lines(4, 5, loss=6.44))
    assert warned(place.observe()) == ["weights-not-loaded"]  # the first of the launch, and not again


def test_the_same_bytes_and_a_pure_function_of_files(place):
    place.log("1-train", LOG, lines(1, 14) + lines(11, 20))
    place.evaluated(10, d0=[4.0, 4.2], d1=[5.0, 5.1])
    place.start = base_manifest(d0=[4.0, 4.2], d1=[5.5, 5.6])
    path = place.folder / "metrics.jsonl"
    place.observe()
    first = path.read_bytes()
    path.write_text("another's words\n")
    place.observe()
    assert path.read_bytes() == first
    header, *records = read_metrics(path)
    assert header["backend"] == "megatron" and header["world_size"] == 2 and header["threads"] == 0
    assert [each["step"] for each in records] == sorted(each["step"] for each in records)
    assert [each["tokens"] for each in records] == [each["step"] * TOKENS for each in records]


def test_evaluations_make_the_full_verdict_and_the_manifest(place):
    place.start = base_manifest(d0=[4.0, 4.2], d1=[5.5, 5.6])
    place.log("1-train", LOG, lines(1, 20))
    save(place, 10)
    folder = save(place, 20)
    found = place.observe()
    assert (found.next.do, found.unevaluated, found.end) == ("evaluate", (10, 20), None)
    assert found.next.command.endswith("launches/1-train && qsub evaluate.sh")
    place.evaluated(10, d0=[4.1, 4.3], d1=[5.0, 5.1])
    place.evaluated(20, d0=[4.05, 4.25], d1=[4.5, 4.6])
    found = place.observe()
    assert found.verdict.outcome == "recovered" and found.verdict.old["d0"].forgetting == pytest.approx(0.05)
    assert (found.next.do, found.next.command) == ("run", "keepwarm run PLAN")
    evaluations = kinds(found, "eval")
    assert [(each["step"], each["full"], each["measured_by"]) for each in evaluations] == [
        (0, True, place.start.id), (10, True, None), (20, True, None),
    ]  # fmt: skip
    assert evaluations[2]["bits_per_byte"] == {"d0": None, "d1": pytest.approx(4.55 / math.log(2) * 0.25)}
    end = found.end
    assert end is not None and (end.step, end.samples, end.attempt_tokens, end.line_tokens) == (20, 160, 2560, 15_360)
    assert (end.lr, end.phase, end.phase_is, end.weights, end.location) == (
        2e-4, "peak", "measured", "megatron-deepspeed", str(folder),
    )  # fmt: skip
    assert end.evaluation["d1"] == {"loss": 4.55, "windows": [4.5, 4.6]} and end.parent is None
    ids = {source.name: source.id for source in place.attempt.sources}
    assert end.cursors == {ids["d1"]: 120, ids["d0"]: 40} and end.source_tokens[ids["d1"]] == 120 * LENGTH
    written = json.loads((place.run / end.id / "manifest.json").read_text())
    assert written["precision"] == "bf16" and place.observe().end == end
    before = read_manifest(place.run / end.id.replace(f"{end.line_tokens:015d}", f"{end.line_tokens - 1280:015d}"))
    assert (before.step, before.phase, before.optimizer_state, before.evaluation) == (10, "peak", True, {})
    assert before.cursors == {ids["d1"]: 60, ids["d0"]: 20}  # what a decay may begin from


def test_an_evaluation_on_the_way_stands_twice_where_the_attempt_has_a_part_of_the_windows_for_it(tmp_path):
    """The strategist follows the part that is measured natively, and corrects it by the whole."""
    place = place_of(tmp_path, 20)
    place.attempt = replace(place.attempt, evaluation=EvaluationPlan((10,), {"d0": 1, "d1": 1}))
    place.start = base_manifest(d0=[4.0, 4.2], d1=[5.5, 5.6])
    place.launch("1-train", 0, 20)
    place.log("1-train", LOG, lines(1, 12))
    save(place, 10)
    place.evaluated(10, d0=[4.1, 4.3], d1=[5.0, 5.1])
    found = [(each["step"], each["full"], each["windows"]["d0"]) for each in kinds(place.observe(), "eval")]
    assert found == [(0, True, [4.0, 4.2]), (10, False, [4.1]), (10, True, [4.1, 4.3])]


def test_without_references_there_is_no_verdict(place):
    place.log("1-train", LOG, lines(1, 20))
    save(place, 20)
    place.evaluated(20, d0=[4.05, 4.25], d1=[4.5, 4.6])
    found = place.observe()
    assert found.verdict.outcome == "undecided" and "d0, d1" in found.verdict.reasons[0] and found.end is not None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"lr": 1e-4}, "LR 0.0001, and the attempt's schedule has 0.0002 at its end"),
        ({"batch": 16}, "consumed samples 320, not 160; global batch size 16, not 8"),
    ],
)
def test_a_last_checkpoint_that_is_another_than_the_attempt_says(place, more, words):
    place.log("1-train", LOG, lines(1, 20))
    folder = save(place, 20, **more)
    place.evaluated(20, d0=[4.05, 4.25], d1=[4.5, 4.6])
    found = place.observe()
    (warning,) = found.warnings
    assert warning["event"] == "checkpoint-differs" and warning["text"] == f"{folder}: {words}"
    assert found.end is None and found.next.do == "mend" and not (place.folder / "checkpoints").exists()


def test_a_step_that_is_still_being_saved_is_not_measured(place):
    save(place, 10)
    save(place, 20)
    (place.folder / "checkpoints-megatron/latest").write_text("global_step10")
    place.log("1-train", LOG, lines(1, 20))
    found = place.observe()
    assert found.unevaluated == (10,) and found.next.do == "resubmit" and "not saved" in found.next.why


def test_a_held_out_loss_that_is_not_finite_diverged(place):
    place.start = base_manifest(d0=[4.0, 4.2], d1=[5.5, 5.6])
    place.log("1-train", LOG, lines(1, 12))
    place.evaluated(10, d0=[None, 4.2], d1=[5.5, 5.6])
    found = place.observe()
    assert found.verdict.outcome == "diverged" and "a held-out loss" in found.verdict.reasons[0]


def test_nothing_is_written_once_there_is_a_verdict(place):
    place.log("1-train", LOG, lines(1, 12))
    place.observe()
    path = place.folder / "metrics.jsonl"
    with open(path, "a") as file:
        file.write('{"kind":"event","step":12,"tokens":1536,"event":"control","gain":1.0,"text":"of an arm"}\n')
    before = path.read_bytes()
    write_verdict(place.folder, {"outcome": "not-recovering", "accepted": False, "label": "x"})
    place.log("1-train", "002-8.log", lines(13, 20))
    found = place.observe()
    assert path.read_bytes() == before and events(found, "control")


def test_next_commands_before_and_while_it_runs(place):
    found = place.observe()
    assert (found.next.do, found.next.why) == ("submit", "1-train has no log yet")
    assert found.next.command == f"cd {place.folder}/launches/1-train && qsub job.sh"
    (place.folder / "launches/1-train/submitted.json").write_text('{"job_id": "77.host"}')
    assert "was submitted as 77.host" in place.observe().next.why
    place.log("1-train", LOG, lines(1, 7))
    found = place.observe()
    assert (found.next.do, found.logged) == ("resubmit", False) and "7 of 20 iterations" in found.next.why


def test_named_logs_find_their_launch(tmp_path):
    made = place_of(tmp_path, 20)
    made.launch("1-decay", 0, 14, train_iterations=14)
    made.launch("2-introduce", 14, 20, begins="resume")
    one, two, empty = tmp_path / "one.log", tmp_path / "two.log", tmp_path / "empty.log"
    one.write_text("".join(line(i, 14) for i in range(1, 15)))
    two.write_text(lines(15, 20))
    empty.write_text("nothing yet\n")
    found = made.observe(two, one, empty)
    assert found.step == 20 and warned(found) == [] and found.launches[1].jobs == (str(two),)


def test_refusals(tmp_path, place):
    other = tmp_path / "other.log"
    other.write_text("".join(line(i, 400) for i in range(300, 310)))
    with pytest.raises(
        DataError, match=r"other\.log: iterations 300 to 309; the launches of this attempt train 1-train 1 to 20"
    ):
        place.observe(other)
    with pytest.raises(DataError, match=r"gone\.log: no such file or directory"):
        place.observe(tmp_path / "gone.log")
    bare = place_of(tmp_path / "bare", 20)
    with pytest.raises(
        KeepwarmError, match=r"was not launched yet\n.*\n.*keepwarm launch PLAN --stage stage2 --rung 00-replay"
    ):
        bare.observe()
    bare.launch("1-train", 0, 20, attempt="another")
    with pytest.raises(LineageError, match="1-train: is a launch of another attempt"):
        bare.observe()


def test_evaluations_that_can_not_be_used(place):
    place.log("1-train", LOG, lines(1, 12))
    place.evaluated(10, d0=[4.0], d1=[5.0])
    path = place.folder / "evaluations/iteration-000000010.json"
    content = json.loads(path.read_text())
    for change, words in (
        ({"holdout": {"d0": "x", "d1": "id-d1"}}, r"is of other held-out windows \(d0\)"),
        ({"iteration": 11}, "it says that it is of iteration 11"), ({"format": 2}, "this keepwarm reads format 1"),
    ):  # fmt: skip
        path.write_text(json.dumps(content | change))
        with pytest.raises(LineageError, match=words):
            place.observe()
    path.write_text("{")
    with pytest.raises(LineageError, match="can't be read"):
        place.observe()
