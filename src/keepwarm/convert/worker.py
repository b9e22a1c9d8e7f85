"""The process that reads pickled files: one task, given as JSON on standard input, its result on a pipe of its own.

Standard output is left to what DeepSpeed prints. Run by apart.py, with which it dies.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from keepwarm.errors import KeepwarmError, LineageError
from keepwarm.processes import die_with_owner


def main() -> None:
    """Do the task and write {"result": ...}, or {"error": [what, why, fix]}."""
    asked = json.load(sys.stdin)
    die_with_owner(asked["owner"])
    try:
        task = getattr(importlib.import_module(f"keepwarm.convert.{asked['module']}"), asked["task"])
        answer = {"result": task(**asked["arguments"])}
    except KeepwarmError as error:
        answer = {"error": [error.what, error.why, error.fix]}
    except MemoryError:
        full = LineageError(
            "out of memory", "weights and moments are held as fp32", "use a machine with more, such as a compute node"
        )
        answer = {"error": [full.what, full.why, full.fix]}
    with os.fdopen(asked["answer"], "w") as pipe:
        json.dump(answer, pipe)


if __name__ == "__main__":
    main()
