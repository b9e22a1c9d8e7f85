"""AdamW as the plan says: its settings and groups in torch, in checkpoints, and across stages."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from keepwarm.attempt.model import Optimizer
from keepwarm.attempt.records import read_attempt
from keepwarm.cli.main import main
from keepwarm.engine import loop
from keepwarm.engine.loop import Training
from keepwarm.engine.model import new_config, new_model
from keepwarm.engine.optimizer import adamw, no_decay_groups
from keepwarm.errors import PlanError

COMMAND = ["run", "plan.yaml", "--stage", "stage2"]
BASE, STAGE2 = "cookbook/base/00-base", "cookbook/stage2/00-replay"
CLIP = "clip: 1.0}"
SETTINGS = Optimizer((0.8, 0.99), 1e-6, 0.05, 0.5, ("vectors",))
NORMS = {"model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight", "model.norm.weight"}
EMBEDDINGS = {"model.embed_tokens.weight"}
QUERY = {"model.layers.0.self_attn.q_proj.weight"}


@pytest.fixture
def model():
    spec = {"type": "llama", "hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 2, "tie_word_embeddings": False}
    return new_model(new_config(spec, 64, 16), seed=1)


def free(model: torch.nn.Module, no_decay: tuple[str, ...]) -> set[str]:
    """Names of the parameters without weight decay."""
    decayed, spared = no_decay_groups(model, 0.1, no_decay)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)] for p in spared["params"]}
    assert found | {names[id(p)] for p in decayed["params"]} == set(names.values())
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    return found


@pytest.mark.parametrize(
    ("no_decay", "expected"),
    [
        (("vectors",), NORMS),
        (("embeddings",), EMBEDDINGS),
        (("vectors", "embeddings"), NORMS | EMBEDDINGS),
        (("*q_proj*", "*norm.weight"), QUERY | NORMS),
        (("vectors", "model.norm.weight"), NORMS),  # named twice, in one group once
        ((), set()),
    ],
)
def test_what_has_no_weight_decay(model, no_decay, expected):
    assert free(model, no_decay) == expected


def test_tied_embeddings_are_one_parameter():
    tied = new_model(
        new_config({"type": "llama", "hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 2}, 64, 16), 1
    )
    assert free(tied, ("embeddings",)) == EMBEDDINGS  # the head is the same table


def test_a_word_for_a_group_that_a_model_does_not_have_is_no_mistake():
    plain = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False))
    assert free(plain, ("vectors", "embeddings")) == set()


def test_a_pattern_that_names_nothing_is_refused(model):
    with pytest.raises(PlanError) as refusal:
        no_decay_groups(model, 0.1, ("vectors", "*.bias"))
    assert (
        str(refusal.value).splitlines()[0] == "optimizer.no_decay: '*.bias' is the name of no parameter of this model"
    )


def test_the_settings_reach_torch(model):
    optimizer = adamw(model, SETTINGS)
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["lr"], group["fused"]) == ((0.8, 0.99), 1e-6, 0.0, True)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_a_step_is_that_of_the_paper(model):
    """1711.05101, algorithm 2, by hand in float64, over three steps with other gradients."""
    optimizer = adamw(model, SETTINGS)
    parameter = model.get_parameter("model.layers.0.self_attn.q_proj.weight")
    expected, m, v = parameter.detach().double(), 0.0, 0.0
    (beta1, beta2), lr = SETTINGS.betas, 0.01
    for t in (1, 2, 3):
        gradient = torch.full_like(parameter, 0.1 * t)
        parameter.grad = gradient.clone()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        m, v = beta1 * m + (1 - beta1) * 0.1 * t, beta2 * v + (1 - beta2) * (0.1 * t) ** 2
        update = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)) ** 0.5 + SETTINGS.eps)
        expected = expected - lr * SETTINGS.weight_decay * expected - lr * update
    assert torch.allclose(parameter.double(), expected, rtol=1e-5, atol=1e-7)


def test_saving_before_the_first_update_changes_no_later_one():
    """torch makes the moments of an optimizer without any by a step of its own, which its step count has."""
    from torch.distributed.checkpoint.state_dict import get_state_dict

    found = []
    for saved in (False, True):
        again = new_model(new_config({"type": "llama", "hidden_size": 32, "layers": 1, "heads": 2}, 64, 16), 1)
        optimizer = adamw(again, SETTINGS)
        if saved:
            get_state_dict(again, optimizer)
        again(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
        found.append(torch.cat([p.detach().flatten() for p in again.parameters()]))
    assert torch.equal(*found)


def test_a_pattern_without_a_parameter_is_refused_and_blocks_nothing(edit_plan, workplace, capsys):
    edit_plan((CLIP, "clip: 1.0, no_decay: [vectors, '*.bias']}"))
    assert main(COMMAND) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "error: optimizer.no_decay: '*.bias' is the name of no parameter of this model",
        "  why: what was meant to be left alone would decay",
        "  fix: patterns of names such as model.embed_tokens.weight, model.layers.0.self_attn.q_proj.weight, "
        "model.layers.0.self_attn.k_proj.weight, model.layers.0.self_attn.v_proj.weight: no_decay: ['*norm*', '*.bias']",
    ]
    assert not list((workplace / "run/arms").rglob("metrics.jsonl"))
    edit_plan(("'*.bias'", "'*q_proj*'"))
    assert main(COMMAND) == 0
    assert read_attempt(workplace / "run/arms" / BASE).optimizer.no_decay == ("vectors", "*q_proj*")


def test_the_groups_are_those_of_checkpoints_and_of_a_run_that_goes_on(edit_plan, workplace, monkeypatch, manifest_of):
    edit_plan((CLIP, "clip: 0.5, eps: 1e-7, no_decay: [vectors, '*q_proj*']}"))
    clips, made = [], []
    gradient, optimizer = loop.gradient, loop.adamw
    monkeypatch.setattr(loop, "gradient", lambda *args: (clips.append(args[4]), gradient(*args))[1])
    monkeypatch.setattr(loop, "adamw", lambda *args: (made.append(optimizer(*args)), made[-1])[1])
    assert main([*COMMAND, "--set", "run.folder=alone"]) == 0
    write = Training._write

    def interrupted(self, record):
        write(self, record)
        if self.attempt.stage == "stage2" and self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_write", interrupted)
        assert main(COMMAND) == 130
    assert main(COMMAND) == 0
    assert set(clips) == {0.5} and len(made) == 5  # two attempts, and again two, of which one was stopped
    for each in made:
        assert [(g["betas"], g["eps"], g["weight_decay"]) for g in each.param_groups] == [
            ((0.9, 0.95), 1e-7, 0.1), ((0.9, 0.95), 1e-7, 0.0),
        ]  # fmt: skip
        assert sorted(p.ndim for p in each.param_groups[1]["params"]) == [1, 1, 1, 2]
    mine, alone = manifest_of(workplace / "run", STAGE2), manifest_of(workplace / "alone", STAGE2)
    assert mine["weights_sha256"] == alone["weights_sha256"]
    assert mine["optimizer"] == {
        "betas": [0.9, 0.95], "eps": 1e-7, "weight_decay": 0.1, "clip": 0.5, "no_decay": ["vectors", "*q_proj*"],
    }  # fmt: skip
    saved = FileSystemReader(workplace / "run" / mine["id"] / "state").read_metadata().state_dict_metadata
    moments = {name.removesuffix(".exp_avg") for name in saved if name.endswith(".exp_avg")}
    assert moments == {f"optimizer.state.{name}" for name in NORMS | QUERY | _others()}


def _others() -> set[str]:
    layer = "model.layers.0."
    return EMBEDDINGS | {f"{layer}self_attn.{x}_proj.weight" for x in "kvo"} | {
        f"{layer}mlp.{x}_proj.weight" for x in ("gate", "up", "down")
    }  # fmt: skip


def test_the_clip_bounds_what_the_optimizer_is_given(edit_plan, workplace, monkeypatch):
    edit_plan((CLIP, "clip: 0.25}"))
    norms, step = [], torch.optim.AdamW.step

    def noting(self, *args, **more):
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))))
        return step(self, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    assert main(COMMAND) == 0
    records = [json.loads(line) for line in (workplace / "run/arms" / BASE / "metrics.jsonl").read_text().splitlines()]
    found = [each["grad_norm"] for each in records if each["kind"] == "train"]
    assert max(found) > 0.25 and [min(each, 0.25) for each in found] == pytest.approx(norms[: len(found)], rel=1e-4)


def test_a_start_that_was_trained_with_another_optimizer_is_refused_by_guard_5(
    edit_plan, workplace, capsys, monkeypatch, manifest_of
):
    assert main(COMMAND) == 0
    base = manifest_of(workplace / "run", BASE)["id"]
    edit_plan(
        ("base: {corpus: d0, tokens: 10_240}", f"base: {{corpus: d0, checkpoint: run/{base}}}"),
        ("model: {config: {type: llama, hidden_size: 32, layers: 1, heads: 2, kv_heads: 2}}\n", ""),
        ("tokenizer: {train: {vocab_size: 512}}", "tokenizer: {file: run/tokens/tokenizer.json}"),
        ("run: {folder: run,", "run: {folder: second,"),
        (CLIP, "clip: 0.5, eps: 1e-6, no_decay: [vectors, embeddings]}"),
    )
    capsys.readouterr()
    assert main(COMMAND) == 2
    said = capsys.readouterr().err
    for words in (
        "eps 1e-08, this plan has 1e-06",
        "clip 1.0, this plan has 0.5",
        "no decay ['vectors'], this plan has ['vectors'",
    ):
        assert words in said
    assert "--allow budget-and-identity" in said
    made = []
    optimizer = loop.adamw
    monkeypatch.setattr(loop, "adamw", lambda *args: (made.append(optimizer(*args)), made[-1])[1])
    assert main([*COMMAND, "--allow", "stage2:budget-and-identity"]) == 0
    for each in made:  # what the plan says now, not what the start's moments were saved with
        assert [(g["eps"], g["weight_decay"], len(g["params"])) for g in each.param_groups] == [
            (1e-6, 0.1, 7),
            (1e-6, 0, 4),
        ]
        assert all(state["step"] == 60 for state in each.state.values())  # the moments went on: 40 and 20 steps
    found = manifest_of(workplace / "second", STAGE2)
    assert found["optimizer"]["no_decay"] == ["vectors", "embeddings"] and found["allowed"] == ["budget-and-identity"]
