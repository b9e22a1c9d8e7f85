"""`keepwarm judge`: read a file of either kind, judge it, and say the verdict in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from keepwarm.attempt.records import read_metrics
from keepwarm.errors import DataError
from keepwarm.lineage.log_points import Points, read_points
from keepwarm.plan.values import ToleranceField
from keepwarm.report.table import aligned
from keepwarm.report.terminal import console
from keepwarm.strategy.judge_log import Asked, Judged, judge_log, judge_metrics
from keepwarm.units import format_count

USUAL_TOLERANCE = "5%"


def judged(
    file: Path, validation: Sequence[str] | None, new: str | None, tolerance: str | None, switch: int | None
) -> Judged:
    """The verdict on a file, by what it is; DataError of one that is neither metrics nor a log, and of options that it
    has no use for."""
    if file.is_dir():
        raise DataError(f"{file}: a folder", "one file is judged", f"keepwarm judge {file / 'metrics.jsonl'}")
    options = {"--validation": validation, "--new": new, "--tolerance": tolerance, "--switch": switch}
    given = [name for name, value in options.items() if value is not None]
    if _is_metrics(file):
        if given:
            raise DataError(
                f"{file}: metrics, with {', '.join(given)}",
                "metrics hold every corpus, its tolerance and the switch, so that would be ignored",
                f"keepwarm judge {file}",
            )
        return _of_metrics(file)
    if not validation and (needless := [name for name in given if name != "--switch"]):
        raise DataError(
            f"{file}: a log, with {', '.join(needless)} and no corpus's validation",
            "one blended loss tells of no corpus, so that would be ignored",
            f"keepwarm judge {file} --validation CORPUS=LOG",
        )
    limit = _tolerance(tolerance if tolerance is not None else USUAL_TOLERANCE)
    asked = Asked(new, float(limit.value), limit.unit == "relative", switch)
    return judge_log(read_points(file), _logs(validation or ()), asked)


def _of_metrics(file: Path) -> Judged:
    records = read_metrics(file)
    if not records or records[0]["kind"] != "header":
        raise DataError(
            f"{file}: no header record", "references and tolerances stand there", "name an attempt's metrics.jsonl"
        )
    try:
        return judge_metrics(records, int(not file.read_bytes().endswith(b"\n")))
    except KeyError as error:
        raise DataError(
            f"{file}: {error} is missing in a record", "a verdict from a damaged record would be a guess",
            "name the metrics.jsonl that an attempt wrote",
        ) from error  # fmt: skip


def print_judged(file: Path, found: Judged) -> None:
    """The verdict for people: outcome, reasons, what was decided on the way, what helps, what was assumed."""
    console().print("\n".join(_lines(file, found)), markup=False, highlight=False, soft_wrap=True)


def _lines(file: Path, found: Judged) -> Iterator[str]:
    lines = found.unparsed_lines
    unread = f", {lines} line{'s' * (lines != 1)} not read" if lines else ""
    yield f"{file}: {found.training_points:,} training and {found.validation_points:,} validation points{unread}"
    yield f"verdict: {found.outcome}"
    yield from (f"  {reason}" for reason in found.reasons)
    if found.trouble:
        yield f"trouble: {found.trouble}"
        yield f"  helps: {found.helps}"
    if found.said:
        yield "on the way:"
        yield from (f"  {line}" for line in aligned([said_row(each) for each in found.said], right=(0,)))
    if found.assumed:
        yield "assumed:"
        yield from (f"  {each}" for each in found.assumed)


def said_row(each: Any) -> tuple[str, ...]:
    """A decision on the way: when, what, how sure, the numbers."""
    tokens = f" ({format_count(each['tokens'])} tokens)" if "tokens" in each else ""
    return f"step {each['step']:,}{tokens}", f"{each['outcome']} ({each['sure']})", each["text"]


def _is_metrics(file: Path) -> bool:
    try:
        with open(file, "rb") as opened:
            return opened.read(1) == b"{"
    except OSError as error:
        raise DataError(
            f"{file}: {(error.strerror or 'can not be read').lower()}", "there is nothing to judge", f"ls {file.parent}"
        ) from None


def _tolerance(text: str) -> Any:
    try:
        return TypeAdapter(ToleranceField).validate_python(text)
    except ValidationError:
        raise DataError(
            f"--tolerance {text}: not a tolerance", "what is forgotten is held against it", "--tolerance '0.3 nats'"
        ) from None


def _logs(validation: Sequence[str]) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for each in validation:
        corpus, equals, path = each.partition("=")
        if not (corpus and equals and path) or corpus in found:
            again = f"{corpus} is given twice" if corpus in found else "not CORPUS=LOG"
            raise DataError(f"--validation {each}: {again}", "each log is one corpus's", "--validation d0=eval-d0.log")
        found[corpus] = read_points(Path(path))
        if not found[corpus].validation:
            raise DataError(
                f"{path}: no validation line", f"it should have the losses of {corpus}",
                "name a log with lines `validation loss at iteration N | lm loss value=...`",
            )  # fmt: skip
    return found
