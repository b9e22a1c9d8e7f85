"""A log of the reference stack as points: every style, odd values, restarts, what can't be read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from keepwarm.errors import DataError
from keepwarm.lineage.log_points import read_points

LOGS = Path(__file__).parents[1] / "golden" / "logs"
GENERATED = {each["case"]: each["line"] for each in json.loads((LOGS / "generated.json").read_text())}


@pytest.fixture
def points(tmp_path):
    """Read lines as a log."""

    def read(*lines: str):
        path = tmp_path / "x.log"
        path.write_text("".join(f"{line}\n" for line in lines))
        return read_points(path)

    return read


def losses(found):
    return [(each.iteration, each.drawn, each.loss) for each in found.validation]


def test_a_real_console():
    found = read_points(LOGS / "baseB.log")
    assert [line.iteration for line in found.training] == list(range(1, 21))
    assert (found.training[-1].iterations, found.training[-1].tokens, found.training[-1].samples) == (20, 2560, 160)
    assert losses(found) == [
        (5, "", 4.84502), (10, "", 4.805429), (15, "", 4.807949), (20, "", 4.79292),
        (20, "8-sample draw from validation set", 4.792433),
    ]  # fmt: skip
    assert (found.restarts, found.unparsed_lines, found.path) == (0, 0, LOGS / "baseB.log")


def test_a_restart_repeats_iterations_and_the_last_time_counts(tmp_path):
    again = (LOGS / "resumeA_tag10.log").read_text().replace("lm loss value=4.807949", "lm loss value=4.700000")
    (tmp_path / "x.log").write_text((LOGS / "baseB.log").read_text() + again)
    found = read_points(tmp_path / "x.log")
    assert found.restarts == 1 and [line.iteration for line in found.training] == list(range(1, 21))
    assert [int(line.place.rpartition(":")[2]) > 98 for line in found.training] == [False] * 10 + [True] * 10
    assert [loss for iteration, _, loss in losses(found) if iteration == 15] == [4.7]


def test_lines_of_three_styles_and_of_other_trainers():
    found = read_points(LOGS / "samples.txt")
    assert losses(found) == [(137650, "122880-sample draw from validation set", 2.69778)]
    by_iteration = {line.iteration: line for line in found.training}
    assert by_iteration[199].loss == 5.905366 and by_iteration[136004].loss == 12.316531
    assert by_iteration[199].tokens == 625_999_872 and by_iteration[3383].tokens is None
    assert 327281 not in by_iteration  # nanotron's


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("val normal", (137650, "", 2.69778)),
        ("val inf", (300, "", math.inf)),
        ("val >20", (400, "", 25.0)),
        ("val two losses", (500, "", 2.5)),
        ("[old style] validation 2.69778", (100, "", 2.69778)),
    ],
)
def test_validation_lines_that_the_reference_printed(points, case, expected):
    found = points(GENERATED[case])
    assert losses(found) == [expected] and found.unparsed_lines == 0


@pytest.mark.parametrize(("case", "iteration"), [("val nan", 200), ("[old style] validation nan", 100)])
def test_a_loss_that_is_not_a_number_is_a_point(points, case, iteration):
    ((found, _, loss),) = losses(points(GENERATED[case]))
    assert found == iteration and math.isnan(loss)


@pytest.mark.parametrize(
    ("case", "loss", "skipped", "nans"),
    [
        ("normal", 2.69441, 0, 0),
        ("nan loss, step applied", None, 0, 0),
        ("inf loss, step applied", math.inf, 0, 0),
        ("skipped, finite loss", None, 1, 0),
        ("skipped, nan loss", None, 1, 1),
        ("zero loss", None, 0, 0),
        ("[old style] inf", math.inf, 0, 0),
        ("[old style 1280f59c 2024-08-28] normal", 2.69, 0, 0),
        ("big iteration >8 digits", 2.5, 0, 0),
        ("huge loss", 1.23e9, 0, 0),
    ],
)
def test_training_lines_that_the_reference_printed(points, case, loss, skipped, nans):
    (line,) = points(GENERATED[case]).training
    assert (line.loss, line.skipped, line.nans, line.iterations) == (loss, skipped, nans, 13987)


def test_the_test_after_training_is_no_point_and_no_line_that_should_be_one(points):
    found = points(GENERATED["val normal"], GENERATED["test at end"])
    assert len(found.validation) == 1 and found.unparsed_lines == 0


@pytest.mark.parametrize(
    "line",
    [
        " validation loss at iteration 25 | lm lo",
        " validation loss at iteration 25 | lm loss value=",
        " validation loss at iteration 25 | lm loss value=.",
        " iteration=      25/   13987",
    ],
)
def test_a_line_that_begins_like_a_point_and_is_cut_is_counted(points, line):
    found = points(GENERATED["val normal"], line, "iteration is a word", "loss at iteration 3")
    assert (len(found.validation), len(found.training), found.unparsed_lines) == (1, 0, 1)


def test_bytes_that_are_no_text_are_passed_over(tmp_path):
    (tmp_path / "x.log").write_bytes(b"\xff\xfe\x00\n" + GENERATED["val normal"].encode() + b"\n")
    assert losses(read_points(tmp_path / "x.log")) == [(137650, "", 2.69778)]


def test_refusals(tmp_path):
    with pytest.raises(DataError, match=r"gone\.log: no such file or directory\n.*there is nothing to read"):
        read_points(tmp_path / "gone.log")
    with pytest.raises(DataError, match="is a directory"):
        read_points(tmp_path)
    (tmp_path / "x.log").write_text("starting\ndone\n")
    with pytest.raises(
        DataError, match=r"x\.log: neither a metrics\.jsonl of keepwarm nor a log of Megatron-DeepSpeed"
    ):
        read_points(tmp_path / "x.log")
