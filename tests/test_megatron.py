"""Lines on the lab's stack from a plan to their verdicts, on a simulated cluster that fails on the way."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cluster.loader import Blend
from cluster.simulated import Event
from keepwarm.api import open_attempt
from keepwarm.attempt.line import open_stream
from keepwarm.attempt.records import read_metrics
from keepwarm.backends.megatron.record import launches_of, read_launch
from keepwarm.cli.main import main
from keepwarm.lineage.graph import all_manifests
from keepwarm.lineage.manifest import read_manifest

TRAINER = Path(__file__).parent / "cluster/trainer"
MEGATRON = (
    "run: {folder: FOLDER, backend: megatron, save_every: 2_560, megatron: {trainer: TRAINER, scheduler: pbs, account: A, "
    "queue: q, nodes: 1, gpus_per_node: 2, walltime: 1h, architecture: AuroraGPT-7B, "
    "tokenizer: {type: HFTokenizer, model: FOLDER/tokens/tokenizer.json}}}"
)


@pytest.fixture
def on_cluster(edit_plan, workplace, one_stage_text, cluster):
    """The tiny plan of one stage, for the simulated cluster; its run folder."""
    (workplace / "plan.yaml").write_text(one_stage_text)
    run = workplace / "run"
    edit_plan(
        ("layers: 1, heads: 2, kv_heads: 2}", "layers: 1, heads: 2, kv_heads: 2, intermediate_size: 96}"),
        ("ladder: [{rung: replay, shares: [5%, 25%]}]", "shift: weak, ladder: [{rung: replay, shares: [25%]}]"),
        ("tokens: 10_240}", "tokens: 5_120}"), ("precision: fp32\n", ""),
        ("run: {folder: run, threads: 1}", MEGATRON.replace("FOLDER", str(run)).replace("TRAINER", str(TRAINER))),
    )  # fmt: skip
    return run


def read_by(attempt_folder: Path) -> None:
    """What the trainer reads of the attempt's list is the attempt, source by source."""
    opened = open_attempt(attempt_folder)
    attempt, launch = opened.attempt, attempt_folder / "launches/1-train"
    samples = attempt.batches.samples(attempt.steps)
    blend = Blend(launch / "data-list.txt", samples, attempt.sequence_length, seed=attempt.seed + 1)
    stream = open_stream(attempt, opened.feed)
    ours, numbers = stream.batch(0, samples + 64)
    for path in sorted((launch / "views").glob("*.view.json")):
        view = json.loads(path.read_text())
        corpus = blend.names.index(path.name.removesuffix(".view.json"))
        theirs = np.stack([blend[n][:-1] for n in range(samples) if blend.turns[n, 0] == corpus])
        mine = ours[numbers == stream.source_ids.index(view["source"]), :-1][: len(theirs)]
        assert theirs.tolist() == mine.tolist()


@pytest.mark.slow
def test_a_line_goes_from_a_plan_to_a_verdict_through_failures(on_cluster, cluster, capsys):
    cluster.events += [Event(1, "node", r"iteration= +13/"), Event(2, "walltime", r"iteration= +17/")]
    assert main(["launch", "plan.yaml", "--submit"]) == 0
    trained = [job for job in cluster.run() if job.script.name == "job.sh"]
    assert [job.code for job in trained][:2] == [-9, -15] and trained[-1].code == 0
    base = on_cluster / "arms/cookbook/base/00-base"
    assert (base / "checkpoints-megatron/latest").read_text() == "global_step20"
    read_by(base)
    assert main(["observe", "plan.yaml"]) == 0
    assert main(["launch", "plan.yaml", "--submit"]) == 0
    assert {job.code for job in cluster.run()} == {0}
    read_by(on_cluster / "arms/cookbook/stage2/00-replay")
    capsys.readouterr()
    assert main(["observe", "plan.yaml"]) == 0
    told = capsys.readouterr().out
    assert "verdict: recovered" in told and "stage2: replay 25%, step 20 of 20" in told
    a_base_of_others_is_measured_by_a_job(on_cluster, cluster, capsys)


