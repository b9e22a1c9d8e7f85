"""YAML to a Plan, with every error at once as `file:line:column  key: message`.

YAML 1.2 rules over PyYAML's parser: 3e-4 is a float, `no` and `on` are strings, 012 is not octal, 12:30 is a string, a
duplicate key is an error. Numbers with a decimal point keep their text, so that 0.05 is exactly 1/20. Paths are
relative to the plan file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from keepwarm.errors import PlanError
from keepwarm.plan.checks import cross_errors
from keepwarm.plan.corpus import CorpusSpec, EvaluationSpec, FilesSpec
from keepwarm.plan.megatron import MegatronSpec
from keepwarm.plan.model import Plan

Place = tuple[str | int, ...]
Files = TypeVar("Files", FilesSpec, CorpusSpec, EvaluationSpec)
Position = tuple[int, int]  # line, column, from 1
_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Decimal(float):
    """A float that remembers how it was written, so that shares can be exact."""

    text: str

    def __new__(cls, text: str) -> Decimal:
        """From YAML's spelling."""
        value = super().__new__(cls, text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        value.text = text.replace("_", "")
        return value

    def __str__(self) -> str:
        return self.text


class Document:
    """A YAML text as plain values, and where each key and value stands."""

    def __init__(self, text: str, name: str) -> None:
        """Parse; PlanError on text that is not YAML, or has duplicate keys."""
        self.name = name
        self.positions: dict[Place, Position] = {}
        self._problems: list[str] = []
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            at = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
            problem = getattr(error, "problem", None) or str(error)
            raise _refusal([f"{at}  not YAML: {problem}"]) from None
        if node is None:
            raise _refusal([f"{name}:1:1  the file is empty"])
        self.value = self._value(node, ())
        if self._problems:
            raise _refusal(self._problems)

    def at(self, place: Place) -> str:
        """`file:line:column` of a place, or of the nearest part of it that stands in the file."""
        while place and place not in self.positions:
            place = place[:-1]
        line, column = self.positions.get(place, (1, 1))
        return f"{self.name}:{line}:{column}"

    def _value(self, node: yaml.Node, place: Place) -> Any:
        self.positions.setdefault(place, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(child, (*place, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        assert isinstance(node, yaml.ScalarNode)
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, child in node.value:
            key = str(key_node.value)
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            if key in found:
                self._problems.append(f"{self.name}:{line}:{column}  {_dotted((*place, key))}: the key is there twice")
            self.positions[(*place, key)] = (line, column)
            found[key] = self._value(child, (*place, key))
        return found


def _scalar(node: yaml.ScalarNode) -> Any:
    text = node.value
    if node.style in ('"', "'") or (node.tag == _TAG + "str" and node.style is not None):
        return text
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    return Decimal(text) if _FLOAT.fullmatch(text) else text


def load_plan(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """The plan in a file, with `key=value` overrides; PlanError with every problem and its place."""
    document = Document(read_text(Path(path)), str(path))
    if not isinstance(document.value, dict):
        raise _refusal([f"{document.at(())}  a plan is a mapping of keys, such as `name: my-line`"])
    for override in overrides:
        _override(document, override)
    try:
        plan = Plan.model_validate(document.value)
    except ValidationError as error:
        raise refusal_of(document, error) from None
    problems = [f"{document.at(place)}  {_dotted(place)}: {text}" for place, text in cross_errors(plan)]
    if problems:
        raise _refusal(problems)
    return _absolute(plan, Path(path).resolve().parent)


def refusal_of(document: Document, error: ValidationError, model: type[BaseModel] = Plan) -> PlanError:
    """All that pydantic found in a document of `model`, each with its place in the file."""
    found = error.errors()
    inner = {each["loc"][:depth] for each in found for depth in range(len(each["loc"]))}
    # What stands around a wrong part is counted wrong with it ("at least 1 item"): the part itself says it best.
    return _refusal([_line(document, each, model) for each in found if each["loc"] not in inner], model)


def read_text(path: Path) -> str:
    """A plan or cookbook file's text; PlanError if it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        reason = error.strerror or "can't be read"
        raise PlanError(
            f"{path}: {reason.lower()}", "there is no plan to go by", "name a plan file: plan.yaml"
        ) from None
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: not UTF-8 text ({error})", "it can't be read as YAML", "save it as UTF-8") from None


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan as canonical JSON-able content; equal plans give equal documents."""
    content: dict[str, Any] = plan.model_dump(mode="json", exclude_none=True)
    return content


def plan_yaml(plan: Plan) -> str:
    """The plan as YAML that loads back equal."""
    return yaml.safe_dump(plan_document(plan), sort_keys=False, allow_unicode=True, width=110)


def json_schema() -> dict[str, Any]:
    """JSON schema of the plan file, for editors."""
    schema = Plan.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _override(document: Document, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise PlanError(f"--set {override}: not key=value", "nothing was changed", "--set stages.stage2.tokens=1M")
    target, words = document.value, key.strip().split(".")
    for depth, word in enumerate(words):
        last = depth == len(words) - 1
        if isinstance(target, list):
            named = [i for i, each in enumerate(target) if isinstance(each, dict) and each.get("name") == word]
            index = named[0] if named else int(word) if word.isdigit() and int(word) < len(target) else None
            if index is None:
                raise _no_key(
                    override,
                    key,
                    [str(e.get("name", i)) if isinstance(e, dict) else str(i) for i, e in enumerate(target)],
                )
            if last:
                target[index] = Document(text, f"--set {key}").value
            target = target[index]
        elif isinstance(target, dict):
            if not last and word not in target:
                raise _no_key(override, key, list(target))
            if last:
                target[word] = Document(text, f"--set {key}").value
            target = target[word]
        else:
            raise _no_key(override, key, [])


def _no_key(override: str, key: str, there: list[str]) -> PlanError:
    close = get_close_matches(key.split(".")[-1], there, 1)
    fix = f"did you mean {close[0]}?" if close else f"there are: {', '.join(there) or 'no keys below it'}"
    return PlanError(f"--set {override}: the plan has no {key}", "nothing was changed", fix)


def _line(document: Document, error: Any, model: type[BaseModel]) -> str:
    place: Place = tuple(part for part in error["loc"])
    place = _as_written(document, place)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        close = get_close_matches(str(place[-1]), _keys_beside(place, model), 1)
        message = "unknown key" + (f", did you mean '{close[0]}'?" if close else "")
    elif error["type"] == "missing":
        message = "is missing"
        return f"{document.at(place[:-1])}  {_dotted(place)}: {message}"
    return f"{document.at(place)}  {_dotted(place)}: {message[0].lower() + message[1:]}"


def _as_written(document: Document, place: Place) -> Place:
    """Pydantic names the union's branch in a place (the rung's name); the file does not."""
    kept: list[str | int] = []
    for index, part in enumerate(place):
        here = tuple(kept)
        is_tag = here and here[-1:] and isinstance(here[-1], int) and isinstance(part, str)
        if is_tag and (*here, part) not in document.positions and (*here, "rung") in document.positions:
            continue
        if isinstance(part, str) and part.startswith("function-") and index:
            continue
        kept.append(part)
    return tuple(kept)


def _keys_beside(place: Place, model: Any) -> list[str]:
    """The keys that are known where an unknown one stands."""
    from keepwarm.plan.rungs import ReplayPreviousMix

    fields: dict[str, Any] = dict(model.model_fields)
    for part in place[:-1]:
        if isinstance(part, int):
            continue
        if part == "ladder":
            return ["rung", "shares", "mixes", "search", "lr", "to", "decay", "anchor", *ReplayPreviousMix.model_fields]
        if part not in fields:
            continue  # a corpus's own name
        model = _model_in(fields[part].annotation)
        fields = dict(model.model_fields) if model else {}
    return list(fields)


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in getattr(annotation, "__args__", ()) if (found := _model_in(each))), None)


def _dotted(place: Place) -> str:
    return ".".join(str(part) for part in place) or "plan"


def _refusal(lines: list[str], model: type[BaseModel] = Plan) -> PlanError:
    keys = "" if model is not Plan else "; `keepwarm schema` lists every key with its meaning"
    return PlanError(
        "\n       ".join(lines),
        f"a {'plan' if model is Plan else 'file'} is followed to the letter: nothing in it is ignored or guessed",
        f"mend these places{keys}",
    )


def _absolute(plan: Plan, folder: Path) -> Plan:
    """The plan with its paths made absolute; a hub id stays what it is."""

    def place(path: str) -> str:
        return str(folder / path)

    def local(path: str | None) -> str | None:
        return place(path) if path is not None and (folder / path).exists() else path

    def files(spec: Files) -> Files:
        """A corpus's paths, and those of what stands in for it."""
        found = {
            key: tuple(map(place, value)) if isinstance(value, tuple) else place(value)
            for key in ("text", "list", "indexed", "exclude")
            if (value := getattr(spec, key, None)) is not None
        }
        proxy = getattr(spec, "proxy", None)
        return spec.model_copy(update=found if proxy is None else {**found, "proxy": files(proxy)})

    def trainer(spec: MegatronSpec | None) -> MegatronSpec | None:
        if spec is None:
            return None
        tokenizer = spec.tokenizer.model_copy(update={"model": local(spec.tokenizer.model)})
        return spec.model_copy(update={"trainer": place(spec.trainer), "tokenizer": tokenizer})

    update: dict[str, Any] = {
        "corpora": {name: files(spec) for name, spec in plan.corpora.items()},
        "evaluation": {name: files(spec) for name, spec in plan.evaluation.items()},
        "run": plan.run.model_copy(update={"folder": place(plan.run.folder), "megatron": trainer(plan.run.megatron)}),
        "buffer": plan.buffer.model_copy(
            update={"scores": {name: tuple(map(place, paths)) for name, paths in plan.buffer.scores.items()}}
        ),
        "holdout": plan.holdout.model_copy(update={"files": {n: place(f) for n, f in plan.holdout.files.items()}}),
    }
    if plan.model is not None and plan.model.hf is not None:
        update["model"] = plan.model.model_copy(update={"hf": local(plan.model.hf)})
    if plan.base.checkpoint is not None:
        update["base"] = plan.base.model_copy(update={"checkpoint": local(plan.base.checkpoint)})
    if plan.tokenizer is not None and plan.tokenizer.file is not None:
        update["tokenizer"] = plan.tokenizer.model_copy(update={"file": place(plan.tokenizer.file)})
    if plan.cookbook.endswith((".yaml", ".yml")):
        update["cookbook"] = place(plan.cookbook)
    return plan.model_copy(update=update)


def schema_text() -> str:
    """The JSON schema as text."""
    return json.dumps(json_schema(), indent=1)
