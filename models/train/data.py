"""From documents to training windows: the mixture of sources, the tokenizer, token files and batches."""

import hashlib
import importlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
# Qwen2's split pattern, which engines that read qwen3_moe know; every digit is a token of its own.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VALIDATION_SHARE = 0.02
DOCUMENT_STARTS = (0.25, 0.25, 0.25, 0.75, 0.75, 0.75)
"""How many windows of each phase begin with a document; the last ones teach what nothing stands before."""
SEED = 20261121
LINE_ENDS_APART = (0, 0, 0, 0, 0, 0.5)
"""How many windows of each phase have their line ends as tokens of their own. In all other text a line end belongs to
the punctuation before it, and a prompt that stops at a colon would be a sight never seen."""
QUESTION, ANSWER = 0.3, 3.0
"""How much a token of a sum counts in the gradients after the first phase: questions are random, answers are not."""


@dataclass(frozen=True)
class Source:
    """One kind of text: a generator of `corpus/`, or a file that `corpus/collect.py` has made."""

    domain: str
    shares: tuple[float, ...]
    """Of the tokens of each phase of a run."""
    megabytes: float
    """How much a generator writes; 0 for a collected file."""
    tokenizer_megabytes: float
    """How much of it the tokenizer is trained on."""


# Sums take far more examples than stories do, so their share grows once the rest has its start; the fifth phase leaves
# the model in the manner of its own stories, which hold together better than what it makes of the collected ones.
SOURCES = {
    "stories": Source("stories", (0.17, 0.12, 0.10, 0.10, 0.40, 0.40), 12, 1.5),
    "simple_stories": Source("stories", (0.20, 0.14, 0.12, 0.12, 0.04, 0.02), 0, 3),
    "tales": Source("tales", (0.12, 0.08, 0.06, 0.06, 0.05, 0.03), 0, 3),
    "functions": Source("python", (0.10, 0.08, 0.06, 0.06, 0.08, 0.22), 5, 1),
    "python": Source("python", (0.10, 0.07, 0.05, 0.05, 0.04, 0.05), 0, 2),
    "arithmetic": Source("arithmetic", (0.15, 0.36, 0.06, 0.06, 0.04, 0.02), 8, 0.3),
    "sums": Source("arithmetic", (0, 0, 0.42, 0.42, 0.22, 0.14), 4, 0),
    "mukashi": Source("japanese", (0.07, 0.06, 0.05, 0.05, 0.07, 0.06), 4, 1),
    "japanese": Source("japanese", (0.09, 0.09, 0.08, 0.08, 0.06, 0.06), 0, 2.5),
}


def domains() -> list[str]:
    return list(dict.fromkeys(source.domain for source in SOURCES.values()))


def generate(name: str, size: float, seed: str) -> Iterator[str]:
    """Documents of a generator until `size` bytes are reached."""
    make = importlib.import_module(f"corpus.{name}").document
    rng = random.Random(f"{name} {seed}")
    written = 0
    while written < size:
        document = make(rng)
        written += len(document.encode())
        yield document


def read_documents(path: Path) -> list[str]:
    """Documents of a collected file: separated by a line that holds only the end-of-text mark."""
    text = path.read_text(encoding="utf-8")
    return [d.strip("\n") for d in text.split(f"\n{END_OF_TEXT}\n") if d.strip()]


def _kept_for_validation(document: str) -> bool:
    """By the text's own hash: a document stays on its side of the split whatever is added to the corpus."""
    return int.from_bytes(hashlib.sha1(document.encode()).digest()[:4], "big") < VALIDATION_SHARE * 2**32


def documents(name: str, collected: Path) -> tuple[list[str], list[str]]:
    """A source's training and validation documents; no validation document is among the training ones."""
    source = SOURCES[name]
    if source.megabytes:
        training = list(generate(name, source.megabytes * 1e6, f"{SEED}"))
        seen = set(training)
        held_out = generate(name, source.megabytes * 1e6 * VALIDATION_SHARE, f"{SEED} held out")
        return training, [d for d in held_out if d not in seen]
    everything = read_documents(collected / f"{name}.txt")
    return [d for d in everything if not _kept_for_validation(d)], [d for d in everything if _kept_for_validation(d)]


