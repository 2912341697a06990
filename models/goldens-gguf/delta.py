"""What a GGUF file holds beyond the checkpoint that it was made from.

Nearly all of a file stands in the checkpoint, too, in another order. A delta is the file as a list of steps: bytes that
are new, then elements of the checkpoint. A step is four numbers of 32 bits (how many bytes are new; of the elements
the first, the distance from one to the next, and how many), then the new bytes. Elements are counted through all tensors
by name, in f32.
"""
import struct
from collections import defaultdict

import gguf
import numpy as np

from checkpoint import read_tensors

SHORTEST = 4
"""Elements that are worth a step of their own."""
CANDIDATES = 32
"""Places of one value that are tried: values in bf16 are there many times."""


def delta(directory, file):
    """The delta of the file. Its data is taken apart as f32, which all of it is."""
    data = file.read_bytes()
    start = gguf.GGUFReader(file).data_offset
    source = np.concatenate([a.reshape(-1).view(np.uint32) for _, a in sorted(read_tensors(directory))])
    steps, new, at = [], bytearray(data[:start]), 0
    target = np.frombuffer(data[start:], np.uint32)
    places = defaultdict(list)
    for index, value in enumerate(source.tolist()):
        places[value].append(index)
    while at < len(target):
        first, distance, count = longest(source, target[at:], places)
        if count >= SHORTEST:
            steps.append(struct.pack("<4I", len(new), first, distance, count) + new)
            new, at = bytearray(), at + count
        else:
            new += target[at].tobytes()
            at += 1
    steps.append(struct.pack("<4I", len(new), 0, 0, 0) + new)
    return b"".join(steps)


def longest(source, target, places):
    """The most elements of the checkpoint, at equal distances, that `target` begins with."""
    best = (0, 1, 0)
    if len(target) < SHORTEST:
        return best
    for first in places[int(target[0])][:CANDIDATES]:
        for second in places[int(target[1])][:CANDIDATES]:
            if second <= first:
                continue
            theirs = source[first::second - first][:len(target)]
            differ = np.nonzero(theirs != target[:len(theirs)])[0]
            count = int(differ[0]) if len(differ) else len(theirs)
            if count > best[2]:
                best = (first, second - first, count)
    return best
