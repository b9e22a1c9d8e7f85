"""What people read in a terminal or a batch log: plain lines while it runs, tables when it is done."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from keepwarm.attempt.kept import Row
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.records import DECISION, Record
from keepwarm.plan.model import Plan
from keepwarm.report.accounted import account_note, account_table
from keepwarm.report.decisions import decision_lines
from keepwarm.report.status import status
from keepwarm.units import format_count, format_share

LINES_AN_ATTEMPT = 5
BATCH_LOG_WIDTH = 120
TABLE_WIDTH = 112  # below it, `status` tells the same in lines


def console() -> Console:
    """Standard output: as wide as the terminal, or a fixed width in a file or pipe."""
    return Console(width=None if sys.stdout.isatty() else BATCH_LOG_WIDTH, highlight=False, soft_wrap=False)


def console_aside() -> Console:
    """Standard error, where standard output is data."""
    return Console(stderr=True, width=BATCH_LOG_WIDTH, highlight=False)


def console_beside(log: Path) -> Console:
    """Where a process beside the run's owner tells its story: the batch log they share, or `log` below a live view."""
    if not sys.stdout.isatty():
        return console()
    log.parent.mkdir(parents=True, exist_ok=True)
    return Console(file=open(log, "a", encoding="utf-8", buffering=1), width=BATCH_LOG_WIDTH)


def print_json(value: Any) -> None:
    """JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


class Terminal:
    """Tells what a run does: lines in a batch log, and in a terminal a live view below them as well."""

    def __init__(self, prefix: str = "", out: Console | None = None, *, table: bool = False) -> None:
        """Nothing is running yet. `prefix` begins every line: it tells arms that run side by side apart.

        `table` shows what each attempt keeps and changes as a table, instead of in a line.
        """
        self._prefix = prefix
        self._table = table
        self._out = out or console()
        self._attempt: Attempt | None = None
        self._seen: set[Path] = set()
        self._view: Live | None = None
        self._held_out = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_view()

    def say(self, text: str) -> None:
        """One line, or a few that belong together."""
        lines = "\n".join(f"{self._prefix}{line}" for line in text.split("\n"))
        self._out.print(lines, markup=False, highlight=False, soft_wrap=True)
        self._out.file.flush()

    def begin(self, attempt: Attempt, table: Sequence[Row]) -> None:
        """Announce an attempt: its start, mix, learning rate, budget, and what is kept and what is new."""
        self._attempt, self._held_out = attempt, ""
        first, last = float(attempt.schedule.lr(0)), float(attempt.schedule.lr(attempt.tokens))
        self.say(
            f"\n{attempt.arm} {attempt.stage}: {attempt.label} | mix {_asked(attempt)} | LR {first:g} -> {last:g} | "
            f"{attempt.steps:,} steps = {attempt.tokens:,} tokens"
        )
        if self._table:
            self.say("\n".join(table_lines([row.as_dict() for row in table])))
        else:
            self.say(f"  from {attempt.start or 'random weights'}")
            self.say(f"  {' | '.join(f'{what}: {how}' for what, how in kept(attempt))}")
        for warning in attempt.warnings:
            self.say(f"  note: {warning}")
        self._end_view()
        if self._out.is_terminal:
            self._view = Live(console=self._out, refresh_per_second=4, transient=True)
            self._view.start()

    def record(self, record: Record) -> None:
        """A training line now and then; every evaluation; every event."""
        attempt = self._attempt
        assert attempt is not None
        if record["kind"] == "train":
            if self._view is not None:
                self._view.update(self._live(attempt, record))
            elif record["step"] % max(1, attempt.steps // LINES_AN_ATTEMPT) == 0:
                self.say(f"  step {record['step']:>6,}/{attempt.steps:,}  {_training(record)}")
        elif record["kind"] == "eval":
            losses = "  ".join(f"{name} {loss:.3f}" for name, loss in record["loss"].items() if loss is not None)
            self._held_out = f"held-out loss  {losses}"
            if record["full"]:
                self.say(f"  step {record['step']:>6,}/{attempt.steps:,}  {self._held_out}")
        elif record["kind"] == "event" and record["event"] != DECISION:  # one at every evaluation: status tells them
            self.say(f"  step {record['step']:>6,}/{attempt.steps:,}  {record['event']} {record['text']}")

    def judged(self, attempt: Attempt | None, folder: Path, verdict: Record) -> None:
        """The outcome of a candidate with its reasons."""
        self._end_view()
        if folder in self._seen:
            return
        self._seen.add(folder)
        kept_words = " -> accepted" if verdict["accepted"] and not verdict.get("control") else ""
        self.say(f"  {folder.parent.name} {verdict['label']}: {verdict['outcome']}{kept_words}")
        for reason in verdict["reasons"]:
            self.say(f"    {reason}")
        if "fix" in verdict:
            self.say(f"    fix: {verdict['fix']}")

    def _live(self, attempt: Attempt, record: Record) -> Group:
        """Three lines that change: how far, how it trains, what is held out."""
        bar = ProgressBar(total=attempt.steps, completed=record["step"], width=30)
        head = Table.grid(padding=(0, 1))
        head.add_row(f"{attempt.stage} {attempt.label}", bar, f"{record['step']:,}/{attempt.steps:,}")
        return Group(head, Text(f"{_training(record)}  mix {_asked(attempt)}"), Text(self._held_out))

    def _end_view(self) -> None:
        if self._view is not None:
            self._view.stop()
            self._view = None


def _asked(attempt: Attempt) -> str:
    words = " + ".join(f"{part.role} {format_share(part.share)}" for part in attempt.parts)
    return f"{words}, {attempt.steering.words()}" if attempt.steering else words


def _training(record: Record) -> str:
    rate = format_count(round(record["tokens_per_second"]))
    share = f"  MFU {record['mfu']:.0%}" if "mfu" in record else ""
    memory = f"  {record['memory_bytes'] / 1e9:.1f} GB" if "memory_bytes" in record else ""
    return f"training loss {record['loss']:.3f}  LR {record['lr']:.3g}  {rate} tokens/s{share}{memory}"


def table_lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The rows of a kept/changed table (attempt/kept.py), aligned and indented."""
    width = max((len(row["what"]) for row in rows), default=0)
    return [f"  {row['what']:<{width}}  {row['how']:<7}  {row['numbers']}" for row in rows]