def train_tokenizer(corpus: dict[str, list[str]], vocabulary: int) -> Tokenizer:
    """Byte-level BPE on a sample of each source, so that no source takes all the merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()

    def sample() -> Iterator[str]:
        for name, texts in corpus.items():
            left = SOURCES[name].tokenizer_megabytes * 1e6
            for text in random.Random(SEED).sample(texts, len(texts)):
                if left <= 0:
                    break
                left -= len(text.encode())
                yield text

    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=3,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(), trainer)
    return tokenizer


def prepare(out: Path, collected: Path, vocabulary: int) -> None:
    """Writes `tokenizer.json`, and for each source and split its tokens and where its documents start."""
    out.mkdir(parents=True, exist_ok=True)
    corpus = {name: documents(name, collected) for name in SOURCES}
    tokenizer = train_tokenizer({name: training for name, (training, _) in corpus.items()}, vocabulary)
    tokenizer.save(str(out / "tokenizer.json"))
    end = tokenizer.token_to_id(END_OF_TEXT)
    statistics = {}
    for name, splits in corpus.items():
        for split, texts in zip(("train", "validation"), splits):
            encoded = [e.ids + [end] for e in tokenizer.encode_batch(texts)]
            starts = np.cumsum([0] + [len(ids) for ids in encoded])
            np.concatenate([np.array(ids, np.uint16) for ids in encoded]).tofile(out / f"{name}.{split}.tokens")
            starts.astype(np.int64).tofile(out / f"{name}.{split}.starts")
            size = sum(len(t.encode()) + 1 for t in texts)
            statistics[f"{name}.{split}"] = dict(documents=len(texts), bytes=size, tokens=int(starts[-1]))
    (out / "corpus.json").write_text(json.dumps(dict(vocabulary=vocabulary, sources=statistics), indent=1) + "\n")


def emphasis(tokens: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Of each token of a stream of sums: an answer goes from behind `=` or `?` to the end of its line."""
    pieces = {i: tokenizer.decode([i], skip_special_tokens=False) for i in range(tokenizer.get_vocab_size())}
    opening = [i for i, piece in pieces.items() if "=" in piece or "?" in piece]
    closing = [i for i, piece in pieces.items() if "\n" in piece or piece == END_OF_TEXT]
    places = np.arange(1, len(tokens) + 1)
    opened = np.maximum.accumulate(np.where(np.isin(tokens, opening), places, 0))
    closed = np.maximum.accumulate(np.where(np.isin(tokens, closing), places, 0))
    inside = np.concatenate([[False], (opened > closed)[:-1]])
    return np.where(inside, ANSWER, QUESTION).astype(np.float32)


def line_ends_apart(tokenizer: Tokenizer) -> dict[int, list[int]]:
    """For each token of punctuation with one line end behind it, the tokens of the two by themselves."""
    parts = {}
    for i in range(tokenizer.get_vocab_size()):
        piece = tokenizer.decode([i], skip_special_tokens=False)
        if len(piece) > 1 and piece.endswith("\n") and "\n" not in piece[:-1] and not piece[:-1].isspace():
            parts[i] = tokenizer.encode(piece[:-1]).ids + tokenizer.encode("\n").ids
    return parts


class Windows:
    """Batches as a pure function of the step, so that a resumed run reads exactly what an unbroken one would."""

    def __init__(self, directory: Path, seed: int):
        self.names, self.seed = list(SOURCES), seed
        shares = np.array([SOURCES[n].shares for n in self.names]).T
        self.shares = shares / shares.sum(1, keepdims=True)
        self.tokens = {n: np.memmap(directory / f"{n}.train.tokens", np.uint16, "r") for n in self.names}
        self.starts = {n: np.fromfile(directory / f"{n}.train.starts", np.int64) for n in self.names}
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        sums = [n for n in self.names if SOURCES[n].domain == "arithmetic"]
        self.emphasis = {n: emphasis(self.tokens[n], tokenizer) for n in sums}
        self.apart = line_ends_apart(tokenizer)
        self.held_out = {n: np.memmap(directory / f"{n}.validation.tokens", np.uint16, "r") for n in self.names}

    def batch(self, step: int, count: int, length: int, phase: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Token ids [count, length + 1], and how much each but the first counts in the gradients [count, length]."""
        rng = np.random.default_rng((self.seed, step))
        rows = np.empty((count, length + 1), np.int64)
        weights = np.ones((count, length), np.float32)
        for row, weight, which in zip(rows, weights, rng.choice(len(self.names), count, p=self.shares[phase])):
            name = self.names[which]
            tokens, starts = self.tokens[name], self.starts[name]
            last = len(tokens) - length - 1
            at = rng.integers(0, last)
            if rng.random() < DOCUMENT_STARTS[phase]:
                at = min(int(rng.choice(starts)), last)
            row[:] = tokens[at : at + length + 1]
            if LINE_ENDS_APART[phase] and rng.random() < LINE_ENDS_APART[phase]:
                row[:] = [part for token in row for part in self.apart.get(int(token), [token])][: length + 1]
            elif phase and name in self.emphasis:
                weight[:] = self.emphasis[name][at + 1 : at + length + 1]
        return rows, weights

    def validation(self, name: str, count: int, length: int) -> np.ndarray:
        """Up to `count` windows spread evenly over a source's held-out tokens."""
        tokens = self.held_out[name]
        count = min(count, (len(tokens) - 1) // length)
        places = np.linspace(0, len(tokens) - length - 1, count).astype(int)
        return np.stack([tokens[at : at + length + 1] for at in places]).astype(np.int64)
