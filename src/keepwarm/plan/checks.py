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
    found += _stand_in_errors(plan) if plan.base.corpus in plan.corpora else []
    found += _evaluation_errors(plan)
    found += _stage_errors(plan)
    found += _score_errors(plan)
    found += _batch_errors(plan)
    found += _search_errors(plan)
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


def _search_errors(plan: Plan) -> list[Found]:
    """A budget that no candidate of a stage fits into."""
    budget = plan.search.budget
    if budget is None or budget.tokens is None:
        return []
    dearest = max(plan.stages, key=lambda stage: stage.tokens)
    message = f"{budget}: {dearest.name} takes {dearest.tokens:,} tokens a candidate, so none could be tried"
    return [(("search", "budget"), message)] if budget.tokens < dearest.tokens else []


def _named_corpora(plan: Plan) -> list[Found]:
    """Every place that names a corpus, with the name."""
    places: list[Found] = [(("base", "corpus"), plan.base.corpus)]
    places += [(("stages", index, "new"), stage.new) for index, stage in enumerate(plan.stages)]
    places += [
        (("verdict", "tolerance", name), name)
        for name in plan.verdict.tolerance
        if name not in ("default", *plan.evaluation)
    ]
    places += [(("holdout", "files", name), name) for name in plan.holdout.files]
    places += [(("buffer", "scores", name), name) for name in plan.buffer.scores]
    if plan.tokenizer is not None and plan.tokenizer.train is not None:
        places += [(("tokenizer", "train", "corpora"), name) for name in plan.tokenizer.train.corpora or ()]
    return places


def _stand_in_errors(plan: Plan) -> list[Found]:
    """A stand-in is D_0's alone, of a base that was trained elsewhere: one that is trained here is taught what is there."""
    found: list[Found] = []
    for name, stand_in in plan.stand_ins.items():
        key = "proxy" if stand_in == "proxy" else "generate"
        place = ("corpora", name, key)
        if name != plan.base.corpus:
            found.append((place, f"a stand-in is for D_0, which is {plan.base.corpus}; give {name} as what it is"))
        elif plan.base.checkpoint is None and key == "generate":
            message = "the base is trained here, on this corpus: before that it can't write it; name a base.checkpoint"
            found.append((place, message))
        elif plan.base.checkpoint is None and (plan.model is None or plan.model.hf is None):
            message = f"the base is trained here, on this corpus: it is D_0 itself, no stand-in; {name}: {{text: ...}}"
            found.append((place, message))
        elif key == "generate" and plan.tokenizer is not None and plan.tokenizer.train is not None:
            message = "a given base writes in its own tokens; leave it out, then the model's own is used"
            found.append((("tokenizer", "train"), message))
    return found


def _evaluation_errors(plan: Plan) -> list[Found]:
    """A text that is only measured is no corpus: neither by name, nor by its files."""
    found: list[Found] = []
    for name, spec in plan.evaluation.items():
        if name in plan.corpora:
            message = f"a corpus is named {name} too; its own holdout is measured already"
            found.append((("evaluation", name), message))
        named = {path for each in (spec.text, spec.indexed) for path in each or ()}
        for corpus, other in plan.corpora.items():
            same = named & {path for each in (other.files.text, other.files.indexed) for path in each or ()}
            if same:
                message = f"{min(same)} is trained on as {corpus}; a text that is only measured must be another"
                found.append((("evaluation", name), message))
    return found


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
