"""A launch command or a job script, as far as its words say it: assignments, launches of train_alcf.sh, directives.

No shell is run. Variables that the text itself sets are put in, arithmetic of numbers is done; what only the machine
knows stays as `$NAME` or `$(...)`, and such a value counts as not known.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from keepwarm.doctor.alcf import SCRIPT

_ARITHMETIC = re.compile(r"\$\(\(([^()]*(?:\([^()]*\)[^()]*)*)\)\)")
_SUBSTITUTION = re.compile(r"\$\([^()]*(?:\([^()]*\)[^()]*)*\)|`[^`]*`")
_VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^{}]*))?\}|\$(\w+)")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_DIRECTIVE = re.compile(r"#(PBS|SBATCH)\s+(.*)")
_LEADING = {"{", "}", "then", "do", "else", "if", "while", "!", "time", "nohup", "env", "exec", "command"}
_DECLARING = {"export", "declare", "local", "readonly", "typeset"}
_SHELLS = {"bash", "sh", "source", "."}
_PRINTING = {"echo", "printf"}
_OPERATORS = {ast.Add: int.__add__, ast.Sub: int.__sub__, ast.Mult: int.__mul__, ast.FloorDiv: int.__floordiv__}


@dataclass(frozen=True, slots=True)
class Assignment:
    """A variable and its value; "$" in the value: not known here."""

    name: str
    value: str
    place: str
    exported: bool

    @property
    def known(self) -> bool:
        """True if the text says the value."""
        return "$" not in self.value


@dataclass(frozen=True, slots=True)
class Launch:
    """One call of train_alcf.sh."""

    place: str
    own: tuple[Assignment, ...]  # in front of it
    exported: tuple[Assignment, ...]  # before it
    unexported: tuple[Assignment, ...]  # before it, so that the script does not see them
    arguments: tuple[str, ...]
    script: str
    status_used: str  # how its exit status is used, in words; "" where it is not


@dataclass(frozen=True, slots=True)
class Text:
    """What was read. `lines` are (number, whole line) with continued lines joined and comments left out."""

    name: str
    lines: tuple[tuple[int, str], ...]
    directives: tuple[tuple[str, str, str], ...]  # (place, PBS or SBATCH, words)
    assignments: tuple[Assignment, ...]
    launches: tuple[Launch, ...]
    raw: str = field(repr=False, default="")

    def place(self, number: int) -> str:
        """file:line; only the name for text of one line."""
        return place_of(self.name, number, self.raw)

    @property
    def scheduler(self) -> str:
        """PBS, SBATCH, or nothing."""
        return self.directives[0][1] if self.directives else ""


def place_of(name: str, number: int, raw: str) -> str:
    """How a line is named."""
    return f"{name}:{number}" if "\n" in raw.strip() else name


def read_shell(raw: str, name: str, environment: Mapping[str, str] | None = None) -> Text:
    """Read the text of a script or a command; `environment` holds variables that are exported before it."""
    assigned = {key: Assignment(key, value, "the environment", True) for key, value in (environment or {}).items()}
    every: list[Assignment] = []
    launches: list[Launch] = []
    blocks: list[dict[str, Assignment]] = []
    lines = list(_logical(raw))
    for number, line in lines:
        place = place_of(name, number, raw)
        for words, before, after in _segments(line, assigned):
            blocks = _block(words, blocks, assigned)
            own, rest, declared = _leading_assignments(words, place)
            for one in own if not rest or declared else ():
                old = assigned.get(one.name)
                kept = Assignment(
                    one.name, one.value, place, declared == "export" or (old is not None and old.exported)
                )
                assigned[one.name] = kept
                every.append(kept)
            if declared == "export":
                for word in rest:
                    if word in assigned:
                        assigned[word] = Assignment(word, assigned[word].value, place, True)
            launch = None if declared else _launch(rest, own, assigned, place, _used(before, after, words))
            launches += [launch] if launch else []
    directives = [
        (place_of(name, number, raw), match[1], match[2].strip())
        for number, line in enumerate(raw.splitlines(), start=1)
        if (match := _DIRECTIVE.match(line))
    ]
    return Text(name, tuple(lines), tuple(directives), tuple(every), tuple(launches), raw)


def _block(
    words: list[str], blocks: list[dict[str, Assignment]], assigned: dict[str, Assignment]
) -> list[dict[str, Assignment]]:
    """What `if` found; where its block ends in another process, what it set is gone behind `fi`."""
    if words[0] == "if":
        return [*blocks, dict(assigned)]
    if "exec" in words[:2] and blocks:
        blocks[-1]["exec"] = Assignment("exec", "", "", False)
    if words[0] == "fi" and blocks:
        if "exec" in blocks[-1]:
            assigned.clear()
            assigned.update({name: one for name, one in blocks[-1].items() if name != "exec"})
        return blocks[:-1]
    return blocks


def _logical(raw: str) -> Iterator[tuple[int, str]]:
    """(number, line) without comments, continued lines joined."""
    held, first = "", 0
    for number, line in enumerate(raw.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue
        first = first or number
        if line.rstrip().endswith("\\"):
            held += line.rstrip()[:-1] + " "
            continue
        if (held + line).strip():
            yield first, (held + line).strip()
        held, first = "", 0
    if held.strip():
        yield first, held.strip()


def _segments(line: str, assigned: Mapping[str, Assignment]) -> Iterator[tuple[list[str], str, str]]:
    """(words, separator before, separator after) of each command of a line."""
    words: list[str] = []
    before = ""
    for word in [*_split(_substituted(line, assigned)), ";"]:
        if word and not word.strip(";&|()<>"):
            if words:
                yield words, before, word
            words, before = [], word
        elif word.startswith("#"):
            break
        else:
            words.append(word)
    else:
        return
    if words:
        yield words, before, ";"


def _split(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        return list(lexer)
    except ValueError:  # a quote that ends on another line
        return line.replace('"', " ").replace("'", " ").split()


def _substituted(line: str, assigned: Mapping[str, Assignment]) -> str:
    """The line with what is known put in, arithmetic first done; other substitutions become one unknown word."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        one = assigned.get(name)
        if one is not None and (one.value or match[2] is None):
            return one.value
        return match[0] if match[2] is None else match[2]

    known = _VARIABLE.sub(value, line)
    known = _ARITHMETIC.sub(lambda match: _arithmetic(match[1], assigned), known)
    return _SUBSTITUTION.sub("$_", known)


