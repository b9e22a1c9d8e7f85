"""The header of an attempt's metrics: what it will be judged against, so that the file alone gives the verdict.

The reference of an old corpus is its loss, over all held-out windows, at the checkpoint that had just been taught it.
An attempt that ends at peak is compared with references at peak: a cooled model looks 0.1-0.3 nats better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keepwarm import __version__
from keepwarm.attempt.model import Attempt
from keepwarm.lineage.manifest import Manifest


@dataclass(frozen=True, slots=True)
class CooldownDrop:
    """What a cooldown of the line's end bought on each corpus, window by window: peak minus cooled, nats per token."""

    checkpoint: str
    windows: Mapping[str, tuple[float, ...]]


def cooldown_drop(end: Manifest, cooled: Manifest) -> CooldownDrop:
    """The drop between a checkpoint at peak and its cooled branch, over all held-out windows."""
    windows = {
        name: tuple(a - b for a, b in zip(found["windows"], cooled.evaluation[name]["windows"], strict=True))
        for name, found in end.evaluation.items()
    }
    return CooldownDrop(cooled.id, windows)


def header(
    attempt: Attempt,
    taught: Sequence[tuple[str, Manifest]],
    end: Manifest | None,
    drop: CooldownDrop | None,
    tokens_per_byte: Mapping[str, float | None],
    threads: int,
    possibly_seen: Sequence[str] = (),
) -> dict[str, Any]:
    """The first record of `metrics.jsonl`. `end` is where the line stood before the stage; `drop` that end's cooldown.

    An attempt that ends cooled is compared with references less the measured drop, where they were taken at peak. What was
    not measured yet is left out: then there is no verdict (`lacking`).
    """
    phase = attempt.schedule.phase(attempt.tokens)
    drop = drop if phase == "cooled" else None
    references = {
        name: _reference(name, manifest, drop)
        for name, manifest in taught
        if name in attempt.old and name in manifest.evaluation
    }
    before = {
        name: _reference(name, end, drop)
        for name in (*attempt.old, attempt.new)
        if end is not None and name is not None and name in end.evaluation
    }
    tolerance = {}
    for name, (value, unit) in attempt.judgement.tolerance.items():
        if unit != "nats" and name not in references:
            continue
        nats = value if unit == "nats" else value * references[name]["loss"]
        tolerance[name] = {"value": value, "unit": unit, "nats": nats}
    return {
        "kind": "header", "format": 1, "attempt": attempt.sha256, "arm": attempt.arm, "stage": attempt.stage,
        "rung": attempt.rung, "label": attempt.label, "new": attempt.new, "old": list(attempt.old),
        "steps": attempt.steps, "step_tokens": attempt.step_tokens, "seed": attempt.seed, "ends": phase,
        "switch_step": attempt.batches.steps(attempt.segments[-1].first_sample),
        **({"steering": attempt.steering.rule()} if attempt.steering else {}),
        "roles": {source.id: source.role for source in attempt.sources},
        "sources": {source.id: source.name for source in attempt.sources},
        "references": references, "before": before, "tolerance": tolerance,
        **({"cooldown_drop": {"checkpoint": drop.checkpoint, "windows": dict(drop.windows)}} if drop else {}),
        "adaptation": {
            "share": attempt.judgement.adaptation,
            "before_at_peak": end.evaluation[attempt.new]["loss"] if attempt.new in before and end else None,
        },
        "evaluation": {"steps": list(attempt.evaluation.steps), "subset": dict(attempt.evaluation.subset)},
        "tokens_per_byte": dict(tokens_per_byte), "possibly_seen": list(possibly_seen), "threads": threads,
        "keepwarm": __version__,
    }  # fmt: skip


def lacking(header: Mapping[str, Any]) -> tuple[str, ...]:
    """The corpora of a header without what an attempt is judged against."""
    judged = [*header["old"], *([header["new"]] if header["new"] else [])]
    return tuple(
        name
        for name in judged
        if name not in header["before"] or (name in header["old"] and name not in header["references"])
    )


def _reference(name: str, manifest: Manifest, drop: CooldownDrop | None) -> dict[str, Any]:
    windows, phase, phase_is = list(manifest.evaluation[name]["windows"]), str(manifest.phase), str(manifest.phase_is)
    if drop is not None and manifest.phase != "cooled":
        windows = [window - less for window, less in zip(windows, drop.windows[name], strict=True)]
        phase, phase_is = "cooled", f"its loss at peak less the cooldown drop measured at {drop.checkpoint}"
    loss = sum(windows) / len(windows)
    return {"loss": loss, "windows": windows, "checkpoint": manifest.id, "phase": phase, "phase_is": phase_is}


def gain_of_control(header: Mapping[str, Any], control: Manifest) -> dict[str, Any]:
    """An event for the metrics: how far below the attempt's start the no-replay arm came with the new corpus."""
    new = str(header["new"])
    gain = header["adaptation"]["before_at_peak"] - control.evaluation[new]["loss"]
    text = f"{new}: the no-replay control came {gain:.3f} nats below where this attempt started"
    return {"event": "control", "gain": gain, "checkpoint": control.id, "text": text}


def more_of_d0(header: Mapping[str, Any], end: Manifest, control: Manifest) -> dict[str, Any]:
    """An event for the metrics: each old corpus's loss where the d0-only arm came, with as many tokens and in the same
    phase as the attempt's `end`; without `windows`, and saying so, where it has no such point."""
    about = {"event": "regret", "checkpoint": control.id}
    drop = header.get("cooldown_drop")
    if control.line_tokens != end.line_tokens:
        text = f"no regret: the d0-only arm came to {control.line_tokens:,} tokens, this attempt to {end.line_tokens:,}"
        return {**about, "text": text}
    if control.phase != end.phase and drop is None:
        return {**about, "text": f"no regret: the d0-only arm ended {control.phase}, this attempt {end.phase}"}
    drop = None if drop is None or control.phase == end.phase else CooldownDrop(drop["checkpoint"], drop["windows"])
    found = {name: _reference(name, control, drop) for name in header["old"]}
    losses = {name: each["loss"] for name, each in found.items()}
    words = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
    phase = next(each["phase_is"] for each in found.values()) if drop else str(control.phase)
    return {
        **about, "loss": losses, "windows": {name: each["windows"] for name, each in found.items()}, "phase_is": phase,
        "text": f"where more D_0 alone came with the same tokens: {words}",
    }  # fmt: skip
