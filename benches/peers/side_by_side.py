"""Measures moebius and llama.cpp in alternation, on the same shapes in the same formats, and prints the ratios:

    python benches/peers/side_by_side.py --shape olmoe-1b-7b:4,granite-1b-a400m --format q4_0,q8_0 -p 512 -n 64 -b 1,8

One program runs at a time. A round runs each once, the other one first than in the round before. Before the rounds
llama.cpp tries its settings, and the fastest of each test is the one that is compared.
"""

import argparse
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from comparison import Comparison, Row, Size, Test, best
from machine import machine

if TYPE_CHECKING:
    from gguf_model import Shape

HERE = Path(__file__).resolve().parent
SETTINGS = {
    "repack": ("on", "on"),
    "repack, no flash attention": ("on", "off"),
    "no repack": ("off", "on"),
    "no repack, no flash attention": ("off", "off"),
}
"""Repack and flash attention of each setting that is tried."""
TRIALS = 2
"""Samples of each test and setting before the rounds."""
BUSY = 0.5
"""A load average above this is warned of."""
DISK_RESERVE = 1 << 30
"""Bytes that a model file must leave free."""
INSTALL = "pip install -r benches/peers/requirements.txt; see benches/peers/README.md"


class Failure(Exception):
    """What went wrong, and what to try next."""

    def __init__(self, what: str, hint: str):
        super().__init__(what)
        self.hint = hint


# ---------------------------------------------------------------- the two programs


