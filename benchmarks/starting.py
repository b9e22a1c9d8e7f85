"""Starting: how long the command line takes until it answers, and until it trains, against a plain script.

    python benchmarks/starting.py [--pairs 7] [--folder FOLDER]

Commands that need no model are held against the bars of a shell (0.3 s; a whole plan in numbers 0.5 s), and against a
Python that does nothing. The start of training is from the command line to the end of the first step, as `keepwarm run`
writes it down: on a folder whose tokens are made, with its base still to train. The peer is a plain script that imports
torch and transformers, builds the same model, reads a batch from the same token file and makes a step. keepwarm measures
every held-out corpus before its first step, as the reference of all that follows: where that begins and ends is shown.
Wall seconds; CPU seconds beside them, for a machine that is shared. Bytecode is compiled before, as an installed package's
is. Prints markdown; a bar that is not met says so. About three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files as resources
from pathlib import Path

from pairs import Bar, over, row

from keepwarm.demo.text import write_texts

TEXT_BYTES = 4_000_000  # of each kind of text
POLL_SECONDS = 0.005
COMMANDS = {  # words after `keepwarm`, exit code
    "--help": (["--help"], 0),
    "a parse error": (["run"], 2),
    "schema": (["schema"], 0),
    "explain replay": (["explain", "replay"], 0),
}
NOTHING = [sys.executable, "-c", "pass"]
KEEPWARM = str(Path(sys.executable).with_name("keepwarm"))
PLAIN = """
import sys

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

sequence, batch, vocabulary = 128, 16, 2048
torch.set_num_threads(int(sys.argv[2]))
config = AutoConfig.for_model(
    "llama", vocab_size=vocabulary, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
    intermediate_size=352, tie_word_embeddings=True, max_position_embeddings=sequence, use_cache=False,
)
model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
tokens = np.memmap(sys.argv[1], dtype=np.uint16, mode="r")[: batch * (sequence + 1)]
ids = torch.from_numpy(tokens.astype(np.int64)).view(batch, sequence + 1)
logits = model(input_ids=ids[:, :-1]).logits
torch.nn.functional.cross_entropy(logits.reshape(-1, vocabulary), ids[:, 1:].reshape(-1)).backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
print(float(logits.detach().mean()), flush=True)
"""


def took(command: Sequence[str], folder: Path, code: int = 0) -> tuple[float, float]:
    """Wall and CPU seconds of a command that ends with this exit code."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code, done.stdout.decode()
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def answers(folder: Path, fresh: Path, pairs: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of commands that need no model, in turns with a Python that does nothing."""
    commands = {name: ([KEEPWARM, *words], folder, code) for name, (words, code) in COMMANDS.items()}
    commands["plan, nothing prepared"] = ([KEEPWARM, "plan", "plan.yaml"], fresh, 0)
    commands["plan, tokens there"] = ([KEEPWARM, "plan", "plan.yaml"], folder, 0)
    commands["python -c pass"] = (NOTHING, folder, 0)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for asked in commands.values():
        took(*asked)
    for _ in range(pairs):
        for name, asked in commands.items():
            found[name].append(took(*asked))
    return found


def first_step(folder: Path) -> dict[str, float]:
    """Seconds from the command line to the attempt's records: its `header`, the first `eval`, the first `train`."""
    shutil.rmtree(folder / "run" / "arms", ignore_errors=True)
    metrics = folder / "run/arms/cookbook/base/00-base/metrics.jsonl"
    began, found = time.perf_counter(), dict[str, float]()
    with open(folder / "run.log", "wb") as log:
        started = subprocess.Popen([KEEPWARM, "run", "plan.yaml"], cwd=folder, stdout=log, stderr=log)
    try:
        while started.poll() is None and "train" not in found:
            for line in whole_lines(metrics):
                found.setdefault(json.loads(line)["kind"], time.perf_counter() - began)
            time.sleep(POLL_SECONDS)
    finally:
        started.kill()
        started.wait()
    if "train" not in found:
        raise RuntimeError((folder / "run.log").read_text(encoding="utf-8"))
    return found


def whole_lines(path: Path) -> list[bytes]:
    """Lines of a file that is being written; none before it is there."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def starts(folder: Path, pairs: int, threads: int) -> dict[str, list[float]]:
    """Seconds to the end of the first step, ours and the plain script's."""
    script = folder / "plain.py"
    script.write_text(PLAIN, encoding="utf-8")
    tokens = next(path for path in sorted((folder / "run/tokens").rglob("*.bin")) if "prose" in str(path))
    plain = [sys.executable, str(script), str(tokens), str(threads)]
    took(plain, folder)  # both find the libraries in the page cache
    first_step(folder)
    found: dict[str, list[float]] = {"header": [], "eval": [], "train": [], "plain": []}
    for _ in range(pairs):
        for kind, seconds in first_step(folder).items():
            found[kind].append(seconds)
        found["plain"].append(took(plain, folder)[0])
    return found


def prepared(folder: Path) -> None:
    """The demonstration's plan, its text, and its run folder brought to its first step."""
    folder.mkdir()
    write_texts(folder / "text", TEXT_BYTES)
    write_plan(folder)


def write_plan(folder: Path) -> None:
    text = resources("keepwarm.demo").joinpath("plan.yaml").read_text(encoding="utf-8")
    (folder / "plan.yaml").write_text(text, encoding="utf-8")


def print_answers(found: dict[str, list[tuple[float, float]]]) -> None:
    """The table of commands that need no model."""
    print("| command | CPU s | times python -c pass | wall s (least-most) | bar |  |\n|---|---|---|---|---|---|")
    nothing = [wall for wall, _ in found["python -c pass"]]
    for name, each in found.items():
        wall, cpu = ([one[k] for one in each] for k in (0, 1))
        bar = Bar(0.5 if name.startswith("plan") else 0.3, most=True) if name != "python -c pass" else None
        times = statistics.median(over(wall, nothing))
        print(row(f"{name} | {statistics.median(cpu):.2f}", f"{times:.0f}", wall, bar))


def main() -> int:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where runs go; by default the system's temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder, fresh = Path(name) / "prepared", Path(name) / "fresh"
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(name) / "bytecode")
        prepared(folder)
        shutil.copytree(folder, fresh)
        first_step(folder)
        found = starts(folder, asked.pairs, os.cpu_count() or 1)
        shutil.rmtree(folder / "run" / "arms")
        print(f"The demonstration's plan, {asked.pairs} pairs, wall seconds.\n")
        print_answers(answers(folder, fresh, asked.pairs))
    plain = found["plain"]
    peer = f"plain script ({statistics.median(plain):.2f} s)"
    print("\n| from the command line to | wall s | against | ratio (least-most) | bar |  |\n|---|---|---|---|---|---|")
    for kind, words, bar in (
        ("header", "the model is there", None),
        ("eval", "the held-out corpora are measured", None),
        ("train", "the end of the first step", Bar(1.5, most=True)),
    ):
        print(row(f"{words} | {statistics.median(found[kind]):.2f}", peer, over(found[kind], plain), bar))
    return 0


if __name__ == "__main__":
    sys.exit(main())
