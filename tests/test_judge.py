"""`keepwarm judge` end to end: metrics of a real run in every state, real logs of the reference stack, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from keepwarm.cli.main import main

LOGS = Path(__file__).parent / "golden" / "logs"
STOPPED, ACCEPTED = "00-naive", "01-replay"


@pytest.fixture
def place(searched, tmp_path, monkeypatch) -> Path:
    """The current folder of the test's own, with the metrics of both attempts and copies of the logs."""
    for attempt in (STOPPED, ACCEPTED):
        shutil.copy(searched / f"run/arms/cookbook/stage2/{attempt}/metrics.jsonl", tmp_path / f"{attempt}.jsonl")
    for log in LOGS.glob("*.log"):
        shutil.copy(log, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def judge(place, capsys):
    """Judge, and check that nothing was written; gives exit code, what was printed, and what was said of errors."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in place.rglob("*") if path.is_file()}
        code = main(["judge", *words])
        after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in place.rglob("*") if path.is_file()}
        assert after == before
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def as_json(judge):
    """The same as a dict."""

    def call(*words: str) -> dict:
        code, out, _ = judge(*words, "--json")
        assert code == 0
        return json.loads(out)

    return call


@pytest.fixture
def verdict_of(searched):
    """The recorded verdict of an attempt."""
    return lambda attempt: json.loads((searched / f"run/arms/cookbook/stage2/{attempt}/verdict.json").read_text())


def cut(place: Path, lines: int, rest: int = 0) -> Path:
    """The first lines of the accepted attempt's metrics, and so many bytes of the next."""
    whole = (place / f"{ACCEPTED}.jsonl").read_bytes().splitlines(keepends=True)
    (place / "cut.jsonl").write_bytes(b"".join(whole[:lines]) + whole[lines][:rest])
    return place / "cut.jsonl"


def lines_until(place: Path, step: int) -> int:
    """How many lines there are once the evaluation of a step is written."""
    records = [json.loads(line) for line in (place / f"{ACCEPTED}.jsonl").read_text().splitlines()]
    return next(n for n, r in enumerate(records, 1) if r["kind"] == "eval" and r["step"] == step and not r["full"])


# Metrics.


@pytest.mark.parametrize("attempt", [STOPPED, ACCEPTED])
def test_metrics_alone_give_the_recorded_verdict(as_json, verdict_of, attempt):
    found, recorded = as_json(f"{attempt}.jsonl"), verdict_of(attempt)
    assert found["outcome"] == recorded["outcome"] == {STOPPED: "not-recovering", ACCEPTED: "recovered"}[attempt]
    assert found["reasons"] == recorded["reasons"]
    assert (found["trouble"], found["helps"]) == (recorded["trouble"], recorded["helps"])
    for role in ("old", "new"):
        for name, corpus in recorded[role].items():
            assert found["corpora"][name] == {"role": role, **corpus}


def test_a_finished_attempt_in_words(judge, as_json):
    code, out, err = judge(f"{ACCEPTED}.jsonl")
    found = as_json(f"{ACCEPTED}.jsonl")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[:4] == [
        f"{ACCEPTED}.jsonl: 40 training and 21 validation points", "verdict: recovered",
        *(f"  {reason}" for reason in found["reasons"]),
    ]  # fmt: skip
    assert lines[4] == "on the way:" and len(lines) == 5 + len(found["said"])
    for line, each in zip(lines[5:], found["said"], strict=True):
        assert line.strip().startswith(f"step {each['step']} (") and line.endswith(each["text"])
        assert f"{each['outcome']} ({each['sure']})" in line
    assert all(one["step"] < other["step"] for one, other in zip(found["said"], found["said"][1:], strict=False))


def test_an_attempt_that_was_stopped_early_in_words(judge, as_json):
    code, out, _ = judge(f"{STOPPED}.jsonl")
    found = as_json(f"{STOPPED}.jsonl")
    assert code == 0 and "\nverdict: not-recovering\n  stopped early: d0 has forgotten +0." in out
    assert f"\ntrouble: forgetting\n  helps: {found['helps']}\n" in out
    assert found["corpora"]["d0"]["forecast"] > found["corpora"]["d0"]["tolerance"] == 0.02
    assert found["said"][-1]["sure"] == "clear"


def test_cut_off_in_the_middle_of_a_line_it_is_how_it_stands(judge, as_json, place):
    """What was decided at that evaluation while it was trained, word for word; the cut line is told."""
    step = 30
    number = lines_until(place, step)
    cut(place, number, rest=17)
    code, out, _ = judge("cut.jsonl")
    found = as_json("cut.jsonl")
    assert code == 0 and out.startswith(f"cut.jsonl: {step} training and 16 validation points, 1 line not read\n")
    assert found["reasons"][0] == f"still training, step {step} of 40" and found["unparsed_lines"] == 1
    records = [json.loads(line) for line in (place / f"{ACCEPTED}.jsonl").read_text().splitlines()]
    then = next(r for r in records if r.get("event") == "decision" and r["step"] == step)
    assert (found["outcome"], found["corpora"].keys()) == (then["outcome"], then["corpora"].keys())
    assert f"{found['outcome']} ({then['sure']}): {found['reasons'][1]}" == f"{then['text']} ({then['sure']})"
    for name, numbers in then["corpora"].items():
        assert found["corpora"][name] == {"role": "old" if name == "d0" else "new", **numbers}


def test_what_is_said_on_the_way_does_not_depend_on_what_came_after(as_json, place):
    whole = as_json(f"{ACCEPTED}.jsonl")["said"]
    cut(place, lines_until(place, 30))
    assert as_json("cut.jsonl")["said"] == [each for each in whole if each["step"] <= 30] != []


def test_at_its_very_beginning_nothing_is_decided(judge, place):
    cut(place, 1)
    assert judge("cut.jsonl") == (
        0,
        "cut.jsonl: 0 training and 0 validation points\nverdict: undecided\n  still training, step 0 of 40\n"
        "  too few evaluations since the data switched\n",
        "",
    )


def test_a_base_has_nothing_to_forget(as_json, searched):
    found = as_json(str(searched / "run/arms/cookbook/base/00-base/metrics.jsonl"))
    assert (found["outcome"], found["corpora"], found["trouble"]) == ("recovered", {}, None)


# Logs of the reference stack.


def test_one_log_alone(judge):
    code, out, err = judge("baseB.log")
    assert (code, err) == (0, "")
    assert out == (
        "baseB.log: 20 training and 5 validation points\nverdict: undecided\n  one blended validation loss means "
        "something else after every change of the mix: from it alone nothing but diverged can be decided; give each "
        "corpus's own: --validation CORPUS=LOG\n"
    )


def test_a_log_with_a_validation_log_for_each_corpus(judge):
    """4.845020 at iteration 5 to 4.792433 at 20, and 4.806597 to 4.749235: by hand from the logs."""
    words = (
        "finetuneB.log",
        "--validation",
        "d0=baseB.log",
        "d1=finetuneB.log",
        "--new",
        "d1",
        "--tolerance",
        "0.01 nats",
    )
    code, out, err = judge(*words)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "finetuneB.log: 20 training and 10 validation points",
        "verdict: recovered",
        "  d0 has forgotten -0.053 nats (at its end), forecast at the end -0.053 +- 0.003, tolerance 0.010 (clear)",
        "  d1 gained +0.057 nats of the 0.006 needed by now (more than noise (no control)), forecast at the end +0.057 +- 0.003",
        "on the way:",
        "  step 20  recovered (clear)  d0 has forgotten -0.053 nats (at its end), forecast at the end -0.053 +- 0.003, "
        "tolerance 0.010",
        "assumed:",
        "  the data switched at iteration 0, before the first one of finetuneB.log",
        "  d0: its first loss, at iteration 5, stands for the one before the switch",
        "  d0: too few losses before the switch to tell its noise, taken as 0.003 nats",
        "  d1: its first loss, at iteration 5, stands for the one before the switch",
        "  d1: too few losses before the switch to tell its noise, taken as 0.003 nats",
        "  the learning rate is the same before the switch and at the end",
    ]