def _arithmetic(text: str, assigned: Mapping[str, Assignment]) -> str:
    """The value of an expression of whole numbers, as bash computes it; "$_" if it is none."""
    named = re.sub(r"[A-Za-z_]\w*", lambda match: assigned[match[0]].value if match[0] in assigned else match[0], text)
    try:
        return str(_evaluated(ast.parse(named.strip().replace("/", "//"), mode="eval").body))
    except (SyntaxError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return "$_"


def _evaluated(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp):
        left, right = _evaluated(node.left), _evaluated(node.right)
        if isinstance(node.op, ast.Pow) and 0 <= right < 64:
            return int(left**right)
        if type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](left, right)
    raise ValueError("not arithmetic of whole numbers")


def _leading_assignments(words: list[str], place: str) -> tuple[list[Assignment], list[str], str]:
    """(assignments, what follows, the declaring word in front of them)."""
    at = 0
    while at < len(words) and words[at] in _LEADING:
        at += 1
    declared = words[at] if at < len(words) and words[at] in _DECLARING else ""
    rest = words[at + bool(declared) :]
    found: list[Assignment] = []
    while rest and (match := _ASSIGNMENT.fullmatch(rest[0])) is not None:
        found.append(Assignment(match[1], match[2], place, True))
        rest = rest[1:]
    return found, rest, declared


def _launch(
    words: list[str], own: list[Assignment], assigned: Mapping[str, Assignment], place: str, used: str
) -> Launch | None:
    at = next((at for at, word in enumerate(words) if word.rpartition("/")[2] == SCRIPT), None)
    if at is None or words[0] in _PRINTING:
        return None
    before = [word for word in words[:at] if not word.startswith("-")]
    if before and before[-1] not in _SHELLS:
        return None
    others = [one for one in assigned.values() if one.name not in {each.name for each in own}]
    arguments = tuple(word for word in words[at + 1 :] if word not in ("$@", "$*"))
    return Launch(
        place, tuple(own), tuple(one for one in others if one.exported), tuple(one for one in others if not one.exported),
        arguments, words[at], used,
    )  # fmt: skip


def _used(before: str, after: str, words: list[str]) -> str:
    if words[0] in ("if", "while", "!"):
        return f"`{words[0]}` asks for it"
    return f"`{after}` asks for it" if after in ("&&", "||") else ""
