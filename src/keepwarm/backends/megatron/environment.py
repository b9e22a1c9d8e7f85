"""What train_alcf.sh reads, in the plan's numbers: every variable explicit, none that it does not read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from keepwarm.attempt.model import Attempt
from keepwarm.backends.megatron.emulated import PRESETS, READ, Preset
from keepwarm.backends.megatron.machines import Site
from keepwarm.errors import PlanError
from keepwarm.plan.megatron import one_word
from keepwarm.plan.model import Plan

# Of the script's variables these say what a launch is; they come from the plan's other keys, or must not be set at all.
OWN = READ - {
    "ACT_CKPT_NUM_LAYERS", "CPU_OPTIMIZER", "EVAL_INTERVAL", "EVAL_ITERS", "LAUNCH_WITH", "LOG_INTERVAL", "NO_FLASH_ATTN",
    "NO_TENSORBOARD", "ROPE_THETA", "TIMING_LOG_LEVEL", "OPT", "FFN_HIDDEN_SIZE",
}  # fmt: skip
_SHAPE = {  # of a plan's model.config: (variable, attribute of a preset)
    "hidden_size": ("HIDDEN", "hidden_size"), "layers": ("NLAYERS", "layers"), "heads": ("HEADS", "heads"),
    "kv_heads": ("NUM_KV_HEAD", "kv_heads"), "intermediate_size": ("FFN_HIDDEN_SIZE", "ffn_hidden_size"),
}  # fmt: skip
_NEAR = 0.75  # from here on a variable that is not read counts as a misspelling of one that is


def environment_of(plan: Plan, attempt: Attempt, site: Site) -> dict[str, str]:
    """The variables that every launch of an attempt has, whatever its list and its learning rate.

    PlanError for what the script would ignore, or do otherwise.
    """
    spec, adam = site.spec, attempt.optimizer
    _refuse(plan, attempt, site)
    found = {
        "MODEL_ARCH": spec.architecture, **_shape(attempt, spec.architecture, plan.sequence_length),
        "TOKENIZER_TYPE": spec.tokenizer.type, "TOKENIZER_MODEL": spec.tokenizer.model, "DTYPE": site.dtype,
        "NGPU_PER_HOST": str(site.gpus_per_node), "WORLD_SIZE": str(site.world_size), "TP": str(site.tensor_parallel),
        "PP": str(spec.pipeline_parallel), "SP": "1", "ZERO_STAGE": str(spec.zero_stage),
        "MICRO_BATCH": str(spec.micro_batch_size),
        "GRAD_ACC_STEPS": str(site.accumulation(attempt.global_batch_size)),
        "GLOBAL_BATCH": str(attempt.global_batch_size),
        "ADAM_BETA1": repr(adam.betas[0]), "ADAM_BETA2": repr(adam.betas[1]), "ADAM_EPS": repr(adam.eps),
        "WEIGHT_DECAY": repr(adam.weight_decay), "CLIP_GRAD": repr(adam.clip),
    }  # fmt: skip
    if plan.run.activation_checkpointing:
        found["USE_ACTIVATION_CHECKPOINTING"] = "1"
    return {**found, **_further(spec.environment)}


def _further(asked: Mapping[str, str]) -> Mapping[str, str]:
    """The plan's own variables; PlanError for one that keepwarm sets, or that only looks like one the script reads."""
    for name in asked:
        if name in OWN:
            raise PlanError(
                f"run.megatron.environment: {name} is keepwarm's to say",
                "it follows from the plan's other keys, or would contradict them without a word from the script",
                f"leave {name} out",
            )
        near = difflib.get_close_matches(name, READ, 1, _NEAR)
        if near and name not in READ:
            raise PlanError(
                f"run.megatron.environment: train_alcf.sh does not read {name}, but {near[0]}",
                "what is not read changes nothing, and nobody is told",
                f"leave {name} out"
                + (f"; {near[0]} follows from the plan" if near[0] in OWN else f", or say {near[0]}"),
            )
    return asked


def _shape(attempt: Attempt, architecture: str, sequence_length: int) -> dict[str, str]:
    """The architecture's numbers where the script lets the environment say them; PlanError where its preset differs."""
    preset, config = PRESETS.get(architecture), attempt.model.get("config", {})
    if preset is None:
        return {"SEQ": str(sequence_length)}
    if preset.fixed:
        _refuse_other(preset, architecture, {**config, "sequence_length": sequence_length})
        return {"SEQ": str(sequence_length)}
    named = {variable: str(config[key]) for key, (variable, _) in _SHAPE.items() if key in config}
    return {"SEQ": str(sequence_length), **named}


def _refuse_other(preset: Preset, architecture: str, asked: Mapping[str, Any]) -> None:
    attributes = {key: attribute for key, (_, attribute) in _SHAPE.items()} | {"sequence_length": "sequence_length"}
    for key, attribute in attributes.items():
        known = getattr(preset, attribute)
        if key in asked and int(asked[key]) != known:
            raise PlanError(
                f"{key} {asked[key]}, but {architecture} has {known}",
                f"train_alcf.sh sets the numbers of {architecture} itself, whatever the environment says",
                f"{key}: {known}, or another architecture",
            )


def _refuse(plan: Plan, attempt: Attempt, site: Site) -> None:
    """What the trainer behind train_alcf.sh can't do, or does otherwise."""
    wrong = {
        "base.batch_ramp": attempt.batch_ramp is not None and (
            "the script passes --train-iters, and the trainer's batch ramp counts samples", "leave it out"),
        "document_mask": plan.document_mask and (
            "the trainer's attention runs through document ends", "document_mask: false"),
        "optimizer.clip": attempt.optimizer.clip != 1.0 and (
            "the script's DeepSpeed configuration says gradient_clipping 1.0, and that counts", "clip: 1.0"),
        "optimizer.no_decay": attempt.optimizer.no_decay != ("vectors",) and (
            "the trainer decays all but norms and biases", "no_decay: [vectors]"),
        "precision": plan.precision == "fp32" and ("the script knows bf16 and fp16", "precision: auto"),
        "the rung": attempt.steering is not None and (
            f"the mix of {attempt.label} is steered by verdicts on the way, and the trainer's list is fixed",
            "a rung with fixed shares, such as replay"),
    }  # fmt: skip
    for key, found in wrong.items():
        if found:
            raise PlanError(f"{key}: not with the backend megatron", found[0], found[1])
    for name, path in (("run.folder", plan.run.folder), ("run.megatron.trainer", site.spec.trainer)):
        try:
            one_word(path)
        except ValueError as error:
            raise PlanError(
                f"{name}: {error}", "paths are arguments of the trainer, and would become several", "another folder"
            ) from None
