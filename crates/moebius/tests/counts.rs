//! What the meter counts for published shapes, against a count from the numbers of their config.json alone.

use moebius::bench::Shape;
use moebius::metering::{Counts, Part, Work};
use moebius::{DryModel, OpenOptions};
use serde_json::Value;

const PROMPT: u64 = 5;
const BATCH: u64 = 2;
const STEPS: u64 = 3;
// Bytes of a weight, and of a number in the cache.
const BF16: u64 = 2;
const F32: u64 = 4;

/// What one layer of attention is.
struct Attention {
    /// Multiply-adds of its projections for a token, which are also its weights.
    projections: u64,
    /// Multiply-adds for a pair of query and key.
    pair: u64,
    /// Numbers that the cache keeps of a token.
    row: u64,
}

/// A model from its config.json, by hand.
struct ByHand {
    hidden: u64,
    vocab: u64,
    layers: u64,
    attention: Attention,
    dense_layers: u64,
    dense_width: u64,
    n_experts: u64,
    top_k: u64,
    expert_width: u64,
    shared_width: u64,
}

fn counted(name: &str) -> (Value, [Counts; 2]) {
    let shape = Shape::find(name).unwrap();
    let options = OpenOptions { format: "bf16".parse().unwrap(), ..OpenOptions::default() };
    let mut model = DryModel::open(&shape, &options).unwrap();
    let counts = model.generate(PROMPT as usize, BATCH as usize, STEPS as usize).unwrap();
    (serde_json::from_str(shape.config()).unwrap(), counts)
}

fn number(config: &Value, key: &str) -> u64 {
    config[key].as_u64().unwrap_or_else(|| panic!("{key} in {config}"))
}

/// Queries, keys and values with heads of their own.
fn grouped(config: &Value, head_dim: u64) -> Attention {
    let hidden = number(config, "hidden_size");
    let (queries, keys) =
        (number(config, "num_attention_heads") * head_dim, number(config, "num_key_value_heads") * head_dim);
    Attention { projections: hidden * (2 * queries + 2 * keys), pair: 2 * queries, row: 2 * keys }
}

/// Sums over the tokens of both sequences: pairs of a query and a key, and rows of the cache that a pass looks at.
fn seen(positions: std::ops::Range<u64>, one_pass: bool) -> (u64, u64) {
    let pairs: u64 = positions.clone().map(|position| position + 1).sum();
    let rows = if one_pass { positions.end } else { pairs };
    (BATCH * pairs, BATCH * rows)
}

impl ByHand {
    fn check(&self, [prompt, decode]: &[Counts; 2]) {
        let seen = [seen(0..PROMPT, true), seen(PROMPT..PROMPT + STEPS, false)];
        // Of a prompt the last layer goes on with those rows alone whose logits are wanted.
        self.check_phase(prompt, (BATCH * PROMPT, BATCH, 1), seen[0]);
        self.check_phase(decode, (BATCH * STEPS, BATCH * STEPS, STEPS), seen[1]);
    }

    fn check_phase(&self, counts: &Counts, tokens: (u64, u64, u64), (pairs, rows): (u64, u64)) {
        let ByHand { hidden, vocab, layers, dense_layers, n_experts, top_k, .. } = *self;
        let (tokens, outputs, passes) = tokens;
        let matrix = |weights: u64, rows: u64| Work {
            macs: weights * rows,
            weight_bytes: BF16 * weights * passes,
            cache_bytes: 0,
        };
        let attention = Work {
            macs: self.attention.projections * tokens + self.attention.pair * pairs,
            cache_bytes: F32 * self.attention.row * rows,
            ..matrix(self.attention.projections, tokens)
        };
        let expert = 3 * hidden * self.expert_width;
        for layer in 0..layers {
            let got = &counts.layers[&(layer as usize)];
            let part = |part: Part| got.parts[part.index()];
            let rows = if layer + 1 == layers { outputs } else { tokens };
            assert_eq!(part(Part::Attention), attention, "attention of layer {layer}");
            if layer < dense_layers {
                assert_eq!(part(Part::Dense), matrix(3 * hidden * self.dense_width, rows), "layer {layer}");
                assert_eq!(part(Part::Experts), Work::default());
                continue;
            }
            assert_eq!(part(Part::Router), matrix(hidden * n_experts, rows), "router of layer {layer}");
            let shared = match self.shared_width {
                0 => Work::default(),
                width => matrix(3 * hidden * width, rows),
            };
            assert_eq!(part(Part::SharedExperts), shared, "shared experts of layer {layer}");
            let experts = got.experts;
            assert_eq!((experts.tokens, experts.pairs), (rows, rows * top_k));
            assert_eq!(got.tokens_per_expert.len() as u64, n_experts);
            assert_eq!(got.tokens_per_expert.iter().sum::<u64>(), experts.pairs);
            let touched = got.tokens_per_expert.iter().filter(|&&tokens| tokens > 0).count() as u64;
            match passes {
                1 => assert_eq!(experts.distinct, touched, "layer {layer}"),
                _ => assert!((touched..=rows * top_k).contains(&experts.distinct), "layer {layer}"),
            }
            let (macs, weight_bytes) = (rows * top_k * expert, BF16 * experts.distinct * expert);
            assert_eq!(part(Part::Experts), Work { macs, weight_bytes, cache_bytes: 0 }, "layer {layer}");
            assert_eq!(experts.iso_total_macs, rows * n_experts * expert);
            assert_eq!(experts.iso_total_weight_bytes, BF16 * passes * n_experts * expert);
            assert_eq!(experts.iso_active_weight_bytes, BF16 * passes * top_k * expert);
        }
        assert_eq!(counts.layers.len() as u64, layers);
        assert_eq!(counts.part(Part::LmHead), matrix(vocab * hidden, outputs));
        let looked_up = Work { weight_bytes: BF16 * hidden * tokens, ..Work::default() };
        assert_eq!(counts.part(Part::Other), looked_up);
    }
}

