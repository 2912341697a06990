"""One layer of experts on a GPU: moebius beside the experts of transformers and of candle, on one device in one run.

Weights are bf16 on all sides and look random; so do inputs and choices, which are uniform. transformers and candle round
activations to bf16, moebius keeps them in f32, so moebius computes more for the same layer; a second row of moebius rounds
them too. What the device can do at the
most is measured beside them: copying memory, and multiplying large matrices of bf16.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass

from programs import Failure, output, say

PEERS = ("eager", "batched_mm", "grouped_mm")
SHAPES = {
    "olmoe-1b-7b": (2048, 1024, 64, 8),
    "qwen3-30b-a3b": (2048, 768, 128, 8),
}
"""Width, width of an expert, experts, experts of a token."""
COPIED_BYTES = 1 << 30
"""More than any cache holds."""
SQUARE = 8192
"""Rows and columns of the matrices that show the arithmetic's peak."""


@dataclass(frozen=True)
class Shape:
    hidden: int
    ffn: int
    experts: int
    top_k: int

    def bytes_read(self, distinct: float) -> float:
        """Bytes of weights that a batch reads which so many experts have tokens in."""
        return distinct * 3 * self.hidden * self.ffn * 2

    def operations(self, tokens: int) -> float:
        return 2.0 * 3 * self.hidden * self.ffn * self.top_k * tokens

    def distinct(self, tokens: int) -> float:
        """Experts that a batch touches, by chance."""
        return self.experts * (1 - (1 - self.top_k / self.experts) ** tokens)


def shares(shape: Shape, tokens: int, seconds: float, peaks: dict[str, float]) -> tuple[float, float]:
    """Which parts of the measured bandwidth and of the measured arithmetic a batch used."""
    bandwidth = shape.bytes_read(shape.distinct(tokens)) / seconds / peaks["bytes"]
    return bandwidth, shape.operations(tokens) / seconds / peaks["operations"]


def table(rows: list[dict]) -> str:
    """What was measured, in Markdown."""
    lines = ["| shape | tokens | program | µs | of bandwidth | of arithmetic | moebius is |", "|---|--:|---|--:|--:|--:|--:|"]
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
        lines.append(
            f"| {row['shape']} | {row['tokens']} | {row['program']} | {row['seconds'] * 1e6:.1f} "
            f"| {row['bandwidth']:.0%} | {row['arithmetic']:.0%} | {ratio} |"
        )
    return "\n".join(lines)


def compared(name: str, shape: Shape, tokens: int, seconds: dict[str, float], peaks: dict[str, float]) -> list[dict]:
    """A row for each program; `ratio` is how many times as long as moebius it took."""
    rows = []
    for program, taken in seconds.items():
        bandwidth, arithmetic = shares(shape, tokens, taken, peaks)
        ratio = None if program == "moebius" else taken / seconds["moebius"]
        row = dict(shape=name, tokens=tokens, program=program, seconds=taken, bandwidth=bandwidth)
        rows.append(row | dict(arithmetic=arithmetic, ratio=ratio))
    return rows


def moebius(program: str, shape: Shape, tokens: list[int], arguments, more: tuple[str, ...] = ()) -> dict[int, float]:
    """Median seconds of each batch."""
    command = [program, "bench", "layer", "--backend", "cuda", "--device", str(arguments.device), "--format", "bf16"]
    command += ["--hidden", str(shape.hidden), "--ffn", str(shape.ffn), "--experts", str(shape.experts)]
    command += ["-k", str(shape.top_k), "--tokens", ",".join(map(str, tokens))]
    command += ["-r", str(arguments.repetitions), "--no-progress", "-o", "json", *more]
    rows = json.loads(output(command, "moebius"))
    return {row["tokens"]: row["sparse_ms"] * 1e-3 for row in rows}


def candle(program: str, shape: Shape, tokens: list[int], arguments) -> dict[int, float]:
    """Median seconds of each batch in candle's fused experts."""
    sizes = (shape.hidden, shape.ffn, shape.experts, shape.top_k, ",".join(map(str, tokens)))
    command = [program, *map(str, sizes), str(arguments.repetitions), str(arguments.device)]
    return candle_seconds(output(command, "candle_experts"))


