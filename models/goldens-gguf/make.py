#!/usr/bin/env python3
"""Write goldens as GGUF files in f32 with the package `gguf`: `make.py GOLDENS OUT [NAME ...]`.

Independent of moebius: names come from the package's own map of tensors, metadata from its writer's methods, and what
llama.cpp's converter does to values (rows of queries and keys in pairs, stacked experts, split up-projections of latent
attention) is done here again. There is no vocabulary to speak of: the goldens are ids.
"""
import json
import re
import struct
import sys
from pathlib import Path

import gguf
import numpy as np

ARCHITECTURES = {
    "bailing_moe": "bailingmoe2", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2", "dots1": "dots1",
    "ernie4_5_moe": "ernie4_5-moe", "glm4_moe": "glm4moe", "gpt_oss": "gpt-oss", "granitemoe": "granitemoe",
    "granitemoeshared": "granitemoe", "hunyuan_v1_moe": "hunyuan-moe", "lfm2_moe": "lfm2moe",
    "minimax_m2": "minimax-m2", "mixtral": "llama", "olmoe": "olmoe", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe",
}
NAMES = [
    "bailing_moe_v2", "deepseek_v2", "deepseek_v3", "dots1", "ernie4_5_moe", "glm4_moe", "gpt_oss", "granitemoe",
    "granitemoeshared", "hunyuan_v1_moe", "lfm2_moe", "minimax_m2", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe",
]
PAIRED = ("llama", "granitemoe")
SIGMOID = ("dots1", "glm4_moe", "deepseek_v3", "minimax_m2", "bailing_moe", "lfm2_moe")
NORMED = ("dots1", "glm4_moe", "deepseek_v2", "deepseek_v3", "bailing_moe")
PROJECTIONS = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}


def first(value):
    """One of a list whose elements are alike, or the value itself."""
    return value[0] if isinstance(value, list) else value


def read_tensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, data = json.loads(data[8:8 + length]), data[8 + length:]
    header.pop("__metadata__", None)
    for name, info in header.items():
        assert info["dtype"] == "F32", (name, info)
        start, end = info["data_offsets"]
        yield name, np.frombuffer(data[start:end], np.float32).reshape(info["shape"])


def add_metadata(w, c):
    """The keys of a configuration, as llama.cpp's converter names them."""
    kind, hidden, heads = c["model_type"], c["hidden_size"], c["num_attention_heads"]
    head = c.get("head_dim") or hidden // heads
    get = lambda *keys: next((first(c[key]) for key in keys if c.get(key) is not None), None)
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(heads)
    w.add_layer_norm_rms_eps(get("rms_norm_eps", "norm_eps"))
    w.add_rope_freq_base(angle_base(c, head))
    w.add_vocab_size(c["vocab_size"])
    w.add_expert_count(get("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"))
    used = c.get("moe_topk")
    if isinstance(used, list):
        # llama.cpp knows one number; the golden has another one in each layer.
        w.add_array(f"{w.arch}.expert_used_count", used)
    else:
        w.add_expert_used_count(get("num_experts_per_tok", "moe_k"))
    rotated = get("rotary_dim", "qk_rope_head_dim") or int(head * c.get("partial_rotary_factor", 1.0))
    w.add_rope_dimension_count(rotated)
    if kind.startswith("deepseek"):
        rank, nope = c["kv_lora_rank"], c["qk_nope_head_dim"]
        w.add_kv_lora_rank(rank)
        if c["q_lora_rank"]:
            w.add_q_lora_rank(c["q_lora_rank"])
        w.add_head_count_kv(1)
        w.add_key_length(rank + rotated)
        w.add_value_length(rank)
        w.add_key_length_mla(nope + rotated)
        w.add_value_length_mla(c["v_head_dim"])
    else:
        kv = c["num_key_value_heads"]
        kinds = c["layer_types"] if kind == "lfm2_moe" else None
        w.add_head_count_kv([kv if k == "full_attention" else 0 for k in kinds] if kinds else kv)
        w.add_key_length(head)
        w.add_value_length(head)
    width = get("moe_intermediate_size") or (c["intermediate_size"] if kind in ("gpt_oss", "minimax_m2") else None)
    if width:
        w.add_expert_feed_forward_length(width)
    shared = get("shared_expert_intermediate_size", "shared_intermediate_size")
    if kind == "ernie4_5_moe":
        shared = width * c["moe_num_shared_experts"]
        w.add_interleave_moe_layer_step(c["moe_layer_interval"])
    if kind == "hunyuan_v1_moe":
        shared = c["intermediate_size"]
    if shared:
        w.add_expert_shared_feed_forward_length(shared)
    count = get("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
    if count:
        w.add_expert_shared_count(count)
    if "routed_scaling_factor" in c:
        w.add_expert_weights_scale(c["routed_scaling_factor"])
    if kind in NORMED:
        w.add_expert_weights_norm(c["norm_topk_prob"])
    dense = get("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
    if dense is not None:
        w.add_leading_dense_block_count(dense)
    if kind in SIGMOID:
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if kind in ("deepseek_v3", "bailing_moe"):
        w.add_expert_group_count(c["n_group"])
        w.add_expert_group_used_count(c["topk_group"])
    if kind.startswith("granite"):
        w.add_attention_scale(c["attention_multiplier"])
        w.add_embedding_scale(c["embedding_multiplier"])
        w.add_residual_scale(c["residual_multiplier"])
        w.add_logit_scale(c["logits_scaling"])
    if kind == "lfm2_moe":
        w.add_shortconv_l_cache(c["conv_L_cache"])
    if kind == "gpt_oss":
        w.add_sliding_window(c["sliding_window"])
    add_scaling(w, c)
    names = [f"<t{i}>" for i in range(c["vocab_size"])]
    w.add_tokenizer_model("none")
    w.add_token_list(names)
    w.add_eos_token_id(c["eos_token_id"])


def add_scaling(w, c):
    scaling = c.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(scaling["factor"])
        w.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if scaling.get("mscale_all_dim"):
            w.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])


