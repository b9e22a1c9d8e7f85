"""qsub, qdel, sbatch, scancel, scontrol of the simulated cluster: one script, which does what it is called.

The queue is a folder, a file a job; whoever runs the jobs (simulated.py) reads it. A test puts links to this script on PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

STATE = Path(os.environ.get("SIMULATED_CLUSTER") or Path(__file__).resolve().parent)


def submit(scheduler: str, words: list[str]) -> int:
    """Put a job into the queue and print its id."""
    parser = argparse.ArgumentParser(prog="qsub" if scheduler == "pbs" else "sbatch", allow_abbrev=False)
    if scheduler == "pbs":
        for flag in ["W", "A", "q", "l", "N", "j", "o", "e", "v"]:
            parser.add_argument(f"-{flag}", action="append", default=[])
        parser.add_argument("-V", action="store_true")
    else:
        parser.add_argument("--parsable", action="store_true")
        parser.add_argument("--dependency", default="")
        for flag in (
            "account",
            "qos",
            "partition",
            "nodes",
            "time",
            "job-name",
            "output",
            "constraint",
            "gpus-per-node",
        ):
            parser.add_argument(f"--{flag}")
    parser.add_argument("script", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    asked = parser.parse_args(words)
    script = asked.script.resolve()
    if not script.is_file():
        return refuse(f"script file:: No such file: {asked.script}")
    if (STATE / "closed").exists():
        return refuse("the queue does not accept jobs")
    text = " ".join(asked.W) if scheduler == "pbs" else asked.dependency
    depends = re.search(r"(after\w+):([\w.:]+)", text)
    if text and not depends:
        return refuse(f"illegal dependency {text!r}")
    number = len(list(STATE.glob("jobs/*.json"))) + 1
    before = depends[2].split(":") if depends else []
    if unknown := [each for each in before if not (STATE / f"jobs/{each.partition('.')[0]}.json").exists()]:
        return refuse(f"unknown job {unknown[0]!r} in the dependency")
    job = {
        "id": str(number), "scheduler": scheduler, "script": str(script), "arguments": asked.arguments,
        "folder": os.getcwd(), "depends": depends[1] if depends else None,
        "before": [each.partition(".")[0] for each in before], "state": "queued", "code": None,
    }  # fmt: skip
    (STATE / f"jobs/{number}.json").write_text(json.dumps(job, indent=1))
    print(f"{number}.cluster" if scheduler == "pbs" else number if asked.parsable else f"Submitted batch job {number}")
    return 0


def cancel(words: list[str]) -> int:
    """Take jobs that are queued out of the queue."""
    for word in words:
        path = STATE / f"jobs/{word.partition('.')[0]}.json"
        if not path.exists():
            return refuse(f"unknown job {word}")
        job = json.loads(path.read_text())
        if job["state"] == "queued":
            path.write_text(json.dumps(job | {"state": "cancelled"}, indent=1))
    return 0


def hostnames(words: list[str]) -> int:
    """`scontrol show hostnames nid[1-3]`."""
    found = re.fullmatch(r"(\w+)\[(\d+)-(\d+)\]", words[-1])
    assert words[:2] == ["show", "hostnames"] and found, words
    print("\n".join(f"{found[1]}{number}" for number in range(int(found[2]), int(found[3]) + 1)))
    return 0


def refuse(why: str) -> int:
    print(f"{Path(sys.argv[0]).name}: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    called = Path(sys.argv[0]).name
    if called in ("qsub", "sbatch"):
        sys.exit(submit("pbs" if called == "qsub" else "slurm", sys.argv[1:]))
    sys.exit({"qdel": cancel, "scancel": cancel, "scontrol": hostnames}[called](sys.argv[1:]))
