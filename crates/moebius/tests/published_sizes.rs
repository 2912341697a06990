//! Parameter counts of released models, from their published config.json alone.

mod support;

use moebius::inspect;
use serde_json::{Value, json};
use support::Scratch;

/// Checks billions of parameters, in all and for one token, to the digits given.
#[track_caller]
fn check(config: Value, total: &str, active: &str) {
    let (info, _) = inspect(Scratch::config_only(&config).path(), None).unwrap();
    let billions = |count: u64, like: &str| {
        let digits = like.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        format!("{:.digits$}", count as f64 / 1e9)
    };
    assert_eq!(billions(info.total_parameters(), total), total);
    assert_eq!(billions(info.active_parameters(), active), active);
    assert_eq!(info.weight_bytes(), None);
}

#[test]
fn mixtral_8x7b_counts_as_published() {
    let config = json!({
        "model_type": "mixtral", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_experts_per_tok": 2,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "sliding_window": null, "tie_word_embeddings": false, "vocab_size": 32000
    });
    check(config, "46.7", "12.9");
}

#[test]
fn qwen3_30b_a3b_counts_as_published() {
    let config = json!({
        "model_type": "qwen3_moe", "attention_bias": false, "decoder_sparse_step": 1, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
        "max_window_layers": 48, "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": true,
        "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 1e6,
        "sliding_window": null, "tie_word_embeddings": false, "use_sliding_window": false, "vocab_size": 151936
    });
    check(config, "30.53", "3.35");
}

#[test]
fn olmoe_1b_7b_counts_as_published() {
    let config = json!({
        "model_type": "olmoe", "attention_bias": false, "clip_qkv": null, "hidden_act": "silu",
        "hidden_size": 2048, "intermediate_size": 1024, "max_position_embeddings": 4096,
        "norm_topk_prob": false, "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8,
        "num_hidden_layers": 16, "num_key_value_heads": 16, "rope_theta": 1e4,
        "tie_word_embeddings": false, "vocab_size": 50304
    });
    check(config, "6.9", "1.3");
}

#[test]
fn qwen1_5_moe_a2_7b_counts_as_published() {
    let config = json!({
        "model_type": "qwen2_moe", "decoder_sparse_step": 1, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 5632, "max_position_embeddings": 8192, "max_window_layers": 21,
        "moe_intermediate_size": 1408, "norm_topk_prob": false, "num_attention_heads": 16,
        "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "shared_expert_intermediate_size": 5632,
        "sliding_window": 32768, "tie_word_embeddings": false, "use_sliding_window": false,
        "vocab_size": 151936
    });
    check(config, "14.3", "2.7");
}

#[test]
fn granite_3_1_1b_a400m_counts_as_published() {
    let config = json!({
        "model_type": "granitemoe", "attention_bias": false, "attention_multiplier": 0.015625,
        "embedding_multiplier": 12.0, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 512,
        "logits_scaling": 6.0, "max_position_embeddings": 131072, "num_attention_heads": 16,
        "num_experts_per_tok": 8, "num_hidden_layers": 24, "num_key_value_heads": 8,
        "num_local_experts": 32, "residual_multiplier": 0.22, "rms_norm_eps": 1e-6, "rope_scaling": null,
        "rope_theta": 1500000.0, "tie_word_embeddings": true, "vocab_size": 49155
    });
    check(config, "1.33", "0.43");
}
