"""Cooldown branches and averages on demand, through the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch

from keepwarm import files
from keepwarm.cli.main import main
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine.build import empty_like
from keepwarm.errors import LineageError
from keepwarm.lineage.deletion import delete
from keepwarm.lineage.manifest import read_manifest

STAGE2 = "arms/cookbook/stage2/00-replay"


@pytest.fixture
def trunk(workplace):
    """A base and stage2, trained; the run is not finished."""
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    return workplace / "run"


def manifests(folder):
    return [read_manifest(path) for path in sorted((folder / "checkpoints").iterdir())]


def branch(*arguments: str) -> int:
    return main(["run", "plan.yaml", "--branch", *arguments])


def test_a_cooldown_gives_a_converged_model_and_leaves_the_trunk(trunk, capsys):
    before = {path: path.read_bytes() for path in trunk.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert branch("cooldown", "--from", "stage2@peak") == 0
    shown = capsys.readouterr().out
    end = manifests(trunk / "arms/cookbook/stage2/01-cooldown")[-1]
    start = manifests(trunk / STAGE2)[-1]
    assert (end.phase, end.lr, end.parent) == ("cooled", 0.0, start.id)
    assert end.attempt_tokens == 1024 and end.line_tokens == start.line_tokens + 1024  # 20 % of 5,120, whole steps
    assert {path: path.read_bytes() for path in before} == before
    lines = {line.split(",")[0]: line.split() for line in shown.splitlines() if " tokens " in line}
    losses = [start.evaluation["d1"]["loss"], end.evaluation["d1"]["loss"]]
    assert f"{losses[0]:.4f}" in lines["at peak"]
    assert {f"{losses[1]:.4f}", f"{losses[1] - losses[0]:+.4f}"} <= set(lines["cooldown"])
    assert "cooldown, 1.02k tokens" in shown and end.id in shown


def test_the_run_uses_the_cooldown_that_was_asked_for(trunk, edit_plan, workplace):
    """The plan's own cooldown at the end of the line is the same attempt: it is not trained twice."""
    plan = edit_plan(
        *((line, "") for line in re.findall(r"  - \{name: stage[34].*\n", (workplace / "plan.yaml").read_text()))
    )
    assert branch("cooldown", "--from", "stage2@peak") == 0
    metrics = trunk / "arms/cookbook/stage2/01-cooldown/metrics.jsonl"
    before = metrics.read_bytes()
    assert main(["run", str(plan)]) == 0
    assert metrics.read_bytes() == before and not (trunk / "arms/branches").exists()


def test_a_branch_in_the_middle_of_the_trunk_goes_on_with_its_data(trunk):
    start = manifests(trunk / STAGE2)[1]
    assert branch("cooldown", "--from", f"stage2@{start.line_tokens}", "--tokens", "512") == 0
    folder = trunk / "arms/branches/stage2/00-cooldown"
    end = manifests(folder)[-1]
    assert (end.parent, end.attempt_tokens, end.phase) == (start.id, 512, "cooled")
    attempt = json.loads((folder / "attempt.json").read_text())
    assert attempt["segments"][0]["cursors"] == dict(start.cursors)
    shares = {part["role"]: part["share"] for part in attempt["parts"]}
    assert shares == {"d0": "1/20", "new": "19/20"}


def test_the_same_branch_is_made_once_and_another_beside_it(trunk):
    for tokens in ("512", "512", "768"):
        assert branch("cooldown", "--from", "stage2@peak", "--tokens", tokens) == 0
    made = sorted(path.name for path in (trunk / "arms/branches/stage2").iterdir())
    assert made == ["00-cooldown", "01-cooldown"]


def test_an_average_is_the_mean_of_the_last_checkpoints(trunk, capsys):
    members = manifests(trunk / STAGE2)[-3:]
    capsys.readouterr()
    assert branch("average", "--from", "stage2@peak", "--last", "3") == 0
    shown = capsys.readouterr().out
    (merged,) = manifests(trunk / "arms/branches/stage2/00-average")
    assert merged.merged_from == tuple(member.id for member in members)
    assert (merged.phase, merged.optimizer_state, merged.parent) == ("merged", False, members[-1].id)
    weights = []
    for manifest in (*members, merged):
        model = empty_like(trunk / manifest.id, manifest, 0)
        checkpoints.load(trunk / manifest.id, manifest, model, None)
        weights.append(torch.cat([value.flatten() for value in model.state_dict().values()]).double())
    torch.testing.assert_close(weights[-1], torch.stack(weights[:-1]).mean(dim=0), rtol=0, atol=1e-7)
    gained = merged.evaluation["d1"]["loss"] - members[-1].evaluation["d1"]["loss"]
    assert f"{gained:+.4f}" in next(line for line in shown.splitlines() if line.startswith("average of 3"))