def output(command: list[str], what: str) -> str:
    """What a program prints."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        hint = "build it, or give its path by `--moebius`"
        raise Failure(f"cannot run `{command[0]}`: {error.strerror}", hint) from error
    if done.returncode:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise Failure(f"{what} failed: {said}", "run it by hand: " + shlex.join(command))
    return done.stdout


def moebius(args: argparse.Namespace, shape: str, layers: int, format: str) -> tuple[dict[Test, float], dict]:
    """Tokens per second of each test in one run, and what the first row says of the model."""
    command = [args.moebius, "bench", "--shape", shape, "--layers", str(layers), "--format", format]
    for flag, numbers in (("-p", args.prompt_tokens), ("-n", args.generate), ("-b", args.batch)):
        command += [flag, ",".join(map(str, numbers))]
    command += ["-t", str(args.threads), "-r", "1", "--no-progress", "-o", "json"]
    try:
        rows = json.loads(output(command, "moebius"))
    except json.JSONDecodeError as error:
        hint = "give the path of a `moebius` by `--moebius`"
        raise Failure(f"`{args.moebius}` prints no JSON: {error}", hint) from error
    rates = {}
    for row in rows:
        test = Test(row["prompt_tokens"], row["generated_tokens"], row["batch_sequences"])
        rates[test] = row["tokens_per_second"]
    return rates, rows[0]


def peer(
    path: Path, tests: list[Test], setting: str, threads: int, samples: int
) -> tuple[dict[Test, list[float]], dict]:
    """Tokens per second of each test and sample, and what the first row says of the peer."""
    repack, flash_attention = SETTINGS[setting]
    command = [sys.executable, str(HERE / "llama_bench.py"), str(path), "-t", str(threads), "-r", str(samples)]
    command += ["--repack", repack, "--flash-attention", flash_attention, *map(str, tests)]
    rows = [json.loads(line) for line in output(command, "llama.cpp").splitlines()]
    return {Test.parse(row["test"]): row["samples_tokens_per_second"] for row in rows}, rows[0]


# ---------------------------------------------------------------- a model in a format


@contextmanager
def model_file(args: argparse.Namespace, shape: "Shape", format: str) -> Iterator[Path]:
    """The GGUF file of a shape: that in the folder to keep, or one that is gone afterwards."""
    import gguf_model

    size = gguf_model.weight_bytes(shape, format)
    name = f"{shape.name}-{shape.layers}L-{format}.gguf"
    with tempfile.TemporaryDirectory(prefix="moebius-peers-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        if not path.exists():
            free = shutil.disk_usage(folder).free
            say(f"{name}: writing {size / 1e9:.2f} GB of random weights")
            if free < size + DISK_RESERVE:
                needed = f"`{folder}` has {free / 1e9:.1f} GB free: expected {(size + DISK_RESERVE) / 1e9:.1f}"
                raise Failure(needed, "use fewer `--layers`, or another folder by `--keep` or TMPDIR")
            # Under its own name only once it is whole, so that nothing half-written is reused.
            part = path.with_suffix(".part")
            try:
                gguf_model.write(part, shape, format)
                part.rename(path)
            finally:
                part.unlink(missing_ok=True)
        yield path


def choose(args: argparse.Namespace, path: Path, tests: list[Test]) -> dict[str, list[Test]]:
    """The tests of each setting that is the fastest for some."""
    tried: dict[Test, dict[str, list[float]]] = {test: {} for test in tests}
    for setting in SETTINGS:
        rates, _ = peer(path, tests, setting, args.threads, TRIALS)
        for test, samples in rates.items():
            tried[test][setting] = samples
    chosen: dict[str, list[Test]] = {}
    for test, samples in tried.items():
        chosen.setdefault(best(samples), []).append(test)
    return chosen


def compare(args: argparse.Namespace, shape: "Shape", name: str, format: str, into: Comparison) -> None:
    """Adds the rows of a shape in a format."""
    tests = Test.all(args.prompt_tokens, args.generate, args.batch)
    with model_file(args, shape, format) as path:
        say(f"{shape.title()} {format}: trying llama.cpp's settings")
        chosen = choose(args, path, tests)
        setting_of = {test: setting for setting, of in chosen.items() for test in of}
        rows = {test: Row(shape.title(), format, str(test), setting_of[test]) for test in tests}
        about: dict[str, dict] = {}

        def run_moebius() -> None:
            rates, about["moebius"] = moebius(args, name, shape.layers, format)
            for test in tests:
                rows[test].moebius.append(rates[test])

        def run_peer() -> None:
            for setting, of in chosen.items():
                rates, about["peer"] = peer(path, of, setting, args.threads, 1)
                for test in of:
                    rows[test].peer.extend(rates[test])

        for number in range(args.repetitions):
            say(f"{shape.title()} {format}: round {number + 1} of {args.repetitions}")
            for run in (run_moebius, run_peer) if number % 2 == 0 else (run_peer, run_moebius):
                run()
    into.rows.extend(rows.values())
    into.sizes.append(Size(shape.title(), format, about["moebius"]["size_bytes"], about["peer"]["size_bytes"]))
    into.head["moebius"] = "{version}, {build}, kernels {kernels}".format(**about["moebius"])
    into.head["llama.cpp"] = "llama-cpp-python {version}, {system}".format(**about["peer"]).rstrip(" |")


# ---------------------------------------------------------------- the command


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def load() -> str:
    """How many threads of other programs ran in the last minute."""
    if not hasattr(os, "getloadavg"):
        return "unknown"
    busy = os.getloadavg()[0]
    if busy > BUSY:
        say(f"warning: a load of {busy:.1f}: other programs slow both sides down, and not alike")
    return f"{busy:.1f}"


def numbers(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if min(values) < 0:
        raise ValueError(text)
    return values


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--moebius", metavar="PATH", help="default: this repository's target/release/moebius, or the one on PATH")
    add("--shape", required=True, help="NAME or NAME:LAYERS, by commas; names and paths as in `moebius bench`")
    add("--layers", type=int, help="decoder layers of shapes that do not say")
    add("--format", default="q4_0,q8_0", help="by commas, as in `moebius bench`; default: %(default)s")
    add("-p", "--prompt-tokens", type=numbers, default=[512], metavar="LIST", help="default: 512; 0 is none")
    add("-n", "--generate", type=numbers, default=[64], metavar="LIST", help="default: 64; 0 is none")
    add("-b", "--batch", type=numbers, default=[1], metavar="LIST", help="sequences together; default: 1")
    add("-t", "--threads", type=int, help="default: all cores")
    add("-r", "--repetitions", type=int, default=5, help="rounds; default: 5")
    add("-o", "--output", choices=("md", "json"), default="md")
    add("--keep", type=Path, metavar="DIR", help="leave the model files here, and use those that are")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """An error unless everything that a run needs is there."""
    missing = [name for name in ("llama_cpp", "gguf", "numpy") if importlib.util.find_spec(name) is None]
    if missing:
        raise Failure(f"no Python package `{'`, `'.join(missing)}`", INSTALL)
    from formats import CHOICES

    for format in args.format.split(","):
        if format not in CHOICES:
            expected = ", ".join(CHOICES)
            raise Failure(f"unknown format `{format}`: expected {expected}", "formats are separated by commas")
    for flag, value in (("-t", args.threads), ("-r", args.repetitions), ("--layers", args.layers)):
        if value is not None and value < 1:
            raise Failure(f"`{flag}` is {value}: expected at least 1", "leave it out for the default")
    if 0 in args.batch or not Test.all(args.prompt_tokens, args.generate, args.batch):
        raise Failure("nothing to measure", "give lengths by `-p` or `-n`, and sequences by `-b`")
    built = HERE.parents[1] / "target" / "release" / "moebius"
    args.moebius = shutil.which(args.moebius or (str(built) if built.exists() else "moebius"))
    if args.moebius is None:
        raise Failure("no `moebius` program", "cargo build --release -p moebius-cli, or give its path by `--moebius`")


def shapes_of(args: argparse.Namespace) -> list[tuple["Shape", str]]:
    """The shapes and what moebius calls them."""
    import gguf_model

    shapes = []
    for part in args.shape.split(","):
        name, colon, layers = part.rpartition(":")
        split = bool(colon) and layers.isdecimal() and int(layers) > 0
        name, layers = (name, int(layers)) if split else (part, args.layers)
        try:
            shapes.append((gguf_model.shape(name, layers), name))
        except gguf_model.ModelError as error:
            raise Failure(str(error), "shapes are files in crates/moebius/shapes") from error
    return shapes


def typed(argv: list[str]) -> str:
    """The command without `--moebius` and `--keep`, which name folders of one machine."""
    shown, words = [], iter(argv)
    for word in words:
        flag, equals, _ = word.partition("=")
        if flag not in ("--moebius", "--keep"):
            shown.append(word)
        elif not equals:
            next(words, None)
    return "`" + shlex.join(["python", "benches/peers/side_by_side.py", *shown]) + "`"


def main(argv: list[str]) -> int:
    args = arguments(argv)
    # A kill is to clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found, status = Comparison({}), 0
    try:
        check(args)
        shapes = shapes_of(args)
        hardware, cores = machine()
        args.threads = args.threads or cores
        found.head |= {"machine": hardware, "threads": str(args.threads), "load before": load(), "command": typed(argv)}
        for shape, name in shapes:
            for format in args.format.split(","):
                compare(args, shape, name, format, found)
    except KeyboardInterrupt:
        say("stopped: results are those that were finished")
        status = 130
    except Failure as error:
        say(f"error: {error}\n\nhint: {error.hint}")
        status = 1
    if found.rows:
        print(found.json() if args.output == "json" else found.markdown())
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
