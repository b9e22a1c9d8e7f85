"""The processes of one run: the leader goes through the whole story, the others take part in what is computed.

A follower knows nothing of plans and ladders: it waits for work, does it as the leader does, and waits again. When the
leader ends, however, the followers end; where that takes a collective call that will never be answered with it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from keepwarm import processes
from keepwarm.backends import stopping
from keepwarm.engine.launch import LAUNCHER
from keepwarm.engine.loop import Stopped
from keepwarm.engine.parallel import PATIENCE, World, alone, join
from keepwarm.errors import KeepwarmError, WorkFailed

OVER, FAILED, GONE, WORK = "over", "failed", "gone", "work"  # keys of the store that all processes share
FAREWELL_SECONDS = 10.0
AGREE_SECONDS = 5.0  # in which the leader would have met the same error
T = TypeVar("T")
_joined: World | None = None
_works = 0


def here() -> World:
    """The world of this process: the one that it joined, or itself alone."""
    return _joined or alone()


def everywhere(work: Callable[..., T], *args: Any, leader: tuple[Any, ...] = ()) -> T:
    """Do `work(world, *args)` in every process, and in the leader with the arguments `leader` behind; its result there.

    Called by the leader. WorkFailed when another process ended in the middle.
    """
    global _works
    world = here()
    if world.bell is None:
        return work(world, *args, *leader)
    world.bell.set(f"{WORK}/{_works}", "1")
    _works += 1
    world.share((work, args))
    try:
        return work(world, *args, *leader)
    except RuntimeError as error:
        stopping.ignore()  # the launcher sees the dead process too, and would end this one before it has told why
        if world.bell.check([FAILED]):
            raise WorkFailed(world.bell.get(FAILED).decode()) from error
        if not _gone(error):
            raise
        raise WorkFailed("another process of the run ended in the middle") from error


def lead_or_follow(lead: Callable[[], int]) -> int:
    """Join the world that the environment names; the leader does `lead`, whose exit code it gives, the others follow."""
    global _joined
    if LAUNCHER in os.environ:
        processes.die_with_owner(int(os.environ[LAUNCHER]))
    _joined = join()
    assert _joined.bell is not None
    if not _joined.leads:
        _follow(_joined)
    try:
        return lead()
    finally:
        _joined.bell.set(OVER, "1")
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            _say_farewell(_joined)


def _say_farewell(world: World) -> None:
    """Let the others read that it is over: the store, where no torchrun has it, ends with the leader."""
    assert world.bell is not None
    until = time.monotonic() + FAREWELL_SECONDS
    while world.bell.add(GONE, 0) < world.size - 1 and time.monotonic() < until:
        time.sleep(0.02)


def _follow(world: World) -> None:
    """Do what the leader does, until it ends; never returns. Signals are for the leader, which tells all to stop."""
    assert world.bell is not None
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(each, signal.SIG_IGN)
    threading.Thread(target=_end_with_leader, args=(_another(world.bell),), daemon=True).start()
    bell, number = _another(world.bell), 0
    while True:
        bell.wait([f"{WORK}/{number}"], PATIENCE)
        number += 1
        work, args = world.share((print, ()))
        try:
            work(world, *args)
        except Stopped:
            continue  # the leader raises it too
        except KeepwarmError as error:
            if not _leader_goes_on(bell, number):
                _give_up(world, str(error))
        except RuntimeError as error:
            if _gone(error):
                os._exit(1)
            raise


def _gone(error: RuntimeError) -> bool:
    """True of what a collective call raises when another process has ended: `Connection closed by peer`, `reset`."""
    return "onnection" in str(error)


def _another(bell: Any) -> Any:
    """A connection of one thread's own: another's is held by whoever waits on it."""
    return bell.clone()


def _leader_goes_on(bell: Any, number: int) -> bool:
    """Whether the leader met the same error, and told it: it ends, or begins the next work. Else it waits for this process
    in the middle of the work."""
    until = time.monotonic() + AGREE_SECONDS
    while time.monotonic() < until:
        if bell.check([OVER]) or bell.check([f"{WORK}/{number}"]):
            return True
        time.sleep(0.05)
    return False


def _give_up(world: World, text: str) -> None:
    """End for a reason that only this process may have, such as a file that its machine can't read."""
    assert world.bell is not None
    world.bell.set(FAILED, f"process {world.rank}: {text}")
    print(f"error: process {world.rank}: {text}", file=sys.stderr, flush=True)
    os._exit(2)


def _end_with_leader(bell: Any) -> None:
    try:
        bell.wait([OVER], PATIENCE)
        bell.add(GONE, 1)
    except RuntimeError:  # the store went with the leader
        os._exit(1)
    os._exit(0)
