"""What a branch bought: the held-out losses where it began and where it ended, corpus by corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from keepwarm.lineage.manifest import Manifest
from keepwarm.report.table import aligned
from keepwarm.units import format_count


@dataclass(frozen=True, slots=True)
class Bought:
    """A finished branch: its end, and the losses of every corpus where it began and where it ended."""

    end: Manifest
    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def words(self) -> str:
        """What it is, and what it cost."""
        if self.end.merged_from:
            return f"average of {len(self.end.merged_from)}, 0 tokens"
        return f"cooldown, {format_count(self.end.attempt_tokens)} tokens"


def print_branch(start: Manifest, branches: Sequence[Bought]) -> None:
    """Print `branch_lines`."""
    print("\n".join(branch_lines(start, branches)))


def branch_lines(start: Manifest, branches: Sequence[Bought]) -> Iterator[str]:
    """The branches off one checkpoint as a table, the first one's folder below it."""
    rows = [["corpus", f"at peak, {format_count(start.line_tokens)} tokens"]]
    rows += [[name, f"{loss:.4f}"] for name, loss in branches[0].before.items()]
    for branch in branches:
        rows[0] += [branch.words, "difference"]
        for row in rows[1:]:
            loss, before = branch.after[row[0]], branch.before[row[0]]
            row += [f"{loss:.4f}", f"{loss - before:+.4f}"]
    yield "held-out loss, nats per token:"
    yield from aligned(rows, range(1, len(rows[0])))
    yield f"checkpoint: {branches[0].end.id}"
