"""Measures a GGUF file with the llama.cpp in llama-cpp-python, and prints a line of JSON for each test:

    python benches/peers/llama_bench.py MODEL.gguf -t 2 -r 3 --repack on --flash-attention auto pp512 tg64 tg64x8

A prompt is one batch and one micro-batch; a step of b sequences is one `llama_decode` of b tokens. Token ids are
random. Logits are computed for the last token of a prompt and for every generated one. A sample of each test that
does not count comes first, a short one of generation.
"""

import argparse
import ctypes
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp

from comparison import Test

FLASH_ATTENTION = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
}
WARM_UP_STEPS = 4
"""Of a generation that does not count."""
CELLS = 256
"""llama.cpp rounds the context of a sequence up to this."""


class PeerError(Exception):
    """Something that llama.cpp refused."""


@llama_cpp.llama_log_callback
def no_log(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """Takes what llama.cpp says while it loads."""


class Steps:
    """A context of a model and the batch that is decoded in it."""

    def __init__(self, model: int, test: Test, threads: int, flash_attention: str):
        per_step, per_sequence = test.prompt or test.sequences, test.prompt or test.generate
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = test.sequences * -(-per_sequence // CELLS) * CELLS
        params.n_batch = params.n_ubatch = per_step
        params.n_seq_max = test.sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTENTION[flash_attention]
        self.test = test
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.context = llama_cpp.llama_init_from_model(model, params)
        if not self.context:
            raise PeerError(f"llama.cpp makes no context for {test}")
        self.batch = llama_cpp.llama_batch_init(per_step, 0, 1)

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)

    def put(self, at: int, position: int, sequence: int, wants_logits: bool) -> None:
        """Makes a random token the batch's token number `at`."""
        self.batch.token[at] = random.randrange(self.vocab)
        self.batch.pos[at] = position
        self.batch.n_seq_id[at] = 1
        self.batch.seq_id[at][0] = sequence
        self.batch.logits[at] = wants_logits

    def decode(self, tokens: int) -> None:
        self.batch.n_tokens = tokens
        if code := llama_cpp.llama_decode(self.context, self.batch):
            raise PeerError(f"llama_decode returned {code} for {self.test}")

    def sample(self, generate: int) -> float:
        """Tokens per second of one run of the test, from an empty context; `generate` stands in for its tokens."""
        test = self.test
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        if test.prompt:
            for at in range(test.prompt):
                self.put(at, at, 0, at + 1 == test.prompt)
        start = time.perf_counter()
        if test.prompt:
            self.decode(test.prompt)
        for position in range(generate):
            for sequence in range(test.sequences):
                self.put(sequence, position, sequence, True)
            self.decode(test.sequences)
        llama_cpp.llama_synchronize(self.context)
        seconds = time.perf_counter() - start
        self.check_logits()
        return (test.prompt or generate * test.sequences) / seconds

    def check_logits(self) -> None:
        """An error where the last logits are not numbers: then the speed is not that of the model."""
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        if not all(map(math.isfinite, logits[: self.vocab])):
            raise PeerError(f"llama.cpp computes logits that are not finite in {self.test}")


@contextmanager
def loaded(path: Path, repack: bool) -> Iterator[int]:
    """The model of a file; `repack` lets llama.cpp keep weights in the orders that its faster kernels want."""
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = repack
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise PeerError(f"llama.cpp does not load `{path}`")
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


def measure(model: int, test: Test, threads: int, flash_attention: str, repetitions: int) -> list[float]:
    """Tokens per second of each repetition after the one that does not count."""
    steps = Steps(model, test, threads, flash_attention)
    try:
        steps.sample(min(test.generate, WARM_UP_STEPS))
        return [steps.sample(test.generate) for _ in range(repetitions)]
    finally:
        steps.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("tests", nargs="+", type=Test.parse, metavar="TEST")
    parser.add_argument("-t", "--threads", type=int, required=True)
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("-s", "--seed", type=int, default=0)
    parser.add_argument("--repack", choices=("on", "off"), default="on")
    parser.add_argument("--flash-attention", choices=tuple(FLASH_ATTENTION), default="auto")
    args = parser.parse_args()
    random.seed(args.seed)
    llama_cpp.llama_log_set(no_log, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    try:
        with loaded(args.model, args.repack == "on") as model:
            about = dict(version=llama_cpp.__version__, system=llama_cpp.llama_print_system_info().decode())
            about |= dict(repack=args.repack, flash_attention=args.flash_attention)
            about |= dict(size_bytes=llama_cpp.llama_model_size(model))
            for test in args.tests:
                rates = measure(model, test, args.threads, args.flash_attention, args.repetitions)
                print(json.dumps(about | dict(test=str(test), samples_tokens_per_second=rates)), flush=True)
    except PeerError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