def kept(attempt: Attempt) -> list[tuple[str, str]]:
    """What an attempt keeps of the checkpoint it starts from, and what begins anew, in a line."""
    moments = {"keep": "kept", "reset": "reset", "fresh": "new"}[attempt.moments]
    on = {source: position for source, position in attempt.segments[0].cursors if position}
    going_on = [f"{s.name} from sample {on[s.id]:,}" for s in attempt.sources if s.id in on]
    return [
        ("weights", "kept" if attempt.start else "new"),
        ("optimizer moments", moments),
        ("LR", f"{attempt.schedule.phase(0)}, then {attempt.schedule.phase(attempt.tokens)}"),
        ("data", ", ".join(going_on) + " goes on, the rest is unread" if going_on else "unread"),
        ("random state", f"seed {attempt.seed}"),
    ]


def print_status(plan: Plan) -> None:
    """The run's table, its losses by arm, and what comes next."""
    found = status(plan)
    out = console()
    if out.width >= TABLE_WIDTH:
        out.print(stage_table(found))
    else:
        out.print("\n".join(stage_lines(found)), markup=False, highlight=False)
    if any(arm["loss"] for arm in found["arms"].values()):
        out.print(loss_table(plan, found))
    out.print("\n".join(decision_lines(found)), markup=False, highlight=False, soft_wrap=True)
    if found["account"]["rows"]:
        out.print(account_table(found["account"]))
        out.print(account_note(found["account"]), markup=False, highlight=False, soft_wrap=True)
    for stage in found["stages"]:
        if stage["ended"] is not None:
            out.print(
                f"{stage['name']}: the search ended: {stage['ended']}", markup=False, highlight=False, soft_wrap=True
            )
    out.print(f"next: {found['next']['do']}")


