"""How the buffer B is divided among the stages, and which of a stage's documents are kept first.

Quotas. With t_j the tokens that stage j fed of its new corpus, stage j of 1..k gets of the budget in proportion to

    proportional, highest-loss    t_j
    newest-heavy                  t_j * 2^j: each stage counts twice as much a token as the one before it

A stage's share falls when a later one comes, so B only ever shrinks an entry and never needs its source again.

Order. Documents are kept from the smallest number on. It is a keyed hash of (source id, document), which makes a random
sample; under highest-loss it falls as the document's score rises, so that the documents which the model found hardest
are kept (their scores are given, as losses or anything else of which more means keep).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.hashing import derive_key, mix64
from keepwarm.errors import PlanError

NEWEST_HEAVY = "newest-heavy"
HIGHEST_LOSS = "highest-loss"
_SIGN = np.uint64(1 << 63)


def quotas(policy: str, stages: Sequence[tuple[str, int]], budget_tokens: int) -> list[int]:
    """Tokens of B for each of `stages` (name, tokens fed), oldest first. PlanError if one gets fewer than two."""
    weights = [tokens << number if policy == NEWEST_HEAVY else tokens for number, (_, tokens) in enumerate(stages)]
    found = []
    for (name, tokens), weight in zip(stages, weights, strict=True):
        quota = budget_tokens * weight // sum(weights) if tokens > 0 else 0
        if quota < 2:
            raise PlanError(
                f"a buffer of {budget_tokens} tokens leaves {quota} for stage {name}, which fed {tokens} of "
                f"{sum(each for _, each in stages)}",
                "a token of text and its EOD are the least that can be replayed",
                "raise buffer.tokens in the plan",
            )
        found.append(quota)
    return found


def random_order(documents: NDArray[np.int64], seed: int, source_id: str) -> NDArray[np.uint64]:
    """A keyed hash of each document number (N,) of a source."""
    return mix64(mix64(documents.astype(np.uint64)) + np.uint64(derive_key("buffer", seed, source_id)))


def highest_first(scores: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Integers (N,) that fall as finite `scores` (N,) rise: a float's bits, turned so that they compare as it does."""
    bits = (scores + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    ascending = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return ~ascending
