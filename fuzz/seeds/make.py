"""Makes the seeds that are no text: tiny files that each reader accepts. `python3 fuzz/seeds/make.py`, no packages needed."""

import base64
import json
import math
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


def gguf(pairs: list[tuple[str, int, bytes]], tensors: list[tuple[str, list[int], int, int]]) -> bytes:
    """A GGUF file: keys with types and values, and tensors with dimensions, types and bytes, all zero."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, kind, value in pairs:
        out += words(key) + struct.pack("<I", kind) + value
    end = 0
    for name, dims, kind, size in tensors:
        out += words(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, end)
        end += -(-size // 32) * 32
    return out.ljust(-(-len(out) // 32) * 32, b"\0") + bytes(end)


def words(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def many(kind: int, values: list[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def gguf_model(words_kind: str, kind: int, element_bytes: float) -> bytes:
    """A mixture of experts of one layer whose matrices have elements of one type."""
    hidden, vocab, experts = 32, 12, 2
    sizes = {"block_count": 1, "context_length": 16, "embedding_length": hidden, "feed_forward_length": hidden,
             "attention.head_count": 1, "attention.key_length": hidden, "attention.value_length": hidden,
             "rope.dimension_count": hidden, "expert_count": experts, "expert_used_count": 1,
             "expert_feed_forward_length": hidden}
    u32, i32, f32, string, array = 4, 5, 6, 8, 9
    pairs = [("general.architecture", string, words("qwen3moe"))]
    pairs += [(f"qwen3moe.{key}", u32, struct.pack("<I", size)) for key, size in sizes.items()]
    pairs.append(("qwen3moe.attention.layer_norm_rms_epsilon", f32, struct.pack("<f", 1e-6)))
    tokens = ["<unk>", "<s>", "</s>", "a", "i", "s", "d", "ai", "sai", "said", "<0x41>", "\u2581"]
    kinds = [2, 3, 3] + [1] * 7 + [6, 1]
    pairs.append(("tokenizer.ggml.model", string, words(words_kind)))
    pairs.append(("tokenizer.ggml.tokens", array, many(string, [words(token) for token in tokens])))
    pairs.append(("tokenizer.ggml.token_type", array, many(i32, [struct.pack("<i", kind) for kind in kinds])))
    pairs.append(("tokenizer.ggml.eos_token_id", u32, struct.pack("<I", 2)))
    if words_kind == "gpt2":
        pairs.append(("tokenizer.ggml.pre", string, words("qwen2")))
        pairs.append(("tokenizer.ggml.merges", array, many(string, [words(pair) for pair in ["a i", "s ai", "sai d"]])))
        pairs.append(("tokenizer.chat_template", string, words("{{ messages[0].content }}")))
    else:
        scores = [struct.pack("<f", -rank) for rank in range(len(tokens))]
        pairs.append(("tokenizer.ggml.scores", array, many(f32, scores)))
    tensors = []
    for name, dims in [("token_embd", [hidden, vocab]), ("output_norm", [hidden])] + [
        (f"blk.0.{name}", dims)
        for name, dims in [
            ("attn_norm", [hidden]), ("ffn_norm", [hidden]), ("attn_q_norm", [hidden]), ("attn_k_norm", [hidden]),
            ("attn_q", [hidden, hidden]), ("attn_k", [hidden, hidden]), ("attn_v", [hidden, hidden]),
            ("attn_output", [hidden, hidden]), ("ffn_gate_inp", [hidden, experts]),
            ("ffn_gate_exps", [hidden, hidden, experts]), ("ffn_up_exps", [hidden, hidden, experts]),
            ("ffn_down_exps", [hidden, hidden, experts]),
        ]
    ]:
        plain = len(dims) == 1 or name.endswith("inp")
        elements = math.prod(dims)
        size = elements * 4 if plain else int(elements * element_bytes)
        tensors.append((f"{name}.weight", dims, 0 if plain else kind, size))
    return gguf(pairs, tensors)


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
    write("gguf", "merges", gguf_model("gpt2", 2, 18 / 32))
    write("gguf", "scores", gguf_model("llama", 8, 34 / 32))
    write("tokenizer_json", "bpe", json.dumps(tokenizer).encode())


main()