def stage_table(found: dict[str, Any]) -> Table:
    """One row an attempt: what was asked, fed, and lost or gained. Losses are nats/token (bits/byte)."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=found["name"], title_justify="left")
    for name in ("stage", "rung", "mix asked (fed)", "LR start -> end"):
        table.add_column(name, overflow="fold")
    table.add_column("held-out loss before -> after,\nnats/token (bits/byte)", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    base = {"name": "base", "attempts": found["base"].get("attempts", []), "state": found["base"]["state"]}
    for stage in [base, *found["stages"]]:
        if not stage["attempts"]:
            table.add_row(stage["name"], "", "", "", "", stage["state"])
        for number, attempt in enumerate(stage["attempts"]):
            table.add_row(
                stage["name"] if number == 0 else "",
                attempt["label"],
                _mix_words(attempt),
                "{:g} -> {:g}".format(*attempt["lr"]) if "lr" in attempt else "",
                _loss_words(attempt),
                _outcome(attempt),
            )
    return table


def stage_lines(found: dict[str, Any]) -> list[str]:
    """The table's content for a narrow terminal: a few short lines an attempt."""
    lines = [found["name"]]
    for stage in found["stages"]:
        lines += ["", f"{stage['name']}: {stage['new']}, {stage['state']}"]
        for attempt in stage["attempts"]:
            lines.append(f"  {attempt['label']}: {_outcome(attempt)}, {attempt['tokens']:,} tokens")
            if attempt.get("asked"):
                lines.append(f"    mix {_mix_words(attempt)}".replace("\n", ", "))
                lines.append("    LR {:g} -> {:g}".format(*attempt["lr"]))
            lines += [f"    {line}" for line in _loss_words(attempt).split("\n") if line]
    return lines


def loss_table(plan: Plan, found: dict[str, Any]) -> Table:
    """Every corpus at the end of every arm's line, and how much of it was forgotten. Nats/token."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="end of the line", title_justify="left")
    for name in ("corpus", "arm", "when taught", "at peak", "forgotten", "cooled"):
        table.add_column(name, justify="left" if name in ("corpus", "arm") else "right")
    for corpus in (*plan.corpora, *plan.evaluation):
        for arm, facts in found["arms"].items():
            if corpus not in facts["loss"]:
                continue
            loss, forgotten = facts["loss"][corpus], facts["forgetting"].get(corpus)
            taught = facts["after"].get(corpus, {}).get(corpus)
            cells = (taught, loss["peak"], forgotten, loss["cooled"])
            words = [("" if v is None else f"{v:+.3f}" if i == 2 else f"{v:.3f}") for i, v in enumerate(cells)]
            table.add_row(plan.called(corpus), arm, *words)
    return table


def _outcome(attempt: dict[str, Any]) -> str:
    """What became of an attempt, a person's word on it, and the guards it overrode."""
    allowed = f", allowed {', '.join(attempt['allowed'])}" if attempt.get("allowed") else ""
    if attempt["outcome"] is not None:
        person = f", by a person: {attempt['decision']['decision']}" if attempt["decision"] else ""
        person = ", waits for a person's word" if attempt["waiting"] else person
        return f"{attempt['outcome']}{person}{allowed}"
    done = attempt["step"] == attempt["steps"]
    return ("trained" if done else f"running, step {attempt['step']}/{attempt['steps']}") + allowed


def _mix_words(attempt: dict[str, Any]) -> str:
    fed = attempt.get("fed", {})
    words = [
        f"{role} {format_share(share)}" + (f" ({fed[role] * 100:.2f}%)" if role in fed else "")
        for role, share in attempt.get("asked", {}).items()
    ]
    return "\n".join([*words, *([attempt["steered"]] if "steered" in attempt else [])])


def _loss_words(attempt: dict[str, Any]) -> str:
    lines = []
    for corpus, loss in attempt.get("loss", {}).items():
        if loss["after"] is None:
            lines.append(f"{corpus} {loss['before']:.2f}")
            continue
        before, after = loss["bits_per_byte"]
        per_byte = f" ({before:.2f} -> {after:.2f})" if before is not None else ""
        lines.append(f"{corpus} {loss['before']:.2f} -> {loss['after']:.2f}{per_byte}")
    return "\n".join(lines)
