"""`keepwarm observe` and `keepwarm eval` for people: points as they come, then warnings, the verdict and what comes next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from keepwarm.attempt.records import Record
from keepwarm.backends.megatron.evaluate import Evaluation
from keepwarm.backends.megatron.observe import Observed
from keepwarm.backends.megatron.script import LOGS
from keepwarm.report.table import aligned
from keepwarm.report.terminal import console, print_json
from keepwarm.units import format_count

FIRST_POINTS = 5  # of what was logged before --follow began


class Live:
    """Prints points as they are logged."""

    def __init__(self, *, silent: bool = False) -> None:
        """`silent`: nothing is printed."""
        self._silent, self._begun = silent, False

    def tell(self, records: Sequence[Record], found: Observed) -> None:
        """The records that are new since the last time; the first time only the last few."""
        lines = [line for record in records if (line := record_line(record, found.steps))]
        shown = lines if self._begun else lines[-FIRST_POINTS:]
        self._begun = True
        if shown and not self._silent:
            _say("\n".join(shown))


def record_line(record: Record, steps: int) -> str | None:
    """One line of a record, in the order of the numbers that are looked at."""
    at = f"step {record['step']:>{len(f'{steps:,}')},}/{steps:,}"
    if record["kind"] == "train":
        norm = f"  grad norm {record['grad_norm']:.3f}" if "grad_norm" in record else "  grad norm -"
        rate = format_count(round(record["tokens_per_second"]))
        return f"{at}  loss {record['loss']:.4f}  LR {record['lr']:.4g}{norm}  {rate} tokens/s"
    if record["kind"] == "eval":
        return f"{at}  held-out loss  {_losses(record['loss'])}"
    word = "warning: " if record.get("warning") else ""
    return f"{at}  {word}{record['event']} {record['text']}"


def print_observed(found: Observed, plan: Path) -> None:
    """Where it stands, what is wrong, the verdict, and the next command with the plan's own path in it."""
    _say("\n".join(_lines(found, plan)))


def _lines(found: Observed, plan: Path) -> Iterator[str]:
    attempt, trained = found.attempt, [record for record in found.records if record["kind"] == "train"]
    yield f"{attempt.stage}: {attempt.label}, step {found.step:,} of {found.steps:,} ({found.folder})"
    yield from (f"  {line}" for line in aligned(_launch_rows(found), {1, 2}))
    if trained:
        yield f"last point: {record_line(trained[-1], found.steps)}"
    full = [record for record in found.records if record["kind"] == "eval"]
    rows = [[f"step {record['step']:,}", _losses(record["loss"])] for record in full]
    yield from (["held-out loss, nats per token:"] if rows else [])
    yield from (f"  {line}" for line in aligned(rows))
    notes = [
        record for record in found.records if record["kind"] == "event" and record["event"] in ("resumed", "nan-loss")
    ]
    yield from (f"note: step {record['step']:,}: {record['event']} {record['text']}" for record in notes)
    yield from (f"note: {words}" for words in _elsewhere(found))
    yield from (f"note: a last line without an end, not read: {place}" for place in found.cut)
    yield from (f"warning: {record['event']}: {record['text']}" for record in found.warnings)
    yield from _verdict_lines(found)
    if found.end is not None:
        yield f"checkpoint: {found.end.id} ({found.end.phase}, LR {found.end.lr:g}), tensors in {found.end.location}"
    yield f"next: {found.next.why}"
    yield f"  {found.next.command.replace('PLAN', str(plan))}"


def _elsewhere(found: Observed) -> Iterator[str]:
    """Logs that were named and lie elsewhere: `keepwarm run` does not know of them."""
    for each in found.launches:
        own = each.folder / LOGS
        for name in each.jobs:
            if not (found.folder / name).resolve().is_relative_to(own.resolve()):
                yield f"{name} is read now only; for keepwarm run as well: cp {shlex.quote(name)} {shlex.quote(str(own))}/"


def _verdict_lines(found: Observed) -> Iterator[str]:
    if not found.attempt.old and found.attempt.new is None and found.verdict.outcome != "diverged":
        yield "verdict: none, for it teaches nothing new; what comes behind it is held against its losses"
        return
    yield f"verdict: {found.verdict.outcome}"
    yield from (f"  {reason}" for reason in found.verdict.reasons)


def _launch_rows(found: Observed) -> list[list[str]]:
    rows = []
    for each in found.launches:
        jobs = f"{len(each.jobs)} log{'s' * (len(each.jobs) != 1)}" + (
            f", submitted as {each.submitted}" if each.submitted else ""
        )
        rows.append([each.name, f"iteration {each.logged:,}", f"of {each.end:,}", jobs])
    return rows


def print_evaluations(found: Iterable[tuple[Path | None, Evaluation]], *, as_json: bool) -> None:
    """Each as it is measured, with where it was written; as JSON, all of them in a list at the end."""
    told = []
    for path, evaluation in found:
        if not as_json:
            _say("\n".join(_evaluation_lines(path, evaluation)))
        told.append({**evaluation.as_dict(), "written": str(path) if path else None})
    if as_json:
        print_json(told)
    elif not told:
        _say("every saved step was measured before")


def _evaluation_lines(path: Path | None, evaluation: Evaluation) -> Iterator[str]:
    yield f"{evaluation.checkpoint}: {evaluation.kind}, iteration {evaluation.iteration:,}, {evaluation.precision}"
    rows = [["corpus", "nats/token", "bits/byte", "windows"]]
    for name, each in evaluation.losses.items():
        numbers = ["not finite" if each["loss"] is None else f"{each['loss']:.4f}"]
        numbers.append("-" if each["bits_per_byte"] is None else f"{each['bits_per_byte']:.4f}")
        rows.append([name, *numbers, f"{len(each['windows']):,}"])
    yield from (f"  {line}" for line in aligned(rows, {1, 2, 3}))
    if evaluation.padding:
        yield (
            f"  without the {evaluation.padding:,} rows of padding that the trainer's softmax has: its own losses are higher "
            "by what it spends on them"
        )
    if path is not None:
        yield f"  written to {path}"


def _losses(losses: dict[str, float | None]) -> str:
    return "  ".join(f"{name} {'not finite' if loss is None else f'{loss:.4f}'}" for name, loss in losses.items())


def _say(text: str) -> None:
    out = console()
    out.print(text, markup=False, highlight=False, soft_wrap=True)
    out.file.flush()
