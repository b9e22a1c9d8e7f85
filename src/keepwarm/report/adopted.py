"""`keepwarm adopt` for people: what became of a line, what each figure rests on, and what nobody could tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keepwarm.report.table import aligned
from keepwarm.units import format_share

_SHOWN = 12  # files of a corpus; JSON has all
_CHECKPOINTS = ("checkpoint", "weights", "iteration", "line tokens", "LR", "", "phase", "", "moments", "log lines")
_FED = ("corpus", "file", "tokens", "share", "epochs", "")


def adopted_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The record of an adoption as lines."""
    count = len(record["stages"])
    yield f"{record['name']}: {count} stage{'' if count == 1 else 's'}"
    for stage in record["stages"]:
        yield ""
        yield from _stage(stage)
    yield ""
    lost = record["could_not_be_established"]
    yield "could not be established:" if lost else "everything could be established"
    yield from (f"  {text}" for text in lost)


def _stage(stage: Mapping[str, Any]) -> Iterator[str]:
    yield f"{stage['name']}: {stage['new']}, trained on {stage['list']}"
    if stage["parent"]:
        yield f"  started from {stage['parent']} ({stage['parent_from']})"
    began = {True: "began at 0", False: "went on", None: "not known where it began"}[stage["data_began_anew"]]
    yield f"  data: {began}" + (f" ({stage['data_began_anew_from']})" if stage["data_began_anew_from"] else "")
    logs = stage["logs"]
    if logs["lines"]:
        again = f", went back {logs['restarts']} times" if logs["restarts"] else ""
        yield f"  logs: {logs['lines']:,} lines, up to iteration {logs['last_iteration']:,}{again}"
    yield ""
    rows = [_CHECKPOINTS, *map(_checkpoint, stage["checkpoints"])]
    yield from (f"  {line}" for line in aligned(rows, right=(2, 3, 4, 9)))
    for each in stage["accepted_conflicts"]:
        yield f"  accepted ({each['kind']}): {each['what']}"
    if stage["fed"]:
        yield ""
        yield from (f"  {line}" for line in aligned([_FED, *_fed(stage["fed"])], right=(2, 3, 4)))


def _checkpoint(each: Mapping[str, Any]) -> tuple[str, ...]:
    iteration = "-" if each["iteration"] is None else f"{each['iteration']:,}"
    return (
        each["location"].rpartition("/")[2], each["weights"], iteration, f"{each['line_tokens']:,}", f"{each['lr']:.6g}",
        each["lr_is"], each["phase"], each["phase_is"] or "", "kept" if each["optimizer_state"] else "none",
        f"{each['log_lines']:,}",
    )  # fmt: skip


def _fed(corpora: list[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    total = sum(corpus["tokens"] for corpus in corpora)
    for corpus in corpora:
        share = format_share(corpus["tokens"] / total) if total else "-"
        exact = "estimated" if corpus["estimated"] else "exact"
        yield corpus["corpus"], "", f"{corpus['tokens']:,}", share, "", exact
        for file in corpus["files"][:_SHOWN]:
            epochs = "-" if file["epochs"] is None else f"{file['epochs']:.2f}"
            yield "", file["prefix"], f"{file['tokens']:,}", "", epochs, "estimated" if file["estimated"] else "exact"
        if len(corpus["files"]) > _SHOWN:
            yield "", f"... and {len(corpus['files']) - _SHOWN:,} more (all of them: --json)", "", "", "", ""
