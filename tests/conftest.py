"""Real text, small: speeches, docstrings, code and problems that come with installed packages."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("keepwarm", deadline=None, print_blob=True)
settings.load_profile("keepwarm")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

PLAN = """\
name: tiny
seed: 1
model: {config: {type: llama, hidden_size: 32, layers: 1, heads: 2, kv_heads: 2}}
tokenizer: {train: {vocab_size: 512}}
sequence_length: 32
global_batch_size: 8
optimizer: {lr_max: 3e-3, betas: [0.9, 0.95], weight_decay: 0.1, clip: 1.0}
schedule: {kind: wsd, warmup: 5%, cooldown: 20%, cooldown_shape: 1-sqrt}
corpora:
  d0: {text: text/prose.jsonl}
  d1: {text: text/technical.jsonl}
  d2: {text: text/code.jsonl}
  d3: {text: text/reasoning.jsonl}
holdout: {tokens: 2k}
base: {corpus: d0, tokens: 10_240}
stages:
  - {name: stage2, new: d1, tokens: 5_120, ladder: [{rung: replay, shares: [5%, 25%]}]}
  - {name: stage3, new: d2, tokens: 5_120, ladder: [{rung: replay-previous-mix, shares: [25%]}]}
  - {name: stage4, new: d3, tokens: 5_120, ladder: [{rung: buffer-mix, mixes: [[0.25, 0.50, 0.25]]}]}
buffer: {tokens: 40k, policy: proportional}
max_epochs: 4
verdict: {tolerance: 9 nats, adaptation: 20%, evaluate_every: auto}
control: none
precision: fp32
run: {folder: run, threads: 1}
"""


@pytest.fixture(scope="session")
def real_text(tmp_path_factory) -> Path:
    """A folder with {prose,technical,code,reasoning}.jsonl, up to 120 documents of at most 6,000 characters each."""
    from keepwarm.demo.text import write_texts

    folder = tmp_path_factory.mktemp("text")
    write_texts(folder, 1_000_000)
    for path in folder.glob("*.jsonl"):
        texts = [json.loads(line)["text"][:6000] for line in path.read_text().splitlines()[:120]]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture(scope="session")
def plan_text() -> str:
    """The tiny plan."""
    return PLAN


@pytest.fixture(scope="session")
def one_stage_text() -> str:
    """The tiny plan up to stage 2."""
    return PLAN.replace(PLAN[PLAN.index("  - {name: stage3") : PLAN.index("buffer:")], "")


@pytest.fixture(scope="session")
def searched(tmp_path_factory, real_text, one_stage_text) -> Path:
    """A folder with plan.yaml and its run: in stage 2 naive was stopped early and replay 95 % accepted. Not to be changed."""
    from keepwarm.cli.main import main

    folder = tmp_path_factory.mktemp("searched")
    (folder / "text").symlink_to(real_text)
    text = one_stage_text
    ladder = "ladder: [{rung: naive}, {rung: replay, shares: [95%]}]"
    for old, new in (
        ("tokens: 10_240}", "tokens: 30_720}"), ("tokens: 5_120", "tokens: 10_240"), ("auto}", "512}"),
        ("ladder: [{rung: replay, shares: [5%, 25%]}]", ladder), ("tolerance: 9 nats", "tolerance: {d0: 0.02 nats}"),
    ):  # fmt: skip
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "plan.yaml").write_text(text)
    with contextlib.chdir(folder):
        assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    return folder


@pytest.fixture
def workplace(tmp_path, real_text, monkeypatch) -> Path:
    """A folder of the test's own with the text and the tiny plan, as the current folder."""
    (tmp_path / "text").symlink_to(real_text)
    (tmp_path / "plan.yaml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def edit_plan(workplace):
    """Replace text in the tiny plan."""

    def edit(*pairs: tuple[str, str]) -> Path:
        text = (workplace / "plan.yaml").read_text()
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        (workplace / "plan.yaml").write_text(text)
        return workplace / "plan.yaml"

    return edit


@pytest.fixture
def publish_llama(workplace):
    """Write a tiny Llama of so many entries, with a tokenizer of 500, to hf/ as people publish them; gives the folder."""

    def publish(vocab_size: int) -> Path:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        from keepwarm.corpora.tokenizer import train_tokenizer

        texts = [json.loads(line)["text"] for line in (workplace / "text/prose.jsonl").read_text().splitlines()]
        folder = workplace / "hf"
        folder.mkdir()
        train_tokenizer(iter(texts), 500, folder / "tokenizer.json")
        torch.manual_seed(5)
        config = LlamaConfig(
            vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=64,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        return folder

    return publish


@pytest.fixture
def manifest_of():
    """Read the manifest of an attempt's last checkpoint."""

    def read(run: Path, attempt: str) -> dict:
        last = sorted((run / "arms" / attempt / "checkpoints").iterdir())[-1]
        return json.loads((last / "manifest.json").read_text())

    return read


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A simulated cluster (tests/cluster/simulated.py) whose commands are on PATH; its trainer is tests/cluster/trainer."""
    from cluster.simulated import Cluster

    made = Cluster(tmp_path / "cluster")
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    return made
