"""Documents of small sums, one problem a line, always right.

A tiny model learns a skill only where the text it must produce is the one
possible continuation, and where it sees every case often enough.  Sums of two
numbers below one hundred are that skill here: all 10,000 pairs are equally
likely, and they make up more than half of the lines.  The other lines keep
the digits and signs from meaning "add" wherever they appear.

Two ways of writing are about equally common, `12 + 30 = 42` and `12+30=42`,
so that either works as a prompt.  A document chooses one and mostly keeps it.
"""

import random
from collections.abc import Callable

LINES_PER_DOCUMENT = (8, 16)
LARGEST_OPERAND = 99
LARGEST_TABLE_FACTOR = 12
LARGEST_SMALL_OPERAND = 20
LIST_LENGTH = (2, 5)
COUNTING_STEPS = (1, 2, 3, 4, 5, 10)
COUNTING_LENGTH = (5, 8)

TIGHT_DOCUMENT_SHARE = 0.5
STYLE_SLIP_SHARE = 0.04
"""How often a line is written in the style its document did not choose."""

QUESTIONS = (
    "What is {problem}? {answer}",
    "What is {problem}? {answer}",
    "What is {problem}? It is {answer}.",
    "How much is {problem}? {answer}",
)


def _operand(rng: random.Random) -> int:
    return rng.randint(0, LARGEST_OPERAND)


def _factor(rng: random.Random, smallest: int = 0) -> int:
    return rng.randint(smallest, LARGEST_TABLE_FACTOR)


def _numbers(rng: random.Random) -> list[int]:
    return [_operand(rng) for _ in range(rng.randint(*LIST_LENGTH))]


def _sum(rng: random.Random, gap: str) -> str:
    a, b = _operand(rng), _operand(rng)
    return f"{a}{gap}+{gap}{b}{gap}={gap}{a + b}"


def _sum_in_words(rng: random.Random, gap: str) -> str:
    a, b = _operand(rng), _operand(rng)
    return rng.choice(QUESTIONS).format(problem=f"{a}{gap}+{gap}{b}", answer=a + b)


def _difference(rng: random.Random, gap: str) -> str:
    smaller, larger = sorted((_operand(rng), _operand(rng)))
    return f"{larger}{gap}-{gap}{smaller}{gap}={gap}{larger - smaller}"


def _product(rng: random.Random, gap: str) -> str:
    a, b = _factor(rng), _factor(rng)
    return f"{a}{gap}*{gap}{b}{gap}={gap}{a * b}"


def _quotient(rng: random.Random, gap: str) -> str:
    quotient, divisor = _factor(rng), _factor(rng, smallest=1)
    return f"{quotient * divisor}{gap}/{gap}{divisor}{gap}={gap}{quotient}"


def _sum_of_three(rng: random.Random, gap: str) -> str:
    terms = [rng.randint(0, LARGEST_SMALL_OPERAND) for _ in range(3)]
    left_side = f"{gap}+{gap}".join(map(str, terms))
    return f"{left_side}{gap}={gap}{sum(terms)}"


def _comparison(rng: random.Random, gap: str) -> str:
    a, b = _operand(rng), _operand(rng)
    sign = "<" if a < b else ">" if a > b else "="
    return f"{a}{gap}{sign}{gap}{b}"


# Python expressions and counting keep their usual spaces in either style.


def _list_function(rng: random.Random, _gap: str) -> str:
    function = rng.choice((max, min, sorted, sum))
    numbers = _numbers(rng)
    return f"{function.__name__}({numbers}) = {function(numbers)}"


def _counting(rng: random.Random, _gap: str) -> str:
    step = rng.choice(COUNTING_STEPS)
    start = rng.choice((0, step, rng.randint(0, LARGEST_SMALL_OPERAND)))
    length = rng.randint(*COUNTING_LENGTH)
    numbers = ", ".join(str(start + step * i) for i in range(length))
    return f"count by {step}: {numbers}"


PROBLEMS: tuple[tuple[Callable[[random.Random, str], str], int], ...] = (
    # The first two are the sums of two numbers: 55 lines in a hundred.
    (_sum, 47),
    (_sum_in_words, 8),
    (_difference, 15),
    (_product, 12),
    (_quotient, 5),
    (_sum_of_three, 5),
    (_comparison, 3),
    (_list_function, 3),
    (_counting, 2),
)
_MAKERS = [maker for maker, _ in PROBLEMS]
_WEIGHTS = [weight for _, weight in PROBLEMS]


def _line(rng: random.Random, tight: bool) -> str:
    if rng.random() < STYLE_SLIP_SHARE:
        tight = not tight
    (maker,) = rng.choices(_MAKERS, _WEIGHTS)
    return maker(rng, "" if tight else " ")


def document(rng: random.Random) -> str:
    """Return one document; the same state of `rng` gives the same text."""
    tight = rng.random() < TIGHT_DOCUMENT_SHARE
    count = rng.randint(*LINES_PER_DOCUMENT)
    return "\n".join(_line(rng, tight) for _ in range(count))
