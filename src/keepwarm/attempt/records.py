"""What an attempt writes down: `attempt.json`, `metrics.jsonl` (append-only) and `verdict.json`. No torch.

`metrics.jsonl` begins with a header (roles, references, tolerances, windows, threads, precision); then records
`{"kind": "train" | "eval" | "event", "step":, "tokens":, ...}`. It is complete for a verdict: `judge` needs no other
file. A line that a kill cut in half is dropped when the file is read or continued.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keepwarm import files
from keepwarm.attempt.model import Attempt, from_json
from keepwarm.errors import LineageError

Record = dict[str, Any]
Watch = Callable[[list[Record]], Sequence[Record]]  # asked about an attempt on the way, for events
DECISION = "decision"  # the event that says how an attempt on the way stands
CONFIRM = "confirm"  # the event that has all held-out windows measured before an attempt is stopped
STOPPED_EARLY = "stopped-early"  # the event that ends an attempt before its last step
SKIPPED = "skipped"  # the event of a step without an update; it stands in place of the step's train record
REWOUND = "rewound"  # the event that says the attempt went back to a checkpoint (rewinds.py)
NON_FINITE = "non-finite"  # the event that ends an attempt as diverged: a loss or gradient that is not finite
DIVERGED = "diverged"  # the one that does so at a spike


def allowed_before(folder: Path) -> tuple[str, ...]:
    """Guards that the attempt in `folder` overrode when it was made: they stay overridden. None before it is made."""
    made = attempt_in(folder)
    return made.allow if made is not None else ()


def attempt_in(folder: Path) -> Attempt | None:
    """The attempt in `folder`; None before it is made. LineageError if its record is damaged."""
    return read_attempt(folder) if (Path(folder) / "attempt.json").exists() else None


def read_attempt(folder: Path) -> Attempt:
    """Read `folder/attempt.json`; LineageError if it is damaged."""
    path = Path(folder) / "attempt.json"
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise LineageError(
            f"{path}: damaged ({error})", "it is the identity of the attempt", f"remove the attempt: rm -r {folder}"
        ) from error


def read_metrics(path: Path) -> list[Record]:
    """All whole records of a metrics file. A cut last line is dropped; any other broken line is an error."""
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        raise LineageError(
            f"{path}: no such file", "there is nothing to read", "name an attempt's metrics.jsonl"
        ) from None
    records: list[Record] = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was cut by a kill
        try:
            record = json.loads(line)
            if not isinstance(record["kind"], str):
                raise TypeError("its kind is not a word")
        except (ValueError, TypeError, KeyError) as error:
            raise LineageError(
                f"{path}:{number}: not a metrics record ({error})",
                "a verdict from a damaged record would be a guess",
                "remove the damaged line, or the attempt",
            ) from error
        records.append(record)
    return records


def keep_until(path: Path, step: int) -> list[Record]:
    """Drop what was written after `step` (the run goes on from a checkpoint at `step`); returns what is kept."""
    kept = [record for record in read_metrics(path) if record.get("step", 0) <= step]
    write_metrics(path, kept)
    return kept


def write_metrics(path: Path, records: Sequence[Record]) -> None:
    """Write a metrics file anew, with these records."""
    files.write_text(path, "".join(_line(record) for record in records), replace=True)


class MetricsWriter:
    """Appends records, each in one write, so that a kill can cut only the last line."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending."""
        with files.explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.path = path
            self._file = open(path, "ab", buffering=0)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; a full disk is a three-line error and leaves no half line behind."""
        size = self._file.seek(0, 2)
        with files.explained(self.path):
            try:
                data = _line(record).encode()
                if self._file.write(data) != len(data):
                    raise OSError(28, "no space left on device")
            except OSError:
                self._file.truncate(size)
                raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def finite(value: float) -> float | None:
    """JSON has no NaN: None stands for a loss that is not a finite number."""
    return value if math.isfinite(value) else None


def write_verdict(folder: Path, verdict: Mapping[str, Any], *, replace: bool = False) -> None:
    """Write `folder/verdict.json`; once, but for candidates that were never trained (`replace`)."""
    files.write_json(Path(folder) / "verdict.json", verdict, replace=replace)


def write_decision(folder: Path, decision: Mapping[str, Any]) -> None:
    """Write `folder/decision.json`: a person's word on an attempt, given once."""
    files.write_json(Path(folder) / "decision.json", decision)


def read_verdict(folder: Path) -> Record | None:
    """The recorded verdict of an attempt, with a person's decision where there is one; None while it has none."""
    path = Path(folder) / "verdict.json"
    if not path.exists():
        return None
    try:
        content: Record = json.loads(path.read_text(encoding="utf-8"))
        content["outcome"]
        decided = path.with_name("decision.json")
        if decided.exists():
            content["decision"] = json.loads(decided.read_text(encoding="utf-8"))
            content["accepted"] = content["decision"]["decision"] == "accept"
    except (ValueError, KeyError, TypeError) as error:
        raise LineageError(
            f"{path}: damaged ({error})", "the ladder goes by recorded verdicts", f"remove it to judge again: rm {path}"
        ) from error
    return content


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, separators=(",", ":"), ensure_ascii=False) + "\n"