def test_a_log_that_resumes_takes_its_reference_from_before_it(as_json):
    """The log begins at iteration 11: the loss at 10 is the reference."""
    found = as_json("resumeA_tag10.log", "--validation", "d0=baseB.log")
    assert found["corpora"]["d0"]["forgetting"] == pytest.approx(4.792433 - 4.805429, abs=1e-4)
    assert found["corpora"]["d0"]["tolerance"] == pytest.approx(0.05 * 4.805429, abs=1e-4)
    assert found["assumed"][0] == "the data switched at iteration 10, before the first one of resumeA_tag10.log"
    strict = as_json("resumeA_tag10.log", "--validation", "d0=baseB.log", "--switch", "15", "--tolerance", "0%")
    assert strict["corpora"]["d0"]["forgetting"] == pytest.approx(4.792433 - 4.807949, abs=1e-4)
    assert strict["corpora"]["d0"]["tolerance"] == 0 and "switched" not in str(strict["assumed"])


def test_json_and_words_are_the_same_verdict(judge, as_json):
    words = ("finetuneB.log", "--validation", "d0=baseB.log", "d1=finetuneB.log", "--new", "d1")
    found, (_, out, _) = as_json(*words), judge(*words)
    assert list(found) == [
        "outcome", "reasons", "training_points", "validation_points", "unparsed_lines", "corpora", "trouble", "helps",
        "said", "assumed",
    ]  # fmt: skip
    lines = [line.strip() for line in out.splitlines()]
    assert f"verdict: {found['outcome']}" in lines
    assert {*found["reasons"], *found["assumed"]} <= set(lines)


