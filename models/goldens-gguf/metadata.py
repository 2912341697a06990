"""What GGUF files say about models: the keys of a configuration, as llama.cpp's converter names them."""
import math

import gguf
import numpy as np

SIGMOID = ("dots1", "glm4_moe", "deepseek_v3", "minimax_m2", "lfm2_moe")
NORMED = ("dots1", "glm4_moe", "glm4_moe_lite", "deepseek_v2", "deepseek_v3", "bailing_moe", "nemotron_h")
LATENT = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")
MAMBA_2 = ("granitemoehybrid", "nemotron_h")
DELTA = ("qwen3_next", "qwen3_5_moe_text")


def first(value):
    """One of a list whose elements are alike, or the value itself."""
    return value[0] if isinstance(value, list) else value


def plain(c):
    """A configuration of a language model, with the usual names for what every one has."""
    c = {**c, **c.get("text_config", {})}
    for theirs, usual in {
        "d_model": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers",
        "max_seq_len": "max_position_embeddings", "norm_eps": "rms_norm_eps", "layer_norm_epsilon": "rms_norm_eps",
        "layers_block_type": "layer_types", "top_k_experts": "num_experts_per_tok",
    }.items():
        if theirs in c:
            c.setdefault(usual, c[theirs])
    for theirs, usual in {
        "ffn_hidden_size": "intermediate_size", "moe_num_experts": "num_experts", "moe_top_k": "num_experts_per_tok",
    }.items():
        if theirs in c.get("ffn_config", {}):
            c[usual] = c["ffn_config"][theirs]
    if c["model_type"] == "nemotron_h":
        c["num_hidden_layers"] = len(c["layer_types"])
    return c


def add_metadata(w, c):
    """Adds what the file says of the model; gives the tensors that are tables of factors."""
    kind, hidden, heads = c["model_type"], c["hidden_size"], c["num_attention_heads"]
    head = c.get("head_dim") or hidden // heads
    get = lambda *keys: next((first(c[key]) for key in keys if c.get(key) is not None), None)
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(hidden)
    add_widths(w, c)
    w.add_head_count(heads)
    if kind in ("dbrx", "nemotron_h"):
        w.add_layer_norm_eps(get("rms_norm_eps") or 1e-5)
    else:
        w.add_layer_norm_rms_eps(get("rms_norm_eps"))
    theta = angle_base(c, head)
    if theta:
        w.add_rope_freq_base(theta)
    w.add_vocab_size(c["vocab_size"])
    w.add_expert_count(get("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"))
    used = c.get("moe_topk")
    if isinstance(used, list):
        # llama.cpp knows one number; the golden has another one in each layer.
        w.add_array(f"{w.arch}.expert_used_count", used)
    else:
        w.add_expert_used_count(get("num_experts_per_tok", "moe_k"))
    add_attention(w, c, head)
    add_experts(w, c, get)
    add_layers(w, c)
    names = [f"<t{i}>" for i in range(c["vocab_size"])]
    tables = add_scaling(w, c, head)
    w.add_tokenizer_model("none")
    w.add_token_list(names)
    w.add_eos_token_id(c["eos_token_id"])
    return tables


def add_widths(w, c):
    """Of layers without experts."""
    kind = c["model_type"]
    if kind == "nemotron_h":
        width = {"moe": c["moe_intermediate_size"], "mlp": c["intermediate_size"]}
        w.add_feed_forward_length([width.get(layer, 0) for layer in c["layer_types"]])
    elif kind == "llama4_text":
        w.add_feed_forward_length(c["intermediate_size_mlp"])
    elif "intermediate_size" in c:
        w.add_feed_forward_length(c["intermediate_size"])


