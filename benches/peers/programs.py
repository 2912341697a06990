"""The programs that are compared: how each is run and what its rows say."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from comparison import Test, best

HERE = Path(__file__).resolve().parent
TRIALS = 2
"""Samples of each test and setting before the rounds."""


class Failure(Exception):
    """What went wrong, and what to try next."""

    def __init__(self, what: str, hint: str):
        super().__init__(what)
        self.hint = hint


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def output(command: list[str], what: str, environment: dict[str, str] | None = None) -> str:
    """What a program prints; `environment` is added to that of this one."""
    try:
        env = os.environ | (environment or {})
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    except OSError as error:
        hint = "build it, or give its path by `--moebius`"
        raise Failure(f"cannot run `{command[0]}`: {error.strerror}", hint) from error
    if done.returncode:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise Failure(f"{what} failed: {said}", "run it by hand: " + shlex.join(command))
    return done.stdout


ROUNDED = "--bf16-activations"
"""The flag with which moebius rounds what it multiplies with bf16 to bf16, as both peers always do."""


@dataclass(frozen=True)
class Moebius:
    """The `moebius` program and what it measures."""

    program: str
    lengths: list[str]
    """`-p`, `-n` and `-b` of `moebius bench`."""
    threads: int
    options: tuple[str, ...] = ()
    """Other flags of it."""

    def measure(self, shape: str, layers: int, format: str) -> tuple[dict[Test, float], dict]:
        """Tokens per second of each test in one run, and what the first row says of the model."""
        command = [self.program, "bench", "--shape", shape, "--layers", str(layers), "--format", format, *self.lengths]
        command += ["-t", str(self.threads), "-r", "1", *self.options, "--no-progress", "-o", "json"]
        try:
            rows = json.loads(output(command, "moebius"))
        except json.JSONDecodeError as error:
            hint = "give the path of a `moebius` by `--moebius`"
            raise Failure(f"`{self.program}` prints no JSON: {error}", hint) from error
        rates = {}
        for row in rows:
            test = Test(row["prompt_tokens"], row["generated_tokens"], row["batch_sequences"])
            rates[test] = row["tokens_per_second"]
        return rates, rows[0]

    def forms(self, format: str) -> dict[str, "Moebius"]:
        """What is measured in a format, by what its rows call it."""
        forms = {format: self}
        if format == "bf16":
            forms["bf16, rounded"] = replace(self, options=(*self.options, ROUNDED))
        return forms


# ---------------------------------------------------------------- peers


@dataclass
class Peer(ABC):
    """Another engine, which reads GGUF files."""

    threads: int
    first_row: dict = field(default_factory=dict, init=False)
    """Of the latest measurement."""

    name: ClassVar[str] = ""
    settings: ClassVar[tuple[str, ...]] = ()
    """What is tried before the rounds, the likeliest first."""
    lacks: ClassVar[frozenset[str]] = frozenset()
    """Families that it does not know."""

    @abstractmethod
    def run(self, path: Path, tests: list[Test], setting: str, samples: int) -> list[dict]:
        """Measures a file and returns a row for each test."""

    @abstractmethod
    def about(self) -> str:
        """The version and the kernels, known after a measurement."""

    def measure(self, path: Path, tests: list[Test], setting: str, samples: int) -> dict[Test, list[float]]:
        """Tokens per second of each test and sample."""
        rows = self.run(path, tests, setting, samples)
        self.first_row = rows[0]
        return {Test.parse(row["test"]): row["samples_tokens_per_second"] for row in rows}

    def choose(self, path: Path, tests: list[Test]) -> dict[str, list[Test]]:
        """The tests of each setting that is the fastest for some; a setting that fails is no candidate."""
        tried: dict[Test, dict[str, list[float]]] = {test: {} for test in tests}
        failures = []
        for setting in self.settings:
            try:
                rates = self.measure(path, tests, setting, TRIALS)
            except Failure as failure:
                say(f"{self.name} cannot run with `{setting}`: {failure}")
                failures.append(failure)
                continue
            for test, samples in rates.items():
                tried[test][setting] = samples
        if len(failures) == len(self.settings):
            raise failures[0]
        chosen: dict[str, list[Test]] = {}
        for test, samples in tried.items():
            chosen.setdefault(best(samples), []).append(test)
        return chosen


def rows_of(lines: str) -> list[dict]:
    return [json.loads(line) for line in lines.splitlines() if line.startswith("{")]


@dataclass
class LlamaCpp(Peer):
    """llama.cpp, from the Python package."""

    name = "llama.cpp"
    settings = ("repack", "repack, no flash attention", "no repack", "no repack, no flash attention")

    def run(self, path: Path, tests: list[Test], setting: str, samples: int) -> list[dict]:
        words = setting.split(", ")
        command = [sys.executable, str(HERE / "llama_bench.py"), str(path)]
        command += ["-t", str(self.threads), "-r", str(samples)]
        command += ["--repack", "on" if "repack" in words else "off"]
        command += ["--flash-attention", "off" if "no flash attention" in words else "on", *map(str, tests)]
        return rows_of(output(command, self.name))

    def about(self) -> str:
        return "llama-cpp-python {version}, {system}".format(**self.first_row).rstrip(" |")


@dataclass
class IkLlama(Peer):
    """ik_llama.cpp, from a checkout with the library built in its folder `build`."""

    checkout: Path
    program: Path
    """Where the program that measures is compiled to."""

    name = "ik_llama.cpp"
    settings = (
        "repack, huge pages",
        "repack, merge, huge pages",
        "repack",
        "as in the file",
        "merge, huge pages",
        "repack, huge pages, no flash attention",
    )
    lacks = frozenset({"olmoe"})

    HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    """Lets glibc ask for them; its own option maps pages that an administrator has to reserve."""
    HINT = "build ik_llama.cpp as benches/peers/README.md says, and give the folder of its checkout by `--ik-llama`"

    def build(self) -> None:
        """Compiles the program that measures against the checkout's header and library."""
        includes = [self.checkout / "include", self.checkout / "ggml" / "include"]
        libraries = [self.checkout / "build" / "src", self.checkout / "build" / "ggml" / "src"]
        if not (includes[0] / "llama.h").is_file() or not any(libraries[0].glob("libllama.*")):
            raise Failure(f"no built library in `{self.checkout}`", self.HINT)
        compiler = shutil.which("cc")
        if compiler is None:
            raise Failure("no C compiler `cc`", "it compiles benches/peers/ik_llama_bench.c")
        command = [compiler, "-std=c11", "-O2", str(HERE / "ik_llama_bench.c"), "-o", str(self.program)]
        command += [f"-I{folder}" for folder in includes]
        for folder in libraries:
            command += [f"-L{folder}", f"-Wl,-rpath,{folder.resolve()}"]
        output([*command, "-lllama", "-lggml", "-lm"], "compiling ik_llama_bench.c")

    def run(self, path: Path, tests: list[Test], setting: str, samples: int) -> list[dict]:
        words = setting.split(", ")
        names = {"repack": "repack", "merge": "merge", "no flash attention": "no-flash-attention"}
        options = ",".join(option for word, option in names.items() if word in words) or "-"
        command = [str(self.program), str(path), str(self.threads), str(samples), "0", options, *map(str, tests)]
        return rows_of(output(command, self.name, self.HUGE_PAGES if "huge pages" in words else {}))

    def about(self) -> str:
        return f"{self.commit()}, {self.first_row['system']}".rstrip(" |")

    def commit(self) -> str:
        """Commit and day of the checkout; the version is unknown where git does not say."""
        command = ["git", "-C", str(self.checkout), "log", "-1", "--format=%h of %cs"]
        try:
            return "commit " + output(command, "git").strip()
        except Failure:
            return "unknown commit"