def test_the_preview_and_the_cooldown_stand_side_by_side(trunk, capsys):
    assert branch("average", "--from", "stage2@peak") == 0
    assert branch("cooldown", "--from", "stage2@peak") == 0
    shown = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[-4:]]
    assert shown[:3] == ["at peak, 15.4k tokens", "cooldown, 1.02k tokens", "average of 4, 0 tokens"]


def test_the_base_has_branches_too(trunk):
    assert branch("average", "--from", "base@peak", "--last", "2") == 0
    (merged,) = manifests(trunk / "arms/branches/base/00-average")
    assert len(merged.merged_from) == 2 and merged.stage == "base"


def test_a_branch_can_be_made_while_the_trunk_is_in_training(trunk):
    """The trunk's owner holds the run folder; the branch, another process, takes its own folder only."""
    command = [
        sys.executable,
        "-m",
        "keepwarm.cli.main",
        "run",
        "plan.yaml",
        "--branch",
        "average",
        "--from",
        "stage2@peak",
    ]
    with files.run_lock(trunk):
        assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    assert (trunk / "arms/branches/stage2/00-average/checkpoints").is_dir()


def test_a_run_waits_for_a_branch_that_another_process_trains(trunk, capsys):
    folder = trunk / "arms/cookbook/stage2/01-cooldown"
    hold = f"import time; from pathlib import Path; from keepwarm.files import run_lock\nwith run_lock(Path({str(folder)!r})): print('held', flush=True); time.sleep(2)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert branch("cooldown", "--from", "stage2@peak") == 0
    assert holder.returncode == 0
    assert f"waiting for process {holder.pid}" in capsys.readouterr().out


REFUSALS = {
    "unknown place": (["cooldown", "--from", "stage2@7"], "no checkpoint at peak is named so"),
    "unknown stage": (["cooldown", "--from", "stage9@peak"], "stage2@15.4k"),
    "no beginning": (["cooldown"], "a branch has a kind and a beginning"),
    "too many": (
        ["average", "--from", "stage2@peak", "--last", "9"],
        "has 4 whole checkpoints at peak up to 15,360 tokens",
    ),
    "none": (["average", "--from", "stage2@peak", "--last", "0"], "two or more checkpoints"),
    "no tokens": (["cooldown", "--from", "stage2@peak", "--tokens", "0"], "--tokens"),
    "only one": (["average", "--from", "stage2@peak", "--last", "1"], "two or more checkpoints"),
    "tokens of an average": (["average", "--from", "stage2@peak", "--tokens", "1k"], "--tokens says nothing about"),
    "last of a cooldown": (["cooldown", "--from", "stage2@peak", "--last", "2"], "--last says nothing about"),
}


def test_refusals(trunk, capsys):
    before = sorted(trunk.rglob("*"))
    for arguments, message in REFUSALS.values():
        capsys.readouterr()
        assert branch(*arguments) == 2
        assert message in capsys.readouterr().err
    assert sorted(trunk.rglob("*")) == before


def test_a_cooled_checkpoint_has_no_branch(trunk, capsys):
    assert branch("cooldown", "--from", "stage2@peak") == 0
    end = manifests(trunk / "arms/cookbook/stage2/01-cooldown")[-1]
    assert branch("cooldown", "--from", end.id) == 2
    assert "starts at peak, but" in capsys.readouterr().err


def test_without_a_run_there_is_no_trunk(workplace, capsys):
    assert branch("average", "--from", "base@peak") == 2
    assert "nothing was trained there yet" in capsys.readouterr().err
    assert not (workplace / "run").exists()


def test_a_member_that_is_damaged_is_refused(trunk, capsys):
    state = next((trunk / manifests(trunk / STAGE2)[0].id / "state").glob("*.distcp"))
    state.write_bytes(state.read_bytes()[:-1])
    assert branch("average", "--from", "stage2@peak") == 2
    assert "bytes, not" in capsys.readouterr().err
    with pytest.raises((LineageError, FileNotFoundError)):
        manifests(trunk / "arms/branches/stage2/00-average")


def test_a_deleted_checkpoint_is_passed_over(trunk, capsys):
    deleted = manifests(trunk / STAGE2)[0]
    delete(trunk / deleted.id, deleted.files, "by hand")
    assert branch("average", "--from", "stage2@peak") == 2
    assert "has 3 whole checkpoints at peak" in capsys.readouterr().err
    assert branch("cooldown", "--from", f"stage2@{deleted.line_tokens}") == 2
    assert "is named so" in capsys.readouterr().err
    assert branch("cooldown", "--from", deleted.id) == 2
    assert "its tensors were deleted" in capsys.readouterr().err
