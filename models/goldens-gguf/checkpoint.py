"""Reads the tensors of a checkpoint."""
import json
import struct

import numpy as np


def read_tensors(directory):
    """Names and values in f32, in the order of the files."""
    for path in sorted(directory.glob("model*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header, data = json.loads(data[8:8 + length]), data[8 + length:]
        header.pop("__metadata__", None)
        for name, info in header.items():
            start, end = info["data_offsets"]
            yield name, floats(data[start:end], info["dtype"]).reshape(info["shape"])


def floats(data, dtype):
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    assert dtype == "F32", dtype
    return np.frombuffer(data, np.float32)
