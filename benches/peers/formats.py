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
        ("q5_1", 7, 9, 32, 24),
        ("q4_k", 12, 14, 256, 144),
        ("q5_k", 13, 17, 256, 176),
        ("q6_k", 14, 18, 256, 210),
        ("mxfp4", 39, 38, 32, 17),
        ("iq4_xs", 23, 30, 256, 136),
        ("q2_k", 10, 10, 256, 84),
    )
}
FINE_BITS = 5.0
"""Formats below this are not used for the embedding and the output projection."""
MIXES = {"q4_k_m": "q4_k", "q5_k_m": "q5_k"}
"""What experts are held in; everything else is in q6_k."""
CHOICES = (*FORMATS, *MIXES)
"""What `--format` of moebius takes."""


def held(choice: str, place: str, cols: int) -> Format:
    """What moebius holds a matrix in: `place` is `router`, `norm`, `head` (or embedding), `experts` or `attention`."""
    if place in ("router", "norm"):
        return FORMATS["f32"]
    if choice in MIXES:
        wanted = FORMATS[MIXES[choice] if place == "experts" else "q6_k"]
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

    def with_minimum(unit_rms: float, mean_code: float) -> np.ndarray:
        """A scale, and a minimum that takes the mean of the codes away."""
        low = scale(unit_rms)
        return raw(np.hstack([low, (mean_code * low.astype(np.float32)).astype("<f2")]))

    parts: dict[str, Callable[[], list[np.ndarray]]] = {
        "f32": lambda: [floats("uint32", 0x807F_FFFF, 23, 127)],
        "f16": lambda: [floats("uint16", 0x83FF, 10, 15)],
        "bf16": lambda: [floats("uint16", 0x807F, 7, 127)],
        # A scale and 32 signed codes; codes are -127..127.
        "q8_0": lambda: [raw(scale(73.5)), raw(codes())],
        # A scale and 32 codes of four bits, less 8; codes are -7..7, whose mean is 0.
        "q4_0": lambda: [raw(scale(4.32)), nibbles() << 4 | nibbles()],
        # Scale and minimum, eight pairs of six bits, 256 codes of four bits.
        "q4_k": lambda: [with_minimum(258.0, 7.5), bits(12), bits(128)],
        # The same with 256 upper bits.
        "q5_k": lambda: [with_minimum(522.0, 15.5), bits(12), bits(32), bits(128)],
        # Scale and minimum, 32 upper bits, 32 codes of four bits.
        "q5_1": lambda: [with_minimum(9.23, -15.5), bits(4), bits(16)],
        # A scale, eight scales of six bits less 32, 256 names of values whose root mean square is 69.
        "iq4_xs": lambda: [raw(scale(18.5 * 69.0)), bits(2), bits(4), bits(128)],
        # Sixteen pairs of four bits, 256 codes of two bits, scale and minimum.
        "q2_k": lambda: [bits(16), bits(64), with_minimum(13.4, 1.5)],
        # Low four bits, high two bits, sixteen signed scales, one scale; codes are less 32.
        "q6_k": lambda: [bits(128), bits(64), bits(16), raw(scale(18.5 * 74.0))],
        # A power of two and 32 floats of four bits, whose root mean square is 2.93.
        "mxfp4": lambda: [np.full((count, 1), 127 + round(np.log2(rms / 2.93)), np.uint8), bits(16)],
    }
    return np.hstack(parts[format.name]())
