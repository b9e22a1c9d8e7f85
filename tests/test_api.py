"""keepwarm from Python: a run as the command does it, an attempt as the run would train it, and the document's code."""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from keepwarm import KeepwarmError, Listener, RunResult, WorkFailed, load_plan, open_attempt, resolve_attempt, run_plan
from keepwarm.attempt.opened import OpenAttempt
from keepwarm.attempt.records import read_attempt
from keepwarm.cli.main import main
from keepwarm.engine.launch import LAUNCHER
from keepwarm.errors import GuardError, LineageError

DOCUMENT = Path(__file__).parents[1] / "docs/python.md"


class Told(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.outcomes: list[str] = []
        self.records = 0

    def say(self, text):
        self.said.append(text)

    def record(self, record):
        self.records += 1

    def judged(self, attempt, folder, verdict):
        self.outcomes.append(f"{folder.name}: {verdict['outcome']}")


@dataclass
class Done:
    """The tiny plan's folder; what `run_plan` gave at stage 3 and at the end; stage 4 as resolved in between."""

    folder: Path
    told: Told
    third: RunResult
    resolved: OpenAttempt
    begun: bool
    result: RunResult


@pytest.fixture(scope="module")
def done(tmp_path_factory, real_text, plan_text) -> Done:
    folder, told = tmp_path_factory.mktemp("done"), Told()
    (folder / "text").symlink_to(real_text)
    (folder / "plan.yaml").write_text(plan_text)
    third = run_plan(folder / "plan.yaml", stage="stage3", listener=told)
    resolved = resolve_attempt(folder / "plan.yaml", "stage4", listener=Told())
    begun = (folder / "run/arms/cookbook/stage4/00-buffer-mix").exists()
    return Done(folder, told, third, resolved, begun, run_plan(folder / "plan.yaml", listener=Told()))


def test_importing_costs_nothing():
    code = (
        "import sys; before = set(sys.modules); import keepwarm; print({name.split('.')[0] for name in {*sys.modules} - before} - sys.stdlib_module_names)\n"
        "keepwarm.run_plan; print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["{'keepwarm'}", "False"]


def test_the_names_are_there_and_no_others():
    import keepwarm

    assert set(keepwarm.__all__) <= set(dir(keepwarm))
    with pytest.raises(AttributeError, match="module 'keepwarm' has no attribute 'run_plans'"):
        _ = keepwarm.run_plans


def test_a_run_gives_what_the_command_tells(done, capsys):
    assert main(["status", str(done.folder / "plan.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(done.result.status))
    stages = done.folder / "run/arms/cookbook"
    end = sorted((stages / "stage4/00-buffer-mix/checkpoints").iterdir())[-1]
    cooled = sorted((stages / "stage4/01-cooldown/checkpoints").iterdir())[-1]
    assert (done.result.peak, done.result.cooled, done.result.waiting) == (end, cooled, None)
    assert done.result.report == done.folder / "run/report.html" and done.result.report.exists()


def test_a_run_stops_after_a_stage(done):
    assert [stage["state"] for stage in done.third.status["stages"]] == ["accepted", "accepted", "pending"]
    checkpoints = done.folder / "run/arms/cookbook/stage3/00-replay-previous-mix/checkpoints"
    assert (done.third.peak, done.third.cooled) == (sorted(checkpoints.iterdir())[-1], None)
    assert done.told.outcomes == ["00-replay: recovered", "00-replay-previous-mix: recovered"]
    assert done.told.records > 80


def test_with_a_listener_nothing_is_printed(done, capfd):
    assert run_plan(load_plan(done.folder / "plan.yaml"), listener=Told()) == done.result
    assert capfd.readouterr() == ("", "")


def test_without_one_it_is_told_as_by_the_command(done, capsys):
    run_plan(done.folder / "plan.yaml", stage="stage2")
    assert "stage2: shift" in capsys.readouterr().out


def test_errors_are_raised(workplace):
    with pytest.raises(KeepwarmError, match="stage 'stage9': the plan has no such stage"):
        run_plan("plan.yaml", stage="stage9")
    with pytest.raises(KeepwarmError, match=r"(?s)approve='always': no such word.*never, each-stage, each-rung"):
        run_plan("plan.yaml", approve="always")
    assert not (workplace / "run").exists()
    plan = load_plan("plan.yaml", ["verdict.tolerance=0.0001 nats"])
    with pytest.raises(WorkFailed, match="stage2: the ladder is exhausted"):
        run_plan(plan, stage="stage2", listener=Told())
    assert (workplace / "run/report.html").exists()


def test_a_person_may_be_asked(edit_plan):
    result = run_plan(edit_plan(), stage="stage2", approve="each-stage", listener=Told())
    assert result.waiting == ("stage2", "replay 5%", "recovered")
    assert result.status["next"]["do"].startswith("keepwarm decide PLAN accept --stage stage2")
    assert result.peak is not None and "arms/cookbook/base/00-base" in str(result.peak)
    assert resolve_attempt("plan.yaml", "stage2").attempt == read_attempt(Path("run/arms/cookbook/stage2/00-replay"))


def test_an_attempt_is_resolved_as_the_run_then_trains_it(done):
    """With the accepted line behind it and B filled by it."""
    made = open_attempt(done.folder / "run/arms/cookbook/stage4/00-buffer-mix")
    assert not done.begun and made.attempt == done.resolved.attempt
    assert (made.start, made.run_folder) == (done.resolved.start, done.resolved.run_folder)
    assert {part.role for part in made.attempt.parts} == {"d0", "new", "buffer"}


def test_a_candidate_may_be_named(done):
    plan = load_plan(done.folder / "plan.yaml")
    assert resolve_attempt(plan, "stage2", "replay 25%").attempt.number == 1
    assert resolve_attempt(plan, "stage2", "replay").attempt.label == "replay 5%"
    with pytest.raises(
        KeepwarmError, match=r"(?s)stage2: its ladder has not a candidate 'merge' .* replay 5%, replay 25%"
    ):
        resolve_attempt(plan, "stage2", "merge")


def test_the_first_that_can_start_is_taken(done):
    """Of two stages' ladders: B is empty before stage 2, so the replay behind it is taken; alone it is refused."""
    text = (done.folder / "plan.yaml").read_text()
    for ladder in (
        "{rung: merge}, {rung: buffer-mix, mixes: [[0, 0.5, 0.5]]}, {rung: replay, shares: [10%]}",
        "{rung: buffer-mix, mixes: [[0, 0.5, 0.5]]}",
    ):
        other = done.folder / "other.yaml"
        other.write_text(text.replace("{rung: replay, shares: [5%, 25%]}", ladder))
        if "replay" in ladder:
            assert resolve_attempt(other, "stage2").attempt.label == "replay 10%"
        else:
            with pytest.raises(GuardError, match="of the buffer B, which is empty"):
                resolve_attempt(other, "stage2")


def test_a_stage_behind_one_that_is_not_accepted_is_refused(workplace):
    with pytest.raises(KeepwarmError, match="stage3: the stage before it, stage2, is not accepted yet"):
        resolve_attempt("plan.yaml", "stage3")
    assert not (workplace / "run").exists()


def test_an_attempt_without_its_run_is_refused(done, tmp_path):
    with pytest.raises(LineageError, match="there is no attempt"):
        open_attempt(tmp_path)
    (tmp_path / "attempt.json").write_bytes(
        (done.folder / "run/arms/cookbook/stage2/00-replay/attempt.json").read_bytes()
    )
    with pytest.raises(LineageError, match=r"is not in a run folder that holds its data"):
        open_attempt(tmp_path)


@pytest.mark.filterwarnings("ignore:.*pin_memory")
def test_the_documents_code_runs(workplace, one_stage_text, capsys):
    """Block after block in one folder, as somebody who reads it would."""
    (workplace / "plan.yaml").write_text(one_stage_text)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        script = workplace / f"block{number}.py"
        script.write_text(block)
        with contextlib.chdir(workplace):
            runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr().out
    assert "replay 5% recovered" in said and "d0: forgotten" in said
    assert sorted(path.name for path in (workplace / "by-hand").glob("checkpoint-*")) == [
        "checkpoint-10",
        "checkpoint-20",
    ]


@pytest.mark.slow
def test_two_processes_from_python(tmp_path, real_text, one_stage_text, monkeypatch):
    (tmp_path / "text").symlink_to(real_text)
    (tmp_path / "plan.yaml").write_text(one_stage_text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeepwarmError, match="run_plan: a listener, with nproc=2"):
        run_plan("plan.yaml", nproc=2, listener=Told())
    result = run_plan("plan.yaml", nproc=2)
    assert LAUNCHER not in os.environ  # another launcher's processes, started from here, have another owner
    assert json.loads((result.peak / "manifest.json").read_text())["world_size"] == 2
    assert result.status["stages"][0]["state"] == "accepted" and result.report is not None
    with pytest.raises(WorkFailed):
        run_plan(load_plan("plan.yaml", ["seed=7"]), nproc=2)  # another plan in the same run folder
