"""The template notation shared by the text generators of the corpus.

    [a|b|c]   one of the alternatives, at random; an alternative may be empty, and brackets nest
    {slot}    the world's text for that slot, which may itself use the notation

Slots keep a document consistent (its hero has one name from first line to last); alternatives
make two documents of the same plot differ.
"""

import random
import re
from collections.abc import Mapping

SLOT = re.compile(r"\{(\w+)\}")
INNERMOST_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def expand(template: str, world: Mapping[str, str], rng: random.Random) -> str:
    """The template with every slot filled and every choice made.

    Slots go first, because their text may hold choices and further slots. Choices go from the
    inside out, so nesting needs no parser.
    """
    text = template
    while SLOT.search(text):
        text = SLOT.sub(lambda slot: world[slot.group(1)], text)
    while choice := INNERMOST_CHOICE.search(text):
        text = text[: choice.start()] + rng.choice(choice.group(1).split("|")) + text[choice.end() :]
    return text


def beats(plot: str, line_joint: str) -> list[str]:
    """The beats of a plot: blocks between blank lines, their wrapped lines put back together.

    Lines are wrapped in the source for its reader only; English joins them with a space,
    Japanese with nothing.
    """
    return [line_joint.join(block.split("\n")) for block in plot.strip().split("\n\n")]
