"""The engine's parts: losses, groups, identities, checkpoints."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from keepwarm.cli.main import main
from keepwarm.engine.model import architecture_sha256, new_config, new_model
from keepwarm.engine.network import keeps_documents_apart, network_of
from keepwarm.engine.optimizer import no_decay_groups
from keepwarm.engine.weights import weights_sha256
from keepwarm.errors import KeepwarmError

SPEC = {"type": "llama", "hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1}


@pytest.fixture
def model():
    return new_model(new_config(SPEC, 64, 16), seed=1)


def test_short_names_and_defaults_reach_the_config():
    config = new_config(SPEC | {"rope_theta": 5e4}, 64, 16)
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (2, 2, 1)
    assert (config.vocab_size, config.max_position_embeddings, config.intermediate_size) == (64, 16, 96)
    assert config.tie_word_embeddings is True


def test_a_type_that_transformers_does_not_know():
    with pytest.raises(KeepwarmError, match="model.config: transformers refuses it"):
        new_config(SPEC | {"type": "lama"}, 64, 16)


def test_losses_are_cross_entropies_of_the_next_token(model):
    windows = np.random.default_rng(0).integers(0, 64, (5, 17))
    logits = model(input_ids=torch.from_numpy(windows[:, :-1])).logits.double()
    picked = torch.log_softmax(logits, -1).gather(-1, torch.from_numpy(windows[:, 1:, None]))[..., 0]
    expected = (-picked.mean(dim=1)).detach().numpy()
    assert network_of(model).window_losses(windows) == pytest.approx(expected, rel=1e-5)
    assert network_of(model).token_losses(torch.from_numpy(windows)).shape == (5, 16)


def test_documents_of_a_window_are_kept_apart_where_the_plan_asks(model):
    """With the end token given, each document's losses are those it has alone; without it they are not."""
    rng, eod = np.random.default_rng(1), 5
    first, second = rng.integers(6, 64, 6), rng.integers(6, 64, 9)
    window = torch.from_numpy(np.concatenate([first, [eod], second]))[None]
    alone = network_of(model, eod).token_losses(torch.from_numpy(second)[None])[0]
    assert network_of(model, eod).token_losses(window)[0, 7:].tolist() == pytest.approx(alone.tolist(), rel=1e-4)
    assert network_of(model).token_losses(window)[0, 7:].tolist() != pytest.approx(alone.tolist(), rel=1e-2)
    assert keeps_documents_apart(network_of(model, eod))


def test_an_architecture_that_ignores_positions_is_found_out(model):
    class Deaf(torch.nn.Module):
        config = model.config

        def forward(self, input_ids, position_ids=None):
            return model(input_ids=input_ids)

    assert not keeps_documents_apart(network_of(Deaf(), 5))


def test_measuring_leaves_the_model_in_training_mode_and_without_gradients(model):
    model.train()
    network_of(model).window_losses(np.zeros((2, 17), dtype=np.int64))
    assert model.training and all(p.grad is None for p in model.parameters())


def test_vectors_do_not_decay(model):
    decayed, free = no_decay_groups(model, 0.1)
    assert {p.ndim for p in decayed["params"]} == {2} and decayed["weight_decay"] == 0.1
    assert {p.ndim for p in free["params"]} == {1} and free["weight_decay"] == 0.0
    count = sum(p.numel() for p in decayed["params"] + free["params"])
    assert count == sum(p.numel() for p in model.parameters())


def test_identities(model):
    again = new_model(new_config(SPEC, 64, 16), seed=1)
    other = new_model(new_config(SPEC, 64, 16), seed=2)
    assert (
        weights_sha256(again.state_dict()) == weights_sha256(model.state_dict()) != weights_sha256(other.state_dict())
    )
    assert architecture_sha256(other.config) == architecture_sha256(model.config)
    assert architecture_sha256(new_config(SPEC | {"layers": 3}, 64, 16)) != architecture_sha256(
        new_config(SPEC, 64, 16)
    )


def test_a_loss_that_is_not_finite_ends_the_attempt_as_diverged(edit_plan, workplace, capsys):
    edit_plan(("lr_max: 3e-3", "lr_max: 3e35"))
    assert main(["run", "plan.yaml"]) == 1
    assert "the base diverged" in capsys.readouterr().err
    lines = (workplace / "run/arms/cookbook/base/00-base/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "non-finite"


def test_the_state_of_a_checkpoint_is_restored_to_the_bit(workplace, manifest_of):
    """Weights, moments and random state: read the checkpoint back and compare its weights' hash."""
    from transformers import AutoConfig

    from keepwarm.engine import checkpoint as checkpoints
    from keepwarm.lineage.manifest import read_manifest

    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    folder = sorted((workplace / "run/arms/cookbook/stage2/00-replay/checkpoints").iterdir())[-1]
    manifest = read_manifest(folder)
    model = new_model(AutoConfig.from_pretrained(folder), seed=99)
    assert weights_sha256(model.state_dict()) != manifest.weights_sha256
    optimizer = torch.optim.AdamW(no_decay_groups(model, 0.1), lr=0.0)
    checkpoints.load(folder, manifest, model, optimizer)
    assert weights_sha256(model.state_dict()) == manifest.weights_sha256
    moments = [state["exp_avg"].abs().sum().item() for state in optimizer.state.values()]
    assert len(moments) == len(list(model.parameters())) and min(moments) > 0
