"""Drill in what the sums of `arithmetic.py` are meant to teach: two numbers, one line, both ways of writing.

Half of the lines stay below 51, where there are few enough pairs to see each many times.
"""

import random

LINES_PER_DOCUMENT = (16, 32)
SMALL, LARGE = 50, 99
SMALL_SHARE = 0.5
TIGHT_SHARE = 0.7


def _line(rng: random.Random, gap: str) -> str:
    largest = SMALL if rng.random() < SMALL_SHARE else LARGE
    a, b = rng.randint(0, largest), rng.randint(0, largest)
    return f"{a}{gap}+{gap}{b}{gap}={gap}{a + b}"


def document(rng: random.Random) -> str:
    """Lines of sums in one way of writing."""
    gap = "" if rng.random() < TIGHT_SHARE else " "
    return "\n".join(_line(rng, gap) for _ in range(rng.randint(*LINES_PER_DOCUMENT)))
