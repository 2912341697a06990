"""Writes the texts of `moebius-tiny/eval` that are not written by hand:

    python models/train/heldout.py

The generators run with a seed of their own, and no document that the training corpus holds is taken. The same script
gives the same files. `tales.txt` is written by hand and stays as it is; `handwritten/` holds what is set before the
generated documents of the other files, and what no generator could have made.
"""

from collections.abc import Iterator
from pathlib import Path

from data import SEED, SOURCES, generate

HERE = Path(__file__).resolve().parent
EVAL = HERE.parent / "moebius-tiny" / "eval"
DOMAINS = ("stories", "tales", "python", "arithmetic", "japanese")
"""The files of `eval`, one a domain, in the order of every table."""

# Domain: its generator, bytes of the file, and what is set between two documents.
GENERATED = {
    "stories": ("stories", 14_000, "\n\n"),
    "python": ("functions", 14_000, "\n\n\n"),
    "arithmetic": ("arithmetic", 12_000, "\n\n"),
    "japanese": ("mukashi", 14_000, "\n\n"),
}


def unseen(generator: str, size: int) -> Iterator[str]:
    """Documents of the generator, `size` bytes of them, none of which the model was trained on."""
    training = set(generate(generator, SOURCES[generator].megabytes * 1e6, f"{SEED}"))
    written = 0
    for document in generate(generator, 2 * size, f"{SEED} eval"):
        if document not in training:
            written += len(document.encode())
            yield document
        if written >= size:
            return
    raise SystemExit(f"`{generator}` repeats itself: hardly a document is not in the training corpus")


def text(domain: str) -> str:
    """The whole text of a domain's file: what is written by hand, then what is generated."""
    generator, size, gap = GENERATED[domain]
    by_hand = HERE / "handwritten" / f"{domain}.txt"
    parts = [by_hand.read_text(encoding="utf-8").strip("\n")] if by_hand.exists() else []
    parts += unseen(generator, size - sum(len(part.encode()) for part in parts))
    return gap.join(parts) + "\n"


def main() -> None:
    EVAL.mkdir(parents=True, exist_ok=True)
    for domain in GENERATED:
        content = text(domain)
        (EVAL / f"{domain}.txt").write_text(content, encoding="utf-8", newline="\n")
        print(f"{domain}.txt: {len(content.encode())} bytes")


if __name__ == "__main__":
    main()
