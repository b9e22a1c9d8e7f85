"""What every process that keepwarm starts beside itself needs: Ctrl-C reaches its owner alone, and it dies with it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_owner(owner: int | None = None) -> None:
    """Let the kernel kill this process when the one that started it ends, however it ends (Linux). `owner` is its number,
    where multiprocessing does not know it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        owner = parent.pid if owner is None and parent is not None else owner
        if owner is not None and os.getppid() != owner:  # it ended before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def ignoring_ctrl_c() -> Iterator[None]:
    """Processes started here are deaf to Ctrl-C from their first instruction on: their owner speaks for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
