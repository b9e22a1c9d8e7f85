"""A small line on Megatron-DeepSpeed: a plan, its base launched, and its end as `observe` would record it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from keepwarm.attempt.line import feed_of, identity, open_stream
from keepwarm.attempt.records import read_attempt
from keepwarm.blend.ledger import ledger
from keepwarm.cli.main import main
from keepwarm.corpora.prepare import prepared_before
from keepwarm.lineage.manifest import Manifest, checkpoint_name, write_record
from keepwarm.plan.load import load_plan

LADDER = (
    "[{rung: replay, shares: [5%, 25%]}, {rung: replay-rewarm, lr: [lr_max]}, "
    "{rung: decay-then-introduce, decay: [cosine, 1-sqrt], to: [lr_max/100], introduce_at: lr_max/5, alpha_0: 0.6}, "
    "{rung: rewarm-converged, lr: [lr_max/2], shares: [25%]}, {rung: incremental}]"
)
MEGATRON = (
    "run: {folder: run, backend: megatron, megatron: {trainer: TRAINER, machine: aurora, account: A, nodes: 1, "
    "gpus_per_node: 2, walltime: 1h, architecture: AuroraGPT-7B, tokenizer: {type: Llama2Tokenizer, model: tok.model}}}"
)


@pytest.fixture(scope="session")
def megatron_text(one_stage_text) -> str:
    """The tiny plan of one stage, on Aurora. TRAINER is the trainer's folder."""
    text = one_stage_text
    for old, new in (
        ("ladder: [{rung: replay, shares: [5%, 25%]}]", f"shift: weak, ladder: {LADDER}"),
        ("run: {folder: run, threads: 1}", MEGATRON), ("precision: fp32", "precision: auto"),
        ("lr_max: 3e-3", "lr_max: 2e-4"), ("cooldown_shape: 1-sqrt", "cooldown_shape: 1-sqrt, lr_min: 2e-5"),
        ("warmup: 5%", "warmup: 10%"), ("tokens: 5_120", "tokens: 1_536"), ("policy: proportional", "policy: newest-heavy"),
    ):  # fmt: skip
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def record_end(folder: Path, attempt_folder: str, step: int | None = None) -> Manifest:
    """Write the manifest of an attempt's checkpoint, of its last step if none is named, as from logs; no losses."""
    plan = load_plan(folder / "plan.yaml")
    run = Path(plan.run.folder)
    prepared = prepared_before(plan, list(plan.corpora))
    assert prepared is not None
    feed, attempt = feed_of(prepared, []), read_attempt(run / attempt_folder)
    step = step or attempt.steps
    cursors = dict(attempt.segments[0].cursors)
    for row in ledger(open_stream(attempt, feed), attempt.batches.samples(step)):
        cursors[row.source_id] = cursors.get(row.source_id, 0) + row.fed_tokens // attempt.sequence_length
    tokens = attempt.tokens_at(step)
    phase = attempt.schedule.phase(tokens)
    out = run / attempt_folder / "checkpoints" / checkpoint_name(tokens, phase)
    manifest = Manifest(
        id=str(out.relative_to(run)), parent=attempt.start, arm=attempt.arm, stage=attempt.stage, rung=attempt.rung,
        attempt=attempt.sha256, plan="", step=step, samples=attempt.batches.samples(step), attempt_tokens=tokens,
        line_tokens=tokens, lr=float(attempt.schedule.lr(tokens)), lr_max=attempt.schedule.lr_max, phase=phase,
        weights="megatron-deepspeed", location=str(run / attempt_folder / "checkpoints-megatron" / f"global_step{step}"),
        global_batch_size=attempt.global_batch_size, cursors=cursors,
        source_tokens={source: samples * attempt.sequence_length for source, samples in cursors.items()},
        schedule=attempt.schedule.to_dict(), **identity(plan, feed),
    )  # fmt: skip
    write_record(out, manifest)
    return manifest


@pytest.fixture(scope="session")
def based(tmp_path_factory, real_text, megatron_text) -> Path:
    """plan.yaml, its base launched and, in name, trained: checkpoints of steps 10 and 40. Not to be changed."""
    folder = tmp_path_factory.mktemp("based")
    text = megatron_text.replace("text/", f"{real_text}/").replace("TRAINER", str(folder / "trainer"))
    (folder / "plan.yaml").write_text(text)
    with contextlib.chdir(folder):
        assert main(["launch", "plan.yaml", "--write"]) == 0
    for step in (10, 40):
        record_end(folder, "arms/cookbook/base/00-base", step)
    return folder


@pytest.fixture
def line(based, tmp_path, monkeypatch) -> Path:
    """A copy of it, as the current folder."""
    folder = tmp_path / "line"
    shutil.copytree(based, folder, symlinks=True)
    plan = folder / "plan.yaml"
    plan.write_text(plan.read_text().replace(str(based / "trainer"), str(folder / "trainer")))
    monkeypatch.chdir(folder)
    return folder
