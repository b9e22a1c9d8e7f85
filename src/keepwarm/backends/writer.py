"""A given base as a writer of text, on this machine: what a generated corpus is sampled from."""

from __future__ import annotations

from typing import Any

from keepwarm.attempt.line import BASE, threads_for
from keepwarm.backends.given import given
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.engine.build import given_model
from keepwarm.engine.generate import sample
from keepwarm.engine.weights import weights_sha256
from keepwarm.errors import PlanError
from keepwarm.plan.corpus import GenerateSpec
from keepwarm.plan.model import Plan


class Writer:
    """The base of a plan, loaded, as a `Sampler`."""

    def __init__(self, plan: Plan, spec: GenerateSpec, tokenizer: Tokenizer) -> None:
        """Load it. PlanError for a base of another tokenizer, or one that can't write documents as they are asked for."""
        manifest = given(plan, tokenizer)
        if manifest.tokenizer_sha256 not in ("", tokenizer.sha256):
            raise PlanError(
                f"corpora.{plan.base.corpus}.generate: {manifest.id} was trained with the tokenizer "
                f"{manifest.tokenizer_sha256[:12]}, {tokenizer.path} is {tokenizer.sha256[:12]}",
                "its tokens would be other words here",
                "name the tokenizer it was trained with: tokenizer: {file: tokenizer.json}",
            )
        threads = threads_for(plan, BASE)
        self.model = given_model(manifest, threads)
        self.spec, self.tokenizer = spec, tokenizer
        self.longest = spec.document_tokens or plan.sequence_length
        config: Any = self.model.config
        _check_length(config, self.longest, plan.base.corpus)
        self.begin = _begin(config, spec, tokenizer, plan.base.corpus)
        self.ends = {tokenizer.eod_id, *tokenizer.special_ids(getattr(config, "eos_token_id", None))}
        self.facts: dict[str, Any] = {
            "path": manifest.id, "weights_sha256": weights_sha256(self.model.state_dict()), "longest_tokens": self.longest,
            "begins_after": tokenizer.backend.id_to_token(self.begin), "threads": threads,
        }  # fmt: skip

    def documents(self, seed: int) -> list[list[int]]:
        """A batch; where the model ends a document in its own way, it has the document end of the other corpora."""
        spec, eod = self.spec, self.tokenizer.eod_id
        found = sample(
            self.model, self.begin, self.ends, documents=spec.batch, longest=self.longest,
            vocab_size=self.tokenizer.vocab_size, temperature=spec.temperature, top_p=spec.top_p, seed=seed,
        )  # fmt: skip
        return [[*each[:-1], eod if each[-1] in self.ends else each[-1]] for each in found]


def _check_length(config: Any, longest: int, corpus: str) -> None:
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and longest > most:
        raise PlanError(
            f"corpora.{corpus}.generate: documents of {longest:,} tokens, the model reads {most:,} at most",
            "it would write beyond the positions that it was trained on",
            f"corpora: {{{corpus}: {{generate: {{document_tokens: {most}, ...}}}}}}",
        )


def _begin(config: Any, spec: GenerateSpec, tokenizer: Tokenizer, corpus: str) -> int:
    """What a document begins after: the plan's token, the model's own beginning, or the end of the document before."""
    if spec.begin is None:
        return next(iter(tokenizer.special_ids(getattr(config, "bos_token_id", None))), tokenizer.eod_id)
    found: int | None = tokenizer.backend.token_to_id(spec.begin)
    if found is None:
        raise PlanError(
            f"corpora.{corpus}.generate: begin: {tokenizer.path} has no token {spec.begin!r}",
            "the model could not begin a document after it",
            f"one of its tokens, such as {', '.join(tokenizer.special[:6])}",
        )
    return found
