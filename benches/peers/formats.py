"""The weight formats of GGUF: what moebius holds where, and random blocks of them.

The blocks are random bits with scales that give the weights a chosen root mean square.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Format:
    """A GGUF type: its number, weights and bytes of a block."""

    name: str
    ggml_type: int
    file_type: int
    block_len: int
    block_bytes: int

    def bytes(self, weights: int) -> int:
        return weights // self.block_len * self.block_bytes


FORMATS = {
    name: Format(name, *numbers)
    for name, *numbers in (
        ("f32", 0, 0, 1, 4),
        ("f16", 1, 1, 1, 2),
        ("bf16", 30, 32, 1, 2),
        ("q4_0", 2, 2, 32, 18),
        ("q8_0", 8, 7, 32, 34),
        ("q4_k", 12, 14, 256, 144),
        ("q6_k", 14, 18, 256, 210),
        ("mxfp4", 39, 38, 32, 17),
    )
}
FINE_BITS = 5.0
"""Formats below this are not used for the embedding and the output projection."""
MIX = "q4_k_m"
CHOICES = (*FORMATS, MIX)
"""What `--format` of moebius takes."""


def held(choice: str, place: str, cols: int) -> Format:
    """What moebius holds a matrix in: `place` is `router`, `norm`, `head` (or embedding), `experts` or `attention`."""
    if place in ("router", "norm"):
        return FORMATS["f32"]
    if choice == MIX:
        wanted = FORMATS["q4_k" if place == "experts" else "q6_k"]
    else:
        wanted = FORMATS[choice]
        if place == "head" and wanted.block_bytes * 8 / wanted.block_len < FINE_BITS:
            wanted = FORMATS["q6_k"]
    return next(format for format in (wanted, FORMATS["q8_0"], FORMATS["bf16"]) if cols % format.block_len == 0)


def blocks(format: Format, count: int, rms: float, random: np.random.Generator) -> np.ndarray:
    """Random blocks, `[count, block_bytes]` bytes."""

    def bits(size: int) -> np.ndarray:
        return random.integers(0, 256, (count, size), np.uint8)

    def scale(unit_rms: float) -> np.ndarray:
        values = rms / unit_rms * random.uniform(0.75, 1.25, (count, 1))
        return values.astype("<f2")

    def raw(values: np.ndarray) -> np.ndarray:
        return values.view(np.uint8)

    def codes() -> np.ndarray:
        return np.maximum(bits(32).view(np.int8), -127)

    def nibbles() -> np.ndarray:
        return random.integers(1, 16, (count, 16), np.uint8)

    def floats(dtype: str, keep: int, fraction_bits: int, bias: int) -> np.ndarray:
        """Random signs and fractions, the bits in `keep`, beside one exponent."""
        exponent = (bias + int(np.floor(np.log2(rms)))) << fraction_bits
        values = random.integers(0, np.iinfo(dtype).max, (count, 1), dtype, endpoint=True)
        return raw(values & np.array(keep, dtype) | np.array(exponent, dtype))

    def k_scale() -> np.ndarray:
        low = scale(258.0)
        return np.hstack([low, (7.5 * low.astype(np.float32)).astype("<f2")])

    parts: dict[str, Callable[[], list[np.ndarray]]] = {
        "f32": lambda: [floats("uint32", 0x807F_FFFF, 23, 127)],
        "f16": lambda: [floats("uint16", 0x83FF, 10, 15)],
        "bf16": lambda: [floats("uint16", 0x807F, 7, 127)],
        # A scale and 32 signed codes; codes are -127..127.
        "q8_0": lambda: [raw(scale(73.5)), raw(codes())],
        # A scale and 32 codes of four bits, less 8; codes are -7..7, whose mean is 0.
        "q4_0": lambda: [raw(scale(4.32)), nibbles() << 4 | nibbles()],
        # Scale and minimum, eight pairs of six bits, 256 codes of four bits.
        "q4_k": lambda: [raw(k_scale()), bits(12), bits(128)],
        # Low four bits, high two bits, sixteen signed scales, one scale; codes are less 32.
        "q6_k": lambda: [bits(128), bits(64), bits(16), raw(scale(18.5 * 74.0))],
        # A power of two and 32 floats of four bits, whose root mean square is 2.93.
        "mxfp4": lambda: [np.full((count, 1), 127 + round(np.log2(rms / 2.93)), np.uint8), bits(16)],
    }
    return np.hstack(parts[format.name]())
