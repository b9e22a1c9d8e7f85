"""`keepwarm lr` from end to end: sources, outputs, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from keepwarm.cli.main import main

GOLDEN = Path(__file__).parents[1] / "golden" / "lr"
CASES = {case["name"]: case for case in json.loads((GOLDEN / "cases.json").read_text())["cases"]}
SIZES = "--global-batch-size 8 --seq-length 16"
INFINITE = (
    "--lr 2e-4 --lr-warmup-fraction 0.01 --lr-decay-style infinite-cosine --min-lr 2e-6 --constant-lr 1e-4 "
    f"--lr-cooldown-fraction 0.3 --lr-constant-fraction 0.4 --train-iters 2000 {SIZES}"
)
WSD = "wsd lr_max=2e-4 tokens=256k warmup=1% cooldown=10% global_batch_size=8 sequence_length=16"


def test_flags_as_csv_are_the_recorded_rows(capsys):
    name = "infinite-cosine_T2000_cd0.3_c0.4_constlr1e-4_min2e-6"
    assert main(["lr", "--megatron", INFINITE, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["step", "lr", "phase"] and [int(row["step"]) for row in rows] == list(range(2001))
    with open(GOLDEN / f"{name}.csv", newline="") as file:
        for each in csv.DictReader(file):
            assert float(rows[int(each["iteration"])]["lr"]) == pytest.approx(float(each["lr"]), rel=1e-12, abs=0)
    assert (rows[620]["phase"], rows[620]["lr"]) == ("peak", "0.0001")


def test_flags_as_json_with_findings_beyond_the_end(capsys):
    assert main(["lr", "--megatron", f"{INFINITE} --bf16 --timescale 100", "--json", "--steps", "1999:2005:3"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert [row["step"] for row in found["rows"]] == [1999, 2002, 2005] and found["rows"][2]["lr"] == 2e-6
    assert list(found["rows"][0]) == ["step", "lr", "phase"]
    assert [each["kind"] for each in found["findings"]] == ["ignored", "warmup-from-0"]
    assert set(found["findings"][0]) == {"kind", "what", "why", "fix", "step"}
    assert found["not_about_lr"] == ["--bf16"]
    assert "warning: --timescale 100 has no effect\n  why: " in said.err
    assert "not about the learning rate: --bf16" in said.err


def test_a_resume_starts_where_the_state_stands(tmp_path, capsys):
    case = CASES["resume_longer_usecheckpoint"]
    (tmp_path / "state.json").write_text(json.dumps(case["resumed_from_state_dict"]))
    flags = f"{' '.join(case['flags'])} --train-iters 3000 {SIZES}"
    assert main(["lr", "--megatron", flags, "--state", str(tmp_path / "state.json"), "--csv"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1] == "800,0.00013337972836842478,decaying" and len(said.out.splitlines()) == 2202
    assert "--train-iters does not move the decay's end on this resume: given 24000 samples, used 16000" in said.err


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.get("error")])
def test_every_recorded_error_ends_in_three_lines(name, tmp_path, capsys):
    case, arguments = CASES[name], []
    if "resumed_from_state_dict" in case:
        (tmp_path / "state.json").write_text(json.dumps(case["resumed_from_state_dict"]))
        arguments = ["--state", str(tmp_path / "state.json")]
    extra = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in case["extra"].items() if key[0] != "_")
    assert main(["lr", "--megatron", f"{' '.join(case['flags'])} {extra} {SIZES}", *arguments, "--csv"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and re.fullmatch(r"error: .+\n  why: .+\n  fix: .+\n", said.err)
    assert f"optimizer_param_scheduler.py:{case['error']['line']}" in said.err


def test_a_curve_for_people(capsys):
    assert main(["lr", "--megatron", INFINITE]) == 0
    said = capsys.readouterr().out
    assert "2e-4┤" in said and "1,000" in said
    table = [line.split() for line in said.splitlines() if re.match(r" *[0-9,]+ +\S+  [a-z]+$", line)]
    assert ["0", "0", "warming"] in table and ["2,000", "2e-06", "cooled"] in table
    assert ["620", "0.0001", "peak"] in table  # where the phase changes, between the thinned rows


def test_a_schedule_in_words(capsys):
    assert main(["lr", "--schedule", WSD, "--json", "--steps", "0:2000:1000"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"step": 0, "lr": 0.0, "phase": "warming"},
        {"step": 1000, "lr": 2e-4, "phase": "peak"},
        {"step": 2000, "lr": 0.0, "phase": "cooled"},
    ]
    assert main(["lr", "--schedule", WSD, "--steps", "0:2001"]) == 2
    assert "with 0 <= A <= B <= 2000" in capsys.readouterr().err


def test_a_schedule_as_flags_and_back(capsys):
    assert main(["lr", "--schedule", WSD, "--to-megatron"]) == 0
    flags = capsys.readouterr().out.strip()
    assert main(["lr", "--schedule", WSD, "--csv"]) == 0
    ours = capsys.readouterr().out.splitlines()
    assert main(["lr", "--megatron", flags, "--csv"]) == 0
    theirs = capsys.readouterr().out.splitlines()
    assert len(ours) == len(theirs) == 2002 and ours[0] == theirs[0]
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        (step, lr, phase), (step_there, lr_there, phase_there) = one.split(","), other.split(",")
        assert (step, phase) == (step_there, phase_there)
        assert float(lr) == pytest.approx(float(lr_there), rel=1e-9, abs=1e-18)


def test_what_flags_cannot_say(capsys):
    assert main(["lr", "--schedule", f"{WSD} cooldown_shape=linear", "--to-megatron"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "never by linear" in said.err and "% of the highest LR, at step " in said.err


def test_a_plan_as_flags_leg_by_leg(plan_text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text(plan_text)
    assert main(["lr", "plan.yaml", "--to-megatron"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == ["base", "stage2", "stage3", "stage4", "cooldown"]
    assert (
        lines[0][1] == "--lr 0.003 --lr-decay-style constant --lr-warmup-iters 2 --train-iters 40 --global-batch-size 8"
    )
    assert lines[1][1] == "--lr 0.003 --lr-decay-style constant --train-iters 20 --global-batch-size 8"
    assert "--train-iters 24" in lines[4][1] and lines[4][1].endswith("--override-opt_param-scheduler")
    Path("plan.yaml").write_text(plan_text.replace("cooldown_shape: 1-sqrt", "cooldown_shape: linear"))
    assert main(["lr", "plan.yaml", "--to-megatron"]) == 0  # a linear fall over a whole run is one of its styles
    assert "--lr-decay-style linear" in capsys.readouterr().out


def test_a_page_that_opens_from_disk(tmp_path, capsys):
    page = tmp_path / "lr.html"
    flags = f"{INFINITE} --timescale 100"
    assert main(["lr", "--megatron", flags, "--html", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert "<svg" in text and "default-src 'none'" in text and not re.search(r"(src|href)=.?http", text)
    assert "1. --timescale 100 has no effect" in text and "--lr-constant-fraction 0.4" in text
    assert "<td class=n>620</td><td class=n>0.0001</td><td>peak</td>" in text
    assert main(["lr", "--schedule", WSD, "--html", str(page)]) == 0  # a page of this kind may be replaced
    assert "Not as it seems" not in page.read_text()
    other = tmp_path / "notes.html"
    other.write_text("mine")
    capsys.readouterr()
    assert main(["lr", "--schedule", WSD, "--html", str(other)]) == 2
    assert "is no page of a learning rate" in capsys.readouterr().err and other.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "neither PLAN nor --schedule nor --megatron"),
        (["--schedule", WSD, "--megatron", INFINITE], "--schedule and --megatron together"),
        (["plan.yaml", "--schedule", WSD], "PLAN and --schedule together"),
        (["--schedule", WSD, "--csv", "--json"], "--csv and --json together"),
        (["--schedule", WSD, "--state", "state.json"], "--state with --schedule"),
        (["--schedule", WSD, "--set", "seed=2"], "--set with --schedule"),
        (["--megatron", INFINITE, "--to-megatron"], "--to-megatron with --megatron"),
        (["--schedule", WSD, "--steps", "0:3", "--html", "x.html"], "--steps with --schedule --html"),
        (["--megatron", INFINITE, "--state", "nowhere.json"], "--state nowhere.json: No such file"),
        (["--megatron", "--lr '2e-4"], "--megatron: No closing quotation"),
        (["--megatron", INFINITE, "--steps", "5:3"], "--steps 5:3: not A:B or A:B:C with 0 <= A <= B"),
        (["--megatron", INFINITE, "--steps", f"0:{10**20}"], "with 0 <= A <= B <= 10000000000"),
    ],
)
def test_what_is_refused(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lr", *arguments]) == 2
    found = capsys.readouterr()
    assert said in found.err and found.out == "" and list(tmp_path.iterdir()) == []


def test_a_state_that_is_no_state(tmp_path, capsys):
    path = tmp_path / "state.json"
    for text, said in (
        ("[1]", "holds a list, not an object"),
        ("{", "Expecting property name"),
        ("{}", "has no max_lr"),
    ):
        path.write_text(text)
        assert main(["lr", "--megatron", INFINITE, "--state", str(path)]) == 2
        assert said in capsys.readouterr().err


def test_a_folder_without_a_checkpoint(tmp_path, capsys):
    assert main(["lr", "--megatron", INFINITE, "--state", str(tmp_path)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


def test_more_rows_than_are_made_at_a_time(capsys):
    flags = f"--lr 2e-4 --lr-decay-style linear --train-iters 25000 {SIZES}"
    assert main(["lr", "--megatron", flags, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert main(["lr", "--megatron", flags, "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [row["step"] for row in rows] == list(range(25001)) == [int(line.split(",")[0]) for line in lines]
    assert [repr(row["lr"]) for row in rows] == [line.split(",")[1] for line in lines]


LEGACY = ("base: {corpus: d0", "cookbook: legacy-agpt-7b\nbase: {corpus: d0")
COSINE = ("kind: wsd, warmup: 5%,", "kind: cosine, warmup: 5%,")


@pytest.mark.parametrize(
    ("changes", "stage2", "legs"),
    [
        ((COSINE, LEGACY), {40: (0.0, "warming"), 41: (3e-3, "peak"), 60: (0.0, "warming"), 100: (0.0, "cooled")}, 4),
        ((COSINE, ("rung: replay, shares: [5%, 25%]", "rung: incremental, schedule: decay")), {40: (0.0, "warming")}, 5),
        ((("rung: replay, shares: [5%, 25%]", "rung: replay-rewarm, lr: [lr_max/2]"),),
         {40: (0.0, "warming"), 41: (1.5e-3, "peak"), 60: (1.5e-3, "peak"), 104: (0.0, "cooled")}, 5),
        ((("kind: wsd, warmup: 5%,", "kind: infinite-cosine, warmup: 5%, decay: 30%, constant_lr: lr_max/2,"),),
         {40: (1.5e-3, "peak"), 104: (0.0, "cooled")}, 5),
    ],
)  # fmt: skip
def test_stages_go_as_the_first_rung_that_may_start(changes, stage2, legs, plan_text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for old, new in changes:
        assert old in plan_text
        plan_text = plan_text.replace(old, new)
    if LEGACY in changes:
        plan_text = re.sub(r", ladder: .*\]\}", "}", plan_text)
    Path("plan.yaml").write_text(plan_text)
    assert main(["lr", "plan.yaml", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {step: (rows[step]["lr"], rows[step]["phase"]) for step in stage2} == stage2
    assert len({row.get("stage") for row in rows}) == legs
    assert main(["lr", "plan.yaml", "--to-megatron"]) == 0
    at = 0
    for line in capsys.readouterr().out.splitlines()[:4]:
        assert main(["lr", "--megatron", line.split(maxsplit=1)[1], "--json"]) == 0
        said = json.loads(capsys.readouterr().out)["rows"][:-1]
        assert [(row["lr"], row["phase"]) for row in said] == [
            (pytest.approx(row["lr"], rel=1e-9, abs=1e-18), row["phase"]) for row in rows[at : at + len(said)]
        ]
        at += len(said)


def test_a_plan_with_a_growing_batch_as_flags(plan_text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ramp = "tokens: 10_240, batch_ramp: {start: 2, increment: 2, tokens: 2k}}"
    Path("plan.yaml").write_text(plan_text.replace("tokens: 10_240}", ramp))
    assert main(["lr", "plan.yaml", "--to-megatron"]) == 0
    flags = capsys.readouterr().out.splitlines()[0].split(maxsplit=1)[1]
    assert flags.endswith("--train-samples 322 --global-batch-size 8 --rampup-batch-size 2 2 63")
    assert main(["lr", "--megatron", flags, "--csv"]) == 0
    theirs = capsys.readouterr().out.splitlines()
    assert main(["lr", "plan.yaml", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[: len(theirs)] == theirs
