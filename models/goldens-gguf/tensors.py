"""What becomes of tensors in GGUF files."""
import re

import numpy as np

PAIRED = ("llama", "granitemoe", "granitehybrid", "bailingmoe")
PROJECTIONS = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}
EXPERT = re.compile(r"(?:model|backbone)\.layers\.(\d+)\..*\.experts\.(\d+)\.(\w+)\.weight$")


def of_expert(name):
    """Layer, projection and number of an expert, of a tensor that holds one matrix of one."""
    found = EXPERT.match(name)
    return found and (found[1], PROJECTIONS[found[3]], int(found[2]))


def pairs(rows, heads):
    """Halves of a head to pairs, as the converter turns them for rotation."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def translated(c, arch, names, name, a):
    """The GGUF tensors that a tensor becomes."""
    if name.startswith("model.visual."):
        return []
    name = name.replace(".language_model.", ".")
    layer = re.search(r"(?:layers|blocks)\.(\d+)\.", name)
    blk = f"blk.{layer[1]}." if layer else ""
    for what in (of_attention, of_experts, of_recurrence):
        if (found := what(c, arch, blk, name, a)) is not None:
            return found
    if "shared_expert_gate" in name and arch == "qwen2moe":
        a = a[0]
    if name.endswith("conv.conv.weight"):
        a = a[:, 0]
    theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if arch in ("qwen3next", "qwen35moe") and theirs.endswith("norm.weight"):
        a = a + 1
    return [(theirs, a)]


def of_attention(c, arch, blk, name, a):
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    if arch == "bailingmoe" and "query_key_value" in name:
        end, width = name.rsplit(".", 1)[1], c["head_dim"]
        q, k, v = np.split(a, [heads * width, (heads + kv_heads) * width])
        both = [("q", pairs(q, heads)), ("k", pairs(k, kv_heads)), ("v", v)]
        return [(f"{blk}attn_{which}.{end}", rows) for which, rows in both]
    if arch in PAIRED and (part := re.search(r"\.([qk])_proj\.(\w+)$", name)):
        return [(f"{blk}attn_{part[1]}.{part[2]}", pairs(a, heads if part[1] == "q" else kv_heads))]
    if "kv_b_proj" in name:
        nope = c["qk_nope_head_dim"]
        both = a.reshape(heads, nope + c["v_head_dim"], a.shape[-1])
        return [(f"{blk}attn_k_b.weight", both[:, :nope].swapaxes(1, 2)), (f"{blk}attn_v_b.weight", both[:, nope:])]
    if name.endswith("sinks"):
        return [(f"{blk}attn_sinks.weight", a)]
    if name.endswith("layer_scalar"):
        return [(f"{blk}layer_output_scale.weight", a)]
    return None


def of_experts(c, arch, blk, name, a):
    if "input_linear" in name:
        half, kind = a.shape[-2] // 2, "exps" if a.ndim == 3 else "shexp"
        gate, up = (a[:, :half], a[:, half:]) if a.ndim == 3 else (a[:half], a[half:])
        return [(f"{blk}ffn_gate_{kind}.weight", gate), (f"{blk}ffn_up_{kind}.weight", up)]
    if "gate_up_proj" in name:
        return gate_and_up(arch, blk, name, a)
    if name.endswith("experts.down_proj_bias"):
        return [(f"{blk}ffn_down_exps.bias", a)]
    if name.endswith("experts.down_proj"):
        return [(f"{blk}ffn_down_exps.weight", a.swapaxes(-1, -2) if arch in ("gpt-oss", "llama4") else a)]
    if part := re.search(r"experts\.mlp\.(w1|v1|w2)$", name):
        experts = a.reshape(c["num_experts"], -1, a.shape[-1])
        if part[1] == "w2":
            return [(f"{blk}ffn_down_exps.weight", experts.swapaxes(1, 2))]
        return [(f"{blk}ffn_{'gate' if part[1] == 'w1' else 'up'}_exps.weight", experts)]
    if name.endswith(("e_score_correction_bias", "expert_bias")):
        return [(f"{blk}exp_probs_b.bias", a.reshape(-1))]
    routers = {".wg.weight": "weight", "router.proj.weight": "weight", "router.scale": "scale"}
    if end := next((routers[end] for end in routers if name.endswith(end)), None):
        return [(f"{blk}ffn_gate_inp.{end}", a)]
    if name.endswith("per_expert_scale"):
        return [(f"{blk}ffn_down_exps.scale", a)]
    return None


def gate_and_up(arch, blk, name, a):
    """Both in one tensor: side by side or interleaved, and some transposed."""
    if arch == "gemma4":
        return [(f"{blk}ffn_gate_up_exps.weight", a)]
    end = "bias" if name.endswith("_bias") else "weight"
    if arch in ("gpt-oss", "llama4") and end == "weight":
        a = a.swapaxes(-1, -2)
    half = a.shape[1] // 2
    gate, up = (a[:, ::2], a[:, 1::2]) if arch == "gpt-oss" else (a[:, :half], a[:, half:])
    return [(f"{blk}ffn_gate_exps.{end}", gate), (f"{blk}ffn_up_exps.{end}", up)]


def of_recurrence(c, arch, blk, name, a):
    """State spaces and delta rules: rates in place of their logarithms, convolutions without a side of one."""
    if not re.search(r"\.(mamba|mixer|linear_attn)\.", name):
        return None
    rest = re.sub(r"^.*\.(mamba|mixer|linear_attn)\.", "", name)
    heads = value_heads(c) if arch == "qwen35moe" else None
    wide = (lambda a: a.reshape(-1, 1)) if arch in ("granitehybrid", "nemotron_h_moe") else (lambda a: a)
    if rest == "A_log":
        rates = -np.exp(a)
        return [(f"{blk}ssm_a", wide(rates if heads is None else rates[heads]))]
    if rest == "D":
        return [(f"{blk}ssm_d", wide(a))]
    if rest == "dt_bias":
        return [(f"{blk}ssm_dt.bias", a if heads is None else a[heads])]
    if rest == "norm.weight":
        groups = c.get("mamba_n_groups", c.get("n_groups"))
        return [(f"{blk}ssm_norm.weight", a.reshape(groups, -1) if groups else a)]
    if rest == "conv1d.weight":
        return [(f"{blk}ssm_conv1d.weight", after_keys(c, a[:, 0]) if heads is not None else a[:, 0])]
    if rest == "in_proj_qkvz.weight":
        return queries_to_gates(c, blk, a)
    if rest == "in_proj_ba.weight":
        return [(f"{blk}ssm_ba.weight", a)]
    if heads is None:
        return None
    rows = value_rows(c)
    return {
        "in_proj_qkv.weight": lambda: [(f"{blk}attn_qkv.weight", after_keys(c, a))],
        "in_proj_z.weight": lambda: [(f"{blk}attn_gate.weight", a[rows])],
        "in_proj_a.weight": lambda: [(f"{blk}ssm_alpha.weight", a[heads])],
        "in_proj_b.weight": lambda: [(f"{blk}ssm_beta.weight", a[heads])],
        "out_proj.weight": lambda: [(f"{blk}ssm_out.weight", a[:, rows])],
    }[rest]()


def queries_to_gates(c, blk, a):
    """Of each key head its query, its key, its values and its gates; files have all queries first, and gates apart."""
    keys, values = c["linear_num_key_heads"], c["linear_num_value_heads"]
    key, value = c["linear_key_head_dim"], values // keys * c["linear_value_head_dim"]
    parts = np.split(a.reshape(keys, -1, a.shape[1]), [key, 2 * key, 2 * key + value], axis=1)
    q, k, v, z = (part.reshape(-1, a.shape[1]) for part in parts)
    return [(f"{blk}attn_qkv.weight", np.concatenate([q, k, v])), (f"{blk}attn_gate.weight", z)]


def value_heads(c):
    """The first value head of every key head, then the second, and so on."""
    keys = c["linear_num_key_heads"]
    return np.arange(c["linear_num_value_heads"]).reshape(keys, -1).T.reshape(-1)


def value_rows(c):
    width = c["linear_value_head_dim"]
    return (value_heads(c)[:, None] * width + np.arange(width)).reshape(-1)


def after_keys(c, a):
    """Rows of values in the order of their heads, after those of queries and keys."""
    first = 2 * c["linear_num_key_heads"] * c["linear_key_head_dim"]
    return np.concatenate([a[:first], a[first:][value_rows(c)]])
