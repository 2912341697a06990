//! Sequences of models whose layers keep states: forked, truncated and read again, they continue with the same bits.

use std::sync::Arc;

use moebius_backend::Backend;
use moebius_backend_cpu::{CpuBackend, CpuOptions};
use moebius_metering::Meter;
use moebius_model::{
    Error, HeldFormats, KvCache, Model, ModelFiles, Outputs, RandomWeights, SequenceId, TokenBatch, Watch,
};
use serde_json::{Value, json};

/// Sizes that all of the models share.
fn with(model_type: &str, more: Value) -> String {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 64, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"], "max_position_embeddings": 128,
    });
    let all = config.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    all.retain(|_, value| !value.is_null());
    config.to_string()
}

/// One model for each kind of state.
fn configs() -> Vec<String> {
    let delta_net = json!({
        "num_experts": 4, "shared_expert_intermediate_size": 16, "head_dim": 8, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "partial_rotary_factor": 0.5,
    });
    let mamba2 = json!({
        "num_local_experts": 4, "shared_intermediate_size": 16, "mamba_n_heads": 8, "mamba_d_state": 16,
    });
    let mamba = json!({
        "num_experts": 4, "layer_types": null, "attn_layer_period": 3, "attn_layer_offset": 1, "mamba_d_state": 4,
    });
    let short_conv = json!({ "num_experts": 4, "layer_types": ["conv", "full_attention", "conv"] });
    vec![
        with("qwen3_next", delta_net),
        with("granitemoehybrid", mamba2),
        with("jamba", mamba),
        with("lfm2_moe", short_conv),
    ]
}

struct Reader {
    model: Box<dyn Model>,
    cache: KvCache,
}

impl Reader {
    fn open(config: &str) -> Self {
        let options = CpuOptions { threads: Some(2), ..CpuOptions::default() };
        let backend: Arc<dyn Backend> = Arc::new(CpuBackend::new(options).unwrap());
        let weights = RandomWeights { layers: None, context: 128, seed: 7 };
        let files = ModelFiles::random(config, &weights, None, &backend).unwrap().hold(HeldFormats::AsStored);
        let model = files.load(&backend, &|_| ()).unwrap();
        let cache = KvCache::new(model.cache_spec().clone(), &backend.info().device);
        Reader { model, cache }
    }

    /// Reads `tokens`, and gives the logits after the last.
    fn read(&mut self, id: SequenceId, tokens: &[u32]) -> Vec<f32> {
        self.read_all(&[(id, tokens)])
    }

    /// Reads tokens of several sequences in one batch.
    fn read_all(&mut self, parts: &[(SequenceId, &[u32])]) -> Vec<f32> {
        let mut batch = TokenBatch::new();
        for &(id, tokens) in parts {
            batch.push(id, tokens, self.cache.len(id), Outputs::Last);
        }
        let meter = Meter::new();
        let mut watch = Watch { meter: &meter, probe: None };
        let logits = self.model.forward(&batch, &mut self.cache, &mut watch).unwrap();
        logits.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The logits of a sequence of its own that reads `tokens`.
    fn alone(&mut self, tokens: &[u32]) -> Vec<f32> {
        let id = self.cache.open();
        let logits = self.read(id, tokens);
        self.cache.close(id);
        logits
    }
}

#[test]
fn a_fork_continues_as_if_it_had_read_everything_itself() {
    for config in configs() {
        let mut reader = Reader::open(&config);
        let whole = reader.alone(&[3, 9, 4, 4, 17, 60, 2, 8, 30]);
        let other = reader.alone(&[3, 9, 4, 4, 17, 60, 5]);
        assert_ne!(whole, other, "{config}");
        let first = reader.cache.open();
        reader.read(first, &[3, 9, 4, 4, 17, 60]);
        let fork = reader.cache.fork(first).unwrap();
        assert_eq!(reader.read(first, &[5]), other, "{config}");
        assert_eq!(reader.read(fork, &[2, 8, 30]), whole, "{config}");
    }
}

#[test]
fn sequences_in_a_batch_keep_their_states_apart() {
    for config in configs() {
        let mut reader = Reader::open(&config);
        let alone = [reader.alone(&[3, 9, 4, 4, 17, 60]), reader.alone(&[40, 1, 7])].concat();
        let (first, second) = (reader.cache.open(), reader.cache.open());
        reader.read_all(&[(first, &[3, 9]), (second, &[40, 1])]);
        assert_eq!(reader.read_all(&[(first, &[4, 4, 17, 60]), (second, &[7])]), alone, "{config}");
    }
}

#[test]
fn a_sequence_with_states_is_truncated_to_nothing_or_not_at_all() {
    for config in configs() {
        let mut reader = Reader::open(&config);
        let id = reader.cache.open();
        let logits = reader.read(id, &[3, 9, 4, 4]);
        let refused = reader.cache.truncate(id, 2);
        assert!(matches!(refused, Err(Error::Truncate { layer: 0, from: 4, to: 2 })), "{config}");
        reader.cache.truncate(id, 0).unwrap();
        assert_eq!(reader.read(id, &[3, 9, 4, 4]), logits, "{config}");
    }
}
