"""`keepwarm plan` for people: the stages in exact numbers, the LR curve, and the cost before anything is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from keepwarm.attempt.records import read_metrics
from keepwarm.corpora.trainable import LeftOut
from keepwarm.plan.model import Plan
from keepwarm.report.learning_rate import curve
from keepwarm.report.terminal import console
from keepwarm.units import format_share


def print_plan(plan: Plan, found: dict[str, Any], rate: float | None) -> None:
    """Print what `numbers` found."""
    out = console()
    out.print(
        f"{plan.name}: {len(plan.stages)} stages, {found['step_tokens']:,} tokens a step, run folder {plan.run.folder}"
    )
    out.print(_corpora(plan, found))
    for name, size in found["corpora"].items():
        if size["left_out"] is not None:
            out.print(LeftOut(**size["left_out"]).words(name, size["tokens"]), markup=False, soft_wrap=True)
    out.print(_line(plan, found))
    out.print(_ladders(found))
    print(curve(plan))
    out.print(_kept(found))
    _print_cost(plan, found, rate)


def _corpora(plan: Plan, found: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("corpus")
    table.add_column("tokens (~ estimated from bytes)", justify="right")
    for name, size in found["corpora"].items():
        table.add_row(plan.called(name), f"{'' if size['exact'] else '~'}{size['tokens']:,}")
    return table


def _line(plan: Plan, found: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("stage", "new data", "ladder", "steps", "tokens", "asked", "LR start -> end"):
        table.add_column(name, justify="right" if name in ("steps", "tokens", "asked") else "left")
    base = found["base"]
    if "steps" in base:
        lr_end = plan.optimizer.lr_max if plan.schedule.kind == "wsd" else float(plan.schedule.lr_min or 0)
        words = f"0 -> {plan.optimizer.lr_max:g} -> {lr_end:g}"
        table.add_row(
            "base",
            plan.base.corpus,
            "",
            f"{base['steps']:,}",
            f"{base['tokens']:,}",
            f"{base['asked_tokens']:,}",
            words,
        )
    for stage in found["stages"]:
        lr = "{:g} -> {:g}".format(*stage["lr"])
        table.add_row(
            stage["name"], stage["new"], stage["ladder"], f"{stage['steps']:,}", f"{stage['tokens']:,}",
            f"{stage['asked_tokens']:,}", lr,
        )  # fmt: skip
    return table


def _ladders(found: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("stage", "tried in this order", "mix", "tokens", "epochs repeated"):
        table.add_column(name)
    for stage in found["stages"]:
        for number, each in enumerate(stage["candidates"]):
            label = each["label"] if each["built"] else f"{each['label']} (skipped: not built yet)"
            table.add_row(
                stage["name"] if number == 0 else "",
                label,
                " ".join(f"{role} {format_share(share)}" for role, share in each["shares"].items()),
                " ".join(f"{role} {tokens:,}" for role, tokens in each["tokens"].items()),
                " ".join(
                    _epochs(name, epochs, found["max_epochs"]) for name, epochs in each["epochs"].items() if epochs
                ),
            )
    return table


def _epochs(name: str, epochs: float, most: float) -> str:
    """How often a candidate alone reads a corpus; above the plan's cap, it will be refused or reweighted."""
    return f"{name} {epochs:.2f}" + (f" (above max_epochs {most:g})" if epochs > most else "")


def _kept(found: dict[str, Any]) -> Table:
    """What each rung keeps of the checkpoint it starts from, with the rates of its first candidate."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="kept and changed at each start", title_justify="left")
    for name in ("stage", "rung", "weights from", "moments", "batch", "LR: checkpoint -> first -> last"):
        table.add_column(name, overflow="fold")
    table.caption_justify = "left"
    table.caption = (
        "Of every start: the new data starts at 0, every other source goes on where the line stands, the evaluation "
        "windows are the same."
    )
    for stage in found["stages"]:
        tables: dict[str, list[dict[str, dict[str, str]]]] = {}
        for each in stage["candidates"]:
            if each["kept"]:
                tables.setdefault(each["rung"], []).append({row["what"]: row for row in each["kept"]})
        for number, (rung, alike) in enumerate(tables.items()):
            first, rates = alike[0], {rows["LR"]["numbers"] for rows in alike}
            others = f"; {len(rates) - 1} other rates" if len(rates) > 1 else ""
            table.add_row(
                stage["name"] if number == 0 else "",
                rung,
                first["weights"]["numbers"],
                first["optimizer moments"]["how"],
                first["batch size"]["numbers"] if "batch size" in first else "",
                first["LR"]["numbers"] + others,
            )
    return table


def _print_cost(plan: Plan, found: dict[str, Any], rate: float | None) -> None:
    tokens = found["tokens"]
    measured = rate or measured_rate(plan)
    words = {
        "if_first_rungs_hold": "if each stage's first rung is accepted",
        "worst_case": "if every ladder is climbed to its end",
    }
    print("\ncost:")
    for key, text in words.items():
        hours = f" = {tokens[key] / measured / 3600:,.2f} hours at {measured:,.0f} tokens/s" if measured else ""
        print(f"  {tokens[key]:>16,} tokens {text}{hours}")
    if not measured:
        print("  (give --rate TOKENS_PER_SECOND for hours; once the run has trained, its own rate is used)")


def measured_rate(plan: Plan) -> float | None:
    """The median tokens a second of the run's newest attempt, or None before there is one."""
    found = sorted(Path(plan.run.folder).glob("arms/*/*/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    for path in reversed(found):
        rates = sorted(record["tokens_per_second"] for record in read_metrics(path) if record["kind"] == "train")
        if rates:
            return float(rates[len(rates) // 2])
    return None
