"""Plans: YAML 1.2, exact numbers, every error at once with its place, a round trip."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.errors import PlanError
from keepwarm.plan.load import Document, json_schema, load_plan, plan_document, plan_yaml

PLAN = """\
name: small-line
seed: 1
model: {config: {type: llama, hidden_size: 128, layers: 4, heads: 4, kv_heads: 4}}   # or {hf: folder-or-hub-id}
tokenizer: {train: {vocab_size: 2048}}                  # or {file: tokenizer.json}, or the hf model's own
sequence_length: 128                                    # tokens
global_batch_size: 16                                   # sequences
optimizer: {lr_max: 3e-3, betas: [0.9, 0.95], weight_decay: 0.1, clip: 1.0}
schedule: {kind: wsd, warmup: 5%, cooldown: 20%, cooldown_shape: 1-sqrt}
corpora:
  d0: {text: data/prose.jsonl}
  d1: {list: lists/papers.txt}
  d2: {indexed: tokens/code}
holdout: {tokens: 12k}
base: {corpus: d0, tokens: 1M}
stages:
  - {name: stage2, new: d1, tokens: 300k, shift: auto}
  - name: stage3
    new: d2
    tokens: 300k
    ladder:
      - {rung: replay-previous-mix, shares: [5%, 25%]}
      - {rung: buffer-mix, mixes: [[0.05, 0.48, 0.47], [0, 0.10, 0.90]]}
      - {rung: decay-then-introduce, decay: [cosine, linear], to: [lr_max/100], introduce_at: lr_max/5, anchor: base-lr-max, alpha_0: 0.6}
      - {rung: rewarm-converged, lr: [lr_max/2, lr_max], shares: [25%]}
    allow: []
cookbook: aurora-v1
buffer: {tokens: 400k, policy: proportional}
max_epochs: 4
verdict: {tolerance: 0.3 nats, adaptation: 70%, evaluate_every: auto}
control: no-replay
run: {folder: runs/small-line, backend: native}
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(text: str = PLAN, *overrides: str):
        Path("plan.yaml").write_text(text)
        return load_plan("plan.yaml", overrides)

    return read


def refusal(load, old: str, new: str) -> str:
    assert old in PLAN
    with pytest.raises(PlanError) as refused:
        load(PLAN.replace(old, new))
    return refused.value.what


def test_the_documented_plan_loads_as_it_stands(load, tmp_path):
    plan = load()
    assert plan.optimizer.lr_max == 3e-3
    assert plan.step_tokens == 2048
    assert plan.stages[1].ladder[1].mixes[0] == (Fraction(5, 100), Fraction(48, 100), Fraction(47, 100))
    assert plan.schedule.warmup.tokens_of(1_000_000) == 50_000
    assert plan.verdict.tolerance_of("d0").nats(4.0) == pytest.approx(0.3)
    assert plan.control == ("no-replay",)
    assert plan.corpora["d0"].text == (str(tmp_path / "data/prose.jsonl"),)
    assert plan.run.folder == str(tmp_path / "runs/small-line")


def test_an_unknown_key_is_named_with_its_place_and_a_guess(load):
    assert (
        refusal(load, "buffer: {tokens", "bufer: {tokens")
        == "plan.yaml:27:1  bufer: unknown key, did you mean 'buffer'?"
    )
    what = refusal(load, "verdict: {tolerance: 0.3 nats", "verdict: {tolerence: 0.3 nats")
    assert what == "plan.yaml:29:11  verdict.tolerence: unknown key, did you mean 'tolerance'?"
    assert "stages.1.ladder.0.share: unknown key" in refusal(
        load, "replay-previous-mix, shares:", "replay-previous-mix, share:"
    )


def test_all_errors_are_told_at_once(load):
    text = PLAN.replace("seed: 1", "seed: -1").replace("tokens: 1M", "tokens: 1X").replace("clip: 1.0", "clip: 0")
    with pytest.raises(PlanError) as refused:
        load(text)
    lines = refused.value.what.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("plan.yaml:2:1  seed: ")
    assert lines[1].strip().startswith("plan.yaml:7:66  optimizer.clip: ")
    assert "1X' is not a count" in lines[2]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[0.05, 0.48, 0.47]", "[0.05, 0.48, 0.42]", "shares add up to 0.95, they must add up to 1 (d0 5% + new 48% + buffer 42%)"),
        ("[0.05, 0.48, 0.47]", "[0.05, 0, 0.95]", "the new data has no share"),
        ("[0.05, 0.48, 0.47]", "[0.05, 0.95]", "three shares"),
        ("shares: [5%, 25%]", "shares: [0%]", "a replay share lies between 0 and 1"),
        ("shares: [5%, 25%]", "shares: []", "is empty; name at least one"),
        ("tokens: 1M}", "tokens: 1M, checkpoint: x}", "exactly one of tokens"),
        ("tokens: 1M}", "tokens: 1M, lr: 3e-4}", "of a given checkpoint only"),
        ("{text: data/prose.jsonl}", "{text: a, indexed: b}", "exactly one of text, list and indexed"),
        ("{text: data/prose.jsonl}", "{proxy: a}", "corpora.d0.proxy: the base is trained here, on this corpus: it is D_0 itself"),
        ("hidden_size: 128, ", "", "config lacks hidden_size"),
        ("new: d1", "new: d9", "no corpus is named 'd9'; there are: d0, d1, d2"),
        ("new: d1", "new: d0", "d0 is base.corpus already"),
        ("new: d2", "new: d1", "d1 is taught by stage2 already"),
        ("name: stage3", "name: stage2", "two stages are named stage2"),
        ("name: stage2", "name: base", "'base' is stage 1's name"),
        ("name: stage2", "name: a/b", "is not a name"),
        ("allow: []", "allow: [append-only]", "append-only can't be overridden"),
        ("allow: []", "allow: [peak]", "'peak' is not a guard"),
        ("allow: []", "ramp: 100%", "a ramp of 100% does not end within the stage's 300,000 tokens"),
        ("allow: []", "ramp: 0", "a ramp of 0 does not end"),
        ("control: no-replay", "control: nothing", "is not a control arm"),
        ("backend: native", "backend: megatron", "backend megatron needs megatron: {trainer"),
        ("policy: proportional", "storage: reference", "reference is not there yet"),
        ("tolerance: 0.3 nats", "tolerance: 0.3", "is not a tolerance such as 0.3 nats or 5%"),
        ("tolerance: 0.3 nats", "tolerance: {d7: 1%}", "no corpus is named 'd7'"),
        ("holdout: {tokens: 12k}", "holdout: {tokens: 4k}", "fewer than 32 windows; needed: 4,096"),
        ("global_batch_size: 16 ", "micro_batch_size: 3\nglobal_batch_size: 16 ", "3 does not divide global_batch_size 16"),
        ("rung: rewarm-converged", "rung: rewarm", "does not match any of the expected tags"),
        ("lr: [lr_max/2, lr_max]", "lr: [lr_min]", "is not a learning rate"),
        ("seed: 1", "seed: yes", "seed: "),
    ],
)  # fmt: skip
def test_each_refusal(load, old, new, said):
    assert said in refusal(load, old, new)


