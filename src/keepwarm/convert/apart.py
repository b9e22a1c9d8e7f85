"""A task of this room in a process of its own, which alone reads pickled files (worker.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from keepwarm import processes
from keepwarm.errors import LineageError


def apart(module: str, task: str, **arguments: Any) -> Any:
    """`keepwarm.convert.MODULE.TASK(**arguments)` in a process of its own; arguments and result are JSON.

    Raises the task's KeepwarmError as LineageError, and one where the process ends without a word. It dies with this one.
    """
    reading, writing = os.pipe()
    # DeepSpeed: nothing is compiled for an accelerator, and no lock of a killed build is waited for.
    with tempfile.TemporaryDirectory(prefix="keepwarm-") as scratch, tempfile.TemporaryFile("w+") as said:
        environment = os.environ | {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": scratch}
        with processes.ignoring_ctrl_c():
            process = subprocess.Popen(
                [sys.executable, "-m", "keepwarm.convert.worker"], stdin=subprocess.PIPE, stdout=said, stderr=said,
                text=True, pass_fds=[writing], env=environment,
            )  # fmt: skip
        os.close(writing)
        try:
            asked = {"module": module, "task": task, "arguments": arguments, "answer": writing, "owner": os.getpid()}
            assert process.stdin is not None
            process.stdin.write(json.dumps(asked))
            process.stdin.close()
            with os.fdopen(reading) as pipe:
                answer = pipe.read()
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        said.seek(0)
        lines = said.read().splitlines()
    return _answer(answer, process.returncode, lines[-1] if lines else "")


def _answer(answer: str, code: int, last: str) -> Any:
    if not answer:
        raise LineageError(
            f"the process that reads the checkpoint ended with code {code} ({last.strip()[:200] or 'it said nothing'})",
            "nothing was written",
            "code -9 is a lack of memory: use a machine with more; else check that the checkpoint is whole",
        )
    found = json.loads(answer)
    if "error" in found:
        raise LineageError(*found["error"])
    return found["result"]
