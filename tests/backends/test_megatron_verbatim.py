"""`keepwarm launch --verbatim-cookbook`: the cookbook's command, and what it would really do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepwarm.backends.megatron.emulated import Host, command_line
from keepwarm.cli.main import main

CASES = json.loads((Path(__file__).parents[1] / "golden/launch/dry_runs.json").read_text())["cases"]
RECORDED = next(case for case in CASES if case["name"] == "cookbook_2nodes")
PLAN = f"""\
name: aurora
model: {{config: {{type: llama, hidden_size: 4096, layers: 32, heads: 32, kv_heads: 8}}}}
tokenizer: {{file: tokenizer.json}}
sequence_length: 4096
global_batch_size: 384
optimizer: {{lr_max: 2e-4}}
corpora: {{dolma: {{list: dolma.txt}}, lucid_papers: {{list: papers.txt}}}}
holdout: {{tokens: 1M}}
base: {{checkpoint: {RECORDED["env"]["LOAD"]}, corpus: dolma, lr: 2e-4, phase: peak}}
stages: [{{name: stage2, new: lucid_papers, tokens: 22B}}]
run:
  folder: run
  backend: megatron
  megatron: {{trainer: /lus/mds, machine: aurora, account: A, nodes: 2, walltime: 6h, architecture: AuroraGPT-7B,
    tokenizer: {{type: Llama2Tokenizer, model: ALCF/tokenizer.model}}}}
"""


@pytest.fixture
def found(tmp_path, monkeypatch, capsys):
    """What is said of the plan's command, with keys changed."""
    (tmp_path / "plan.yaml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)

    def ask(*changes: str) -> dict:
        words = [word for change in changes for word in ("--set", change)]
        assert main(["launch", "plan.yaml", "--verbatim-cookbook", "--json", *words]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.yaml"]
        return json.loads(capsys.readouterr().out)

    return ask


def test_the_command_is_the_cookbooks_and_does_what_was_recorded(found):
    said = found()
    assert said["command"] == (
        "DATA_FILE_LIST=./ALCF/data-lists/aurora/mix_lucid_papers_dolma.txt "
        f"LOAD={RECORDED['env']['LOAD']} TRAIN_TOKENS=$((22*10**9)) GRAD_ACC_STEPS=16 LR=0.0002 LR_WARMUP_FRACTION=0.01 "
        "bash train_alcf.sh --universal-checkpoint --finetune"
    )
    recorded = RECORDED["env"] | {"DATA_FILE_LIST": said["environment"]["DATA_FILE_LIST"]}
    assert said["environment"] == recorded and sorted(said["arguments"]) == sorted(RECORDED["cli"])
    made = command_line(recorded, said["arguments"], Host("x4", 2, 12), "$PBS_O_WORKDIR")
    by_list = {word for word in made if "data-lists" in word or ".cache/" in word}
    assert set(made) - by_list <= {word.replace("$BIN/", "") for word in RECORDED["argv"]} and len(by_list) == 2


def test_each_trap_has_its_evidence(found):
    traps = {trap["part"]: trap for trap in found()["traps"]}
    assert traps["LR_WARMUP_FRACTION=0.01"]["evidence"] == "the command line has --lr-warmup-fraction 0.05"
    assert "Adam's moments" in traps["--universal-checkpoint --finetune"]["does"]
    assert "no --min-lr, whose default is 0.0" in traps["LR_DECAY_STYLE is left out"]["evidence"]
    tokens = traps["TRAIN_TOKENS=22000000000"]
    assert "13,987 iterations, 351,232 tokens fewer than asked for" in tokens["does"]
    assert tokens["instead"] == "TRAIN_ITERS=13988"
    assert "google/gemma-7B" in traps["TOKENIZER_TYPE and TOKENIZER_MODEL are left out"]["does"]
    assert "-ws24-" in traps["SAVE is left out"]["evidence"]
    assert "--save-interval=50" in traps["bash train_alcf.sh"]["evidence"]
    assert "GLOBAL_BATCH and SEQ are left out" not in traps and "MODEL_ARCH is left out" not in traps


def test_what_another_plan_would_get_besides(found):
    changes = ("run.megatron.architecture=AuroraGPT-2B", "sequence_length=8192", "run.megatron.scheduler=slurm")
    traps = {trap["part"]: trap for trap in found(*changes)["traps"]}
    assert traps["MODEL_ARCH is left out"]["instead"] == "MODEL_ARCH=AuroraGPT-2B"
    assert (
        traps["GLOBAL_BATCH and SEQ are left out"]["does"] == "384 sequences of 4096 tokens; the plan has 384 of 8192"
    )
    assert "/.cache" in traps["PBS_O_WORKDIR is not set under Slurm"]["does"]


def test_it_reads_as_warnings(found, capsys):
    assert main(["launch", "plan.yaml", "--verbatim-cookbook"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("DATA_FILE_LIST=") and out.count("\nwarning: ") == 8 and out.count("\n  seen: ") == 8
