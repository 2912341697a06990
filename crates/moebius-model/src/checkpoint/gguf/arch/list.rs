//! The table of architectures.

mod kinds;

use super::{Arch, more, said};

/// Keys that every architecture has.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
    ("expert_used_count", "num_experts_per_tok"),
];

/// Tensors outside of layers.
pub(super) const OUTER_NAMES: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Tensors of a layer.
pub(super) const BLOCK_NAMES: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate_inp", "mlp.gate"),
    ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
    ("attn_q_a", "self_attn.q_a_proj"),
    ("attn_q_a_norm", "self_attn.q_a_layernorm"),
    ("attn_q_b", "self_attn.q_b_proj"),
    ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
    ("attn_kv_b", "self_attn.kv_b_proj"),
    ("attn_k_b", "self_attn.k_b_proj"),
    ("attn_v_b", "self_attn.v_b_proj"),
];

/// What most architectures are alike in.
const USUAL: Arch = Arch {
    name: "",
    model_type: "",
    also: &[],
    keys: &[],
    fixed: "{}",
    names: &[],
    outer: &[],
    layers: "model.layers",
    joined: &[],
    norms_plus_one: false,
    sigmoid: None,
    tables: false,
    paired: false,
    read: more::nothing,
    write: said::nothing_else,
};

