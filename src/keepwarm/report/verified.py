"""What was found in a token file, in plain English with what to do, and as data."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path
from typing import Any

from keepwarm.corpora.indexed import open_indexed, pair
from keepwarm.corpora.verify import Finding, Report

_WIDTH = 100
_FACTS = {
    "dtype": "dtype",
    "sequences": "sequences",
    "documents": "documents",
    "empty_documents": "empty documents",
    "tokens": "tokens",
    "bin_bytes": "bytes of .bin",
    "highest_id": "highest id",
    "vocab_size": "vocabulary",
    "eod": "document end",
    "documents_without_eod": "documents without it",
    "eods_inside_documents": "of it inside documents",
    "content_id": "content id",
}
_ORIGIN = {
    "asked": "as asked",
    "sidecar": "as the sidecar says",
    "inferred": "inferred: it stands at the end of every document",
}
_ELSE = {  # what to do where no new index helps; {prefix} is the file's
    "missing-file": "fetch it from where its other half came from, or tokenize the text again: "
    "keepwarm tokenize TEXT --tokenizer FILE --output {prefix}",
    "header": "fetch the .idx again from where it was made, or tokenize the text again",
    "lengths": "fetch the .idx again from where it was made, or tokenize the text again",
    "pointers": "fetch the .idx again from where it was made, or tokenize the text again; if the order is meant so, "
    "the documents can be written in it: keepwarm data split {prefix} --parts 1 --output OUT",
    "document-indices": "mend the other findings first: fetch the pair again from where it was made",
    "uncounted-eod": "name the token that ends a document, if it is another: "
    "keepwarm data verify {prefix} --eod ID --repair",
    "shifted": "name the token that ends a document, if it is another: keepwarm data verify {prefix} --eod ID --repair; if "
    "it is this one, fetch the pair again from where it was made, or tokenize the text again",
    "truncated-bin": "no document is complete: fetch the .bin again from where it was made",
    "ids-out-of-range": "the file was made with another tokenizer, or its bytes are damaged: name the vocabulary it was "
    "made for (--vocab-size N), or tokenize the text again",
    "sidecar": "the pair was changed after its sidecar was written, or the sidecar is another file's: fetch all files "
    "again; if the pair is meant so, the sidecar can go: rm {prefix}.meta.json",
    "hashes": "the hashes are another file's, and documents would be taken for others: rm {prefix}.hash.npy",
}
_REPAIR = {
    "shifted": "end each document where its end stands",
    "truncated-bin": "keep the complete documents",
    "trailing-bytes": "keep what the index counts",
    "document-indices": "make each sequence a document",
}


def as_data(report: Report) -> dict[str, Any]:
    """The report for JSON: facts, findings with what to do, `ok` and `repairable`."""
    facts = {item.name: getattr(report, item.name) for item in dataclasses.fields(report) if item.name != "fix"}
    findings = [{**dataclasses.asdict(one), "fix": what_to_do(report, one)} for one in report.findings]
    whole = {"ok": report.ok, "repairable": report.fix is not None}
    return {**facts, "prefix": str(report.prefix), "findings": findings, **whole}


def block(report: Report) -> str:
    """One block of text for people."""
    lines = [f"{report.prefix}: {_verdict(report)}"]
    for key, label in _FACTS.items():
        value = getattr(report, key)
        if value is not None:
            more = f" ({_ORIGIN[report.eod_from]})" if key == "eod" and report.eod_from else ""
            lines.append(f"  {label:22} {value:,}{more}" if isinstance(value, int) else f"  {label:22} {value}")
    for finding in report.findings:
        lines += [_wrapped(f"{finding.kind}: {finding.what}"), f"    to do: {what_to_do(report, finding)}"]
    return "\n".join(lines)


def what_to_do(report: Report, finding: Finding) -> str:
    """Text that can be pasted, or a sentence where no command helps."""
    if finding.repairable and report.fix is not None:
        doing = _REPAIR.get(finding.kind)
        asked = f" --eod {report.eod}" if report.eod_from == "asked" else ""  # without it, it may not be certain
        return f"keepwarm data verify {report.prefix}{asked} --repair" + (f"  # to {doing}" if doing else "")
    return _ELSE.get(finding.kind, _ELSE["header"]).format(prefix=report.prefix)


def repaired(report: Report, target: Path) -> str:
    """What a repair did."""
    assert report.fix is not None
    binary, _ = pair(target)
    opened = open_indexed(target)
    kind = "a copy up to there"
    if binary.is_symlink():
        kind = "a symbolic link to the .bin"
    elif binary.samefile(f"{report.prefix}.bin"):
        kind = "the same data under a second name"
    text = (
        f"  repaired: {target}.idx, {opened.n_documents:,} documents and {opened.n_tokens:,} tokens; "
        f"{binary.name} is {kind}"
    )
    left_out = f"{report.fix.left_out:,} documents are left out; " if report.fix.left_out else ""
    return f"{text}\n    {left_out}the originals are as they were"


def as_json(report: Report, target: Path | None) -> str:
    """One line of JSON; `repaired` is the prefix that a repair wrote."""
    return json.dumps({**as_data(report), "repaired": str(target) if target else None}, ensure_ascii=False)


def _wrapped(text: str) -> str:
    """A sentence in lines that fit a terminal; paths and numbers stay whole, so that they can be pasted."""
    return textwrap.fill(
        text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _verdict(report: Report) -> str:
    count = len(report.findings)
    return "all is well" if report.ok else f"{count} finding{'s' if count > 1 else ''}"
