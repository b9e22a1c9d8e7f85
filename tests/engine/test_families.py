"""Model families: each tiny, with new weights, through loading, training, saving and converting, to the bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from keepwarm.cli.main import main
from keepwarm.convert.hugging_face import to_hugging_face
from keepwarm.corpora.tokenizer import load_tokenizer, train_tokenizer
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine.build import empty_like
from keepwarm.engine.model import architecture_sha256, load_pretrained, new_config, new_model
from keepwarm.engine.network import keeps_documents_apart, network_of
from keepwarm.engine.optimizer import no_decay_groups
from keepwarm.engine.parallel import alone
from keepwarm.engine.weights import weights_sha256
from keepwarm.lineage.manifest import Manifest, read_manifest

VOCABULARY = 320
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
FAMILIES = {
    "llama": SIZES,
    "qwen3": SIZES,
    "olmo2": SIZES,
    "mistral": SIZES | {"sliding_window": 16},
    "gemma2": SIZES,
    "gemma3_text": SIZES | {"sliding_window": 16},
    "smollm3": SIZES,
    "gpt_neox": SIZES,
    "gpt2": SIZES,
}
LEAKING = {
    "bloom": SIZES,
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "opt": SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32},
}
CHECKPOINT = "arms/cookbook/base/00-base/checkpoints/000000000000144-peak"
MODEL = "model: {config: {type: llama, hidden_size: 32, layers: 1, heads: 2, kv_heads: 2}}\n"
TOKENIZER = "tokenizer: {train: {vocab_size: 512}}\n"
BASE = "base: {corpus: d0, tokens: 10_240}"


def drawn(family: str, sizes: dict, vocab_size: int = VOCABULARY) -> torch.nn.Module:
    return new_model(AutoConfig.for_model(family, vocab_size=vocab_size, use_cache=False, **sizes), seed=3)


def windows(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(1, VOCABULARY, (3, 17)))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A run's folder of tokens, with a tokenizer."""
    folder = tmp_path_factory.mktemp("run") / "tokens"
    folder.mkdir()
    train_tokenizer(iter(["the quick brown fox jumps over the lazy dog"] * 9), VOCABULARY, folder / "tokenizer.json")
    return load_tokenizer(folder)


def manifest_of(model: torch.nn.Module, tokenizer_sha256: str) -> Manifest:
    return Manifest(
        id=CHECKPOINT, parent=None, arm="cookbook", stage="base", rung="base", attempt="", plan="", step=3, samples=9,
        attempt_tokens=144, line_tokens=144, lr=1e-2, lr_max=1e-2, phase="peak", tokenizer_sha256=tokenizer_sha256,
        architecture_sha256=architecture_sha256(model.config),
    )  # fmt: skip


