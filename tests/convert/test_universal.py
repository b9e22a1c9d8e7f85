"""Universal copies, Hugging Face folders and keepwarm's checkpoints, each out of the other, held against a recorded copy."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from keepwarm.cli.main import main
from keepwarm.convert import pickles
from keepwarm.convert.llama import Shape, pieces, put_together, taken_apart
from keepwarm.convert.reader import open_model
from keepwarm.engine.weights import weights_sha256
from keepwarm.lineage.foreign import look_at
from keepwarm.lineage.manifest import read_manifest, verify_files

STEP, UNIVERSAL = "global_step10", "global_step10_universal"
STATES = "mp_rank_00_model_states.pt"
SHAPE = Shape(
    layers=2, hidden_size=32, heads=4, kv_heads=2, head_dim=8, ffn_hidden_size=96, vocab_size=128, rope_theta=50000.0,
    norm_eps=1e-5, max_positions=64, init_std=0.02, tied=False,
)  # fmt: skip
EMBEDDING = "zero/language_model.embedding.word_embeddings.weight"


def converted(source: Path, out: Path, to: str, *more: str) -> Path:
    assert main(["convert", str(source), str(out), "--to", to, "--trust", *more]) == 0
    return out


@pytest.fixture(scope="module")
def ways(saved, tmp_path_factory) -> Path:
    """hf and dcp made of the recorded copy, and of each a universal copy. Not to be changed."""
    folder = tmp_path_factory.mktemp("ways")
    for to in ("hf", "dcp"):
        converted(saved / UNIVERSAL, folder / to, to)
        converted(folder / to, folder / f"from-{to}" / UNIVERSAL, "universal")
    return folder


# The mapping


@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.sampled_from([2, 4]), st.integers(1, 5), st.booleans()
)  # fmt: skip
def test_a_tensor_taken_apart_and_put_together_is_the_same(layers, kv_heads, group, width, ffn, tied):
    heads = kv_heads * group
    shape = replace(
        SHAPE, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=width, hidden_size=heads * width, ffn_hidden_size=ffn,
        tied=tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=128, hidden_size=heads * width, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv_heads, head_dim=width, intermediate_size=ffn, tie_word_embeddings=tied,
        ))  # fmt: skip
    expected, found = {name: tuple(each.shape) for name, each in model.named_parameters()}, {}
    for piece in pieces(shape):
        tensor = torch.arange(torch.Size(piece.shape).numel(), dtype=torch.float32).view(piece.shape)
        parts = taken_apart(piece, tensor, shape)
        assert torch.equal(put_together(piece, parts, shape), tensor)
        found |= {name: tuple(part.shape) for name, part in zip(piece.hugging_face, parts, strict=True)}
    assert found == expected


def test_rows_of_queries_keys_and_values_go_by_key_value_head():
    """Two key-value heads with two query heads each, one row a head: q0 q1 k0 v0 q2 q3 k1 v1."""
    shape = replace(SHAPE, head_dim=1, hidden_size=1)
    piece = next(each for each in pieces(shape) if each.kind == "attention")
    q, k, v = taken_apart(piece, torch.arange(8.0).view(8, 1), shape)
    assert (q.flatten().tolist(), k.flatten().tolist(), v.flatten().tolist()) == ([0, 1, 4, 5], [2, 6], [3, 7])


# Against the recorded copy


def test_hugging_face_config_says_what_the_launch_said(ways):
    config = json.loads((ways / "hf/config.json").read_text())
    assert config["rope_parameters"] == {"rope_theta": 50000.0, "rope_type": "default"}
    named = ("model_type", "rms_norm_eps", "tie_word_embeddings", "vocab_size", "num_key_value_heads", "head_dim")
    assert [config[key] for key in named] == ["llama", 1e-5, False, 128, 2, 8]
    assert (
        config["max_position_embeddings"] == 64 and config["intermediate_size"] == 96 and config["dtype"] == "float32"
    )


def test_a_universal_copy_made_of_a_checkpoint_has_the_recorded_copys_bits(saved, ways, differences):
    """Weights, moments, steps, and every key that is not the launch's own."""
    found = differences(saved / UNIVERSAL, ways / "from-dcp" / UNIVERSAL)
    ours = {
        *(f"{STATES}/{key}" for key in ("rng_state", "dp_world_size", "args/vocab_size", "args/rope_theta", "args/consumed_valid_samples")),
        *(f"{STATES}/lr_scheduler/{key}" for key in ("lr_decay_style", "lr_decay_steps", "lr_warmup_steps", "num_tokens", "wd_incr_steps")),
        *(f"zero/optimizer_state.pt/partition_count/{group}" for group in (0, 1)),
    }  # fmt: skip
    adams = {"amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
    ours |= {f"zero/optimizer_state.pt/param_groups/{group}/{key}" for group in (0, 1) for key in adams}
    rest = {each for each in found - ours if not each.startswith((f"{STATES}/ds_config/", f"{STATES}/args/"))}
    assert not rest and ours <= found
    recorded, made = (
        vars(pickles.load(each / STATES)["args"]) for each in (saved / UNIVERSAL, ways / "from-dcp" / UNIVERSAL)
    )
    assert made.keys() <= recorded.keys()  # no argument that the trainer does not know
    assert {key for key in made if made[key] != recorded[key]} == {"vocab_size", "consumed_valid_samples"}


def test_a_universal_copy_made_of_weights_has_their_bits_and_an_optimizer_that_begins_anew(saved, ways, differences):
    found = differences(saved / UNIVERSAL, ways / "from-hf" / UNIVERSAL)
    assert not {each for each in found if each.endswith("/fp32.pt/param") or "/module/" in each}
    for path in (ways / "from-hf" / UNIVERSAL / "zero").rglob("exp_avg*.pt"):
        assert not pickles.load(path)["param"].count_nonzero()
    assert not pickles.load(ways / "from-hf" / UNIVERSAL / EMBEDDING / "step.pt").item()
    state = pickles.load(ways / "from-hf" / UNIVERSAL / "zero/optimizer_state.pt")
    for group in state["param_groups"]:  # what is not known is not there: DeepSpeed would put it over the launch's own
        assert group.keys() == {"name", "wd_mult", "lr_mult", "params"}
    assert "clip_grad" not in state


@pytest.mark.parametrize("way", ["from-hf", "from-dcp"])
def test_there_and_back_again_is_bit_exact(saved, ways, way, tmp_path):
    first, again = converted(ways / way / UNIVERSAL, tmp_path / "hf", "hf"), ways / "hf"
    models = [AutoModelForCausalLM.from_pretrained(each) for each in (first, again)]
    assert weights_sha256(models[0].state_dict()) == weights_sha256(models[1].state_dict())
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert models[0].config.to_dict() == {**models[1].config.to_dict(), "_name_or_path": str(first)}


def test_a_checkpoint_made_twice_is_the_same(ways, tmp_path):
    again = converted(ways / "from-dcp" / UNIVERSAL, tmp_path / "dcp", "dcp")
    one, other = (read_manifest(each) for each in (ways / "dcp", again))
    assert one.weights_sha256 == other.weights_sha256 and one.optimizer == other.optimizer
    shards = [next((each / "state").glob("*.distcp")).read_bytes() for each in (ways / "dcp", again)]
    assert shards[0] == shards[1]  # moments too


def test_the_manifest_of_a_checkpoint_says_what_the_trainer_knew(ways):
    manifest = read_manifest(ways / "dcp")
    verify_files(ways / "dcp", manifest, deep=True)
    assert (manifest.step, manifest.samples, manifest.line_tokens) == (10, 80, 1280)
    assert (manifest.lr, manifest.lr_max, manifest.phase) == (pytest.approx(1.1736481776669306e-4), 2e-4, "decaying")
    assert manifest.optimizer == {
        "betas": [0.9, 0.95],
        "eps": 1e-5,
        "weight_decay": 0.1,
        "clip": 1.0,
        "no_decay": ["vectors"],
    }
    assert (manifest.optimizer_state, manifest.global_batch_size, manifest.sequence_length) == (True, 8, 16)
    assert (manifest.phase_is, manifest.lr_is, manifest.vocab_size, manifest.parent) == (
        "measured",
        "measured",
        128,
        None,
    )


@pytest.mark.parametrize("made", ["hf", f"from-hf/{UNIVERSAL}", f"from-dcp/{UNIVERSAL}", "dcp"])
def test_rate_and_phase_go_with_the_weights(ways, made):
    found = look_at(ways / made)
    assert (found.lr, found.lr_max, found.phase) == (pytest.approx(1.1736481776669306e-4), 2e-4, "decaying")
    assert found.moments is (made in ("dcp", f"from-dcp/{UNIVERSAL}"))


def test_every_folder_opens_as_the_same_model(saved, ways):
    folders = (ways / "hf", ways / "dcp", ways / "from-dcp" / UNIVERSAL, ways / "from-dcp")
    sums = {weights_sha256(open_model(folder, trust=True).state_dict()) for folder in folders}
    assert sums == {read_manifest(ways / "dcp").weights_sha256}


# Vocabularies that the trainer pads


@pytest.mark.parametrize("tied", [False, True])
def test_padding_is_added_for_the_trainer_and_taken_off_again(tied, tmp_path):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=24, tie_word_embeddings=tied, rope_parameters={"rope_type": "default", "rope_theta": 7e4},
        rms_norm_eps=2e-5, max_position_embeddings=32,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "hf")
    step = converted(tmp_path / "hf", tmp_path / "load/global_step0_universal", "universal")
    state, table = pickles.load(step / STATES), pickles.load(step / EMBEDDING / "fp32.pt")
    assert table["param"].shape == (100, 16) and table["vocab_tensor"] is True
    assert (state["args"].padded_vocab_size, state["universal_checkpoint_info"]["original_vocab_size"]) == (128, 100)
    module = state["module"]["language_model"]
    padded = module["embedding"]["word_embeddings"]["weight"]
    assert padded.shape == (128, 16) and not padded[100:].count_nonzero() and torch.equal(padded[:100], table["param"])
    assert ("output_layer" in module) is not tied
    assert state["param_shapes"][0]["language_model.embedding.word_embeddings.weight"] == (128, 16)
    back = converted(step, tmp_path / "back", "hf")
    assert (back / "model.safetensors").read_bytes() == (tmp_path / "hf/model.safetensors").read_bytes()
    found, asked = (json.loads((tmp_path / each / "config.json").read_text()) for each in ("back", "hf"))
    other = {key for key in found if found[key] != asked.get(key)}
    assert other <= {"bos_token_id", "eos_token_id", "use_cache"}