def a_base_of_others_is_measured_by_a_job(run: Path, cluster, capsys) -> None:
    """The same checkpoint as the base of another plan: its losses come from a job, its moments are kept."""
    saved = run / "arms/cookbook/base/00-base/checkpoints-megatron/global_step20"
    text = Path("plan.yaml").read_text()
    for old, new in (
        ("{corpus: d0, tokens: 5_120}", f"{{corpus: d0, checkpoint: {saved}}}"),
        ("tokenizer: {train: {vocab_size: 512}}", f"tokenizer: {{file: {run}/tokens/tokenizer.json}}"),
        (f"folder: {run},", f"folder: {run.parent}/other,"),
    ):  # fmt: skip
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    Path("other.yaml").write_text(text)
    assert main(["run", "other.yaml"]) == 0
    told = capsys.readouterr().out.splitlines()
    given = run.parent / "other/arms/cookbook/base/00-given"
    assert "is not measured yet" in told[-3]
    assert told[-2:] == [f"  cd {given} && qsub evaluate.sh", "  keepwarm run other.yaml"]
    subprocess.run(["qsub", "evaluate.sh"], cwd=given, check=True, capture_output=True)
    assert [job.code for job in cluster.run()] == [0]
    assert main(["run", "other.yaml"]) == 0
    assert "kept     AdamW goes on with the checkpoint's" in capsys.readouterr().out
    base, own = (
        read_manifest(given),
        read_manifest(next((run / "arms/cookbook/base/00-base/checkpoints").glob("*5120-peak"))),
    )
    assert base.optimizer_state and base.evaluation == own.evaluation and (base.lr, base.phase) == (own.lr, "peak")
    ((_, launch),) = launches_of(run.parent / "other/arms/cookbook/stage2/00-replay")
    assert launch.begins == "continue" and launch.prepare[2] == str(saved)


def ladder_plan(edit_plan, workplace, run: Path) -> None:
    """The tiny plan of four stages on two nodes of a process each; stage 2 begins with a rung that forgets too much."""
    more = f"nodes: 2, gpus_per_node: 1, {MEGATRON[MEGATRON.index('walltime') :]}"
    megatron = MEGATRON[: MEGATRON.index("nodes: 1")] + more
    edit_plan(
        ("layers: 1, heads: 2, kv_heads: 2}", "layers: 1, heads: 2, kv_heads: 2, intermediate_size: 96}"),
        ("ladder: [{rung: replay, shares: [5%, 25%]}]", "shift: weak, ladder: [{rung: naive}, {rung: replay, shares: [25%]}]"),
        ("tolerance: 9 nats", "tolerance: {d0: 0.001 nats}"), ("precision: fp32\n", ""),
        ("cooldown_shape: 1-sqrt", "cooldown_shape: 1-sqrt, lr_min: 3e-5"),
        ("run: {folder: run, threads: 1}", megatron.replace("FOLDER", str(run)).replace("TRAINER", str(TRAINER))),
    )  # fmt: skip


@pytest.mark.slow
def test_the_four_stages_go_from_launch_to_verdict_to_launch_through_failures(edit_plan, workplace, cluster, capsys):
    """A node fails, a job is cut off at its wall time, the next one has half the nodes; a rung forgets and the next is
    launched; at the end the line is cooled. Nobody but `run --submit` and the queue does anything."""
    run = workplace / "run"
    ladder_plan(edit_plan, workplace, run)
    cluster.events += [Event(1, "node", r"iteration= +17/"), Event(2, "walltime", r"iteration= +27/")]
    cluster.nodes[4] = 1
    codes: dict[str, list[int]] = {}
    for _ in range(8):
        assert main(["run", "plan.yaml", "--submit"]) == 0
        if not cluster.queued():
            break
        for job in cluster.run():
            if job.script.name == "job.sh":
                codes.setdefault(job.script.parents[2].name, []).append(job.code)
        assert main(["observe", "plan.yaml"]) == 0
        assert "keepwarm run" in capsys.readouterr().out.splitlines()[-1]
    assert codes == {
        "00-base": [-9, -15, 0], "00-naive": [0], "01-replay": [0], "00-replay-previous-mix": [0], "00-buffer-mix": [0],
        "01-cooldown": [0],
    }  # fmt: skip
    base = run / "arms/cookbook/base/00-base"
    assert (base / "launches/1-train/of-2-global_step20/latest_universal").read_text() == "global_step20_universal"
    events = [each for each in read_metrics(base / "metrics.jsonl") if each.get("event") == "resumed"]
    assert [each["step"] for each in events] == [10, 20] and min(each["again"] for each in events) >= 5
    read_by(base)
    capsys.readouterr()
    assert main(["status", "plan.yaml", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    tried = {stage["name"]: [(a["rung"], a["outcome"]) for a in stage["attempts"]] for stage in status["stages"]}
    assert tried["stage2"] == [("naive", "not-recovering"), ("replay", "recovered")]
    assert [stage["state"] for stage in status["stages"]] == ["accepted"] * 3
    assert [path.name for path in sorted((run / "buffer").iterdir())] == ["v1", "v2", "v3"]
    begun = {
        read_launch(path.parent).begins: read_launch(path.parent)
        for path in run.glob("arms/cookbook/*/*/launches/*/launch.json")
    }
    assert set(begun) == {"trunk", "continue", "cooldown"} and begun["cooldown"].first_iteration == 20
    cooled = [each for each in all_manifests(run) if each.phase == "cooled"]
    assert [(each.stage, each.rung, each.weights) for each in cooled] == [("stage4", "cooldown", "megatron-deepspeed")]
