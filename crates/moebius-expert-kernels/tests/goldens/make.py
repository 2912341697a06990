"""Writes gguf_blocks.txt: random blocks of every GGUF type that moebius reads, and the values that the package `gguf` finds
in them. See README.md.

A line is a type, the bytes of its blocks and their values as little-endian f32, both in hexadecimal.
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants
from gguf.constants import GGML_QUANT_SIZES

SEED = 20
BLOCKS = 2
# Where each block has halves that scale it; other bytes may be anything.
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
}


def main() -> None:
    random = np.random.default_rng(SEED)
    lines = []
    for name, halves in HALVES.items():
        kind = GGMLQuantizationType[name]
        _, size = GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (BLOCKS, size), np.uint8)
        for at in halves:
            scales = random.uniform(-2.0, 2.0, (BLOCKS, 1)).astype("<f2")
            blocks[:, at : at + 2] = scales.view(np.uint8)
        if name == "MXFP4":
            blocks[:, 0] = random.integers(100, 140, BLOCKS)
        values = quants.dequantize(blocks, kind).astype("<f4")
        lines.append(f"{name.lower()} {blocks.tobytes().hex()} {values.tobytes().hex()}\n")
    (Path(__file__).parent / "gguf_blocks.txt").write_text("".join(lines), encoding="ascii")


main()