# What is said, and refused


def test_what_is_printed(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    converted(saved / UNIVERSAL, Path("hf"), "hf", "--dtype", "bf16")
    size = sum(path.stat().st_size for path in Path("hf").iterdir() if path.name != "keepwarm.json")
    assert capsys.readouterr().out.splitlines() == [
        f"hf: {saved / UNIVERSAL} as a Hugging Face folder, bf16 (rounded from fp32), {size / 1000:.3g} kB",
        "  there is no tokenizer in it: put the trainer's tokenizer.json beside the weights",
        "  from transformers import AutoModelForCausalLM",
        "  model = AutoModelForCausalLM.from_pretrained('hf')",
    ]
    converted(Path("hf"), Path("load/global_step10_universal"), "universal")
    said, anew, zeros, load = capsys.readouterr().out.splitlines()
    assert said.startswith(
        f"load/{UNIVERSAL}: {tmp_path}/hf as a universal checkpoint, fp32, the optimizer's moments 0, "
    )
    assert "load it with --finetune --universal-checkpoint" in anew and "the optimizer begins anew" in zeros
    assert load == f"  LOAD={tmp_path}/load   # with --universal-checkpoint; load/latest_universal names it"
    assert Path("load/latest_universal").read_bytes() == UNIVERSAL.encode()
    converted(saved / UNIVERSAL, Path("dcp"), "dcp", "--moments", "reset", "--json")
    record, manifest = json.loads(capsys.readouterr().out), json.loads(Path("dcp/manifest.json").read_text())
    assert {"format": 1, **record} == manifest and record["optimizer_state"] is False


def lacking(name: str):
    def change(folder: Path) -> Path:
        path = folder / UNIVERSAL / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return folder / UNIVERSAL

    return change


def having(**changed: object):
    def change(folder: Path) -> Path:
        path = folder / UNIVERSAL / STATES
        state = pickles.load(path)
        vars(state["args"]).update(changed)
        pickles.save(state, folder / "new.pt")
        (folder / "new.pt").rename(path)
        return folder / UNIVERSAL

    return change


def of_pipeline(folder: Path) -> Path:
    (folder / UNIVERSAL / EMBEDDING).rename(folder / UNIVERSAL / "zero/1.word_embeddings.weight")
    state = pickles.load(folder / UNIVERSAL / STATES)
    state["param_shapes"] = [{}]
    pickles.save(state, folder / "new.pt")
    (folder / "new.pt").rename(folder / UNIVERSAL / STATES)
    return folder / UNIVERSAL


def qwen(folder: Path) -> Path:
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=16,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder / "qwen")
    return folder / "qwen"


