"""The lineage as a tree of lines, for a terminal of 80 columns and for a batch log.

An attempt is a column of its checkpoints, oldest on top. What started from one of them hangs below it, further in; the
accepted attempt that goes on from the last of them stays in the column, so that a line of many stages is a straight one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.text import Text

from keepwarm.attempt.line import COOKBOOK
from keepwarm.lineage.deletion import bytes_of
from keepwarm.lineage.manifest import Manifest
from keepwarm.lineage.retention import Branch
from keepwarm.report.lineage import Lineage, fate, origin, stopped_early
from keepwarm.report.terminal import console
from keepwarm.units import format_bytes

ON_LINE, OFF_LINE, GONE = "●", "○", "×"
LEAST_WIDTH = 40  # of a line's text, however deep it hangs
PHASES = {"peak": "at peak"}


def print_lineage(found: Lineage) -> None:
    """Print the tree, with what its signs mean."""
    out = console()
    if not found.branches:
        out.print(f"{found.scope.name}: no checkpoint yet in {found.scope.folder}: keepwarm run PLAN", soft_wrap=True)
        return
    out.print(_title(found), markup=False, highlight=False, soft_wrap=True)
    for line, style in lines(found, out.width):
        out.print(Text(line, style=style), soft_wrap=True)
    signs = f"{ON_LINE} on the accepted line   {OFF_LINE} beside it   {GONE} tensors deleted"
    out.print(f"\n{signs}", markup=False, highlight=False)


def lines(found: Lineage, width: int) -> Iterator[tuple[str, str]]:
    """The tree's lines with their styles."""
    known = found.checkpoints
    roots = [branch for branch in found.branches if origin(branch) not in known and _shown(branch)]
    for branch in roots:
        yield "", ""
        yield from _attempt(found, branch, "", width)


def _title(found: Lineage) -> str:
    folder = found.scope.folder
    size = sum(bytes_of(folder / m.id, m.files) for _, m in found.checkpoints.values())
    count = len(found.checkpoints)
    deleted = sum(identity in found.deleted for identity in found.checkpoints)
    gone = f", {deleted} of them deleted" if deleted else ""
    return f"{found.scope.name}: {count} checkpoints{gone}, {format_bytes(size)}, in {folder}"


def _attempt(
    found: Lineage, branch: Branch, before: str, width: int, head: str | None = None
) -> Iterator[tuple[str, str]]:
    """One attempt with all that hangs below it; `head` stands before its name, `before` before every other line."""
    kept = "bold" if set(found.line) & {manifest.id for manifest in branch.checkpoints} else ""
    yield from _wrapped(before if head is None else head, before, _words(branch), width, kept)
    told = ""  # the last reason for a deletion: it is said once, of those that follow each other
    for manifest in branch.checkpoints:
        users = [each for each in found.users(manifest.id) if _shown(each)]
        last = manifest is branch.checkpoints[-1]
        following = next((each for each in users if last and _goes_on(found, each)), None)
        below = [each for each in users if each is not following]
        open_below = not last or following is not None
        sign = GONE if manifest.id in found.deleted else ON_LINE if manifest.id in found.line else OFF_LINE
        style = "dim" if sign == GONE else "bold" if sign == ON_LINE else ""
        rest = before + ("│ " if open_below or below else "  ")
        yield from _wrapped(f"{before}{sign} ", rest, _checkpoint(found, manifest, users, told), width, style)
        told = found.deleted[manifest.id].why if manifest.id in found.deleted else ""
        for number, each in enumerate(below, start=1):
            end = number == len(below) and not open_below
            yield from _attempt(
                found, each, before + ("   " if end else "│  "), width, before + ("└─ " if end else "├─ ")
            )
        if following is not None:
            yield from _attempt(found, following, before, width)


def _goes_on(found: Lineage, branch: Branch) -> bool:
    """Whether an attempt is the next stretch of its own line."""
    if fate(branch) == "control":
        return not branch.cooldown
    return any(manifest.id in found.line for manifest in branch.checkpoints)


def _shown(branch: Branch) -> bool:
    """Candidates that never started have no place in a tree of checkpoints; `keepwarm status` has them."""
    return bool(branch.checkpoints) or branch.start is not None


def _words(branch: Branch) -> str:
    """Stage, label and what became of it."""
    arm = "" if branch.arm == COOKBOOK else f"{branch.arm} "
    became = fate(branch)
    outcome = branch.outcome or ""
    if stopped_early(branch):
        outcome = f"stopped early, {outcome}"
    if became == "running":
        outcome = "" if branch.checkpoints else "no checkpoint yet"
    words = {"control": "", "branch": "", "trained": "", "waiting": "waits for a person's word"}.get(became, became)
    told = ", ".join(each for each in (words, outcome) if each)
    return f"{arm}{branch.words}" + (f": {told}" if told else "")


def _checkpoint(found: Lineage, manifest: Manifest, users: Sequence[Branch], told: str) -> str:
    phase = PHASES.get(manifest.phase, manifest.phase) + (" (declared)" if manifest.phase_is == "declared" else "")
    lr = f"LR {manifest.lr:g}" + (" (declared)" if manifest.lr_is == "declared" else "")
    wide = max(len(f"{each.line_tokens:,}") for _, each in found.checkpoints.values())
    parts = [f"{manifest.line_tokens:>{wide},} tokens  {phase}  {lr}", *_notes(found, manifest)]
    deletion = found.deleted.get(manifest.id)
    if deletion is not None:
        parts.append("deleted" if deletion.why == told else f"deleted {deletion.when[:10]}: {deletion.why}")
    if users:
        parts.append(f"used by {_users(users)}")
    return "; ".join(parts)


def _notes(found: Lineage, manifest: Manifest) -> Iterator[str]:
    """What is out of the ordinary with a checkpoint."""
    if not manifest.optimizer_state:
        yield "no optimizer state"
    if manifest.merged_from:
        yield f"merged from {', '.join(manifest.merged_from)}"
    if manifest.weights != "dcp":
        yield f"{manifest.weights} weights"
    if manifest.location is not None:
        yield f"in {manifest.location}"
    if manifest.global_batch_size not in (0, found.scope.global_batch_size):
        yield f"batch {manifest.global_batch_size:,}"
    if manifest.allowed:
        yield f"allowed {', '.join(manifest.allowed)}"
    if manifest.unknown:
        yield f"not known: {', '.join(manifest.unknown)}"


def _users(users: Sequence[Branch]) -> str:
    """The attempts that started from a checkpoint, by stage."""
    of_stage: dict[str, list[str]] = {}
    for each in users:
        arm = "" if each.arm == COOKBOOK else f"{each.arm} "
        of_stage.setdefault(f"{arm}{each.stage_name}", []).append(each.label)
    return ", ".join(f"{stage} {' + '.join(labels)}" for stage, labels in of_stage.items())


def _wrapped(first: str, rest: str, text: str, width: int, style: str) -> Iterator[tuple[str, str]]:
    room = max(LEAST_WIDTH, width - len(first))
    pieces = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False, drop_whitespace=True)
    hang = rest + "  " if rest.endswith("│ ") or rest == first else rest
    for number, piece in enumerate(pieces or [""]):
        yield (first if number == 0 else hang) + piece, style
