//! Models of random weights, on disk.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// The numbers of a made-up OLMoE.
#[derive(Clone, Copy)]
pub(crate) struct MadeUp {
    pub(crate) layers: usize,
    pub(crate) experts: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
}

const VOCAB: usize = 64;
const TOP_K: usize = 4;

impl MadeUp {
    /// Writes it into `dir`, all in f32, and returns the file of its weights. No more than a buffer of it is ever in memory:
    /// the system may count the memory of whoever starts a program to that program.
    pub(crate) fn write(&self, dir: &Path) -> PathBuf {
        std::fs::write(dir.join("config.json"), self.config().to_string()).expect("config.json");
        let (mut header, mut end) = (Map::new(), 0usize);
        let tensors = self.tensors();
        for (name, shape) in &tensors {
            let begin = end;
            end += 4 * shape.iter().product::<usize>();
            let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, end] });
            header.insert(name.clone(), entry);
        }
        let path = dir.join("model.safetensors");
        let mut file = BufWriter::new(File::create(&path).expect("a file"));
        let header = Value::from(header).to_string();
        file.write_all(&(header.len() as u64).to_le_bytes()).expect("room");
        file.write_all(header.as_bytes()).expect("room");
        let mut state = 1u64;
        for (name, shape) in &tensors {
            let is_norm = name.ends_with("norm.weight");
            for _ in 0..shape.iter().product() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let value = if is_norm { 1.0 } else { (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5 };
                file.write_all(&value.to_le_bytes()).expect("room");
            }
        }
        file.flush().expect("room");
        path
    }

    fn config(&self) -> Value {
        json!({
            "model_type": "olmoe", "vocab_size": VOCAB, "hidden_size": self.hidden,
            "intermediate_size": self.intermediate, "num_hidden_layers": self.layers, "num_attention_heads": 4,
            "num_key_value_heads": 4, "num_experts": self.experts, "num_experts_per_tok": TOP_K,
            "norm_topk_prob": false, "max_position_embeddings": 256, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": true,
        })
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let MadeUp { layers, experts, hidden, intermediate } = *self;
        let mut out = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, hidden])];
        for layer in 0..layers {
            let mut add = |name: String, shape: &[usize]| {
                out.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
            };
            for norm in
                ["input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"]
            {
                add(norm.into(), &[hidden]);
            }
            for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                add(format!("self_attn.{part}"), &[hidden, hidden]);
            }
            add("mlp.gate".into(), &[experts, hidden]);
            for expert in 0..experts {
                add(format!("mlp.experts.{expert}.gate_proj"), &[intermediate, hidden]);
                add(format!("mlp.experts.{expert}.up_proj"), &[intermediate, hidden]);
                add(format!("mlp.experts.{expert}.down_proj"), &[hidden, intermediate]);
            }
        }
        out.push(("model.norm.weight".into(), vec![hidden]));
        out
    }
}
