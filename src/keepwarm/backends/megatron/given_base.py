"""A base that was trained elsewhere, on a cluster: its losses come from an evaluation job, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from keepwarm import files
from keepwarm.attempt.line import COOKBOOK, Feed, identity
from keepwarm.backends.given import given
from keepwarm.backends.megatron.evaluate import evaluation_path, read_evaluations
from keepwarm.backends.megatron.script import EVALUATE, evaluation_script, submit_command
from keepwarm.exits import ToSubmit
from keepwarm.lineage.manifest import Manifest, read_manifest, write_record
from keepwarm.plan.model import Plan

GIVEN = f"arms/{COOKBOOK}/base/00-given"  # in the run folder


def adopt_base(plan: Plan, feed: Feed, say: Callable[[str], None]) -> Manifest:
    """The manifest of the plan's base with its losses; ToSubmit, with the job written, until they are measured."""
    record = Path(plan.run.folder) / GIVEN
    if (record / "manifest.json").exists():
        return read_manifest(record)
    manifest = given(plan, feed.tokenizer)
    measured = read_evaluations(record, identity(plan, feed)["holdout"]).get(manifest.step)
    if measured is None:
        out = evaluation_path(record, manifest.step)
        command = ("keepwarm", "eval", str(Path(plan.run.folder) / "plan.yaml"), manifest.id, "-o", str(out), "--trust")
        files.write_text(record / EVALUATE, evaluation_script(plan, record, "base-eval", command), replace=True)
        raise ToSubmit(
            f"the base {manifest.id} is not measured yet: its losses are what forgetting is told from",
            (submit_command(plan, record, EVALUATE), "keepwarm run PLAN"),
        )
    say(f"the base {manifest.id}: measured on {', '.join(measured)}")
    evaluation = {name: {"loss": found["loss"], "windows": found["windows"]} for name, found in measured.items()}
    complete = replace(manifest, evaluation=evaluation)
    write_record(record, complete)
    return complete
