"""The tables of make_goldens.py: families, cases, the spread of the random tensors, and the settings to probe.

To add a family, add one entry to FAMILIES; to add a case, one entry to CASES.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable


@dataclass(frozen=True)
class Family:
    """What a family adds to the common procedure."""

    router: str  # class name of the router module; its output is (logits, weights, experts)
    on_disk: tuple[str, ...]  # patterns of tensor names that a hub checkpoint has
    hub_names: dict[str, str] = field(default_factory=dict)  # config key of transformers 5 -> key on the hub
    v5_only: tuple[str, ...] = ()  # config keys that hub configurations lack
    init: dict[str, float] = field(default_factory=dict)  # changes to INIT


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
]


def other_rope(value: dict) -> dict:
    theta = value["rope_theta"]
    return rope(theta=theta * 10) if value["rope_type"] == "default" else rope(theta=theta)


# Settings without a tensor of their own: setting -> another value that must give other logits.
SETTINGS: dict[str, Callable] = {
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
