"""What benchmarks against a named peer share: processes that take turns, and the median of their ratios with its spread.

    turns = Turns([sys.executable, __file__, "--work", "bare"])    # up to its first border
    turns.step()                                                   # one step: CPU and wall seconds, and what it tells
    border = Border()                                              # in that process
    border(loss=2.5)                                               # before each step, with what is to be told of the last

    row("keepwarm", "bare torch loop", ratios, Bar(0.97))    # | keepwarm | bare torch loop | 0.99 (0.98-1.01) | ...

Each has its own memory and its own main thread, as it has where nothing is compared; those whose turn it is not wait for
a line on standard input. A ratio is that of one pair, measured one right after the other: what the machine does besides
meets both.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Turns:
    """A process that takes a step when it is asked to."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] = {}) -> None:
        """Start it; wait until it is at its first border."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=os.environ | dict(environment)
        )
        self._told()

    def step(self) -> dict[str, Any]:
        """From one border to the next: `cpu` seconds of the process, all threads, `wall` seconds, and what it tells."""
        print(file=self._process.stdin, flush=True)
        return self._told()

    def close(self) -> None:
        """End it where it stands."""
        self._process.kill()
        self._process.wait()

    def _told(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended where a step was asked of it")
        return json.loads(line)


class Border:
    """In the process: where it waits for its turn. What it prints goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def __call__(self, **told: Any) -> None:
        """Tell of the step that ends here; return when the next is asked for."""
        took = {"cpu": time.process_time() - self._cpu, "wall": time.perf_counter() - self._wall}
        print(json.dumps(took | told), file=self._out, flush=True)
        if not sys.stdin.readline():
            os._exit(0)  # nobody asks any more
        self._cpu, self._wall = time.process_time(), time.perf_counter()


@dataclass(frozen=True)
class Bar:
    """What a median should come to: at least `value`, or at most."""

    value: float
    most: bool = False

    def said(self, found: float) -> str:
        """met or not met."""
        return "met" if (found <= self.value if self.most else found >= self.value) else "not met"

    def __str__(self) -> str:
        return f"{'<=' if self.most else '>='} {self.value:.2f}"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and least and most of the pairs."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def row(what: str, peer: str, values: Sequence[float], bar: Bar | None = None, digits: int = 2) -> str:
    """A line of a table: what, against what, median ratio with its spread, bar, met or not."""
    held = f"{bar} | {bar.said(statistics.median(values))}" if bar else "| "
    return f"| {what} | {peer} | {spread(values, digits)} | {held} |"


def over(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """The ratio of every pair."""
    return [a / b for a, b in zip(one, other, strict=True)]
