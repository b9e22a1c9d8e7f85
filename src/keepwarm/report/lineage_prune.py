"""`keepwarm lineage prune`: what is deleted, what is kept, and why, as data and as a table."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from keepwarm import files
from keepwarm.attempt.retained import decisions_of, half_deleted, prune
from keepwarm.errors import KeepwarmError
from keepwarm.lineage.deletion import bytes_of
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.model import Plan
from keepwarm.plan.running import Keep
from keepwarm.report.terminal import console
from keepwarm.units import format_bytes

UNFINISHED = "deleted before; a kill left some of its tensors"
HOW = (
    "keep is all: nothing may be deleted. To see what could be, and to delete it:\n"
    "  keepwarm lineage prune PLAN --keep peak-before-each-cooldown --dry-run   (or --keep needed)\n"
    "and for every stage once it is accepted, in the plan: run: {keep: peak-before-each-cooldown}"
)


def pruned(plan: Plan, keep: Keep | None, *, dry_run: bool) -> dict[str, Any]:
    """Decide on every checkpoint by `keep` or the plan's own policy, and unless `dry_run` carry it out."""
    folder, policy = Path(plan.run.folder), keep or plan.run.keep
    if not folder.is_dir():
        raise KeepwarmError(f"{folder}: no such run folder", "there is nothing to delete", "keepwarm run PLAN")
    with contextlib.nullcontext() if dry_run else files.run_lock(folder):
        left = [_row(folder, manifest, False, UNFINISHED) for _, manifest in half_deleted(plan)]
        decisions = decisions_of(plan, policy)
        rows = [_row(folder, each.checkpoint, each.keep, each.reason) for each in decisions]
        freed = 0 if dry_run else prune(plan, decisions)
    return {"folder": str(folder), "keep": policy, "dry_run": dry_run, "freed_bytes": freed, "checkpoints": left + rows}


def _row(folder: Path, manifest: Manifest, keep: bool, reason: str) -> dict[str, Any]:
    facts = {"id": manifest.id, "phase": manifest.phase, "line_tokens": manifest.line_tokens}
    size = bytes_of(folder / manifest.id, manifest.files)
    return facts | {"decision": "keep" if keep else "delete", "reason": reason, "bytes": size}


def print_pruned(found: dict[str, Any]) -> None:
    """What goes and what stays, a line each with its reason, then the sums."""
    rows = {what: [each for each in found["checkpoints"] if each["decision"] == what] for what in ("delete", "keep")}
    if found["keep"] == "all":
        print(HOW)
    verb = "would be deleted" if found["dry_run"] else "deleted"
    for what, title in (("delete", verb), ("keep", "kept")):
        if rows[what] and (what == "delete" or found["keep"] != "all"):
            size = format_bytes(sum(row["bytes"] for row in rows[what]))
            _print_rows(f"{title}: {len(rows[what])} of {len(found['checkpoints'])} checkpoints, {size}", rows[what])
    if found["keep"] != "all":
        print("\n" + _sum(found, rows))


def _sum(found: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> str:
    if not rows["delete"]:
        return f"keep: {found['keep']}: nothing to delete"
    if found["dry_run"]:
        return f"keep: {found['keep']}: nothing was deleted; without --dry-run it is"
    return f"keep: {found['keep']}: {format_bytes(found['freed_bytes'])} freed; every manifest stays"


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=title, title_justify="left")
    for name in ("attempt", "tokens", "phase", "size", "why"):
        table.add_column(name, justify="right" if name in ("tokens", "size") else "left", overflow="fold")
    before = None
    for row in rows:
        attempt = row["id"].partition("/checkpoints/")[0].removeprefix("arms/").removeprefix("cookbook/")
        cells = (f"{row['line_tokens']:,}", row["phase"], format_bytes(row["bytes"]), row["reason"])
        table.add_row(attempt if attempt != before else "", *cells)
        before = attempt
    console().print(table)
