"""run.megatron: what a plan must say of the trainer, and where it is wrong."""

from __future__ import annotations

import pytest

from keepwarm.errors import PlanError
from keepwarm.plan.load import load_plan, plan_yaml

BLOCK = "trainer: /lus/mds, architecture: AuroraGPT-7B, nodes: 2, tokenizer: {type: Llama2Tokenizer, model: tok.model}"
AURORA = f"run: {{folder: run, backend: megatron, megatron: {{{BLOCK}, machine: aurora, account: A, walltime: 6h}}}}"


@pytest.fixture
def plan_with(tmp_path, plan_text):
    """The tiny plan with another run."""

    def load(run: str):
        path = tmp_path / "plan.yaml"
        path.write_text(plan_text.replace("run: {folder: run, threads: 1}", run))
        return load_plan(path)

    return load


def test_a_block_is_read_with_its_machine(plan_with, tmp_path):
    plan = plan_with(AURORA)
    spec = plan.run.megatron
    assert (spec.machine, spec.nodes, spec.walltime, spec.stop_before) == ("aurora", 2, 21600, 900)
    again = tmp_path / "again.yaml"
    again.write_text(plan_yaml(plan))
    assert load_plan(again) == plan


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("run: {folder: run, backend: megatron}", "backend megatron needs megatron: {trainer"),
        (AURORA.replace("backend: megatron", "backend: native"), "megatron is given, and the backend is native"),
        (AURORA.replace(", account: A", ""), "lacks account (machine aurora does not say)"),
        (AURORA.replace("machine: aurora, account: A, walltime: 6h", "scheduler: slurm"),
         "lacks gpus_per_node, account, queue, walltime (no machine named does not say)"),
        (AURORA.replace("walltime: 6h", "walltime: 21600"), "21600 has no unit; write 6h"),
        (AURORA.replace("walltime: 6h", "walltime: 10 min"), "stop_before 900 s leaves nothing of walltime 600 s"),
        (AURORA.replace("/lus/mds", "/lus/my mds"), "' ' in it; train_alcf.sh splits it"),
        (AURORA.replace("AuroraGPT-7B", "AuroraGPT-13B"), "input should be 'AuroraGPT-2B', 'AuroraGPT-3B'"),
        (AURORA.replace("nodes: 2", "nodes: 2, environment: {A-B: 1}"), "'A-B' is no name of an environment variable"),
        (AURORA.replace("nodes: 2", "nods: 2"), "unknown key, did you mean 'nodes'"),
        (AURORA.replace("folder: run,", "folder: run, trackers: wandb,"), "trackers and compile belong to the backend native"),
        (AURORA.replace("folder: run,", "folder: run, keep: needed,"), "what the trainer has saved is never deleted here"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named_with_its_line(run, said, plan_with):
    with pytest.raises(PlanError) as refused:
        plan_with(run)
    assert said in refused.value.what and "plan.yaml:25:" in refused.value.what
