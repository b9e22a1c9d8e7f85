"""The one family of errors that people see: what is wrong and where, why it matters, what to do.

A `KeepwarmError` is the user's to fix: the command line prints its three lines and exits 2, without a traceback
(unless `--debug`). Broken invariants of our own are `assert`s and stay ugly.
"""

from __future__ import annotations


class KeepwarmError(ValueError):
    """Bad input. `what` names the place (file:line, key), `why` the harm, `fix` is text that can be pasted."""

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(what, why, fix)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n  why: {self.why}\n  fix: {self.fix}"


class PlanError(KeepwarmError):
    """The plan file asks for something that cannot be, or says it in words we do not know."""


class DataError(KeepwarmError):
    """A corpus, file list, token file or tokenizer is missing, damaged, foreign or too small."""


class LineageError(KeepwarmError):
    """A checkpoint or manifest is missing, damaged, or does not belong where it is used."""


class GuardError(KeepwarmError):
    """One of the cookbook's guards refused. `guard` is its name, the word for `allow: [NAME]`."""

    def __init__(self, guard: str, what: str, why: str, fix: str) -> None:
        super().__init__(f"{what} (guard {guard})", why, fix)
        self.args = (guard, what, why, fix)
        self.guard = guard


class WorkFailed(Exception):
    """The input was good and the work failed (a ladder exhausted, a run diverged): exit 1, one line."""
