"""Which candidate is tried next and why: tables of cases, and what holds whatever comes out of the attempts."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.plan.rungs import Candidate
from keepwarm.strategy.ladder import Begin, Option, Tried, best_replay, choose, skip_reason
from keepwarm.strategy.promise import Forgotten

LR = 3e-3


def replay(percent, rung="replay"):
    return Candidate(rung, f"{rung} {percent}%", {"share": Fraction(percent, 100)})


def ladder(*candidates, costs=None):
    return [Option(n, each, costs[n] if costs else 100) for n, each in enumerate(candidates)]


def tried(options, *outcomes, **forgot):
    """Outcomes of options by number: (number, outcome) or (number, outcome, nats forgotten of d0)."""
    found = []
    for number, outcome, *rest in outcomes:
        forgotten = {"d0": Forgotten(rest[0], 0.01, forgot.get("tolerance", 0.3))} if rest else {}
        found.append(
            Tried(number, options[number].candidate, outcome, forgotten, outcome == "recovered", outcome == "diverged")
        )
    return found


def labels(choice):
    return [each.option.candidate.label for each in choice.put_off]


SHARES = ladder(*(replay(percent) for percent in (1, 5, 10, 25, 30)), Candidate("buffer-mix", "buffer-mix", {}))


def test_in_the_order_written_while_nothing_is_known():
    choice = choose(SHARES, [], lr_max=LR)
    assert (choice.option, choice.why, choice.put_off) == (SHARES[0], "the first of the ladder", ())
    assert choose(SHARES, tried(SHARES, (0, "not-recovering", 1.2)), lr_max=LR).option is SHARES[1]


def test_the_measured_shift_says_where_to_begin():
    choice = choose(SHARES, [], lr_max=LR, begin=Begin(Fraction(25, 100)))
    assert choice.option is SHARES[3] and labels(choice) == ["replay 1%", "replay 5%", "replay 10%"]
    assert choice.put_off[0].why == "the measured shift asks for 25% to begin with"


def test_a_rung_that_has_no_share_as_high_begins_with_its_highest():
    assert choose(SHARES[:2], [], lr_max=LR, begin=Begin(Fraction(25, 100))).option is SHARES[1]


def test_after_one_that_under_adapts_the_lower_shares_come_back_and_the_higher_wait():
    choice = choose(SHARES, tried(SHARES, (3, "under-adapting", 0.1)), lr_max=LR, begin=Begin(Fraction(25, 100)))
    assert choice.option is SHARES[0] and labels(choice) == ["replay 30%"]
    assert choice.put_off[0].why == "replay 25% under-adapted already; more replay would adapt less"


def test_less_replay_than_what_forgot_too_much_waits():
    down = ladder(replay(25), replay(5), Candidate("naive", "naive", {}))
    choice = choose(down, tried(down, (0, "not-recovering", 0.9)), lr_max=LR)
    assert choice.option is down[2] and "replay 25% forgot too much already" in choice.put_off[0].why


def test_two_shares_fix_the_law_and_what_it_calls_hopeless_waits():
    # F(p) = 1.5 (1 + 80 p)^-1/2: .671 at 5 %, .5 at 10 %, .327 at 25 %, .3 at 30 %; 1 % and 5 % were measured
    seen = tried(SHARES, (0, "not-recovering", 1.118), (1, "not-recovering", 0.671), tolerance=0.12)
    choice = choose(SHARES, seen, lr_max=LR)
    assert choice.option is SHARES[5] and labels(choice) == ["replay 10%", "replay 25%", "replay 30%"]
    assert choice.put_off[1].why.startswith("d0 would be forgotten by 0.327 +- ")
    assert choice.put_off[1].why.endswith("(the law through 0.01, 0.05), tolerance 0.120")


def test_what_may_hold_by_the_law_is_tried_and_what_may_not_is_jumped_over():
    seen = tried(SHARES, (0, "not-recovering", 1.118), (1, "not-recovering", 0.671), tolerance=0.33)
    choice = choose(SHARES, seen, lr_max=LR)
    assert choice.option is SHARES[3] and labels(choice) == ["replay 10%"]


def test_one_share_fixes_no_law():
    assert choose(SHARES, tried(SHARES, (1, "not-recovering", 9.0)), lr_max=LR).option is SHARES[2]


def test_naive_is_share_0_of_the_rungs_at_peak():
    options = ladder(Candidate("naive", "naive", {}), *(replay(each, "replay-previous-mix") for each in (1, 5, 25)))
    seen = tried(options, (0, "not-recovering", 1.5), (1, "not-recovering", 1.118), tolerance=0.35)
    choice = choose(options, seen, lr_max=LR)
    assert choice.option is options[3] and labels(choice) == ["replay-previous-mix 5%"]


def test_when_everything_else_failed_the_least_hopeless_is_tried():
    seen = [*tried(SHARES, (0, "not-recovering", 1.118), (1, "not-recovering", 0.671), (5, "diverged"), tolerance=0.12)]
    choice = choose(SHARES, seen, lr_max=LR)
    assert choice.option is SHARES[4] and choice.why.startswith(
        "everything else has failed; it was put off: d0 would be"
    )


def test_after_a_broken_optimisation_a_lower_rate_comes_first():
    options = ladder(*(Candidate("replay-rewarm", lr, {"lr": lr}) for lr in ("2 lr_max", "lr_max", "lr_max/2")))
    options += [Option(3, Candidate("decay-then-introduce", "decay", {"introduce_at": "lr_max/5"}), 300)]
    choice = choose(options, tried(options, (1, "diverged")), lr_max=LR)
    assert choice.option is options[2] and labels(choice) == ["2 lr_max"]
    assert choice.put_off[0].why == "the optimisation broke in lr_max; what teaches at a lower rate comes first"


def test_of_one_rung_the_cheaper_comes_first():
    decays = [Candidate("decay-then-introduce", f"to {n}", {}) for n in (100, 10, 50)]
    options = ladder(*decays, replay(5), costs=[300, 200, 250, 10])
    choice = choose(options, [], lr_max=LR)
    assert choice.option is options[1] and choice.why == "the cheapest of its rung: at most 200 tokens"


def test_the_order_written_puts_off_only_what_the_cookbook_does():
    seen = tried(SHARES, (0, "not-recovering", 1.118), (1, "not-recovering", 0.671), tolerance=0.12)
    assert choose(SHARES, seen, lr_max=LR, begin=Begin(Fraction(1, 4)), order="written").option is SHARES[2]
    seen = tried(SHARES, (1, "under-adapting", 0.1))
    assert choose(SHARES, seen, lr_max=LR, order="written").option is SHARES[0]


def test_what_the_budget_cannot_pay_is_not_begun():
    options = ladder(replay(5), replay(25), costs=[300, 200])
    choice = choose(options, [], lr_max=LR, left_tokens=250)
    assert choice.option is options[1]
    assert choice.put_off[0].why == "may take 300 tokens, 250 of the budget are left"
    choice = choose(options, tried(options, (1, "not-recovering", 1.0)), lr_max=LR, left_tokens=-50)
    assert (choice.option, choice.why) == (None, "the budget of the search is spent")
    assert choice.put_off[0].why == "may take 300 tokens, 0 of the budget are left"


def test_the_first_that_is_accepted_ends_the_search_and_the_best_does_not():
    seen = tried(SHARES, (1, "recovered", 0.1))
    assert choose(SHARES, seen, lr_max=LR).option is None
    assert choose(SHARES, seen, lr_max=LR, goal="best").option is SHARES[0]


def test_a_search_for_the_best_leaves_out_what_is_put_off():
    seen = tried(SHARES, (0, "recovered", 0.1), (1, "under-adapting", 0.0), (5, "not-recovering", 2.0))
    choice = choose(SHARES, seen, lr_max=LR, goal="best")
    assert (choice.option, choice.why) == (None, "what is left promises nothing better")


def test_a_rung_that_is_not_built_yet_says_so():
    assert skip_reason(Candidate("merge", "merge", {})) == "the rung merge is not built yet in this version"
    assert skip_reason(replay(5)) is None


def test_the_replay_that_forgot_least_beyond_tolerance():
    assert best_replay(tried(SHARES, (0, "not-recovering", 1.2), (3, "not-recovering", 0.4))) == Fraction(1, 4)
    assert best_replay([]) is None


def test_a_verdict_that_was_stopped_early_counts_with_its_forecast():
    old = {"d0": {"forgetting": 0.5, "forecast": 0.8, "doubt": 0.1, "noise": 0.02, "tolerance": 0.3}}
    verdict = {"outcome": "not-recovering", "accepted": False, "old": old}
    assert Tried.of(0, replay(5), verdict).forgotten["d0"] == Forgotten(0.8, 0.1, 0.3)
    assert Tried.of(0, replay(5), verdict).worst_excess == pytest.approx(0.5)
    old["d0"] |= {"forecast": None, "doubt": None}
    assert Tried.of(0, replay(5), verdict).forgotten["d0"] == Forgotten(0.5, 0.04, 0.3)


def test_a_person_who_rejects_stands_above_the_verdict():
    verdict = {"outcome": "recovered", "accepted": False, "decision": {"decision": "reject"}}
    assert not Tried.of(0, replay(5), verdict).accepted
    del verdict["decision"]  # of a search for the best: acceptable, not accepted yet
    assert Tried.of(0, replay(5), verdict).accepted


def test_a_verdict_says_when_the_optimisation_broke():
    verdict = {"outcome": "not-recovering", "accepted": False, "trouble": "broken optimisation"}
    assert Tried.of(0, replay(5), verdict).broken and Tried.of(0, replay(5), {**verdict, "outcome": "diverged"}).broken
    assert not Tried.of(0, replay(5), {**verdict, "trouble": "forgetting"}).broken


CANDIDATES = st.lists(
    st.one_of(
        st.sampled_from([1, 5, 10, 25, 30]).map(replay),
        st.sampled_from([1, 5, 25]).map(lambda percent: replay(percent, "replay-previous-mix")),
        st.sampled_from(["naive", "buffer-mix", "merge"]).map(lambda rung: Candidate(rung, rung, {})),
        st.sampled_from(["lr_max", "lr_max/2"]).map(lambda lr: Candidate("rewarm-converged", lr, {"lr": lr, "share": Fraction(1, 4)})),
    ),
    min_size=1, max_size=9,
)  # fmt: skip
OUTCOME = st.sampled_from(["not-recovering", "under-adapting", "diverged", "refused", "skipped", "recovered"])


@given(st.data(), CANDIDATES, st.sampled_from([0, 5, 25]), st.booleans(), st.sampled_from(["promising", "written"]))
def test_whatever_comes_out_no_candidate_twice_it_ends_within_the_budget_and_replays(
    data, candidates, percent, best, order
):
    options = ladder(*candidates, costs=[data.draw(st.integers(1, 300)) for _ in candidates])
    budget = data.draw(st.one_of(st.none(), st.integers(0, 1500)))
    goal, seen, spent = ("best" if best else "first"), [], 0

    def ask():
        left = None if budget is None else budget - spent
        share = Fraction(percent, 100)
        return choose(options, seen, lr_max=LR, begin=Begin(share), left_tokens=left, order=order, goal=goal)

    for _ in range(len(options) + 1):
        choice = ask()
        assert ask() == choice
        if choice.option is None:
            break
        assert choice.option.number not in {each.number for each in seen}
        assert choice.option not in [each.option for each in choice.put_off]
        outcome = data.draw(OUTCOME)
        spent += data.draw(st.integers(0, choice.option.cost_tokens))
        assert budget is None or spent <= budget
        forgotten = {"d0": Forgotten(data.draw(st.floats(-1, 3)), data.draw(st.floats(0, 1)), 0.3)}
        measured = {} if outcome in ("refused", "skipped") else forgotten
        seen.append(Tried(choice.option.number, choice.option.candidate, outcome, measured, outcome == "recovered"))
    assert choice.option is None
    if budget is None and not any(each.accepted for each in seen):
        assert len(seen) == len(options)  # what is put off is not thrown away
