"""When a run is told to stop: Ctrl-C, a scheduler's signal, or the end of the job's time.

While an attempt is trained the first signal is noted and it saves at the next step's border; else it ends the command at
once. Slurm sends SIGTERM, and with `--signal=USR1@300` SIGUSR1 five minutes before; PBS sends SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType

from keepwarm.exits import Requeue

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
LEAST_SECONDS = 10.0  # kept free at the end of a job's time, for all that is not saving

_ends_at: float | None = None  # by the clock, of this process's job
_ignoring = False


def ignore() -> None:
    """Signals change nothing from here on: the command ends already, and says why."""
    global _ignoring
    _ignoring = True


class Deadline:
    """What asks the loop to stop: a signal that came, or too little time."""

    def __init__(self) -> None:
        """No signal has come."""
        self.signals: list[int] = []
        self.late = False

    def __call__(self, ending_seconds: float) -> bool:
        """Whether to stop now, when what must still be done takes `ending_seconds`."""
        if _ends_at is not None and time.time() + ending_seconds + LEAST_SECONDS >= _ends_at:
            self.late = True
        return self.late or bool(self.signals)

    def raised(self) -> KeyboardInterrupt:
        """How the command ends for it."""
        if self.late:
            return Requeue("the time limit")
        number = self.signals[0]
        return KeyboardInterrupt() if number == signal.SIGINT else Requeue(signal.Signals(number).name)


@contextlib.contextmanager
def noted() -> Iterator[Deadline]:
    """A `Deadline` that notes the first signal; the second ends the command at once."""
    deadline = Deadline()
    if threading.current_thread() is not threading.main_thread():
        yield deadline
        return

    def handler(number: int, _: FrameType | None) -> None:
        if _ignoring:
            return
        if deadline.signals:
            raise deadline.raised()
        deadline.signals.append(number)

    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield deadline
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def within(seconds: float | None, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """A job of so many seconds, or what Slurm says of it (SLURM_JOB_END_TIME); SIGTERM and SIGUSR1 end it as Requeue."""
    global _ends_at
    end = environment.get("SLURM_JOB_END_TIME", "")
    _ends_at = time.time() + seconds if seconds is not None else float(end) if end.isdigit() else None

    def handler(number: int, _: FrameType | None) -> None:
        if not _ignoring:
            raise Requeue(signal.Signals(number).name)

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        _ends_at = None
        for number, old in before.items():
            signal.signal(number, old)
