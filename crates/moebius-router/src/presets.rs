//! The published routing formulas, one constructor each, with an example to follow by hand.
//!
//! `l` are the logits of a token, `k` is `top_k`. The examples give logits as logarithms of odds: softmax of
//! `ln [4, 2, 1, 1]` is `[4, 2, 1, 1] / 8`, sigmoid of `ln(x)` is `x / (1 + x)`.
//!
//! Shapes: biases and scales are `[n_experts]`.
//! Invariants: the correction bias stays out until [`RouterConfig::with_selection_bias`] adds it, so a
//! checkpoint that lacks its bias cannot be mistaken for one that has it.

use crate::config::{GroupRank, Renormalize, RouterConfig, Score, Selection, WeightTarget};

/// What the DeepSeek-V3 line of models adds to the sum of the chosen scores.
pub(crate) const DEEPSEEK_EPS: f32 = 1e-20;

impl RouterConfig {
    /// R1: softmax over all experts, keep the `k` largest, renormalise.
    ///
    /// Mixtral (arXiv 2401.04088), Qwen3-MoE with `norm_topk_prob`, Qwen3-Next, Hunyuan. Equal to
    /// [`top_k_softmax`](Self::top_k_softmax) in exact arithmetic.
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let router = Router::new(0, RouterConfig::softmax_top_k(4, 2))?;
    /// let routing = router.route(&[4.0_f32, 2.0, 1.0, 1.0].map(f32::ln))?;
    /// // Probabilities 4/8 and 2/8 have the sum 6/8.
    /// assert_eq!(routing.experts(0), [0, 1]);
    /// assert!((routing.weights(0)[0] - 4.0 / 6.0).abs() < 1e-6);
    /// assert!((routing.weights(0)[1] - 2.0 / 6.0).abs() < 1e-6);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn softmax_top_k(n_experts: usize, top_k: usize) -> Self {
        let renormalize = Renormalize::Sum { eps: 0.0 };
        Self { renormalize, ..Self::plain(n_experts, top_k, Score::Softmax) }
    }

    /// R2: softmax over all experts, keep the `k` largest; the probabilities are the weights.
    ///
    /// OLMoE (arXiv 2409.02060), Qwen1.5-MoE, Qwen2-57B, Jamba; DeepSeek-V2-Lite (arXiv 2405.04434) with
    /// [`with_scale`](Self::with_scale). With `k = 1` it is Switch (arXiv 2101.03961) without its capacity.
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let router = Router::new(0, RouterConfig::softmax_probabilities(4, 2))?;
    /// let routing = router.route(&[4.0_f32, 2.0, 1.0, 1.0].map(f32::ln))?;
    /// assert!((routing.weights(0)[0] - 4.0 / 8.0).abs() < 1e-6);
    /// assert!((routing.weights(0)[1] - 2.0 / 8.0).abs() < 1e-6);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn softmax_probabilities(n_experts: usize, top_k: usize) -> Self {
        Self::plain(n_experts, top_k, Score::Softmax)
    }

    /// R3: keep the `k` largest logits, softmax over those.
    ///
    /// Shazeer et al. (arXiv 1701.06538), gpt-oss (its router bias is part of the logits), Granite, Aria,
    /// JetMoE.
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let router = Router::new(0, RouterConfig::top_k_softmax(4, 2))?;
    /// let routing = router.route(&[3.0_f32, 5.0, 2.0, 1.0].map(f32::ln))?;
    /// assert_eq!(routing.experts(0), [0, 1]);
    /// assert!((routing.weights(0)[0] - 3.0 / 8.0).abs() < 1e-6);
    /// assert!((routing.weights(0)[1] - 5.0 / 8.0).abs() < 1e-6);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn top_k_softmax(n_experts: usize, top_k: usize) -> Self {
        Self::plain(n_experts, top_k, Score::SoftmaxOverTopK)
    }

    /// R4: sigmoid; the best `keep` of `n_groups` groups by the sum of their two best biased scores; the `k`
    /// best biased scores inside them; the unbiased scores of these, over their sum.
    ///
    /// DeepSeek-V3 (arXiv 2412.19437), Kimi-K2, GLM-4.5, dots.llm1, Ling 2.0. `n_groups = keep = 1` means no
    /// groups. Add the checkpoint's bias (arXiv 2408.15664) and `routed_scaling_factor` with
    /// [`with_selection_bias`](Self::with_selection_bias) and [`with_scale`](Self::with_scale).
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let config = RouterConfig::sigmoid_grouped(4, 1, 2, 1).with_selection_bias(vec![0.0, 0.0, 0.0, 0.25]);
    /// let router = Router::new(0, config)?;
    /// // Scores 0.9, 0.1 | 0.75, 0.25. With the bias the groups sum to 1.0 | 1.25: the second stays although
    /// // the best expert is in the first. Inside it 0.75 beats 0.25 + 0.25.
    /// let logits = [9.0_f32, 1.0 / 9.0, 3.0, 1.0 / 3.0].map(f32::ln);
    /// assert_eq!(router.route(&logits)?.experts(0), [2]);
    ///
    /// // Both experts of that group: the weights come from the unbiased scores, 0.75 and 0.25 over 1.
    /// let routing = router.with_top_k(2)?.route(&logits)?;
    /// assert_eq!(routing.experts(0), [2, 3]);
    /// assert!((routing.weights(0)[0] - 0.75).abs() < 1e-6);
    /// assert!((routing.weights(0)[1] - 0.25).abs() < 1e-6);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn sigmoid_grouped(n_experts: usize, top_k: usize, n_groups: usize, keep: usize) -> Self {
        let selection = Selection::group_limited(n_groups, keep, GroupRank::TopTwoSum);
        let renormalize = Renormalize::Sum { eps: DEEPSEEK_EPS };
        Self { selection, renormalize, ..Self::plain(n_experts, top_k, Score::Sigmoid) }
    }

    /// R5: sigmoid, keep the `k` best biased scores; the unbiased scores of these, over their sum + `eps`.
    ///
    /// MiniMax-M2 (`eps` 0), LFM2-MoE (1e-6), AFMoE (1e-20). Bias as in arXiv 2408.15664, with
    /// [`with_selection_bias`](Self::with_selection_bias).
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let config = RouterConfig::sigmoid_top_k(3, 2, 0.0).with_selection_bias(vec![0.0, 0.25, 0.0]);
    /// // Scores 0.75, 0.5, 0.6; with the bias 0.75, 0.75, 0.6: experts 0 and 1 win, weighing 0.75 to 0.5.
    /// let routing = Router::new(0, config)?.route(&[3.0_f32, 1.0, 1.5].map(f32::ln))?;
    /// assert_eq!(routing.experts(0), [0, 1]);
    /// assert!((routing.weights(0)[0] - 0.6).abs() < 1e-6);
    /// assert!((routing.weights(0)[1] - 0.4).abs() < 1e-6);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn sigmoid_top_k(n_experts: usize, top_k: usize, eps: f32) -> Self {
        let renormalize = Renormalize::Sum { eps };
        Self { renormalize, ..Self::plain(n_experts, top_k, Score::Sigmoid) }
    }

    /// R6: softmax, keep the `k` largest of probability + bias; their probabilities over `max(sum, 1e-12)`.
    ///
    /// ERNIE 4.5 with its bias from [`with_selection_bias`](Self::with_selection_bias). LongCat-Flash: with
    /// [`Renormalize::No`] and its scale.
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let config = RouterConfig::softmax_biased(4, 2).with_selection_bias(vec![0.0, 0.0, 0.0, 0.5]);
    /// // Probabilities 4/8, 2/8, 1/8, 1/8; the bias lifts the last above the second.
    /// let routing = Router::new(0, config)?.route(&[4.0_f32, 2.0, 1.0, 1.0].map(f32::ln))?;
    /// assert_eq!(routing.experts(0), [0, 3]);
    /// assert!((routing.weights(0)[0] - 4.0 / 5.0).abs() < 1e-6);
    /// assert!((routing.weights(0)[1] - 1.0 / 5.0).abs() < 1e-6);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn softmax_biased(n_experts: usize, top_k: usize) -> Self {
        let renormalize = Renormalize::SumAtLeast { min: 1e-12 };
        Self { renormalize, ..Self::plain(n_experts, top_k, Score::Softmax) }
    }

    /// R7: softmax; the best `keep` of `n_groups` groups by their best probability; the `k` largest inside
    /// them; the probabilities are the weights.
    ///
    /// DeepSeek-V2 `group_limited_greedy` (arXiv 2405.04434), with its scale from
    /// [`with_scale`](Self::with_scale).
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let config = RouterConfig::softmax_grouped_max(4, 2, 2, 1).with_scale(16.0);
    /// // Eighths: 1, 4 | 2, 1. The first group holds the best expert and stays; 2/8 is out of reach.
    /// let routing = Router::new(0, config)?.route(&[1.0_f32, 4.0, 2.0, 1.0].map(f32::ln))?;
    /// assert_eq!(routing.experts(0), [0, 1]);
    /// assert!((routing.weights(0)[0] - 16.0 / 8.0).abs() < 1e-5);
    /// assert!((routing.weights(0)[1] - 64.0 / 8.0).abs() < 1e-5);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn softmax_grouped_max(n_experts: usize, top_k: usize, n_groups: usize, keep: usize) -> Self {
        let selection = Selection::group_limited(n_groups, keep, GroupRank::Max);
        Self { selection, ..Self::plain(n_experts, top_k, Score::Softmax) }
    }

    /// R8: as R7 with groups compared by the sum of their two best probabilities, then renormalised.
    ///
    /// Mistral 4, with its scale from [`with_scale`](Self::with_scale).
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let router = Router::new(0, RouterConfig::softmax_grouped_sum(4, 2, 2, 1))?;
    /// // Tenths: 5, 0.5 | 3, 1.5. The groups sum to 5.5 | 4.5.
    /// let routing = router.route(&[5.0_f32, 0.5, 3.0, 1.5].map(f32::ln))?;
    /// assert_eq!(routing.experts(0), [0, 1]);
    /// assert!((routing.weights(0)[0] - 10.0 / 11.0).abs() < 1e-6);
    /// // Tenths: 4, 0.5 | 3, 2.5. Now 4.5 | 5.5: the best expert loses with its group.
    /// assert_eq!(router.route(&[4.0_f32, 0.5, 3.0, 2.5].map(f32::ln))?.experts(0), [2, 3]);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn softmax_grouped_sum(n_experts: usize, top_k: usize, n_groups: usize, keep: usize) -> Self {
        let selection = Selection::group_limited(n_groups, keep, GroupRank::TopTwoSum);
        let renormalize = Renormalize::Sum { eps: DEEPSEEK_EPS };
        Self { selection, renormalize, ..Self::plain(n_experts, top_k, Score::Softmax) }
    }

    /// R9: SparseMixer (arXiv 2310.00811, 2409.12136), always two experts.
    ///
    /// The first is the largest logit `m`; its weight is its softmax among the experts with
    /// `(m - l) / max(|l|, m) <= 2 * jitter_eps`. The second is found in the same way without the first.
    /// Phi-3.5-MoE, Phi-mini-MoE (`router_jitter_noise`).
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let router = Router::new(0, RouterConfig::sparse_mixer(3, 0.1))?;
    /// let routing = router.route(&[2.0, 1.0, 1.9])?;
    /// assert_eq!(routing.experts(0), [0, 2]);
    /// // 1.9 is within (2 - 1.9) / 2 = 0.05 <= 0.2 of the best, 1.0 is not: 1 / (1 + exp(-0.1)).
    /// assert!((routing.weights(0)[0] - 0.524979).abs() < 1e-6);
    /// // Without expert 0, 1.0 is (1.9 - 1) / 1.9 = 0.47 away from 1.9, which is alone. No common sum of 1.
    /// assert_eq!(routing.weights(0)[1], 1.0);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn sparse_mixer(n_experts: usize, jitter_eps: f32) -> Self {
        Self::plain(n_experts, 2, Score::SparseMixer { jitter_eps })
    }

    /// R10: keep the `k` largest logits; their sigmoids multiply the experts' **inputs**.
    ///
    /// Llama 4 (`k = 1`).
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig, WeightTarget};
    /// let router = Router::new(0, RouterConfig::sigmoid_on_input(3, 1))?;
    /// let routing = router.route(&[1.0_f32, 3.0, 2.0].map(f32::ln))?;
    /// assert_eq!(routing.experts(0), [1]);
    /// assert!((routing.weights(0)[0] - 0.75).abs() < 1e-6);
    /// assert_eq!(routing.applies_to(), WeightTarget::Input);
    /// // f32 sigmoid is 1 for both 90 and 100; the logits still tell them apart.
    /// assert_eq!(router.route(&[0.0, 90.0, 100.0])?.experts(0), [2]);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn sigmoid_on_input(n_experts: usize, top_k: usize) -> Self {
        Self { applies_to: WeightTarget::Input, ..Self::plain(n_experts, top_k, Score::Sigmoid) }
    }

    /// R11: as R1, then each weight times the learned scale of its expert.
    ///
    /// Gemma 4 (`per_expert_scale`). What is special about its router's *input* (the residual stream under a
    /// norm of its own) is the model's business: the logits arrive here ready.
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let config = RouterConfig::softmax_expert_scaled(4, 2, vec![0.5, 3.0, 1.0, 1.0]);
    /// let routing = Router::new(0, config)?.route(&[4.0_f32, 2.0, 1.0, 1.0].map(f32::ln))?;
    /// // 4/6 * 0.5 and 2/6 * 3
    /// assert!((routing.weights(0)[0] - 1.0 / 3.0).abs() < 1e-6);
    /// assert!((routing.weights(0)[1] - 1.0).abs() < 1e-6);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn softmax_expert_scaled(n_experts: usize, top_k: usize, expert_scale: Vec<f32>) -> Self {
        Self::softmax_top_k(n_experts, top_k).with_expert_scale(expert_scale)
    }

    /// R12: MoGE (arXiv 2505.21411): softmax over all experts, the best of each of `k` equal groups; its
    /// probability times the learned scale of the expert.
    ///
    /// Pangu Pro MoE (`router_scale`): one group per device, so every device has the same load.
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let router = Router::new(0, RouterConfig::one_per_group(4, 2, vec![1.0, 1.0, 1.0, 2.0]))?;
    /// // Eighths: 4, 2 | 1, 1. One of each half; the tie goes to the lower id.
    /// let routing = router.route(&[4.0_f32, 2.0, 1.0, 1.0].map(f32::ln))?;
    /// assert_eq!(routing.experts(0), [0, 2]);
    /// assert!((routing.weights(0)[1] - 1.0 / 8.0).abs() < 1e-6);
    /// // Tenths: 4, 2 | 1, 3. The last expert counts double.
    /// let routing = router.route(&[4.0_f32, 2.0, 1.0, 3.0].map(f32::ln))?;
    /// assert_eq!(routing.experts(0), [0, 3]);
    /// assert!((routing.weights(0)[1] - 0.6).abs() < 1e-6);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    pub fn one_per_group(n_experts: usize, top_k: usize, expert_scale: Vec<f32>) -> Self {
        let selection = Selection::OnePerGroup;
        Self { selection, ..Self::plain(n_experts, top_k, Score::Softmax) }.with_expert_scale(expert_scale)
    }

    /// Top-k by score, nothing else.
    fn plain(n_experts: usize, top_k: usize, score: Score) -> Self {
        Self {
            n_experts,
            top_k,
            score,
            selection: Selection::TopK,
            selection_bias: None,
            renormalize: Renormalize::No,
            scale: 1.0,
            expert_scale: None,
            applies_to: WeightTarget::Output,
            masked: Vec::new(),
            drop_below: 0.0,
        }
    }
}
