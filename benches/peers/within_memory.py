"""Measures moebius within a budget of memory beside llama.cpp, which maps its file, in control groups of that size:

    sudo python benches/peers/within_memory.py --shape olmoe-1b-7b --format q4_0 --memory 1GiB -n 16 -r 3

Both get the same weights: llama.cpp a GGUF file of random ones, moebius that file as `moebius convert` packs it. Each run
is a process in a group of its own whose limit holds for everything, the system's cache of files included, and begins with
nothing of its file in memory.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from comparison import Test, table
from machine import machine
from memory_group import forget, group, read_ahead, size
from programs import Failure, output, rows_of, say
from side_by_side import HERE, check, load, model_file, shapes_of, turned


@dataclass
class Side:
    """One program and what its runs gave."""

    name: str
    command: list[str]
    weights: Path
    rates: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    """Bytes that the process held, as the system counts them when it ends: mapped pages included."""
    group_peaks: list[int | None] = field(default_factory=list)
    read_bytes: list[int] = field(default_factory=list)
    about: dict = field(default_factory=dict)

    def run(self, limit_bytes: int) -> None:
        """Adds a run."""
        forget(self.weights)
        with group(limit_bytes) as limited, tempfile.TemporaryFile() as said:
            child = subprocess.Popen(limited.command(self.command), stdout=subprocess.PIPE, stderr=said)
            text = child.stdout.read().decode()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                said.seek(0)
                why = said.read().decode(errors="replace").strip() or f"exit status {child.returncode}"
                raise Failure(f"{self.name} failed: {why}", "a larger --memory may do")
            self.group_peaks.append(limited.peak_bytes())
        self.peaks.append(usage.ru_maxrss * 1024)
        self.read_bytes.append(usage.ru_inblock * 512)
        self.about = json.loads(text)[0] if text.startswith("[") else rows_of(text)[0]
        samples = self.about.get("samples_tokens_per_second") or [self.about["tokens_per_second"]]
        self.rates.append(median(samples))

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        known = [peak for peak in self.group_peaks if peak is not None]
        rates = f"{min(self.rates):.2f} to {max(self.rates):.2f}"
        return (
            *(self.name, f"{median(self.rates):.2f}", rates, mebibytes(max(self.peaks))),
            *(mebibytes(max(known)) if known else "n/a", f"{median(self.read_bytes) / 1e9:.1f}"),
        )


def mebibytes(count: int) -> str:
    return f"{count / (1 << 20):,.0f}"


@contextmanager
def reading_ahead(path: Path, kib: int | None) -> Iterator[str]:
    """What the disk reads ahead: within the block this many KiB, if that is said."""
    setting = read_ahead(path)
    if setting is None:
        if kib is not None:
            raise Failure("the disk does not say what it reads ahead", "leave out --read-ahead")
        yield "n/a"
        return
    before = setting.read_text().strip()
    try:
        if kib is not None:
            setting.write_text(str(kib))
        yield f"{setting.read_text().strip()} KiB"
    except PermissionError as error:
        raise Failure(f"cannot write `{setting}`", "be root, or leave out --read-ahead") from error
    finally:
        if kib is not None:
            setting.write_text(before)


def packed(moebius: str, gguf: Path) -> Path:
    """The same weights for moebius, beside the file."""
    path = gguf.with_suffix(".packed")
    if not path.exists():
        say(f"{gguf.name}: packing")
        output([moebius, "convert", str(gguf), str(path), "--no-progress"], "moebius convert")
    return path


def sides(args: argparse.Namespace, gguf: Path) -> list[Side]:
    """Both programs; llama.cpp may not repack, since that would hold every weight in memory."""
    lengths = ["-p", "0", "-n", str(args.tokens), "-t", str(args.threads)]
    ours, here = packed(args.moebius, gguf), str(HERE / "llama_bench.py")
    moebius = [args.moebius, "bench", str(ours), *lengths, "-r", str(args.samples), "--memory", args.memory]
    llama = [sys.executable, here, str(gguf), "-t", str(args.threads), "-r", str(args.samples)]
    llama += ["--repack", "off", "--flash-attention", args.flash_attention, str(Test(generate=args.tokens))]
    return [
        Side("moebius", [*moebius, "--no-cache", "--no-progress", "-o", "json"], ours),
        Side("llama.cpp", llama, gguf),
    ]


def report(head: dict[str, str], found: list[Side]) -> str:
    ours, theirs = found
    ratios = [a / b for a, b in zip(ours.rates, theirs.rates, strict=True)]
    head |= {"moebius": "{version}, {build}, kernels {kernels}".format(**ours.about)}
    head |= {"llama.cpp": "llama-cpp-python {version}, {system}".format(**theirs.about).rstrip(" |")}
    names = ("", "t/s", "range", "peak of the process, MiB", "peak of the group, MiB", "read, GB")
    lines = [*(f"- {name}: {value}" for name, value in head.items()), ""]
    lines += table(names, "lrrrrr", [side.cells() for side in found])
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return "\n".join([*lines, "", f"moebius / llama.cpp: **{median(ratios):.2f}** ({spread} in {len(ratios)} rounds)"])


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--moebius", metavar="PATH", help="default: this repository's target/release/moebius, or the one on PATH")
    add("--shape", default="olmoe-1b-7b", help="one, as in side_by_side.py; default: %(default)s")
    add("--format", default="q4_0", help="default: %(default)s")
    add("--memory", default="1GiB", help="of each group, and moebius' budget; default: %(default)s")
    add("-n", "--tokens", type=int, default=16, help="tokens of a sample; default: %(default)s")
    add("-s", "--samples", type=int, default=2, help="of a run, after one that does not count; default: %(default)s")
    add("-r", "--repetitions", type=int, default=3, help="rounds; default: %(default)s")
    add("-t", "--threads", type=int, help="default: all cores")
    add("--read-ahead", type=int, metavar="KIB", help="what the disk reads ahead meanwhile; default: as it is")
    add("--flash-attention", choices=("on", "off"), default="on", help="of llama.cpp; default: %(default)s")
    add("--keep", type=Path, metavar="DIR", help="leave the model files here, and use those that are")
    args = parser.parse_args(argv)
    # What the checks of side_by_side.py ask besides.
    args.layers, args.prompt_tokens, args.batch, args.generate = None, [0], [1], [args.tokens]
    return args


def compare(args: argparse.Namespace, typed: list[str]) -> str:
    """Runs both and returns what was found."""
    check(args)
    try:
        limit_bytes = size(args.memory)
    except ValueError as error:
        raise Failure(f"--memory {error}", "as in `moebius run --memory`, but for shares") from error
    if args.samples < 1:
        raise Failure(f"`-s` is {args.samples}: expected at least 1", "leave it out for the default")
    hardware, cores = machine()
    args.threads = args.threads or cores
    [(shape, _)] = shapes_of(args)
    head = {"machine": hardware, "threads": str(args.threads), "load before": load(), "command": shown(typed)}
    with model_file(args, shape, args.format) as gguf, reading_ahead(gguf, args.read_ahead) as ahead:
        found = sides(args, gguf)
        for number in range(args.repetitions):
            say(f"round {number + 1} of {args.repetitions}")
            for side in turned(found, number):
                side.run(limit_bytes)
    head |= {"memory of each group": args.memory, "the disk reads ahead": ahead}
    return report(head, found)


def shown(typed: list[str]) -> str:
    """The command without what names folders of one machine."""
    words = iter(typed)
    kept = [word for word in words if word not in ("--moebius", "--keep") or next(words, None) is None]
    return "`" + shlex.join(["python", "benches/peers/within_memory.py", *kept]) + "`"


def main(argv: list[str]) -> int:
    # A kill is to clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        print(compare(arguments(argv), argv))
    except KeyboardInterrupt:
        return 130
    except Failure as error:
        say(f"error: {error}\n\nhint: {error.hint}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
