"""Holds GGUF files that moebius writes against llama.cpp: the perplexity of the same tokens in both.

    python benches/peers/perplexity.py

The bundled model is converted to each format, moebius scores the evaluation texts with the file, and llama.cpp computes the
logits of the very same pieces. It also has to cut the texts into the same tokens. The exit status says whether all
differences are within their limits.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from comparison import table
from programs import Failure, output, say

HERE = Path(__file__).resolve().parent
MODEL = HERE.parents[1] / "models" / "moebius-tiny"
FORMATS = "f16,q8_0,q4_0,q4_k_m"
FLOAT_LIMIT = 0.001
"""By what share the perplexity of weights in floats may differ."""
QUANTISED_LIMIT = 0.005
"""The same where weights are blocks: both sides round activations, each in its own way."""


# ---------------------------------------------------------------- arithmetic


@dataclass(frozen=True)
class Piece:
    """Tokens that a model sees together, and the logarithm of what it gave all of them but the first."""

    source: str
    ids: list[int]
    log_probability: float

    @property
    def scored(self) -> int:
        return len(self.ids) - 1


def pieces(said: str) -> list[Piece]:
    """The pieces of `moebius score --json`."""
    try:
        sequences = json.loads(said)["sequences"]
        found = [Piece(one["source"], one["ids"], one["logprob"]) for one in sequences if len(one["ids"]) > 1]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        hint = "give the path of a `moebius` by `--moebius`"
        raise Failure(f"`moebius score --json` printed something else: {error!r}", hint) from error
    if not found:
        raise Failure("no text has two tokens", "give longer texts by `--text`")
    return found


def perplexity(log_probabilities: Iterable[float], scored: int) -> float:
    return math.exp(-math.fsum(log_probabilities) / scored)


def limit(format: str) -> float:
    return FLOAT_LIMIT if format in ("f32", "f16", "bf16") else QUANTISED_LIMIT


def first_difference(ours: list[int], theirs: list[int]) -> int | None:
    """Where two lists first differ; `None` if they are the same."""
    for index, (one, other) in enumerate(zip(ours, theirs)):
        if one != other:
            return index
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


@dataclass(frozen=True)
class Row:
    """A format and both perplexities."""

    format: str
    moebius: float
    llama_cpp: float

    @property
    def difference(self) -> float:
        """As a share of llama.cpp's."""
        return self.moebius / self.llama_cpp - 1

    @property
    def holds(self) -> bool:
        return abs(self.difference) <= limit(self.format)

    def cells(self) -> tuple[str, ...]:
        verdict = "yes" if self.holds else "NO"
        shares = [f"{self.difference:+.4%}", f"{limit(self.format):.1%}"]
        return (self.format, f"{self.moebius:.5f}", f"{self.llama_cpp:.5f}", *shares, verdict)


HEAD = ("format", "moebius", "llama.cpp", "difference", "limit", "within")


# ---------------------------------------------------------------- programs


class LlamaCpp:
    """llama.cpp with a GGUF file."""

    def __init__(self, path: Path, context: int):
        try:
            import llama_cpp
        except ImportError as error:
            raise Failure(f"no llama.cpp: {error}", "pip install -r benches/peers/requirements.txt") from error
        try:
            self.model = llama_cpp.Llama(str(path), n_ctx=context, n_batch=context, logits_all=True, verbose=False)
        except ValueError as error:
            raise Failure(f"llama.cpp does not read the file: {error}", f"keep it by `--keep`: `{path}`") from error

    def tokens(self, text: str) -> list[int]:
        return self.model.tokenize(text.encode(), add_bos=False, special=False)

    def log_probability(self, ids: list[int]) -> float:
        """The logarithm of what the model gives all tokens but the first."""
        import numpy as np

        self.model.reset()
        self.model.eval(ids)
        logits = np.asarray(self.model.scores[: len(ids) - 1], np.float64)
        most = logits.max(axis=1)
        normalizer = most + np.log(np.exp(logits - most[:, None]).sum(axis=1))
        return float((logits[np.arange(len(ids) - 1), ids[1:]] - normalizer).sum())


def check_tokens(llama: LlamaCpp, found: list[Piece], texts: list[Path]) -> None:
    """Fails unless both cut all texts into the same tokens."""
    for text in texts:
        ours = [token for piece in found if piece.source.startswith(str(text)) for token in piece.ids]
        theirs = llama.tokens(text.read_text(encoding="utf-8"))
        at = first_difference(ours, theirs)
        if at is not None:
            got = f"moebius has {ours[at : at + 5]}, llama.cpp {theirs[at : at + 5]}"
            raise Failure(f"`{text}`: token {at} differs: {got}", "compare the vocabularies of model and file")


def compare(program: str, model: Path, format: str, texts: list[Path], folder: Path) -> Row:
    path = folder / f"{model.name}-{format}.gguf"
    if not path.exists():
        output([program, "convert", str(model), "--format", format, "-o", str(path)], "moebius convert")
    names = [str(text) for text in texts]
    found = pieces(output([program, "score", str(path), *names, "--json"], "moebius score"))
    llama = LlamaCpp(path, max(len(piece.ids) for piece in found))
    check_tokens(llama, found, texts)
    scored = sum(piece.scored for piece in found)
    ours = perplexity((piece.log_probability for piece in found), scored)
    theirs = perplexity((llama.log_probability(piece.ids) for piece in found), scored)
    return Row(format, ours, theirs)


# ---------------------------------------------------------------- the command


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    built = HERE.parents[1] / "target" / "release" / "moebius"
    usual = str(built) if built.exists() else "moebius"
    add("--moebius", metavar="PATH", default=usual, help="default: this repository's target/release/moebius, or the one on PATH")
    add("--model", type=Path, default=MODEL, help="a directory; default: the bundled model")
    add("--format", default=FORMATS, help="by commas, as in `moebius convert`; default: %(default)s")
    add("--text", type=Path, action="append", help="a text to score, may be repeated; default: the model's eval/*.txt")
    add("--keep", type=Path, metavar="DIR", help="put the files here and leave them")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = arguments(argv)
    texts = args.text or sorted((args.model / "eval").glob("*.txt"))
    rows = []
    try:
        if not texts:
            raise Failure(f"`{args.model}` has no texts in `eval`", "give some by `--text`")
        with tempfile.TemporaryDirectory(prefix="moebius-perplexity-") as temporary:
            folder = args.keep or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            for format in args.format.split(","):
                say(f"{format} ...")
                rows.append(compare(args.moebius, args.model, format, texts, folder))
    except Failure as error:
        say(f"error: {error}\n\nhint: {error.hint}")
        return 1
    finally:
        if rows:
            print("\n".join(table(HEAD, "lrrrrl", [row.cells() for row in rows])))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