def candle_seconds(text: str) -> dict[int, float]:
    """What `candle_experts` printed."""
    return {int(tokens): float(seconds) for tokens, seconds in map(str.split, text.splitlines())}


def timed(torch, run, repetitions: int) -> float:
    """Median seconds of a call, from events of the device, after the cache was filled with other memory."""
    other = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    samples = []
    for sample in range(repetitions + 3):
        other.add_(1)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if sample >= 3:
            samples.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(samples)


def peaks(torch, repetitions: int) -> dict[str, float]:
    """Bytes and operations a second: a copy reads and writes, a product multiplies and adds."""
    source = torch.empty(COPIED_BYTES, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    copied = timed(torch, lambda: target.copy_(source), repetitions)
    a, b = (torch.randn(SQUARE, SQUARE, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    multiplied = timed(torch, lambda: a @ b, repetitions)
    return {"bytes": 2 * COPIED_BYTES / copied, "operations": 2.0 * SQUARE**3 / multiplied}


def transformers_seconds(torch, shape: Shape, tokens: int, repetitions: int) -> dict[str, float]:
    """Median seconds of each implementation of experts; one that does not run is said and left out."""
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

    config = Qwen3MoeConfig(
        hidden_size=shape.hidden,
        moe_intermediate_size=shape.ffn,
        num_experts=shape.experts,
        num_experts_per_tok=shape.top_k,
    )
    with torch.device("cuda"):
        experts = Qwen3MoeExperts(config).to(torch.bfloat16)
        for parameter in experts.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        x = torch.randn(tokens, shape.hidden, dtype=torch.bfloat16)
        chosen = torch.rand(tokens, shape.experts).topk(shape.top_k).indices
        weights = torch.full((tokens, shape.top_k), 1 / shape.top_k, dtype=torch.bfloat16)
    seconds = {}
    for peer in PEERS:
        experts.config._experts_implementation = peer
        try:
            with torch.inference_mode():
                seconds[f"transformers {peer}"] = timed(torch, lambda: experts(x, chosen, weights), repetitions)
        except (RuntimeError, ValueError, KeyError) as error:
            say(f"{peer} does not run with {tokens} tokens: {error}")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moebius", default="target/release/moebius", help="built with --features cuda")
    parser.add_argument("--candle", default="target/release/candle_experts", help="built with --features cuda")
    parser.add_argument("--shape", default=",".join(SHAPES), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--tokens", default="1,16,512,2048")
    parser.add_argument("-r", "--repetitions", type=int, default=20)
    parser.add_argument("--device", type=int, default=0)
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        raise Failure("torch is not installed", "pip install torch transformers, where there is a GPU") from None
    if not torch.cuda.is_available():
        raise Failure("torch finds no GPU", "run this where `nvidia-smi` shows one")
    torch.cuda.set_device(arguments.device)
    most = peaks(torch, arguments.repetitions)
    print(f"{torch.cuda.get_device_name()}: copies {most['bytes'] / 1e9:.0f} GB/s, ", end="")
    print(f"multiplies {most['operations'] / 1e12:.0f} TFLOP/s in bf16\n")
    rows, tokens = [], [int(number) for number in arguments.tokens.split(",")]
    for name in arguments.shape.split(","):
        if name not in SHAPES:
            raise Failure(f"there is no shape `{name}`", f"use some of {', '.join(SHAPES)}")
        shape = Shape(*SHAPES[name])
        own = moebius(arguments.moebius, shape, tokens, arguments)
        rounded = moebius(arguments.moebius, shape, tokens, arguments, ("--bf16-activations",))
        fused = candle(arguments.candle, shape, tokens, arguments)
        for batch in tokens:
            seconds = {"moebius": own[batch], "moebius, rounded": rounded[batch], "candle fused": fused[batch]}
            seconds |= transformers_seconds(torch, shape, batch, arguments.repetitions)
            rows += compared(name, shape, batch, seconds, most)
    print(table(rows))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        say(f"error: {failure}\n\nhint: {failure.hint}")
        sys.exit(1)
