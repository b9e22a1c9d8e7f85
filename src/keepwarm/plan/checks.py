"""What is wrong between the parts of a plan; what is wrong within one part, the part itself says (plan/model.py)."""

from __future__ import annotations

from keepwarm.plan.model import Plan

Found = tuple[tuple[str | int, ...], str]  # place, message


def cross_errors(plan: Plan) -> list[Found]:
    """What is wrong between parts of a plan: (place, message) each."""
    found = [
        (place, f"no corpus is named {name!r}; there are: {', '.join(plan.corpora)}")
        for place, name in _named_corpora(plan)
        if name not in plan.corpora
    ]
    found += _stage_errors(plan)
    found += _score_errors(plan)
    found += _batch_errors(plan)
    if plan.schedule.constant_lr is not None and not 0 < plan.plateau_lr < plan.optimizer.lr_max:
        message = f"{plan.plateau_lr:g} does not lie between 0 and lr_max {plan.optimizer.lr_max:g}"
        found.append((("schedule", "constant_lr"), message))
    if plan.model is None and plan.base.checkpoint is None:
        found.append((("base", "tokens"), "there is no model: name one, or a base.checkpoint"))
    if plan.holdout.tokens < 32 * plan.sequence_length:
        message = f"{plan.holdout.tokens:,} tokens are fewer than 32 windows; needed: {32 * plan.sequence_length:,}"
        found.append((("holdout", "tokens"), message))
    return found


def _batch_errors(plan: Plan) -> list[Found]:
    """Batches that micro-batches do not divide, ramps that lead elsewhere, and scaled batches without a rule for LR."""
    found: list[Found] = []
    batches: list[tuple[tuple[str | int, ...], int]] = [(("global_batch_size",), plan.global_batch_size)]
    for index, stage in enumerate(plan.stages):
        if stage.global_batch_size is not None:
            batches.append((("stages", index, "global_batch_size"), stage.global_batch_size))
    for place, size in batches:
        if plan.micro_batch_size is not None and size % plan.micro_batch_size:
            found.append((("micro_batch_size",), f"{plan.micro_batch_size} does not divide {place[-1]} {size}"))
        if size != plan.global_batch_size and plan.optimizer.lr_scaling is None:
            message = (
                f"{size} is another batch than {plan.global_batch_size}; say what LR_max does then: "
                "optimizer: {lr_scaling: sqrt} (or linear, none)"
            )
            found.append((place, message))
    ramp = plan.base.batch_ramp
    if ramp is not None:
        rise = plan.global_batch_size - ramp.start
        if rise < ramp.increment or rise % ramp.increment:
            message = (
                f"from {ramp.start} by {ramp.increment} it does not come to global_batch_size {plan.global_batch_size}"
            )
            found.append((("base", "batch_ramp"), message))
    return found


def _named_corpora(plan: Plan) -> list[Found]:
    """Every place that names a corpus, with the name."""
    places: list[Found] = [(("base", "corpus"), plan.base.corpus)]
    places += [(("stages", index, "new"), stage.new) for index, stage in enumerate(plan.stages)]
    places += [(("verdict", "tolerance", name), name) for name in plan.verdict.tolerance if name != "default"]
    places += [(("holdout", "files", name), name) for name in plan.holdout.files]
    places += [(("buffer", "scores", name), name) for name in plan.buffer.scores]
    if plan.tokenizer is not None and plan.tokenizer.train is not None:
        places += [(("tokenizer", "train", "corpora"), name) for name in plan.tokenizer.train.corpora or ()]
    return places


def _stage_errors(plan: Plan) -> list[Found]:
    found: list[Found] = []
    taught, names = {plan.base.corpus: "base.corpus"}, set[str]()
    for index, stage in enumerate(plan.stages):
        if stage.new in taught:
            message = f"{stage.new} is {taught[stage.new]} already; a stage teaches a corpus that is new"
            found.append((("stages", index, "new"), message))
        taught[stage.new] = f"taught by {stage.name}"
        own = plan.of_stage(stage)
        if stage.ramp is not None and not (
            0 < own.whole_steps(stage.ramp.tokens_of(stage.tokens)) < own.whole_steps(stage.tokens)
        ):
            message = f"a ramp of {stage.ramp} does not end within the stage's {stage.tokens:,} tokens, in whole steps"
            found.append((("stages", index, "ramp"), message))
        if stage.name in names:
            found.append((("stages", index, "name"), f"two stages are named {stage.name}"))
        names.add(stage.name)
    return found


def _score_errors(plan: Plan) -> list[Found]:
    """Scores are needed by highest-loss, for every corpus that may enter B, and by nothing else."""
    if plan.buffer.policy != "highest-loss":
        message = f"the policy {plan.buffer.policy} uses no scores; with scores: policy: highest-loss"
        return [(("buffer", "scores"), message)] if plan.buffer.scores else []
    missing = [stage.new for stage in plan.stages if stage.new not in plan.buffer.scores]
    message = (
        f"highest-loss needs the documents' scores of {', '.join(missing)}: scores: {{{', '.join(missing)}: FILE.npy}}"
    )
    return [(("buffer", "policy"), message)] if missing else []
