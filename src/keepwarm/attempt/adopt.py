"""A line that was trained by hand becomes lineage and ledger: manifests of its checkpoints, and `adopted.json`.

Weights stay where they lie; a manifest's `location` names them. `adopted.json` says of every figure whether it was
measured, declared or estimated, and lists what could not be established. Like all lineage it is written once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwarm import files
from keepwarm.attempt.adopted_ledger import StageLedger, fed_facts, ledger_of, totals
from keepwarm.attempt.adopted_line import AdoptedLine, load_line
from keepwarm.attempt.adopted_stage import Point, Stage, look_at_stage
from keepwarm.attempt.line import ADOPTED, COOKBOOK
from keepwarm.errors import GuardError, LineageError
from keepwarm.lineage.manifest import Manifest, checkpoint_name, read_manifest, write_record

RECORD = "adopted.json"
FORMAT = 1
_NO_TOKENIZER = "the tokenizer it was trained with"


@dataclass(frozen=True, slots=True)
class Adoption:
    """What adopting a line would write: `adopted.json`, and a manifest for each checkpoint."""

    record: Mapping[str, Any]
    manifests: tuple[Manifest, ...]


def adoption_of(path: Path) -> Adoption:
    """Look at everything LINE.yaml names; nothing is written.

    Raises PlanError, LineageError or DataError for what is wrong, missing, or said differently in two places.
    """
    line = load_line(path)
    manifests: list[Manifest] = []
    records: list[dict[str, Any]] = []
    stage: Stage | None = None
    by_folder: dict[Path, Manifest] = {}
    for spec in line.stages:
        stage = look_at_stage(spec, line.sequence_length, stage)
        ledger = ledger_of(stage)
        parent = by_folder[stage.parent.found.folder] if stage.parent is not None else None
        made = [_manifest(line, stage, ledger, number, parent) for number in range(len(stage.points))]
        by_folder |= {point.found.folder: each for point, each in zip(stage.points, made, strict=True)}
        manifests += made
        records.append(_stage_record(stage, ledger, parent, made))
    lost = [f"{each['name']}: {text}" for each in records for text in each["unknown"]]
    record = {"format": FORMAT, "name": line.name, "stages": records, "could_not_be_established": lost}
    return Adoption(json.loads(json.dumps(record)), tuple(manifests))


def write_adoption(run_folder: Path, adoption: Adoption) -> bool:
    """Write manifests and record into the run folder; False if the same line is there already. GuardError for another."""
    with files.run_lock(run_folder):
        there = adopted_record(run_folder)
        if there == adoption.record:
            return False
        other = "another line was adopted there" if there is not None else "a plan is run there"
        if there is not None or (run_folder / "plan.yaml").exists():
            raise GuardError(
                "append-only",
                f"{run_folder}: {other}",
                "lineage is append-only: checkpoints of two histories in one folder are nobody's line",
                "use another run folder: --run FOLDER",
            )
        for manifest in adoption.manifests:
            _write(run_folder / manifest.id, manifest)
        files.write_json(run_folder / RECORD, adoption.record)
        return True


def _write(folder: Path, manifest: Manifest) -> None:
    """Write a manifest, unless a kill came right after it was written before."""
    if not (folder / "manifest.json").exists():
        write_record(folder, manifest)
    elif read_manifest(folder) != manifest:
        raise GuardError(
            "append-only",
            f"{folder}: the record of another adoption, which did not come to its end",
            "lineage is append-only",
            f"adopt that line again, or remove what it left: rm -r {folder}",
        )


def adopted_record(run_folder: Path) -> Any:
    """The content of `adopted.json`, None where there is none; LineageError if it is damaged."""
    path = run_folder / RECORD
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LineageError(
            f"{path}: damaged ({error})", "it says which line was adopted", f"remove it and adopt again: rm {path}"
        ) from None


def _manifest(line: AdoptedLine, stage: Stage, ledger: StageLedger, number: int, parent: Manifest | None) -> Manifest:
    point = stage.points[number]
    samples = point.samples - stage.first_sample
    before = parent.line_tokens if parent is not None else 0
    line_tokens = before + samples * point.sequence_length if stage.restarted is not None else _least(point, parent)
    cursors, tokens = totals(
        ledger,
        number,
        (parent.cursors, parent.source_tokens) if parent is not None else ({}, {}),
        point.sequence_length,
    )
    folder = Path("arms") / COOKBOOK / stage.spec.name / f"00-{ADOPTED}" / "checkpoints"
    names = {source.id: source.name for source in ledger.sources.values() if source.id in cursors}
    return Manifest(
        id=str(folder / checkpoint_name(line_tokens, point.phase)), parent=parent.id if parent is not None else None,
        arm=COOKBOOK, stage=stage.spec.name, rung=ADOPTED, attempt=files.sha256_json([line.name, stage.spec.name]), plan="",
        step=point.iteration or 0, samples=samples, attempt_tokens=line_tokens - before, line_tokens=line_tokens,
        lr=point.lr, lr_max=point.lr_max, phase=point.phase, phase_is=point.phase_is, lr_is=point.lr_is,
        weights=point.found.kind if point.found.kind != "keepwarm" else "dcp",
        location=str(point.found.folder.resolve()), global_batch_size=point.found.global_batch_size or 0,
        unknown=(*point.unknown, *ledger.unknown, _NO_TOKENIZER), optimizer_state=point.found.moments,
        sequence_length=point.sequence_length, vocab_size=int(point.found.architecture.get("vocab_size", 0)),
        cursors=cursors, source_tokens=tokens,
        source_names={**(parent.source_names if parent is not None else {}), **names}, precision="unknown",
    )  # fmt: skip


def _least(point: Point, parent: Manifest | None) -> int:
    """Tokens of the line at the least, where it is not known whether its count began anew."""
    return max(point.samples * point.sequence_length, parent.line_tokens if parent is not None else 0)


def _stage_record(
    stage: Stage, ledger: StageLedger, parent: Manifest | None, manifests: list[Manifest]
) -> dict[str, Any]:
    spec, log = stage.spec, stage.log
    unknown = [*ledger.unknown, _NO_TOKENIZER]
    for point in stage.points:
        unknown += [f"{point.found.folder.name}: {text}" for text in point.unknown]
        if not point.logged:
            unknown.append(f"{point.found.folder.name}: whether its logs agree: none of them has its iteration")
    if stage.parent_from.startswith("taken"):
        unknown.append(f"from which checkpoint it started: {stage.parent_from}; start: ITERATION says it")
    if stage.restarted is None:
        unknown.append("whether its data began anew: its tokens are counted as the least that fits")
    return {
        "name": spec.name, "new": spec.new, "list": spec.list, "parent": parent.id if parent is not None else None,
        "parent_from": stage.parent_from, "data_began_anew": stage.restarted, "data_began_anew_from": stage.restarted_from,
        "checkpoints": [
            _point_record(point, each) for point, each in zip(stage.points, manifests, strict=True)
        ],
        "fed": fed_facts(ledger, stage.points[-1].sequence_length),
        "logs": {"lines": len(log.lines), "restarts": log.restarts,
                 "last_iteration": log.lines[-1].iteration if log.lines else None},
        "accepted_conflicts": [{"kind": kind, "what": what} for kind, what in stage.conflicts],
        "unknown": unknown,
    }  # fmt: skip


def _point_record(point: Point, manifest: Manifest) -> dict[str, Any]:
    return {
        "id": manifest.id, "location": manifest.location, "weights": manifest.weights, "iteration": point.iteration,
        "samples": point.samples, "samples_from": point.samples_from, "stage_tokens": manifest.attempt_tokens,
        "line_tokens": manifest.line_tokens, "lr": point.lr, "lr_is": point.lr_is, "lr_from": point.lr_from,
        "lr_max": point.lr_max, "phase": point.phase, "phase_is": point.phase_is if point.phase != "unknown" else None,
        "phase_from": point.phase_from, "optimizer_state": manifest.optimizer_state, "log_lines": point.logged,
    }  # fmt: skip