def add_attention(w, c, head):
    kind, kv = c["model_type"], c.get("num_key_value_heads")
    rotated = c.get("rotary_dim") or c.get("qk_rope_head_dim") or int(head * partial_factor(c))
    if kind not in ("jamba", "gemma4_text"):
        w.add_rope_dimension_count(rotated)
    if kind in LATENT:
        rank, nope = c["kv_lora_rank"], c["qk_nope_head_dim"]
        w.add_kv_lora_rank(rank)
        if c["q_lora_rank"]:
            w.add_q_lora_rank(c["q_lora_rank"])
        w.add_head_count_kv(1)
        w.add_key_length(rank + rotated)
        w.add_value_length(rank)
        w.add_key_length_mla(nope + rotated)
        w.add_value_length_mla(c["v_head_dim"])
        return
    if kind == "gemma4_text":
        add_two_sizes(w, c, head)
        return
    if kind == "jamba":
        period, offset = c["attn_layer_period"], c["attn_layer_offset"]
        kv = [kv if layer % period == offset else 0 for layer in range(c["num_hidden_layers"])]
    elif kind in MAMBA_2 or kind == "lfm2_moe":
        kv = [kv if layer == "full_attention" else 0 for layer in c["layer_types"]]
    w.add_head_count_kv(kv)
    w.add_key_length(head)
    w.add_value_length(head)
    if kind == "dbrx":
        w.add_clamp_kqv(c["attn_config"]["clip_qkv"])


def partial_factor(c):
    rope = c.get("rope_parameters") or {}
    return c.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1.0


def add_two_sizes(w, c, head):
    """Gemma's heads, which are larger where no window is."""
    own = c["per_layer_config"]
    of = lambda layer, key: own.get(str(layer), c)[key]
    full = max(range(c["num_hidden_layers"]), key=lambda layer: of(layer, "head_dim"))
    w.add_head_count_kv([of(layer, "num_key_value_heads") for layer in range(c["num_hidden_layers"])])
    w.add_key_length(of(full, "head_dim"))
    w.add_value_length(of(full, "head_dim"))
    w.add_key_length_swa(head)
    w.add_value_length_swa(head)
    w.add_rope_dimension_count(of(full, "head_dim"))
    w.add_rope_dimension_count_swa(head)
    w.add_rope_freq_base_swa(c["rope_parameters"]["sliding_attention"]["rope_theta"])
    w.add_shared_kv_layers(c["num_kv_shared_layers"])
    w.add_embedding_length_per_layer_input(c["hidden_size_per_layer_input"])
    w.add_final_logit_softcapping(c["final_logit_softcapping"])


