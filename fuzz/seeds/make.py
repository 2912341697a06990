"""Makes the seeds that are no text: tiny files that each reader accepts. `python3 fuzz/seeds/make.py`, no packages needed."""

import base64
import json
import struct
from pathlib import Path

HERE = Path(__file__).parent


def write(target: str, name: str, content: bytes) -> None:
    (HERE / target).mkdir(exist_ok=True)
    (HERE / target / name).write_bytes(content)


def safetensors(tensors: dict[str, tuple[str, list[int], int]], metadata: dict[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | float | bytes) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece(model_type: int) -> bytes:
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(text, -float(rank), 1) for rank, text in enumerate(["\u2581", "a", "i", "s", "d", "ai", "said", "\u2581said"])]
    model = b"".join(
        field(1, field(1, text.encode()) + field(2, score) + field(3, kind)) for text, score, kind in pieces
    )
    trainer = field(3, model_type) + field(4, len(pieces)) + field(35, 1) + field(40, 0) + field(41, 1) + field(42, 2)
    normalizer = field(1, b"identity") + field(3, 1) + field(4, 0) + field(5, 1)
    return model + field(2, trainer) + field(3, normalizer)


def main() -> None:
    plain = {"model.norm.weight": ("BF16", [24], 48), "lm_head.weight": ("F32", [2, 3], 24)}
    write("safetensors", "plain", safetensors(plain, {"format": "pt"}))
    scaled = {
        "down_blocks": ("U8", [1, 2, 1, 16], 32),
        "down_scales": ("U8", [1, 2, 1], 2),
        "up.weight": ("F8_E4M3", [2, 2], 4),
        "up.weight_scale_inv": ("F32", [1, 1], 4),
    }
    write("safetensors", "scaled", safetensors(scaled, {}))
    packing = {
        "version": 1,
        "layout": "panels16",
        "held": "q8_0",
        "tensors": {"lm_head.weight": {"format": "q8_0", "shape": [16, 32], "matrices": 1}},
    }
    packed = {"lm_head.weight": ("U8", [576], 576), "model.norm.weight": ("F32", [4], 16)}
    write("safetensors", "packed", safetensors(packed, {"moebius": json.dumps(packing)}))
    write("sentencepiece", "unigram", sentencepiece(1))
    write("sentencepiece", "bpe", sentencepiece(2))
    tokens = [bytes([byte]) for byte in range(256)] + [b"ai", b"said", b" said"]
    ranks = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    write("tiktoken", "bytes", ranks.encode())
    vocabulary = {token: rank for rank, token in enumerate(["<s>", "a", "i", "s", "d", "ai", "\u0120"])}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<s>", "special": True, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary,
                  "merges": [["a", "i"]]},
    }
    write("tokenizer_json", "bpe", json.dumps(tokenizer).encode())


main()
