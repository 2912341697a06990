"""What is compared and how: tests, medians, ratios of pairs, and the tables made of them."""

import json
import re
from dataclasses import asdict, dataclass, field
from statistics import median


@dataclass(frozen=True)
class Test:
    """`pp512` reads a prompt of 512 tokens; `tg64x8` generates 64 tokens in each of 8 sequences together."""

    prompt: int = 0
    generate: int = 0
    sequences: int = 1

    def __str__(self) -> str:
        if self.prompt:
            return f"pp{self.prompt}"
        return f"tg{self.generate}" + (f"x{self.sequences}" if self.sequences > 1 else "")

    @staticmethod
    def parse(text: str) -> "Test":
        if found := re.fullmatch(r"pp([1-9]\d*)", text):
            return Test(prompt=int(found[1]))
        if found := re.fullmatch(r"tg([1-9]\d*)(?:x([1-9]\d*))?", text):
            return Test(generate=int(found[1]), sequences=int(found[2] or 1))
        raise ValueError(f"unknown test `{text}`: expected `pp512`, `tg64` or `tg64x8`")

    @staticmethod
    def all(prompts: list[int], generate: list[int], sequences: list[int]) -> list["Test"]:
        """Every combination; a length of 0 is left out, and so is what is given twice."""
        reading = [Test(prompt=tokens) for tokens in prompts if tokens]
        generating = [Test(generate=tokens, sequences=b) for tokens in generate if tokens for b in sequences]
        return list(dict.fromkeys(reading + generating))


@dataclass
class Row:
    """One test of one model in one format: tokens per second of each round, and of the same round at the same place.

    `settings` and `peers` have a value for each peer.
    """

    model: str
    format: str
    test: str
    settings: dict[str, str]
    moebius: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)

    def ratios(self, peer: str | None = None) -> list[float]:
        """moebius over a peer, by round: what slows a round down slows all. Without a name, over the fastest."""
        theirs = [self.peers[peer]] if peer else list(self.peers.values())
        return [ours / max(rates) for ours, *rates in zip(self.moebius, *theirs, strict=True)]

    def record(self) -> dict:
        ratios = self.ratios()
        rates = dict(moebius_tokens_per_second=median(self.moebius))
        rates |= dict(peer_tokens_per_second={peer: median(samples) for peer, samples in self.peers.items()})
        summary = dict(ratio=median(ratios), ratio_lowest=min(ratios), ratio_highest=max(ratios))
        summary |= dict(ratio_to={peer: median(self.ratios(peer)) for peer in self.peers})
        return asdict(self) | rates | summary


@dataclass(frozen=True)
class Size:
    """Bytes of weights of one model in one format: what moebius holds, and what the file of the peers has."""

    model: str
    format: str
    moebius: int
    peer: int

    NOTEWORTHY = 0.02

    def note(self) -> str:
        """A warning where the two do not read the same amount."""
        apart = abs(self.moebius - self.peer) / self.peer
        return f"**{apart:.0%} apart**" if apart > Size.NOTEWORTHY else ""


@dataclass
class Comparison:
    """Everything that a run found."""

    head: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)

    def json(self) -> str:
        rows = [row.record() for row in self.rows]
        return json.dumps(dict(head=self.head, sizes=[asdict(size) for size in self.sizes], rows=rows), indent=2)

    def markdown(self) -> str:
        head = [f"- {name}: {value}" for name, value in self.head.items()]
        peers = list(self.rows[0].peers)
        ratios = ["ratio", "range", *(f"to {peer}" for peer in several(peers))]
        names = ("model", "format", "test", "moebius t/s", *(f"{peer} t/s" for peer in peers), *ratios)
        names += tuple(f"{peer}'s setting" for peer in peers)
        sides = "lll" + "r" * (1 + len(peers) + len(ratios)) + "l" * len(peers)
        speeds = table(names, sides, [cells(row) for row in self.rows])
        held = [
            (size.model, size.format, megabytes(size.moebius), megabytes(size.peer), size.note())
            for size in self.sizes
        ]
        sizes = table(("model", "format", "moebius MB", f"{' and '.join(peers)} MB", ""), "llrrl", held)
        return "\n".join([*head, "", *speeds, "", "Weights held:", "", *sizes])


def several(peers: list[str]) -> list[str]:
    """The peers that have a ratio of their own: none where there is one, whose ratio is the row's."""
    return peers if len(peers) > 1 else []


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table of speeds."""
    of = row.record()
    rates = [rate(of["moebius_tokens_per_second"]), *map(rate, of["peer_tokens_per_second"].values())]
    spread = f"{of['ratio_lowest']:.2f} to {of['ratio_highest']:.2f}"
    each = [f"{of['ratio_to'][peer]:.2f}" for peer in several(list(row.peers))]
    return (row.model, row.format, row.test, *rates, f"**{of['ratio']:.2f}**", spread, *each, *row.settings.values())


def rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second:.1f}" if tokens_per_second < 100 else f"{tokens_per_second:.0f}"


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f}"


def table(names: tuple[str, ...], sides: str, rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a Markdown table; `sides` has an `l` or an `r` for each column."""
    line = ["---" if side == "l" else "--:" for side in sides]
    return ["| " + " | ".join(row) + " |" for row in (names, line, *rows)]


def best(samples: dict[str, list[float]]) -> str:
    """The setting of the highest median; of equals the first."""
    return max(samples, key=lambda setting: median(samples[setting]))