def add_experts(w, c, get):
    kind = c["model_type"]
    width = get("moe_intermediate_size")
    if kind in ("gpt_oss", "minimax_m2", "llama4_text"):
        width = c["intermediate_size"]
    if width:
        w.add_expert_feed_forward_length(width)
    shared = get("shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size")
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
    scale = get("routed_scaling_factor", "route_scale")
    if scale is not None:
        w.add_expert_weights_scale(scale)
    if kind in NORMED:
        w.add_expert_weights_norm(c["norm_topk_prob"])
    if kind == "afmoe":
        w.add_expert_weights_norm(True)
    dense = get("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
    if dense is not None:
        w.add_leading_dense_block_count(dense)
    sigmoid = kind in SIGMOID or c.get("score_function") == "sigmoid"
    if sigmoid:
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if kind == "deepseek_v3" or (kind == "bailing_moe" and sigmoid):
        w.add_expert_group_count(c["n_group"])
        w.add_expert_group_used_count(c["topk_group"])
    if kind == "llama4_text":
        w.add_interleave_moe_layer_step(c["interleave_moe_layer_step"])


def add_layers(w, c):
    """Factors, windows and recurrences."""
    kind = c["model_type"]
    if kind.startswith("granite"):
        w.add_attention_scale(c["attention_multiplier"])
        w.add_embedding_scale(c["embedding_multiplier"])
        w.add_residual_scale(c["residual_multiplier"])
        w.add_logit_scale(c["logits_scaling"])
    if kind == "lfm2_moe":
        w.add_shortconv_l_cache(c["conv_L_cache"])
    if kind in ("gpt_oss", "afmoe", "gemma4_text"):
        w.add_sliding_window(c["sliding_window"])
    if kind in ("afmoe", "gemma4_text"):
        w.add_sliding_window_pattern([layer == "sliding_attention" for layer in c["layer_types"]])
    if kind == "phimoe":
        w.add_sliding_window(0)
    if kind in MAMBA_2 or kind == "jamba":
        add_state_space(w, c)
    if kind in DELTA:
        values = c["linear_num_value_heads"]
        w.add_ssm_conv_kernel(c["linear_conv_kernel_dim"])
        w.add_ssm_state_size(c["linear_key_head_dim"])
        w.add_ssm_group_count(c["linear_num_key_heads"])
        w.add_ssm_time_step_rank(values)
        w.add_ssm_inner_size(values * c["linear_value_head_dim"])
        w.add_full_attention_interval(c.get("full_attention_interval", 4))
    if kind == "qwen3_5_moe_text":
        w.add_rope_dimension_sections([*c["rope_parameters"]["mrope_section"], 0])


def add_state_space(w, c):
    get = lambda *keys: next(c[key] for key in keys if key in c)
    w.add_ssm_conv_kernel(get("mamba_d_conv", "conv_kernel"))
    w.add_ssm_state_size(get("mamba_d_state", "ssm_state_size"))
    if c["model_type"] == "jamba":
        w.add_ssm_inner_size(c["mamba_expand"] * c["hidden_size"])
        w.add_ssm_time_step_rank(c["mamba_dt_rank"])
        return
    heads = get("mamba_n_heads", "mamba_num_heads")
    w.add_ssm_group_count(get("mamba_n_groups", "n_groups"))
    w.add_ssm_inner_size(heads * get("mamba_d_head", "mamba_head_dim"))
    w.add_ssm_time_step_rank(heads)
    # Attention of these models knows no positions.
    w.add_rope_scaling_finetuned(False)


def add_scaling(w, c, head):
    """How positions are scaled; factors on single rotations are tensors."""
    scaling = c.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(scaling["factor"])
        w.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if scaling.get("mscale_all_dim"):
            w.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])
    if kind == "longrope":
        # The file has one factor for all lengths: that of the lengths which the golden's prompts have.
        w.add_rope_scaling_attn_factors(scaling["short_mscale"])
        w.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        tables = {"long": scaling["long_factor"], "short": scaling["short_factor"]}
        return {f"rope_factors_{name}.weight": np.array(factors, np.float32) for name, factors in tables.items()}
    if kind == "llama3":
        return {"rope_freqs.weight": llama3_factors(scaling, c["rope_theta"], head)}
    if c["model_type"] == "gemma4_text":
        full = max(own["head_dim"] for own in c["per_layer_config"].values())
        turning = int(partial_factor({"rope_parameters": c["rope_parameters"]["full_attention"]}) * full / 2)
        still = [1e30] * (full // 2 - turning)
        return {"rope_freqs.weight": np.array([1.0] * turning + still, np.float32)}
    return {}


def llama3_factors(scaling, theta, head):
    """What each pair's frequency is divided by: low ones by the factor, high ones by one, and between them smoothly."""
    angles = theta ** (-np.arange(0, head, 2, dtype=np.float32) / head)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * angles / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / scaling["factor"] + smooth)).astype(np.float32)


def angle_base(c, head):
    """The base of the angles, which holds Hunyuan's scaling."""
    if c["model_type"] == "jamba":
        return None
    rope = c.get("rope_parameters") or {}
    theta = c.get("rope_theta") or rope.get("rope_theta") or rope.get("full_attention", {}).get("rope_theta")
    alpha = (c.get("rope_scaling") or {}).get("alpha")
    return theta * alpha ** (head / (head - 2)) if alpha else theta