#[test]
fn olmoe_counts_as_its_configuration_says() {
    let (config, counts) = counted("olmoe-1b-7b");
    let hidden = number(&config, "hidden_size");
    let model = ByHand {
        hidden,
        vocab: number(&config, "vocab_size"),
        layers: number(&config, "num_hidden_layers"),
        attention: grouped(&config, hidden / number(&config, "num_attention_heads")),
        dense_layers: 0,
        dense_width: 0,
        n_experts: number(&config, "num_experts"),
        top_k: number(&config, "num_experts_per_tok"),
        expert_width: number(&config, "intermediate_size"),
        shared_width: 0,
    };
    model.check(&counts);
    // By hand once more: 16 layers of 4 · 2048² + 64 · 2048 + 8 · 3 · 2048 · 1024, and 50304 · 2048.
    let per_token = 16 * (4 * 2048 * 2048 + 64 * 2048 + 8 * 3 * 2048 * 1024) + 50304 * 2048;
    let scores = 16 * 2 * 2048 * (BATCH * (6 + 7 + 8));
    assert_eq!(counts[1].total().macs, BATCH * STEPS * per_token + scores);
}

#[test]
fn qwen3_30b_a3b_counts_as_its_configuration_says() {
    let (config, counts) = counted("qwen3-30b-a3b");
    let model = ByHand {
        hidden: number(&config, "hidden_size"),
        vocab: number(&config, "vocab_size"),
        layers: number(&config, "num_hidden_layers"),
        attention: grouped(&config, number(&config, "head_dim")),
        dense_layers: 0,
        dense_width: 0,
        n_experts: number(&config, "num_experts"),
        top_k: number(&config, "num_experts_per_tok"),
        expert_width: number(&config, "moe_intermediate_size"),
        shared_width: 0,
    };
    model.check(&counts);
}

#[test]
fn deepseek_v3_counts_as_its_configuration_says() {
    let (config, counts) = counted("deepseek-v3");
    let get = |key: &str| number(&config, key);
    let (hidden, heads, latent, rope) =
        (get("hidden_size"), get("num_attention_heads"), get("kv_lora_rank"), get("qk_rope_head_dim"));
    let (nope, value, query_rank) = (get("qk_nope_head_dim"), get("v_head_dim"), get("q_lora_rank"));
    let queries = hidden * query_rank + query_rank * heads * (nope + rope);
    let absorbed = heads * latent * (nope + value);
    let projections = queries + hidden * (latent + rope) + absorbed + heads * value * hidden;
    let model = ByHand {
        hidden,
        vocab: get("vocab_size"),
        layers: get("num_hidden_layers"),
        attention: Attention { projections, pair: heads * (2 * latent + rope), row: latent + rope },
        dense_layers: get("first_k_dense_replace"),
        dense_width: get("intermediate_size"),
        n_experts: get("n_routed_experts"),
        top_k: get("num_experts_per_tok"),
        expert_width: get("moe_intermediate_size"),
        shared_width: get("n_shared_experts") * get("moe_intermediate_size"),
    };
    model.check(&counts);
}

#[test]
fn every_published_shape_can_be_counted_and_decodes_with_its_active_parameters() {
    for shape in moebius::bench::SHAPES {
        let mut model = DryModel::open(shape, &OpenOptions::default()).unwrap();
        let [_, decode] = model.generate(1, 1, 1).unwrap();
        // Every weight that a token uses is a multiply-add of it; norms, biases and attention's scores are small.
        let (active, macs) = (model.info().active_without_embedding() as f64, decode.total().macs as f64);
        assert!((0.97..1.06).contains(&(macs / active)), "{}: {macs} for {active}", shape.name());
    }
}
