"""The tables of make_goldens.py: families, cases, the spread of the random tensors, and the settings to probe.

What only some routers do is said by functions here: how to read an output that is not (logits, weights, experts), and
how far a choice is from another one where that is not the distance of the logits.

To add a family, add one entry to FAMILIES; to add a case, one entry to CASES.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Callable

import torch
from torch import Tensor


def gap(values: Tensor, kept: int) -> Tensor:
    """Per row, by how much the last of the `kept` largest beats the next one; infinite when none is left."""
    if values.shape[-1] <= kept:
        return torch.full(values.shape[:1], math.inf)
    top = values.topk(kept + 1, -1).values
    return top[:, kept - 1] - top[:, kept]


def logit_gap(_layer, logits: Tensor, kept: int) -> Tensor:
    """Of routers that rank by logits or by anything that keeps their order, as softmax and sigmoid do."""
    return gap(logits, kept)


def biased_gap(layer, logits: Tensor, kept: int) -> Tensor:
    """Of a router that ranks by sigmoid and a bias."""
    return gap(logits.sigmoid() + layer.mlp.expert_bias, kept)


def mixer_gap(layer, logits: Tensor, _kept: int) -> Tensor:
    """Of a sparse mixer: between the first three logits, and of every logit from the threshold of its comparison."""
    eps = 2 * layer.mlp.router.router_jitter_noise
    best = logits.argmax(-1, keepdim=True)
    gaps = [gap(logits, 1), gap(logits, 2)]
    for rest in (logits, logits.scatter(-1, best, -math.inf)):
        top = rest.amax(-1, keepdim=True)
        gaps.append((((top - logits) / logits.abs().clamp(min=top)) - eps).abs().amin(-1))
    return torch.stack(gaps).amin(0)


def three(_layer, _router, output: tuple) -> tuple:
    return output


def llama4(_layer, router, output: tuple) -> tuple:
    scores, logits = output
    experts = logits.topk(router.top_k, -1).indices
    return logits, scores.gather(-1, experts), experts


def dbrx(layer, _router, logits: Tensor) -> tuple:
    return logits, *layer.ffn.route_tokens_to_experts(logits)


@dataclass(frozen=True)
class Family:
    """What a family adds to the common procedure."""

    router: str  # class name of the router module
    on_disk: tuple[str, ...]  # patterns of tensor names that a hub checkpoint has
    hub_names: dict[str, str] = field(default_factory=dict)  # config key of transformers 5 -> key on the hub
    v5_only: tuple[str, ...] = ()  # config keys that hub configurations lack
    init: dict[str, float] = field(default_factory=dict)  # changes to INIT
    model_type: str = ""  # of the reference's configuration, if it is not the family's name
    layers: str = "model.layers"
    routing: Callable = three  # (layer, router, output) -> (logits, weights, experts)
    gap: Callable = logit_gap  # (layer, logits, number of experts) -> how clear the choice is, per row
    fused: bool = False  # whether the experts of a layer are one tensor on disk
    nested_rope: bool = False  # whether hub configurations say rotations as transformers 5 does


@dataclass(frozen=True)
class Case:
    """One golden directory."""

    name: str
    family: str
    config: dict  # arguments of the configuration class
    style: str = "hub"  # spelling of config.json: "hub" or "v5"
    dtype: str = "f32"  # of the stored tensors; the reference computes with them in float32
    shards: int = 1
    lengths: tuple[int, ...] = (1, 6, 17, 40)  # of the prompts
    inert: dict = field(default_factory=dict)  # keys added to config.json that must change nothing
    init: dict[str, float] = field(default_factory=dict)  # changes to INIT


# Standard deviations of the random tensors; `*_gain` is divided by the square root of the row length.
INIT = {"norm": 0.25, "final_norm": 1.0, "bias": 0.25, "embed": 1.0, "head_gain": 2.2, "router_gain": 2.0, "gain": 1.2}
INIT_TIED = {"embed_gain": 1.1, "final_norm": 2.0}  # one matrix serves both ends: small rows, larger last norm


PER_EXPERT = (r"\.mlp\.experts\.\d+\.(gate|up|down)_proj\.weight$", r"\.mlp\.gate\.weight$")
FAMILIES = {
    "mixtral": Family(
        "MixtralTopKRouter",
        (r"\.block_sparse_moe\.experts\.\d+\.w[123]\.weight$", r"\.block_sparse_moe\.gate\.weight$"),
    ),
    "olmoe": Family("OlmoeTopKRouter", PER_EXPERT),
    "qwen2_moe": Family(
        "Qwen2MoeTopKRouter",
        (*PER_EXPERT, r"\.shared_expert\.up_proj\.weight$", r"\.shared_expert_gate\.weight$"),
        v5_only=("layer_types",),
    ),
    "qwen3_moe": Family(
        "Qwen3MoeTopKRouter", (*PER_EXPERT, r"\.q_norm\.weight$"),
        hub_names={"num_local_experts": "num_experts"},
    ),
    "granitemoe": Family(
        "GraniteMoeTopKRouter",
        (r"\.block_sparse_moe\.(input|output)_linear\.weight$", r"\.block_sparse_moe\.router\.layer\.weight$"),
        init={"router_gain": 1.5, "gain": 1.5},
    ),
    "hunyuan_v1_moe": Family(
        "HunYuanMoEV1Gate",
        (PER_EXPERT[0], r"\.mlp\.gate\.wg\.weight$", r"\.shared_mlp\.up_proj\.weight$", r"\.query_layernorm\.weight$"),
        hub_names={"num_local_experts": "num_experts", "num_experts_per_tok": "moe_topk"},
    ),
    "flex_olmo": Family(
        "FlexOlmoTopKRouter", (*PER_EXPERT, r"\.post_feedforward_layernorm\.weight$"),
        hub_names={"num_local_experts": "num_experts"}, init={"router_gain": 0.7},
    ),
    "afmoe": Family(
        "AfmoeTokenChoiceRouter",
        (PER_EXPERT[0], r"\.mlp\.router\.gate\.weight$", r"\.mlp\.expert_bias$", r"\.self_attn\.gate_proj\.weight$"),
        gap=biased_gap,
    ),
    "phimoe": Family(
        "PhimoeTopKRouter",
        (r"\.block_sparse_moe\.experts\.\d+\.w[123]\.weight$", r"\.block_sparse_moe\.gate\.weight$",
         r"\.input_layernorm\.bias$"),
        init={"router_gain": 2.5}, gap=mixer_gap,
    ),
    "gemma4": Family(
        "Gemma4TextRouter",
        (r"\.experts\.gate_up_proj$", r"\.router\.per_expert_scale$", r"\.layer_scalar$"),
        init={"router_gain": 11.0, "embed_gain": 0.35, "final_norm": 6.0}, model_type="gemma4_text", fused=True,
        nested_rope=True,
    ),
    "llama4": Family(
        "Llama4Router",
        (r"\.feed_forward\.experts\.gate_up_proj$", r"\.feed_forward\.shared_expert\.up_proj\.weight$"),
        model_type="llama4_text", routing=llama4, fused=True,
    ),
    "dbrx": Family(
        "DbrxRouter",
        (r"\.ffn\.experts\.mlp\.(w1|v1|w2)$", r"\.norm_attn_norm\.attn\.Wqkv\.weight$"),
        layers="transformer.blocks", routing=dbrx,
    ),
}


def base(hidden=32, layers=2, heads=4, kv=2, vocab=128, **rest) -> dict:
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "vocab_size": vocab, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": None, **rest,
    }


def rope(kind="default", theta=10000.0, **rest) -> dict:
    return {"rope_type": kind, "rope_theta": theta, **rest}


LLAMA3 = rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
YARN = rope("yarn", 1e6, factor=4.0, original_max_position_embeddings=64)
GRANITE = {"embedding_multiplier": 6.0, "logits_scaling": 0.3, "residual_multiplier": 0.6, "attention_multiplier": 0.25}
GRANITE_TIED = {"embed_gain": 0.23, "final_norm": 3.0}

CASES = [
    Case("mixtral", "mixtral", base(
        intermediate_size=20, num_local_experts=8, num_experts_per_tok=2, rope_parameters=rope(theta=1e6))),
    Case("mixtral_window", "mixtral", base(
        hidden=24, heads=6, kv=3, head_dim=8, intermediate_size=20, num_local_experts=6, num_experts_per_tok=2,
        sliding_window=7, rms_norm_eps=1e-2, rope_parameters=rope("linear", 1e4, factor=2.5)),
        inert={"use_sliding_window": False, "max_window_layers": 0}),
    Case("mixtral_bf16_shards", "mixtral", base(
        hidden=40, layers=3, heads=4, kv=1, vocab=136, intermediate_size=28, num_local_experts=5,
        num_experts_per_tok=3, rope_parameters=rope(theta=1e6)),
        style="v5", dtype="bf16", shards=3, lengths=(1, 9, 30)),
    Case("olmoe", "olmoe", base(
        kv=4, intermediate_size=12, num_experts=16, num_experts_per_tok=4, norm_topk_prob=False,
        rope_parameters=rope())),
    Case("olmoe_clip_tied", "olmoe", base(
        hidden=48, heads=6, kv=3, intermediate_size=12, num_experts=10, num_experts_per_tok=3, norm_topk_prob=True,
        clip_qkv=0.8, tie_word_embeddings=True, rms_norm_eps=1e-3, rope_parameters=LLAMA3),
        style="v5"),
    Case("qwen2_moe", "qwen2_moe", base(
        intermediate_size=40, moe_intermediate_size=16, shared_expert_intermediate_size=24, num_experts=8,
        num_experts_per_tok=3, norm_topk_prob=False, rope_parameters=rope(theta=1e6)),
        inert={"sliding_window": 5, "use_sliding_window": False, "max_window_layers": 2}),
    Case("qwen2_moe_window_dense", "qwen2_moe", base(
        hidden=32, layers=6, heads=8, kv=4, intermediate_size=24, moe_intermediate_size=10,
        shared_expert_intermediate_size=14, num_experts=6, num_experts_per_tok=2, norm_topk_prob=True,
        use_sliding_window=True, sliding_window=6, max_window_layers=3, decoder_sparse_step=2, mlp_only_layers=[3],
        rope_parameters=rope(theta=1e6)),
        lengths=(1, 9, 30)),
    Case("qwen2_moe_v5_nobias", "qwen2_moe", base(
        hidden=32, layers=3, heads=2, kv=1, vocab=120, intermediate_size=24, moe_intermediate_size=8,
        shared_expert_intermediate_size=20, num_experts=9, num_experts_per_tok=4, norm_topk_prob=True,
        use_sliding_window=True, sliding_window=9, max_window_layers=2, qkv_bias=False, rms_norm_eps=1e-2,
        rope_parameters=rope(theta=1e4)),
        style="v5", dtype="f16", lengths=(1, 9, 30)),
    Case("qwen3_moe", "qwen3_moe", base(
        intermediate_size=40, moe_intermediate_size=16, head_dim=16, num_experts=8, num_experts_per_tok=3,
        norm_topk_prob=True, rope_parameters=rope(theta=1e6)),
        inert={"sliding_window": 5, "use_sliding_window": False, "max_window_layers": 0}),
    Case("qwen3_moe_yarn_odd", "qwen3_moe", base(
        hidden=48, layers=3, heads=5, kv=1, head_dim=10, vocab=131, intermediate_size=28, moe_intermediate_size=20,
        num_experts=7, num_experts_per_tok=3, norm_topk_prob=False, tie_word_embeddings=True, attention_bias=True,
        decoder_sparse_step=2, rms_norm_eps=1e-3, rope_parameters=YARN)),
    Case("qwen3_moe_v5_window", "qwen3_moe", base(
        hidden=24, layers=3, heads=4, kv=4, head_dim=8, vocab=112, intermediate_size=20, moe_intermediate_size=8,
        num_experts=12, num_experts_per_tok=4, norm_topk_prob=True, use_sliding_window=True, sliding_window=5,
        mlp_only_layers=[0], rope_parameters=rope("yarn", 1e4, factor=3.0, original_max_position_embeddings=48,
                                                  beta_fast=16.0, beta_slow=2.0, truncate=False)),
        style="v5", dtype="bf16", lengths=(1, 9, 30)),
    Case("granitemoe", "granitemoe", base(
        intermediate_size=16, num_local_experts=8, num_experts_per_tok=3, tie_word_embeddings=True,
        rope_parameters=rope(), **GRANITE),
        init=GRANITE_TIED),
    Case("granitemoe_untied_bias", "granitemoe", base(
        hidden=40, layers=2, heads=5, kv=5, intermediate_size=10, num_local_experts=10, num_experts_per_tok=4,
        embedding_multiplier=3, logits_scaling=2.5, residual_multiplier=0.22, attention_multiplier=0.5,
        attention_bias=True, rms_norm_eps=1e-3, rope_parameters=rope("linear", 1e4, factor=4.0)),
        init={"head_gain": 6.0, "gain": 3.0}),
    Case("granitemoe_v5_llama3_shards", "granitemoe", base(
        hidden=32, layers=3, heads=4, kv=1, intermediate_size=9, num_local_experts=7, num_experts_per_tok=2,
        tie_word_embeddings=True, rope_parameters=LLAMA3, **GRANITE),
        style="v5", shards=2, lengths=(1, 9, 30), init=GRANITE_TIED),
    Case("hunyuan_v1_moe", "hunyuan_v1_moe", base(
        layers=3, intermediate_size=16, head_dim=8, num_experts=8, moe_topk=[1, 3, 2], tie_word_embeddings=True,
        rope_parameters=rope("dynamic", alpha=1000.0, factor=1.0)),
        inert={"num_shared_expert": [1, 1, 1], "moe_intermediate_size": [16, 16, 16], "use_mixed_mlp_moe": True,
               "use_qk_norm": True, "use_cla": False, "moe_drop_tokens": False}),
    Case("flex_olmo", "flex_olmo", base(
        heads=4, kv=2, intermediate_size=16, num_experts=7, num_experts_per_tok=3, rope_parameters=rope(theta=5e5))),
    Case("afmoe", "afmoe", base(
        layers=4, intermediate_size=24, moe_intermediate_size=12, head_dim=8, num_experts=8, num_experts_per_tok=3,
        num_shared_experts=2, num_dense_layers=1, route_scale=2.448, global_attn_every_n_layers=2, sliding_window=8,
        mup_enabled=True, rope_parameters=rope()),
        dtype="bf16", shards=2, lengths=(1, 9, 30)),
    Case("phimoe", "phimoe", base(
        intermediate_size=16, num_local_experts=8, attention_bias=True, lm_head_bias=True, router_jitter_noise=0.01,
        rope_parameters=rope("longrope", 1e4, short_factor=[1.0, 1.3, 1.9, 2.7], long_factor=[1.5, 2.5, 4.0, 8.0],
                             short_mscale=1.1, long_mscale=1.25, original_max_position_embeddings=128)),
        inert={"input_jitter_noise": 0.01}),
    Case("gemma4", "gemma4", base(
        layers=3, intermediate_size=24, moe_intermediate_size=12, head_dim=8, num_experts=8, top_k_experts=3,
        enable_moe_block=True, hidden_size_per_layer_input=0, attention_k_eq_v=True, global_head_dim=16,
        num_global_key_value_heads=1, sliding_window=8, final_logit_softcapping=30.0,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"], tie_word_embeddings=True,
        rope_parameters={"sliding_attention": rope(),
                         "full_attention": rope("proportional", 1e6, partial_rotary_factor=0.25)})),
    Case("llama4", "llama4", base(
        layers=4, intermediate_size=12, intermediate_size_mlp=20, head_dim=8, num_local_experts=8,
        num_experts_per_tok=1, interleave_moe_layer_step=2, attention_chunk_size=6, floor_scale=4, attn_scale=0.3,
        rope_parameters=LLAMA3)),
    Case("dbrx", "dbrx", {
        "d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 128, "max_seq_len": 256, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": None, "rope_parameters": rope(theta=5e5),
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 0.7, "rope_theta": 5e5},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 8, "moe_top_k": 3}}),
]


def other_rope(value: dict) -> dict:
    if "rope_type" not in value:
        return {kind: other_rope(inner) for kind, inner in value.items()}
    theta = value["rope_theta"]
    return rope(theta=theta * 10) if value["rope_type"] == "default" else rope(theta=theta)


# Settings without a tensor of their own: setting -> another value that must give other logits.
SETTINGS: dict[str, Callable] = {
    "attention_chunk_size": lambda v: v + 1,
    "attn_scale": lambda v: v * 2,
    "final_logit_softcapping": lambda v: v * 0.5,
    "floor_scale": lambda v: v + 1,
    "mup_enabled": lambda v: not v,
    "route_scale": lambda v: v * 0.5,
    "router_jitter_noise": lambda v: v * 10,
    "top_k_experts": lambda v: v - 1,
    "attention_multiplier": lambda v: v * 0.5,
    "clip_qkv": lambda v: None,
    "embedding_multiplier": lambda v: v * 0.5,
    "hidden_act": lambda v: "relu",
    "logits_scaling": lambda v: v * 0.5,
    "max_window_layers": lambda v: 0,
    "norm_topk_prob": lambda v: not v,
    "num_experts_per_tok": lambda v: v - 1 if v > 1 else 2,
    "residual_multiplier": lambda v: v * 0.5,
    "rms_norm_eps": lambda v: 1e-6,
    "rope_parameters": other_rope,
    "sliding_window": lambda v: v + 1,
    "use_sliding_window": lambda v: not v,
}