def angle_base(c, head):
    """The base of the angles, which holds Hunyuan's scaling."""
    alpha = (c.get("rope_scaling") or {}).get("alpha")
    return c["rope_theta"] * alpha ** (head / (head - 2)) if alpha else c["rope_theta"]


def pairs(rows, heads):
    """Halves of a head to pairs, as the converter turns them for rotation."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def translated(c, arch, names, name, a):
    """The GGUF tensors that a tensor becomes."""
    layer = re.search(r"layers\.(\d+)\.", name)
    blk = f"blk.{layer[1]}." if layer else ""
    if arch in PAIRED and re.search(r"\.[qk]_proj\.", name):
        a = pairs(a, c["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"])
    if "input_linear" in name:
        half, kind = a.shape[-2] // 2, "exps" if a.ndim == 3 else "shexp"
        gate, up = (a[:, :half], a[:, half:]) if a.ndim == 3 else (a[:half], a[half:])
        return [(f"{blk}ffn_gate_{kind}.weight", gate), (f"{blk}ffn_up_{kind}.weight", up)]
    if "gate_up_proj" in name:
        end = "bias" if name.endswith("_bias") else "weight"
        a = a if end == "bias" else a.swapaxes(-1, -2)
        return [(f"{blk}ffn_gate_exps.{end}", a[:, ::2]), (f"{blk}ffn_up_exps.{end}", a[:, 1::2])]
    if name.endswith("experts.down_proj_bias"):
        return [(f"{blk}ffn_down_exps.bias", a)]
    if name.endswith("experts.down_proj"):
        return [(f"{blk}ffn_down_exps.weight", a.swapaxes(-1, -2))]
    if "kv_b_proj" in name:
        nope = c["qk_nope_head_dim"]
        both = a.reshape(c["num_attention_heads"], nope + c["v_head_dim"], a.shape[-1])
        return [(f"{blk}attn_k_b.weight", both[:, :nope].swapaxes(1, 2)), (f"{blk}attn_v_b.weight", both[:, nope:])]
    if name.endswith(("e_score_correction_bias", "expert_bias")):
        return [(f"{blk}exp_probs_b.bias", a.reshape(-1))]
    if name.endswith("sinks"):
        return [(f"{blk}attn_sinks.weight", a)]
    if name.endswith(".wg.weight"):
        return [(f"{blk}ffn_gate_inp.weight", a)]
    if "shared_expert_gate" in name:
        a = a[0]
    if name.endswith("conv.conv.weight"):
        a = a[:, 0]
    return [(names.get_name(name, try_suffixes=(".weight", ".bias")), a)]


def convert(golden, out):
    c = json.loads((golden / "config.json").read_text())
    arch = ARCHITECTURES[c["model_type"]]
    number = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    names = gguf.get_tensor_name_map(number, c["num_hidden_layers"])
    w = gguf.GGUFWriter(out, arch)
    add_metadata(w, c)
    stacks = {}
    for name, a in read_tensors(golden / "model.safetensors"):
        expert = re.match(r"model\.layers\.(\d+)\..*\.experts\.(\d+)\.(\w+)\.weight$", name)
        if expert:
            stack = f"blk.{expert[1]}.ffn_{PROJECTIONS[expert[3]]}_exps.weight"
            stacks.setdefault(stack, {})[int(expert[2])] = a
            continue
        for theirs, values in translated(c, arch, names, name, a):
            assert theirs, name
            w.add_tensor(theirs, np.ascontiguousarray(values, np.float32))
    for name, experts in stacks.items():
        w.add_tensor(name, np.stack([experts[i] for i in range(len(experts))]))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    goldens, out = map(Path, sys.argv[1:3])
    for name in sys.argv[3:] or NAMES:
        convert(goldens / name, out / f"{name}.gguf")