REFUSED = [
    (lambda folder: folder / UNIVERSAL, ("universal",), "is a universal copy already"),
    (
        lambda folder: folder / UNIVERSAL,
        ("hf", "--moments", "keep"),
        "--moments keep: a Hugging Face folder holds weights alone",
    ),
    (lambda folder: folder / UNIVERSAL, ("dcp", "--dtype", "bf16"), "--dtype bf16: the weights of --to dcp are fp32"),
    (
        lacking(f"{EMBEDDING}/fp32.pt"),
        ("hf",),
        "is half-written (1 of 15 parameters are missing, language_model.embedding",
    ),
    (lacking("zero/optimizer_state.pt"), ("hf",), "is half-written (zero/optimizer_state.pt is missing)"),
    (
        having(swiglu=False, normalization="layernorm"),
        ("hf",),
        "was launched with normalization 'layernorm', swiglu False",
    ),
    (
        having(num_attention_heads=8),
        ("hf",),
        "query_key_value.weight/fp32.pt: holds (64, 32), torch.float32; the launch's arguments make it",
    ),
    (having(num_layers=1), ("dcp",), "(it holds language_model.encoder.layers.1.input_layernorm.weight too)"),
    (of_pipeline, ("hf",), "(there is no language_model.embedding.word_embeddings.weight)"),
    (qwen, ("universal",), "its config.json has model_type 'qwen3'"),
    (qwen, ("dcp",), "or is as good a base as one"),
    (qwen, ("universal", "--moments", "keep"), "holds no moments of an optimizer that can be kept"),
]


@pytest.mark.parametrize(("change", "words", "message"), REFUSED, ids=[each[2][:40] for each in REFUSED])
def test_what_can_not_be_converted_is_refused_and_leaves_nothing(change, words, message, saved, tmp_path, capsys):
    shutil.copytree(saved, tmp_path / "saved")
    named = change(tmp_path / "saved")
    assert main(["convert", str(named), str(tmp_path / "out"), "--trust", "--to", *words]) == 2
    what, why, fix = capsys.readouterr().err.splitlines()
    assert message in what and why.startswith("  why: ") and fix.startswith("  fix: ")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_pointer_to_another_step_is_not_overwritten(saved, ways, tmp_path, capsys):
    (tmp_path / "latest_universal").write_text("global_step5_universal")
    assert main(["convert", str(ways / "hf"), str(tmp_path / UNIVERSAL), "--to", "universal"]) == 2
    assert "latest_universal: names global_step5_universal already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["latest_universal"]