def test_a_missing_key_is_named(load):
    assert "plan.yaml:1:1  holdout: is missing" in refusal(load, "holdout: {tokens: 12k}\n", "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4), ("1.", 1.0), (".5", 0.5), ("no", "no"), ("on", "on"), ("yes", "yes"), ("true", True), ("012", 12),
        ("12:30", "12:30"), ("1_000", 1000), ("~", None), ("'12'", "12"), ("0x10", "0x10"), ("2024-01-01", "2024-01-01"),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text, value):
    found = Document(f"key: {text}", "x").value["key"]
    assert found == value and isinstance(found, type(value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3:1  a: the key is there twice"),
        ("a: [1, 2", "x.yaml:1:9  not YAML"),
        ("", "x.yaml:1:1  the file is empty"),
    ],
)
def test_what_is_not_a_document(text, said):
    with pytest.raises(PlanError) as refused:
        Document(text, "x.yaml")
    assert said in refused.value.what


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(PlanError, match="no such file"):
        load_plan(tmp_path / "none.yaml")
    with pytest.raises(PlanError, match="is a directory"):
        load_plan(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(PlanError, match="not UTF-8 text"):
        load_plan(tmp_path / "latin.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(PlanError, match="a plan is a mapping of keys"):
        load_plan(tmp_path / "list.yaml")


def test_overrides(load):
    plan = load(
        PLAN, "stages.stage2.tokens=1M", "optimizer.lr_max=1e-3", "stages.1.allow=[peak-start]", "micro_batch_size=4"
    )
    assert plan.stages[0].tokens == 1_000_000
    assert plan.optimizer.lr_max == 1e-3
    assert plan.stages[1].allow == ("peak-start",)
    assert plan.micro_batch_size == 4


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.stage9.tokens=1", "the plan has no stages.stage9.tokens"),
        ("optimiser.lr_max=1", "did you mean"),
        ("optimizer.lr_mx=1", "unknown key"),
        ("seed", "not key=value"),
        ("name.x=1", "the plan has no name.x"),
    ],
)
def test_overrides_that_name_nothing(load, override, said):
    with pytest.raises(PlanError) as refused:
        load(PLAN, override)
    assert said in str(refused.value) or "unknown key" in str(refused.value) or "optimizer" in str(refused.value)


def test_the_plan_survives_its_own_yaml(load):
    plan = load()
    again = load(plan_yaml(plan))
    assert again == plan
    assert plan_document(again) == plan_document(plan)
    json.dumps(plan_document(plan), allow_nan=False)


@given(
    st.lists(st.integers(1, 9999), min_size=1, max_size=4),
    st.floats(1e-6, 1, allow_nan=False),
    st.integers(1, 10**13),
)
def test_exact_numbers_survive_the_round_trip(shares, lr_max, tokens):
    import tempfile

    text = PLAN.replace("shares: [5%, 25%]", f"shares: [{', '.join(f'{s / 100}%' for s in shares)}]")
    text = text.replace("lr_max: 3e-3", f"lr_max: {lr_max!r}").replace("tokens: 1M}", f"tokens: {tokens}}}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.yaml"
        path.write_text(text)
        plan = load_plan(path)
        assert plan.stages[1].ladder[0].shares == tuple(Fraction(str(s / 100)) / 100 for s in shares)
        assert (plan.optimizer.lr_max, plan.base.tokens) == (lr_max, tokens)
        path.write_text(plan_yaml(plan))
        assert load_plan(path) == plan


def test_every_key_of_the_schema_has_a_description():
    def walk(node, place):
        for name, field in node.get("properties", {}).items():
            described = (
                "description" in field or "$ref" in field or name in ("rung", "optimizer", "holdout", "base", "run")
            )
            assert described, f"{place}.{name}"

    schema = json_schema()
    walk(schema, "plan")
    for name, definition in schema["$defs"].items():
        walk(definition, name)
