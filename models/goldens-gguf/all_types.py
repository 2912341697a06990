#!/usr/bin/env python3
"""Write a model whose matrices are of every element type that moebius reads, and what it computes: `all_types.py OUT`.

`OUT/all_types.gguf` has random weights that llama.cpp itself has quantised. The same file in f32, its blocks decoded by the
package `gguf`, is run by llama.cpp; the logits are in `OUT/all_types.json`.
"""
import ctypes
import json
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type

HIDDEN, HEADS, HEAD, WIDTH, VOCAB, EXPERTS = 256, 2, 16, 32, 32, 2
"""Rows of 256 elements hold any block, those of 32 the shorter ones."""
MATRICES = {
    "attn_q": (HEADS * HEAD, HIDDEN), "attn_k": (HEAD, HIDDEN), "attn_v": (HEAD, HIDDEN), "attn_output": (HIDDEN, HEADS * HEAD),
    "ffn_gate_exps": (EXPERTS, WIDTH, HIDDEN), "ffn_up_exps": (EXPERTS, WIDTH, HIDDEN), "ffn_down_exps": (EXPERTS, HIDDEN, WIDTH),
}
LAYERS = [
    "IQ4_NL Q4_1 Q5_0 Q5_1 Q3_K Q3_K Q5_0",
    "Q3_K Q4_K Q5_K Q4_1 IQ4_XS IQ4_XS MXFP4",
    "Q8_0 F16 BF16 IQ4_NL Q2_K Q2_K Q4_0",
]
"""Of an expert, gate and up have one type: they are held together."""
EMBEDDING, HEAD_TYPE = Type.Q6_K, Type.Q8_0
IDS = [3, 17, 9, 4, 31, 23, 0, 1, 2, 12]


def quantised(base, values, kind):
    """The bytes of a matrix, as llama.cpp's own function writes them."""
    rows = np.ascontiguousarray(values.reshape(-1, values.shape[-1]), np.float32)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.empty((rows.shape[0], rows.shape[1] // block * size), np.uint8)
    pointer = lambda a: a.ctypes.data_as(ctypes.c_void_p)
    written = base.ggml_quantize_chunk(int(kind), pointer(rows), pointer(out), 0, *rows.shape, None)
    assert written == out.nbytes, kind
    return out.reshape(*values.shape[:-1], -1)


def tensors(random):
    """Names, values and types."""
    matrix = lambda *shape: random.normal(0, 1.5 / np.sqrt(shape[-1]), shape).astype(np.float32)
    norm = lambda size: (1 + random.normal(0, 0.1, size)).astype(np.float32)
    yield "token_embd.weight", random.normal(0, 1, (VOCAB, HIDDEN)).astype(np.float32), EMBEDDING
    yield "output.weight", matrix(VOCAB, HIDDEN), HEAD_TYPE
    yield "output_norm.weight", norm(HIDDEN), Type.F32
    for layer, types in enumerate(LAYERS):
        for (name, shape), kind in zip(MATRICES.items(), types.split()):
            yield f"blk.{layer}.{name}.weight", matrix(*shape), Type[kind]
        yield f"blk.{layer}.ffn_gate_inp.weight", matrix(EXPERTS, HIDDEN), Type.F32
        for name, size in {"attn_norm": HIDDEN, "ffn_norm": HIDDEN, "attn_q_norm": HEAD, "attn_k_norm": HEAD}.items():
            yield f"blk.{layer}.{name}.weight", norm(size), Type.F32


def writer(path):
    w = gguf.GGUFWriter(path, "qwen3moe")
    w.add_block_count(len(LAYERS))
    w.add_context_length(64)
    w.add_embedding_length(HIDDEN)
    w.add_feed_forward_length(WIDTH)
    w.add_expert_feed_forward_length(WIDTH)
    w.add_head_count(HEADS)
    w.add_head_count_kv(1)
    w.add_key_length(HEAD)
    w.add_value_length(HEAD)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(10000.0)
    w.add_expert_count(EXPERTS)
    w.add_expert_used_count(EXPERTS)
    w.add_vocab_size(VOCAB)
    w.add_tokenizer_model("none")
    return w


def logits(path):
    """Those of every position."""
    params = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model, path
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = 64
    params.type_k = params.type_v = 0
    params.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(IDS), 0, 1)
    batch.n_tokens = len(IDS)
    for at, id in enumerate(IDS):
        batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = id, at, 1, 1
        batch.seq_id[at][0] = 0
    assert llama_cpp.llama_decode(context, batch) == 0
    rows = (np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, at), (VOCAB,)) for at in range(len(IDS)))
    return [[float(f"{number:.7g}") for number in row] for row in rows]


def library():
    """The library of llama.cpp that has its quantisation."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    base = ctypes.CDLL(str(next(folder.glob("libggml-base.*"))))
    base.ggml_quantize_chunk.restype = ctypes.c_size_t
    base.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
    ]
    return base


def main(out):
    base = library()
    with tempfile.TemporaryDirectory() as directory:
        plain_path = Path(directory) / "plain.gguf"
        typed, plain = writer(out / "all_types.gguf"), writer(plain_path)
        for name, values, kind in tensors(np.random.Generator(np.random.PCG64(7))):
            if kind == Type.F32:
                typed.add_tensor(name, values)
                plain.add_tensor(name, values)
                continue
            blocks = quantised(base, values, kind)
            typed.add_tensor(name, blocks, raw_dtype=kind)
            plain.add_tensor(name, gguf.quants.dequantize(blocks, kind).reshape(values.shape).astype(np.float32))
        for w in (typed, plain):
            w.write_header_to_file()
            w.write_kv_data_to_file()
            w.write_tensors_to_file()
            w.close()
        record = {"ids": IDS, "logits": logits(plain_path)}
    (out / "all_types.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
