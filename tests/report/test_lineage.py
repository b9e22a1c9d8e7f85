"""`keepwarm lineage` and `lineage prune` on a real small run: shown, drawn, pruned, and gone on from."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from keepwarm import files
from keepwarm.cli.main import main
from keepwarm.lineage.deletion import delete
from keepwarm.lineage.manifest import read_manifest
from keepwarm.report import lineage as lineages
from keepwarm.report.lineage_tree import lines

STAGE3 = "{name: stage3, new: d2, tokens: 5_120, ladder: [{rung: replay-previous-mix, shares: [25%]}]}"
DECAYS = "{name: stage3, new: d2, tokens: 1_024, ladder: [{rung: decay-then-introduce, decay: [cosine]}]}"
STAGE4 = "  - {name: stage4, new: d3, tokens: 5_120, ladder: [{rung: buffer-mix, mixes: [[0.25, 0.50, 0.25]]}]}\n"
REJECTED, ACCEPTED = "arms/cookbook/stage2/00-replay", "arms/cookbook/stage2/01-replay"
STARTED = f"{ACCEPTED}/checkpoints/000000000012800-peak"  # the newest that lies 10 steps of decay before 15,360


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory, real_text, plan_text) -> Path:
    """A run up to stage 2, of which a person rejected the first candidate; stage 3 will decay from an earlier one."""
    folder = tmp_path_factory.mktemp("lineage")
    text = plan_text.replace("{text: text/", f"{{text: {real_text}/")  # its own copies read the same files
    (folder / "plan.yaml").write_text(text.replace(STAGE3, DECAYS).replace(STAGE4, ""))
    with contextlib.chdir(folder):
        assert main(["run", "plan.yaml", "--stage", "stage2", "--approve", "each-rung"]) == 0
        assert main(["decide", "plan.yaml", "reject", "--stage", "stage2", "--because", "we looked"]) == 0
        assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    return folder


@pytest.fixture
def run(two_stages, tmp_path, monkeypatch, capsys) -> Path:
    """A copy of it, as the current folder."""
    shutil.copytree(two_stages, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    capsys.readouterr()
    return tmp_path / "copy"


def tree_of(plan, width=80) -> list[str]:
    return [line for line, _ in lines(lineages.lineage_of(lineages.scope_at(Path(plan))), width)]


def shown(capsys, *words) -> dict:
    capsys.readouterr()
    assert main(["lineage", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"
    }


def test_the_tree_says_what_came_from_what(run):
    told = tree_of("plan.yaml")
    assert told[1] == "base train the base"
    assert told[2].split() == ["○", "2,560", "tokens", "at", "peak", "LR", "0.003"]
    start = next(line for line in told if line.startswith("● 10,240"))
    assert start.endswith("used by stage2 replay 5% + replay 25%")
    assert "├─ stage2 replay 5%: rejected, recovered" in told and "stage2 replay 25%: accepted, recovered" in told
    assert told.index("├─ stage2 replay 5%: rejected, recovered") < told.index("stage2 replay 25%: accepted, recovered")
    assert told[-1].startswith("● 15,360 tokens  at peak  LR 0.003") and max(map(len, told)) <= 80


def test_the_json_is_all_a_script_needs_of_a_run_folder_alone(run, capsys):
    shutil.move(run / "run", run / "elsewhere")
    found = shown(capsys, "elsewhere")
    by_id = {each["id"]: each for each in found["checkpoints"]}
    base_end, end = found["line"]
    assert by_id[base_end]["used_by"] == [
        {"arm": "cookbook", "stage": "stage2", "label": f"replay {share}"} for share in ("5%", "25%")
    ]
    assert end.startswith(ACCEPTED) and by_id[end]["parent"] == base_end and by_id[end]["accepted"]
    rejected = next(each for identity, each in by_id.items() if identity.startswith(REJECTED))
    assert (rejected["outcome"], rejected["accepted"], rejected["deleted"]) == ("recovered", False, None)
    keys = (
        "arm",
        "stage",
        "rung",
        "phase",
        "phase_is",
        "lr",
        "lr_max",
        "line_tokens",
        "optimizer_state",
        "merged_from",
    )
    facts = [rejected[key] for key in keys]
    assert facts == ["cookbook", "stage2", "replay", "peak", "measured", 3e-3, 3e-3, 11520, True, []]
    assert rejected["bytes"] > 100_000


def edit(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_manifests_declare_or_do_not_know_is_shown(run):
    saved = sorted((run / "run" / ACCEPTED / "checkpoints").iterdir())
    edit(
        saved[0],
        phase_is="declared",
        lr_is="declared",
        optimizer_state=False,
        location="/lab/step9",
        weights="universal",
    )
    edit(saved[1], unknown=["source_tokens"], global_batch_size=512)
    told = tree_of("plan.yaml", 300)
    assert any(
        "at peak (declared)  LR 0.003 (declared); no optimizer state; universal weights; in /lab/step9" in x
        for x in told
    )
    assert any(line.endswith("batch 512; not known: source_tokens") for line in told)


def test_a_merged_checkpoint_hangs_below_what_it_was_made_of(run, capsys):
    saved = sorted((run / "run" / ACCEPTED / "checkpoints").iterdir())
    names = [json.loads((path / "manifest.json").read_text())["id"] for path in saved]
    merged = "arms/branches/stage2/00-average/checkpoints/000000000015360-merged"
    shutil.copytree(saved[-1], run / "run" / merged)
    edit(
        run / "run" / merged,
        id=merged,
        parent=names[-1],
        arm="branches",
        rung="average",
        phase="merged",
        merged_from=names,
    )
    told = tree_of("plan.yaml", 600)
    assert told[-2] == "└─ branches stage2 average"
    assert told[-1].startswith("   ○ 15,360 tokens  merged") and f"merged from {names[0]}, " in told[-1]
    row = next(each for each in shown(capsys, "plan.yaml")["checkpoints"] if each["id"] == merged)
    assert row["merged_from"] == names and row["parent"] == names[-1]


def test_only_one_arm(run, capsys):
    assert all(row["arm"] == "cookbook" for row in shown(capsys, "plan.yaml", "--arm", "cookbook")["checkpoints"])
    assert main(["lineage", "plan.yaml", "--arm", "d0-only"]) == 2
    assert "--arm d0-only: " in (said := capsys.readouterr().err) and "fix: one of: cookbook" in said


def test_a_folder_that_is_no_run_is_named(run, capsys):
    (run / "other").mkdir()
    assert main(["lineage", "other"]) == 2
    assert "other: holds no plan.yaml, so it is no run folder" in capsys.readouterr().err
    assert main(["lineage", "plan.yaml", "--set", "run.folder=other"]) == 0
    assert f"tiny: no checkpoint yet in {run / 'other'}: keepwarm run PLAN" in capsys.readouterr().out
    assert main(["lineage", "prune", "plan.yaml", "--set", "run.folder=nowhere"]) == 2
    assert "no such run folder" in capsys.readouterr().err and not (run / "nowhere").exists()


def test_the_drawing_stands_alone_and_replaces_only_its_like(run, capsys):
    pytest.importorskip("vl_convert", reason='needs pip install "keepwarm[report]"')
    assert main(["lineage", "plan.yaml", "--svg", "tree.svg"]) == 0
    assert capsys.readouterr().out == "tree.svg\n"
    text = (run / "tree.svg").read_text()
    words = {element.text for element in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")}
    assert {"base: d0", "stage2: d1", "replay 5%", "replay 25%", "15.4k tokens, recovered"} <= words
    assert "var(" not in text
    assert main(["lineage", "plan.yaml", "--svg", "tree.svg"]) == 0
    assert main(["lineage", "run", "--svg", "plan.yaml"]) == 2
    assert "--svg plan.yaml: is there, and is no drawing of a lineage" in capsys.readouterr().err


def test_the_drawing_needs_its_library(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert main(["lineage", "plan.yaml", "--svg", "tree.svg"]) == 2
    assert 'pip install "keepwarm[report]"' in capsys.readouterr().err and not (run / "tree.svg").exists()


def test_a_plan_that_keeps_all_says_so_and_how_to_say_otherwise(run, capsys):
    before = everything(run)
    assert main(["lineage", "prune", "plan.yaml"]) == 0
    said = capsys.readouterr().out
    assert "keep is all: nothing may be deleted" in said and "--keep peak-before-each-cooldown --dry-run" in said
    assert everything(run) == before


def test_a_dry_run_changes_nothing(run, capsys):
    before = everything(run)
    assert main(["lineage", "prune", "plan.yaml", "--keep", "needed", "--dry-run"]) == 0
    assert everything(run) == before
    said = capsys.readouterr().out
    assert "would be deleted: 8 of 12 checkpoints" in said and "recovered; stage2 went on with replay 25%" in said
    assert "nothing was deleted; without --dry-run it is" in said


def test_pruned_it_shows_what_is_gone_and_goes_on_to_the_same_weights(run, capsys, manifest_of):
    shutil.copytree(run, run.parent / "whole")
    assert main(["lineage", "prune", "run", "--keep", "needed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    gone = [each["id"] for each in found["checkpoints"] if each["decision"] == "delete"]
    assert len(gone) == 8 and found["freed_bytes"] == sum(
        each["bytes"] for each in found["checkpoints"] if each["id"] in gone
    )
    kept = {each["id"]: each["reason"] for each in found["checkpoints"] if each["decision"] == "keep"}
    assert kept[STARTED].startswith("stage3 decay-then-introduce cosine to lr_max/100 may start 2,560 tokens before")
    assert all(not (run / "run" / identity / "state").exists() for identity in gone)
    rows = {row["id"]: row for row in shown(capsys, "plan.yaml")["checkpoints"]}
    assert {identity for identity, row in rows.items() if row["deleted"]} == set(gone)
    assert rows[gone[-1]]["bytes"] == 0 and rows[gone[-1]]["deleted"]["bytes"] > 0
    assert any(line.startswith("│  × 15,360 tokens") for line in tree_of("run"))
    ends = []
    for folder in (run, run.parent / "whole"):
        os.chdir(folder)
        assert main(["run", "plan.yaml"]) == 1  # it is trained, and has learned too little
        ends.append(manifest_of(folder / "run", "cookbook/stage3/00-decay-then-introduce"))
    assert ends[0]["weights_sha256"] == ends[1]["weights_sha256"] and ends[0]["parent"] == STARTED


def test_pruning_again_finishes_what_a_kill_left_and_then_finds_nothing(run, capsys):
    checkpoint = sorted((run / "run" / REJECTED / "checkpoints").iterdir())[0]
    files.write_json(checkpoint / "deleted.json", {"when": "2026-01-01T00:00:00+00:00", "why": "rejected", "bytes": 9})
    assert main(["lineage", "prune", "run"]) == 0
    said = capsys.readouterr().out
    assert "deleted: 1 of 12 checkpoints" in said and not (checkpoint / "state").exists()
    assert main(["lineage", "prune", "run", "--keep", "needed"]) == 0
    assert "deleted: 7 of 11 checkpoints" in capsys.readouterr().out
    assert main(["lineage", "prune", "run", "--keep", "needed"]) == 0
    assert "keep: needed: nothing to delete" in capsys.readouterr().out


def test_pruning_waits_for_nobody(run, capsys):
    before = everything(run)
    with files.run_lock(run / "run"):
        assert main(["lineage", "prune", "plan.yaml", "--keep", "needed"]) == 2
    assert "another keepwarm works in this run folder" in capsys.readouterr().err
    assert everything(run) == before


def test_a_run_that_would_start_from_a_deleted_checkpoint_is_refused_before_it_begins(run, capsys):
    end = sorted((run / "run" / ACCEPTED / "checkpoints").iterdir())[-1]
    delete(end, read_manifest(end).files, "somebody needed the room")
    plan = (run / "plan.yaml").read_text()
    (run / "plan.yaml").write_text(plan.replace("{rung: decay-then-introduce, decay: [cosine]}", "{rung: naive}"))
    assert main(["run", "plan.yaml"]) == 2
    assert "its tensors were deleted on" in (said := capsys.readouterr().err) and "somebody needed the room" in said
    assert not (run / "run/arms/cookbook/stage3/00-naive/attempt.json").exists()


def test_the_search_for_an_earlier_checkpoint_passes_deleted_ones_over(run, capsys, manifest_of):
    delete(run / "run" / STARTED, read_manifest(run / "run" / STARTED).files, "somebody needed the room")
    assert main(["run", "plan.yaml"]) == 1  # it is trained, and has learned too little
    parent = manifest_of(run / "run", "cookbook/stage3/00-decay-then-introduce")["parent"]
    assert parent == f"{ACCEPTED}/checkpoints/000000000011520-peak"
    delete(run / "run" / parent, read_manifest(run / "run" / parent).files, "done with it")
    assert main(["run", "plan.yaml"]) == 1
    assert "the ladder is exhausted" in capsys.readouterr().err  # what an attempt started from stays its start


def test_a_deleted_attempt_cannot_be_accepted(run, capsys):
    end = sorted((run / "run" / ACCEPTED / "checkpoints").iterdir())[-1]
    delete(end, read_manifest(end).files, "somebody needed the room")
    assert main(["decide", "plan.yaml", "accept", "--stage", "stage2", "--because", "best"]) == 2
    assert "somebody needed the room" in capsys.readouterr().err
    assert not (run / "run" / ACCEPTED / "decision.json").exists()


def test_the_plans_own_policy_is_applied_when_a_stage_is_accepted(run, capsys):
    plan = (run / "plan.yaml").read_text().replace(DECAYS, STAGE3)
    (run / "plan.yaml").write_text(plan.replace("threads: 1}", "threads: 1, keep: peak-before-each-cooldown}"))
    assert main(["run", "plan.yaml"]) == 0
    said = capsys.readouterr().out
    assert (
        "keep: peak-before-each-cooldown: 10 of 12 checkpoints deleted, " in said
    )  # of stage2: all but its end and the base's
    rows = shown(capsys, "plan.yaml")["checkpoints"]
    assert [row["id"].removeprefix("arms/cookbook/") for row in rows if not row["deleted"]] == [
        "base/00-base/checkpoints/000000000010240-peak", "stage2/01-replay/checkpoints/000000000015360-peak",
        "stage3/00-replay-previous-mix/checkpoints/000000000020480-peak", "stage3/01-cooldown/checkpoints/000000000021504-cooled",
    ]  # fmt: skip
    before = everything(run / "run/arms")
    assert main(["run", "plan.yaml"]) == 0
    assert everything(run / "run/arms") == before