def optimizer_of(model: torch.nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(no_decay_groups(model, 0.1), lr=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_loaded_trained_saved_and_converted_to_the_bit(family, tokenizer, tmp_path):
    published = drawn(family, FAMILIES[family])
    published.save_pretrained(tmp_path / "hf")
    model = load_pretrained(str(tmp_path / "hf"))
    assert weights_sha256(model.state_dict()) == weights_sha256(published.state_dict())

    network, optimizer, losses = network_of(model), optimizer_of(model), []
    model.train()
    for _ in range(4):
        loss = network.token_losses(windows(0)).mean()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.1

    run = tmp_path / "run"
    (run / "tokens").mkdir(parents=True)
    (run / "tokens/tokenizer.json").write_bytes(tokenizer.path.read_bytes())
    saver = checkpoints.Saver(alone())
    saver.save(run / CHECKPOINT, model, optimizer, manifest_of(model, tokenizer.sha256))
    saver.wait()
    saver.close()
    manifest = read_manifest(run / CHECKPOINT)
    assert manifest.weights_sha256 == weights_sha256(model.state_dict())
    again = empty_like(run / CHECKPOINT, manifest, seed=9)
    moments = optimizer_of(again)
    checkpoints.load(run / CHECKPOINT, manifest, again, moments)
    assert weights_sha256(again.state_dict()) == manifest.weights_sha256
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert optimizer.state[one].keys() == moments.state[other].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(value, moments.state[other][name]) for name, value in optimizer.state[one].items())

    to_hugging_face(run / CHECKPOINT, tmp_path / "out", "fp32")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert weights_sha256(reloaded.state_dict()) == manifest.weights_sha256
    tied = reloaded.get_input_embeddings().weight is reloaded.get_output_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    text = "the lazy dog"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"] == tokenizer.encode([text])[0].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_transformers_with_labels(family):
    model, some = drawn(family, FAMILIES[family]).eval(), windows(1)
    ours = network_of(model).window_losses(some.numpy())
    theirs = [model(input_ids=each[None], labels=each[None]).loss.item() for each in some]
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("family", [*FAMILIES, *LEAKING])
def test_documents_are_kept_apart_or_it_is_found_out(family):
    """What stands before a document in its window changes no loss of its tokens."""
    model = drawn(family, FAMILIES.get(family) or LEAKING[family])
    network, eod = network_of(model, 0), 0
    one, other = windows(2)[:2]
    other[8:] = one[8:]
    one[7] = other[7] = eod
    with network.evaluating():
        found = network.token_losses(torch.stack([one, other]))[:, 8:]
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-6) == (family in FAMILIES)
    assert keeps_documents_apart(network) == (family in FAMILIES)


@pytest.mark.parametrize("family", ["bloom", "falcon"])
def test_a_plan_that_keeps_documents_apart_refuses_a_family_that_can_not(family, edit_plan, capsys):
    edit_plan(
        ("type: llama", f"type: {family}"), ("sequence_length: 32\n", "sequence_length: 32\ndocument_mask: true\n")
    )
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 2
    name = {"bloom": "BloomForCausalLM", "falcon": "FalconForCausalLM"}[family]
    assert f"document_mask: {name} does not keep documents apart by their positions" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["olmo2", "gemma2", "smollm3"])
def test_every_token_of_a_new_model_is_trained(family):
    """Their configs have a padding token by default, whose embedding would get no gradient; here it is a word."""
    config = new_config({"type": family, "hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 1}, VOCABULARY, 16)
    assert new_model(config, 0).get_input_embeddings().padding_idx is None


@pytest.mark.parametrize("family", ["qwen3", "gpt_neox", "gemma3_text"])
def test_a_family_is_continued_as_a_given_base_and_converted(family, workplace, edit_plan):
    texts = [json.loads(line)["text"] for line in (workplace / "text/prose.jsonl").read_text().splitlines()]
    model = drawn(family, FAMILIES[family], 512)
    model.save_pretrained("hf")
    train_tokenizer(iter(texts), 500, workplace / "hf/tokenizer.json")
    edit_plan(
        (MODEL, ""), (TOKENIZER, ""), (BASE, "base: {corpus: d0, checkpoint: hf, lr: 3e-5, phase: cooled}"),
        ("ladder: [{rung: replay, shares: [5%, 25%]}]", "ladder: [{rung: rewarm-converged}]"),
    )  # fmt: skip
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    (attempt,) = (workplace / "run/arms/cookbook/stage2").glob("*-rewarm-converged")
    end = sorted((attempt / "checkpoints").iterdir())[-1]
    manifest = json.loads((end / "manifest.json").read_text())
    assert manifest["phase"] == "cooled"
    assert main(["convert", str(end), "out", "--to", "hf"]) == 0
    out = AutoModelForCausalLM.from_pretrained(workplace / "out")
    assert type(out) is type(model) and weights_sha256(out.state_dict()) == manifest["weights_sha256"]
    assert manifest["weights_sha256"] != weights_sha256(model.state_dict())