def test_a_loss_that_breaks_is_diverged(judge, place):
    text = (place / "baseB.log").read_text()
    head, last = text[: text.index("iteration=      18/")], text[text.index("iteration=      18/") :]
    kept = [part for part in last.split(" | ") if not part.startswith("lm loss=")]
    (place / "nan.log").write_text(head + " | ".join(kept))
    code, out, _ = judge("nan.log")
    assert code == 0 and "\nverdict: diverged\n  the training loss is not a finite number at iteration 18 (line " in out
    assert "\ntrouble: broken optimisation\n  helps: half the learning rate" in out


# Refusals.

METRICS, OPTIONS = f"{ACCEPTED}.jsonl", "--validation d0=baseB.log"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("gone.jsonl", "gone.jsonl: no such file or directory"),
        (".", ".: a folder"),
        ("empty", "empty: neither a metrics.jsonl of keepwarm nor a log of Megatron-DeepSpeed"),
        ("text", "text: neither a metrics.jsonl of keepwarm nor a log of Megatron-DeepSpeed"),
        ("damaged.jsonl", "damaged.jsonl:21: not a metrics record (Unterminated string starting at: line 1 column 10"),
        ("other.jsonl", "other.jsonl:1: not a metrics record ('kind')"),
        ("number.jsonl", "number.jsonl:1: not a metrics record (its kind is not a word)"),
        ("headless.jsonl", "headless.jsonl: no header record"),
        ("half.jsonl", "half.jsonl: no header record"),
        ("foreign.jsonl", "foreign.jsonl: 'switch_step' is missing in a record"),
        (f"{METRICS} {OPTIONS}", f"{METRICS}: metrics, with --validation\n"),
        (f"{METRICS} --new d1 --switch 0", f"{METRICS}: metrics, with --new, --switch\n"),
        (f"{METRICS} --tolerance 5%", f"{METRICS}: metrics, with --tolerance\n"),
        ("baseB.log --new d1", "baseB.log: a log, with --new and no corpus's validation"),
        ("baseB.log --tolerance 5%", "baseB.log: a log, with --tolerance and no corpus's validation"),
        (f"baseB.log {OPTIONS} --tolerance much", "--tolerance much: not a tolerance"),
        (f"baseB.log {OPTIONS} --new d2", "--new d2: no validation log of it is given"),
        (f"baseB.log {OPTIONS} --switch 20", "--switch 20: baseB.log ends at iteration 20"),
        ("baseB.log --validation baseB.log", "--validation baseB.log: not CORPUS=LOG"),
        ("baseB.log --validation =baseB.log", "--validation =baseB.log: not CORPUS=LOG"),
        ("baseB.log --validation d0=", "--validation d0=: not CORPUS=LOG"),
        (f"baseB.log {OPTIONS} {OPTIONS}", "--validation d0=baseB.log: d0 is given twice"),
        ("baseB.log --validation d0=gone.log", "gone.log: no such file or directory"),
        ("baseB.log --validation d0=.", ".: is a directory"),
        ("baseB.log --validation d0=training", "training: no validation line"),
        ("baseB.log --validation d0=rung_cont_univ.log", "rung_cont_univ.log: validation losses of d0 up to iteration 0: 0, behind it: 1"),
        ("validation --validation d0=baseB.log", "validation: no training line"),
        ("baseB.log --switch x", "Invalid value"),
    ],
)  # fmt: skip
def test_refusals(judge, place, words, what):
    whole = (place / METRICS).read_text().splitlines()
    console = (place / "baseB.log").read_text().splitlines(keepends=True)
    made = {
        "empty": "", "text": "once upon a time\n", "other.jsonl": '{"loss": 1}\n', "number.jsonl": '{"kind": 5}\n',
        "headless.jsonl": "\n".join(whole[1:]) + "\n", "half.jsonl": '{"kind": "hea', "foreign.jsonl": '{"kind": "header"}\n',
        "damaged.jsonl": "\n".join([*whole[:20], '{"kind": "eva', *whole[20:]]) + "\n",
        "training": "".join(line for line in console if " iteration=" in line),
        "validation": "".join(line for line in console if "validation loss at" in line),
    }  # fmt: skip
    for name, text in made.items():
        (place / name).write_text(text)
    code, out, err = judge(*words.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {what}") and "\n  why: " in err and "\n  fix: " in err
