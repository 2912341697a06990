"""Measures moebius and llama.cpp in alternation, on the same shapes in the same formats, and prints the ratios:

    python benches/peers/side_by_side.py --shape olmoe-1b-7b:4,granite-1b-a400m --format q4_0,q8_0 -p 512 -n 64 -b 1,8

With `--ik-llama` its fork ik_llama.cpp takes part too. One program runs at a time. A round runs each once, another one
first than in the round before. Before the rounds the peers try their settings, and the fastest of each test is the one
that is compared.
"""

import argparse
import importlib.util
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comparison import Comparison, Row, Size, Test
from machine import machine
from programs import Failure, IkLlama, LlamaCpp, Moebius, Peer, say

if TYPE_CHECKING:
    from gguf_model import Shape

HERE = Path(__file__).resolve().parent
BUSY = 0.5
"""A load average above this is warned of."""
DISK_RESERVE = 1 << 30
"""Bytes that a model file must leave free."""
INSTALL = "pip install -r benches/peers/requirements.txt; see benches/peers/README.md"


# ---------------------------------------------------------------- a model in a format


@contextmanager
def model_file(args: argparse.Namespace, shape: "Shape", format: str) -> Iterator[Path]:
    """The GGUF file of a shape: that in the folder to keep, or one that is gone afterwards."""
    import gguf_model

    size = gguf_model.weight_bytes(shape, format)
    family = "" if shape.model_type == shape.config["model_type"] else f"-as-{shape.model_type}"
    name = f"{shape.name}-{shape.layers}L{family}-{format}.gguf"
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


Rows = dict[tuple[str, Test], Row]
"""By what they call the form of moebius, and by test."""


def empty_row(title: str, form: str, test: Test, chosen: dict[str, dict[str, list[Test]]]) -> Row:
    """A row without rounds; `chosen` has the settings of each peer and their tests."""
    settings = {peer: next(name for name, tests in of.items() if test in tests) for peer, of in chosen.items()}
    return Row(title, form, str(test), settings, peers={peer: [] for peer in chosen})


def run_peer(peer: Peer, path: Path, chosen: dict[str, list[Test]], rows: Rows) -> None:
    """Adds a sample of each test in its setting, to the rows of every form of moebius."""
    for setting, tests in chosen.items():
        rates = peer.measure(path, tests, setting, 1)
        for (_, test), row in rows.items():
            row.peers[peer.name].extend(rates.get(test, []))


def turned(programs: list, by: int) -> list:
    """The programs, another one first in each round."""
    first = by % len(programs)
    return programs[first:] + programs[:first]


@dataclass
class Run:
    """The programs of a run and what was found."""

    args: argparse.Namespace
    moebius: Moebius
    peers: list[Peer]
    found: Comparison

    def compare(self, shape: "Shape", name: str, format: str) -> None:
        """Adds the rows of a shape, which moebius knows by a name, in a format."""
        title = f"{shape.title()} {format}"
        tests = Test.all(self.args.prompt_tokens, self.args.generate, self.args.batch)
        about, forms = {}, self.moebius.forms(format)
        with model_file(self.args, self.known_to_peers(shape), format) as path:
            chosen = {}
            for peer in self.peers:
                say(f"{title}: trying {peer.name}'s settings")
                chosen[peer.name] = peer.choose(path, tests)
            rows = {(form, test): empty_row(shape.title(), form, test, chosen) for form in forms for test in tests}
            for number in range(self.args.repetitions):
                say(f"{title}: round {number + 1} of {self.args.repetitions}")
                for program in turned([*forms, *self.peers], number):
                    if isinstance(program, Peer):
                        run_peer(program, path, chosen[program.name], rows)
                        continue
                    rates, about = forms[program].measure(name, shape.layers, format)
                    for test in tests:
                        rows[program, test].moebius.append(rates[test])
        self.found.rows.extend(rows.values())
        self.found.sizes.append(Size(shape.title(), format, about["size_bytes"], self.peers[0].first_row["size_bytes"]))
        self.found.head["moebius"] = "{version}, {build}, kernels {kernels}".format(**about)
        self.found.head |= {peer.name: peer.about() for peer in self.peers}

    def known_to_peers(self, shape: "Shape") -> "Shape":
        """The shape in a family that every peer knows, which the output then says."""
        from gguf_model import stand_in

        if not any(shape.model_type in peer.lacks for peer in self.peers):
            return shape
        other = stand_in(shape)
        self.found.head[f"{shape.model_type} in the peers"] = f"as {other.model_type}, with the same matrices"
        return other


# ---------------------------------------------------------------- the command


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
    add("--ik-llama", type=Path, metavar="DIR", help="a checkout of ik_llama.cpp with the library built in its `build`")
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
    """The command without what names folders of one machine."""
    shown, words = [], iter(argv)
    for word in words:
        flag, equals, _ = word.partition("=")
        if flag not in ("--moebius", "--keep", "--ik-llama"):
            shown.append(word)
            continue
        if not equals:
            next(words, None)
        if flag == "--ik-llama":
            shown += [flag, "ik_llama.cpp"]
    return "`" + shlex.join(["python", "benches/peers/side_by_side.py", *shown]) + "`"


def prepared(args: argparse.Namespace, folder: Path, found: Comparison) -> Run:
    """The programs of a run and where it puts its rows; what has to be compiled for it is put into the folder."""
    lengths = []
    for flag, values in (("-p", args.prompt_tokens), ("-n", args.generate), ("-b", args.batch)):
        lengths += [flag, ",".join(map(str, values))]
    peers: list[Peer] = [LlamaCpp(args.threads)]
    if args.ik_llama is not None:
        peers.append(IkLlama(args.threads, args.ik_llama, folder / "ik_llama_bench"))
        peers[-1].build()
    return Run(args, Moebius(args.moebius, lengths, args.threads), peers, found)


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
        with tempfile.TemporaryDirectory(prefix="moebius-peers-") as folder:
            run = prepared(args, Path(folder), found)
            for shape, name in shapes:
                for format in args.format.split(","):
                    run.compare(shape, name, format)
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