/// The keys of DeepSeek-V3's followers.
const SIGMOID_KEYS: &[(&str, &str)] = &[
    ("attention.key_length", "head_dim"),
    ("expert_count", "n_routed_experts"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_weights_scale", "routed_scaling_factor"),
    ("expert_weights_norm", "norm_topk_prob"),
    ("expert_group_count", "n_group"),
    ("expert_group_used_count", "topk_group"),
    ("leading_dense_block_count", "first_k_dense_replace"),
    ("nextn_predict_layers", "num_nextn_predict_layers"),
];

/// The keys of DeepSeek's own models, besides those that [`more`] reads.
const LATENT_KEYS: &[(&str, &str)] = &[
    ("expert_count", "n_routed_experts"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_weights_scale", "routed_scaling_factor"),
    ("expert_weights_norm", "norm_topk_prob"),
    ("expert_group_count", "n_group"),
    ("expert_group_used_count", "topk_group"),
    ("leading_dense_block_count", "first_k_dense_replace"),
    ("attention.q_lora_rank", "q_lora_rank"),
    ("attention.kv_lora_rank", "kv_lora_rank"),
    ("rope.dimension_count", "qk_rope_head_dim"),
    ("nextn_predict_layers", "num_nextn_predict_layers"),
];

/// The keys of the Granite line.
const GRANITE_KEYS: &[(&str, &str)] = &[
    ("expert_count", "num_local_experts"),
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
];

/// Every architecture. Where models of one are of several families, [`more`] tells which.
pub(super) fn architectures() -> impl Iterator<Item = &'static Arch> {
    ALIKE.iter().chain(kinds::OWN)
}

/// Architectures whose layers are alike, but for experts.
const ALIKE: &[Arch] = &[
    Arch {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        keys: &[
            ("attention.key_length", "head_dim"),
            ("expert_count", "num_experts"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
        ],
        fixed: r#"{"norm_topk_prob": true}"#,
        read: more::width_of_experts,
        ..USUAL
    },
    Arch {
        name: "olmoe",
        model_type: "olmoe",
        keys: &[("expert_count", "num_experts"), ("attention.clamp_kqv", "clip_qkv")],
        fixed: r#"{"norm_topk_prob": false}"#,
        ..USUAL
    },
    Arch {
        name: "qwen2moe",
        model_type: "qwen2_moe",
        keys: &[
            ("expert_count", "num_experts"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
            ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
        ],
        fixed: r#"{"norm_topk_prob": false}"#,
        names: &[
            ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
            ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
            ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
            ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
        ],
        read: more::qwen2,
        ..USUAL
    },
    Arch {
        name: "llama",
        model_type: "mixtral",
        keys: &[("attention.key_length", "head_dim"), ("expert_count", "num_local_experts")],
        fixed: r#"{"sliding_window": null}"#,
        names: &[("ffn_gate_inp", "block_sparse_moe.gate")],
        tables: true,
        paired: true,
        read: more::mixtral,
        ..USUAL
    },
    Arch {
        name: "granitemoe",
        model_type: "granitemoe",
        keys: GRANITE_KEYS,
        names: &[
            ("ffn_gate_inp", "block_sparse_moe.router.layer"),
            ("ffn_down_shexp", "shared_mlp.output_linear"),
        ],
        joined: &[("shared_mlp.input_linear", &["ffn_gate_shexp", "ffn_up_shexp"])],
        also: &["granitemoeshared"],
        tables: true,
        paired: true,
        read: more::granite,
        write: said::granite,
        ..USUAL
    },
    Arch {
        name: "gpt-oss",
        model_type: "gpt_oss",
        keys: &[
            ("attention.key_length", "head_dim"),
            ("attention.sliding_window", "sliding_window"),
            ("expert_count", "num_local_experts"),
            ("expert_feed_forward_length", "intermediate_size"),
        ],
        fixed: r#"{"attention_bias": true, "swiglu_limit": 7.0}"#,
        names: &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("attn_sinks.weight", "self_attn.sinks"),
            ("ffn_gate_inp", "mlp.router"),
        ],
        read: more::gpt_oss,
        write: said::window,
        ..USUAL
    },
    Arch {
        name: "deepseek2",
        model_type: "deepseek_v2",
        also: &["deepseek_v3", "glm4_moe_lite"],
        keys: LATENT_KEYS,
        read: more::latent,
        write: said::latent,
        ..USUAL
    },
    Arch {
        name: "dots1",
        model_type: "dots1",
        keys: SIGMOID_KEYS,
        fixed: r#"{"sliding_window": null}"#,
        ..USUAL
    },
    Arch {
        name: "glm4moe",
        model_type: "glm4_moe",
        keys: SIGMOID_KEYS,
        fixed: r#"{"attention_bias": true}"#,
        names: &[("post_attention_norm", "post_attention_layernorm")],
        read: more::glm,
        ..USUAL
    },
    Arch {
        name: "minimax-m2",
        model_type: "minimax_m2",
        keys: &[
            ("attention.key_length", "head_dim"),
            ("expert_count", "num_local_experts"),
            ("rope.dimension_count", "rotary_dim"),
        ],
        names: &[
            ("ffn_gate_inp", "block_sparse_moe.gate"),
            ("exp_probs_b.bias", "block_sparse_moe.e_score_correction_bias"),
        ],
        ..USUAL
    },
    Arch {
        name: "ernie4_5-moe",
        model_type: "ernie4_5_moe",
        keys: &[
            ("expert_count", "moe_num_experts"),
            ("expert_used_count", "moe_k"),
            ("expert_shared_count", "moe_num_shared_experts"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
            ("interleave_moe_layer_step", "moe_layer_interval"),
            ("leading_dense_block_count", "moe_layer_start_index"),
        ],
        names: &[("exp_probs_b.bias", "mlp.moe_statics.e_score_correction_bias")],
        read: more::ernie,
        write: said::ernie,
        ..USUAL
    },
    Arch {
        name: "hunyuan-moe",
        model_type: "hunyuan_v1_moe",
        keys: &[
            ("attention.key_length", "head_dim"),
            ("expert_count", "num_experts"),
            ("expert_used_count", "moe_topk"),
            ("expert_shared_count", "num_shared_expert"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
        ],
        names: &[
            ("attn_q_norm", "self_attn.query_layernorm"),
            ("attn_k_norm", "self_attn.key_layernorm"),
            ("ffn_gate_inp", "mlp.gate.wg"),
            ("ffn_gate_shexp", "mlp.shared_mlp.gate_proj"),
            ("ffn_up_shexp", "mlp.shared_mlp.up_proj"),
            ("ffn_down_shexp", "mlp.shared_mlp.down_proj"),
        ],
        read: more::hunyuan,
        ..USUAL
    },
    Arch {
        name: "lfm2moe",
        model_type: "lfm2_moe",
        keys: &[
            ("attention.layer_norm_rms_epsilon", "norm_eps"),
            ("shortconv.l_cache", "conv_L_cache"),
            ("expert_count", "num_experts"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
            ("leading_dense_block_count", "num_dense_layers"),
        ],
        names: &[
            ("attn_norm", "operator_norm"),
            ("attn_output", "self_attn.out_proj"),
            ("attn_q_norm", "self_attn.q_layernorm"),
            ("attn_k_norm", "self_attn.k_layernorm"),
            ("ffn_norm", "ffn_norm"),
            ("ffn_gate_inp", "feed_forward.gate"),
            ("exp_probs_b.bias", "feed_forward.expert_bias"),
            ("ffn_gate", "feed_forward.w1"),
            ("ffn_up", "feed_forward.w3"),
            ("ffn_down", "feed_forward.w2"),
            ("shortconv.conv", "conv.conv"),
            ("shortconv.in_proj", "conv.in_proj"),
            ("shortconv.out_proj", "conv.out_proj"),
        ],
        outer: &[("token_embd_norm", "model.embedding_norm"), ("output_norm", "model.embedding_norm")],
        read: more::lfm2,
        write: said::lfm2,
        ..USUAL
    },
    Arch {
        name: "bailingmoe2",
        model_type: "bailing_moe",
        keys: &[
            ("attention.key_length", "head_dim"),
            ("expert_count", "num_experts"),
            ("expert_shared_count", "num_shared_experts"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
            ("expert_weights_scale", "routed_scaling_factor"),
            ("expert_weights_norm", "norm_topk_prob"),
            ("expert_group_count", "n_group"),
            ("expert_group_used_count", "topk_group"),
            ("leading_dense_block_count", "first_k_dense_replace"),
            ("nextn_predict_layers", "num_nextn_predict_layers"),
        ],
        sigmoid: Some(true),
        fixed: r#"{"score_function": "sigmoid", "use_qk_norm": true}"#,
        names: &[
            ("attn_qkv", "attention.query_key_value"),
            ("attn_output", "attention.dense"),
            ("attn_q_norm", "attention.query_layernorm"),
            ("attn_k_norm", "attention.key_layernorm"),
            ("exp_probs_b.bias", "mlp.gate.expert_bias"),
        ],
        outer: &[("token_embd", "model.word_embeddings")],
        read: more::bailing,
        ..USUAL
    },
];
