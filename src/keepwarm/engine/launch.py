"""`--nproc N`: this command again, in N processes of this machine, as torchrun starts them."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from keepwarm.errors import KeepwarmError, WorkFailed
from keepwarm.exits import FAILED, INTERRUPTED, REQUEUE

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # passed on to the processes
SAVING_SECONDS = 600  # that they have to save, before they are killed
LAUNCHER = "KEEPWARM_LAUNCHER"  # the process that started them; they die with it


def _hush() -> None:
    """What went wrong, the leader has said, in its own words."""
    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def launch(processes: int, words: Sequence[str]) -> int:
    """Run `keepwarm WORDS` in `processes` processes; the leader's exit code.

    KeepwarmError for more processes than GPUs, on a machine that has some.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise KeepwarmError(
            f"--nproc {processes}: this machine has {gpus} GPUs", "each process computes on its own", f"--nproc {gpus}"
        )
    _hush()
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=f"keepwarm-{os.getpid()}", max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", signals_to_handle=SIGNALS, shutdown_timeout=SAVING_SECONDS,
    )  # fmt: skip
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        elastic_launch(config, sys.executable)("-m", "keepwarm.cli.main", *words)
    except ChildFailedError as error:
        killed = {rank: found.exitcode for rank, found in error.failures.items() if found.exitcode < 0}
        for rank, code in killed.items():
            raise WorkFailed(
                f"process {rank} was ended by {signal.Signals(-code).name}: the system's log says why (dmesg; too little "
                "memory?); the same command goes on from the last checkpoint"
            ) from None
        leader = error.failures.get(0)
        return leader.exitcode if leader is not None else FAILED
    except SignalException as error:
        return INTERRUPTED if error.sigval == signal.SIGINT else REQUEUE
    finally:
        del os.environ[LAUNCHER]  # what another launcher starts from here would end itself
    return 0
