"""`keepwarm forecast`: pilots off the line, their table, and what became of it. Real text, a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from keepwarm.attempt.choices import read_choices
from keepwarm.attempt.pilot import thinned
from keepwarm.cli.main import main
from keepwarm.corpora.source import Source, WindowReader

STAGE2 = "{name: stage2, new: d1, tokens: 5_120, ladder: [{rung: replay, shares: [5%, 25%]}]}"
LONG = "{name: stage2, new: d1, tokens: 25_600, ladder: [{rung: replay, shares: [25%]}]}"


@pytest.fixture
def forecast(edit_plan, capsys):
    """The command on the tiny plan with a longer stage; gives what it prints."""
    edit_plan((STAGE2, LONG), ("tolerance: 9 nats", "tolerance: 1 nats"))

    def call(*words, code=0):
        assert main(["forecast", "plan.yaml", *words]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return call


def test_pilots_are_trained_once_and_the_line_stays(forecast, workplace, capsys):
    said = forecast("--stage", "stage2", "--pilot", "25%", "--shares", "0,25%", "--svg", "f.svg")
    assert "pilots: 0%, 25%, 25 steps each; 12,800 tokens trained" in said
    assert "least replay that keeps every old corpus within its tolerance (d0 1.000 nats): " in said
    assert (workplace / "f.svg").read_text().startswith("<svg")
    pilots = workplace / "run/arms/pilots/stage2"
    assert sorted(path.name for path in pilots.iterdir()) == ["00-naive", "01-replay", "forecast.json"]
    assert not (workplace / "run/arms/cookbook/stage2").exists()
    written = {path: path.stat().st_mtime_ns for path in pilots.rglob("*") if path.is_file()}
    found = json.loads(forecast("--stage", "stage2", "--pilot", "25%", "--shares", "0,25%", "--json"))
    assert {path: path.stat().st_mtime_ns for path in written if path.name != "forecast.json"} == {
        path: at for path, at in written.items() if path.name != "forecast.json"
    }
    assert found["measured"] == [] and found["cost"]["tokens"] == 12_800
    assert {row["tokens"] for row in found["table"]} == {12_800, 25_600, 51_200}

    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    capsys.readouterr()
    found = json.loads(forecast("--stage", "stage2", "--pilot", "25%", "--shares", "0,25%", "--json"))
    assert [(row["label"], row["corpus"], row["share"]) for row in found["measured"]] == [
        ("replay 25%", "d0", 0.25),
        ("replay 25%", "d1", 0.25),
    ]
    row = found["measured"][0]
    assert row["error"] == pytest.approx(row["forecast"] - row["measured"])
    assert "what became of it" in forecast("--stage", "stage2", "--pilot", "25%", "--shares", "0,25%")
    assert main(["status", "plan.yaml", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert {row["kind"]: row["tokens"] for row in status["account"]["rows"]}["pilot"] == 12_800
    assert status["stages"][0]["forecast"] == found["measured"] and status["stages"][1]["forecast"] == []
    measured = (
        f"forecast of replay 25%, 25.6k: d0 {row['forecast']:.3f} [{row['low']:.3f}, {row['high']:.3f}], "
        f"measured {row['measured']:.3f}: off by {row['error']:+.3f}"
    )
    assert main(["status", "plan.yaml"]) == 0
    assert measured in capsys.readouterr().out
    assert main(["report", "plan.yaml"]) == 0
    assert measured in (workplace / "run/report.html").read_text()


def test_a_scarce_corpus_is_read_as_often_as_the_whole_stage_would(forecast, workplace, edit_plan):
    lines = (workplace / "text/technical.jsonl").read_text().splitlines()
    (workplace / "few.jsonl").write_text("\n".join(lines[:40]) + "\n")
    edit_plan(("d1: {text: text/technical.jsonl}", "d1: {text: few.jsonl}"), ("tokens: 25_600", "tokens: 102_400"))
    found = json.loads(forecast("--stage", "stage2", "--pilot", "6%", "--shares", "0,25%", "--json"))
    thinned_rows = {each["name"]: each for pilot in found["pilots"] for each in pilot["thinned"]}
    assert thinned_rows, "the scarce corpus is read in part"
    for each in thinned_rows.values():
        assert each["windows"] == pytest.approx(each["of_windows"] * 24 / 400, abs=1)


def test_a_part_of_a_source_is_whole_windows_of_it(tmp_path):
    from keepwarm.corpora.indexed import IndexedWriter

    prefix = tmp_path / "tokens"
    with IndexedWriter(prefix, np.uint16) as writer:
        writer.add(np.arange(1001, dtype=np.uint16))
    source = Source("s", "0" * 16, prefix, np.array([[0, 400], [500, 1001]], dtype=np.int64))
    part = thinned(source, 20, 10)
    assert part.windows(10) == 20 and part.id != source.id and thinned(source, 20, 10).id == part.id
    out = np.empty((20, 11), dtype=np.int32)
    WindowReader([part], 10).read(np.zeros(20, dtype=np.int64), np.arange(20), out)
    whole = np.empty((90, 11), dtype=np.int32)
    WindowReader([source], 10).read(np.zeros(90, dtype=np.int64), np.arange(90), whole)
    starts = {tuple(row[:10]) for row in whole.tolist()}
    assert all(tuple(row[:10]) in starts for row in out.tolist())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--stage", "stage9"), "--stage stage9: the plan has no such stage"),
        (("--stage", "stage3", "--pilot", "100%"), "--pilot 100%: 20 steps, and stage3 has 20"),
        (("--stage", "stage2"), "--pilot 2%: 2 optimizer steps of stage2's 100, 20 are the fewest"),
        (("--stage", "stage2", "--shares", "5%"), "--shares 5%: a law of the replay share needs two or more"),
        (("--stage", "stage2", "--shares", "5%,100%"), "--shares 5%,100%: a law of the replay share needs two or more"),
        (("--stage", "stage2", "--shares", "x"), "--shares: "),
        (("--stage", "stage2", "--pilot", "x"), "--pilot: "),
        (("--stage", "stage2", "--budgets", "x"), "--budgets: "),
    ],
)
def test_each_refusal(words, said, forecast, workplace):
    assert said in forecast(*words, code=2)
    assert not (workplace / "run").exists()


def test_a_stage_whose_stage_before_is_open_is_refused(forecast, edit_plan, workplace):
    edit_plan(("new: d2, tokens: 5_120", "new: d2, tokens: 25_600"))
    said = forecast("--stage", "stage3", "--pilot", "25%", code=2)
    assert "stage3: the stage before it, stage2, is not accepted yet" in said
    assert "keepwarm run PLAN --stage stage2" in said


def test_the_ladder_begins_where_the_forecast_says(forecast, workplace, edit_plan):
    edit_plan(("shares: [25%]}]}\n  - {name: stage3", "shares: [5%, 25%]}]}\n  - {name: stage3"))
    found = json.loads(forecast("--stage", "stage2", "--pilot", "25%", "--shares", "0,25%", "--json"))
    row = next(row for row in found["table"] if row["share"] == 0.25 and row["tokens"] == 25_600)
    bound = row["forgetting"]["d0"]["value"] + 1e-6  # what a quarter of old data just keeps, and less does not
    edit_plan(("tolerance: 1 nats", f"tolerance: {{d0: {bound:.6f} nats}}"))
    main(["run", "plan.yaml", "--stage", "stage2"])
    first = read_choices(workplace / "run/arms/cookbook/stage2")[0]
    assert first["label"] == "replay 25%"
    (waiting,) = first["put_off"]
    assert waiting["label"] == "replay 5%" and waiting["why"].startswith("the forecast asks for ")
