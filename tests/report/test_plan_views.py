"""`keepwarm plan`, `lr`, `status` and `schema` before anything is trained."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from keepwarm.cli.main import main
from keepwarm.corpora.prepare import prepare
from keepwarm.plan.load import load_plan
from keepwarm.work import Run, resolved


def test_plan_in_numbers(workplace, capsys):
    assert main(["plan", "plan.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step_tokens"] == 256
    assert found["base"]["steps"] == 40
    stage = found["stages"][0]
    assert (stage["steps"], stage["tokens"], stage["asked_tokens"]) == (20, 5120, 5120)
    assert [each["label"] for each in stage["candidates"]] == ["replay 5%", "replay 25%"]
    assert stage["candidates"][1]["tokens"] == {"d0": 1280, "new": 3840}
    trunk = 10_240 + 3 * 5_120
    assert found["tokens"]["if_first_rungs_hold"] == trunk + 1024
    assert found["tokens"]["worst_case"] == trunk + 5_120 + 1024
    assert found["corpora"]["d0"]["exact"] is False


def test_plan_rounds_up_to_whole_steps_and_says_so(edit_plan, workplace, capsys):
    edit_plan(("new: d1, tokens: 5_120", "new: d1, tokens: 5_121"))
    assert main(["plan", "plan.yaml", "--json"]) == 0
    stage = json.loads(capsys.readouterr().out)["stages"][0]
    assert (stage["steps"], stage["tokens"], stage["asked_tokens"]) == (21, 5376, 5121)


def test_plan_for_people(workplace, capsys):
    assert main(["plan", "plan.yaml", "--rate", "1000"]) == 0
    said = capsys.readouterr().out
    assert "~" in said and "hours at 1,000 tokens/s" in said and "learning rate by optimizer step" in said
    assert not (workplace / "run").exists()


def test_plan_says_what_is_left_out_once_the_run_has_decided_it(workplace, edit_plan, capsys):
    (workplace / "l").write_text("d0 document 3\n")
    edit_plan(("{text: text/prose.jsonl}", "{text: text/prose.jsonl, exclude: l}"))
    assert main(["plan", "plan.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["corpora"]["d0"]["left_out"] is None
    plan = load_plan("plan.yaml")
    context = Run(plan, "", workplace / "run", prepare(plan, lambda text: None), None)
    (workplace / "run/resolved.json").write_text(json.dumps(resolved(context)))
    assert main(["plan", "plan.yaml", "--json"]) == 0
    left_out = json.loads(capsys.readouterr().out)["corpora"]["d0"]["left_out"]
    assert left_out["excluded_documents"] == 1 and left_out["exclude"] == str(workplace / "l")
    assert main(["plan", "plan.yaml"]) == 0
    tokens = f"{left_out['excluded_tokens']:,} tokens excluded by {workplace / 'l'}, "
    said = capsys.readouterr().out
    assert f"d0: 1 documents / {tokens}{left_out['held_out_documents']} held out, " in said
    assert f"d1: {context.prepared.corpora['d1'].left_out.held_out_documents} documents held out, " in said


def test_plan_refuses_an_exclusion_list_that_is_not_there(workplace, edit_plan, capsys):
    edit_plan(("{text: text/prose.jsonl}", "{text: text/prose.jsonl, exclude: nowhere}"))
    assert main(["plan", "plan.yaml"]) == 2
    assert "nowhere: no such file or directory" in capsys.readouterr().err


def test_plan_of_an_automatic_shift_says_what_decides(edit_plan, workplace, capsys):
    edit_plan((", ladder: [{rung: replay, shares: [5%, 25%]}]", ""))
    assert main(["plan", "plan.yaml", "--json"]) == 0
    stage = json.loads(capsys.readouterr().out)["stages"][0]
    assert stage["ladder"] == "weak or strong, by the measured shift"
    built = {each["rung"]: each["built"] for each in stage["candidates"]}
    assert built["replay-previous-mix"] is True


def test_row_k_is_the_rate_that_step_k_plus_1_uses(workplace, capsys):
    assert main(["lr", "plan.yaml", "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step,lr,phase"
    assert lines[1] == "0,0.0,warming"  # 5 % of 40 steps are 2 steps of warm-up, from 0
    assert lines[2] == "1,0.0015,warming"
    assert lines[3] == "2,0.003,peak"
    assert lines[101] == "100,0.003,peak"  # the cooldown branch's first step still uses LR_max
    step, rate, phase = lines[103].split(",")
    assert (step, phase) == ("102", "decaying") and float(rate) == pytest.approx(3e-3 * (1 - 0.5**0.5), rel=1e-12)
    assert lines[105] == "104,0.0,cooled"
    assert len(lines) == 106


def test_rates_of_some_steps(workplace, capsys):
    assert main(["lr", "plan.yaml", "--json", "--steps", "0:4:2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["step"], row["lr"], row["stage"]) for row in found] == [
        (0, 0.0, "base"),
        (2, 0.003, "base"),
        (4, 0.003, "base"),
    ]
    assert main(["lr", "plan.yaml", "--steps", "9:3"]) == 2
    assert "--steps 9:3: not A:B or A:B:C" in capsys.readouterr().err


def test_the_rates_of_the_plan_are_the_rates_of_the_run(workplace, capsys, edit_plan):
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    capsys.readouterr()
    assert main(["lr", "plan.yaml", "--json"]) == 0
    planned = {row["step"]: row["lr"] for row in json.loads(capsys.readouterr().out)}
    lines = (workplace / "run/arms/cookbook/base/00-base/metrics.jsonl").read_text().splitlines()
    trained = {r["step"]: r["lr"] for r in map(json.loads, lines) if r["kind"] == "train"}
    assert trained == {step: planned[step - 1] for step in range(1, 41)}


def test_a_cosine_base_cools_and_nothing_at_peak_may_start_from_it(edit_plan, workplace, capsys):
    edit_plan(("kind: wsd", "kind: cosine"))
    assert main(["lr", "plan.yaml", "--csv", "--steps", "40:40"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("40,0.003,")  # stage2 would start at LR_max
    assert main(["run", "plan.yaml"]) == 2
    said = capsys.readouterr().err
    assert "nothing of its ladder can start (replay 5%: refused; replay 25%: refused)" in said
    assert "is cooled at LR 0" in said and "guard peak-start" in said


def test_status_before_anything_ran(workplace, capsys):
    assert main(["status", "plan.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [stage["state"] for stage in found["stages"]] == ["pending"] * 3
    assert found["next"] == {"stage": "stage2", "do": "keepwarm run"}
    assert main(["status", "plan.yaml"]) == 0
    assert "pending" in capsys.readouterr().out


def test_the_schema(capsys, tmp_path):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"name", "corpora", "stages", "verdict"} <= set(schema["properties"])
    assert main(["schema", "--output", str(tmp_path / "plan.schema.json")]) == 0
    assert json.loads((tmp_path / "plan.schema.json").read_text()) == schema


def test_the_entry_point_answers_without_torch():
    code = "import sys; from keepwarm.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "status" in done.stdout


def test_a_candidate_that_reads_a_corpus_too_often_is_marked(workplace, capsys):
    assert main(["plan", "plan.yaml", "--set", "max_epochs=0.001"]) == 0
    assert "(above max_epochs 0.001)" in " ".join(capsys.readouterr().out.split())
    assert main(["plan", "plan.yaml"]) == 0
    assert "above max_epochs" not in " ".join(capsys.readouterr().out.split())
