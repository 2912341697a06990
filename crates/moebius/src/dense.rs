//! The iso-active dense twin of a bank of experts: one expert as wide as k of them, which every token goes through.
//!
//! Its matrices are those of the first k experts side by side, so that it computes `Σ_{e<k} expert_e(x)` with as many
//! multiply-adds as k routed experts.
//!
//! Shapes: gate and up `[k · intermediate, hidden]`, down `[hidden, k · intermediate]`.

use std::borrow::Cow;

use moebius_backend::{Error, ExpertSource, ExpertSpec, Projection, Result, WeightView};

/// What the twin of k experts of `spec` is.
pub(crate) fn spec(spec: &ExpertSpec, k: usize) -> ExpertSpec {
    ExpertSpec { n_experts: 1, intermediate: k.saturating_mul(spec.intermediate), ..spec.clone() }
}

/// The first k experts of a source as one.
pub(crate) struct SideBySide<'a> {
    /// Where they come from.
    pub(crate) source: &'a dyn ExpertSource,
    /// How many.
    pub(crate) k: usize,
}

impl ExpertSource for SideBySide<'_> {
    fn get(&self, _: usize, projection: Projection) -> Result<WeightView<'_>> {
        let views =
            (0..self.k).map(|expert| self.source.get(expert, projection)).collect::<Result<Vec<_>>>()?;
        let first = views.first().ok_or_else(|| unusable("no experts", "there is nothing to join"))?;
        let (rows, cols, format) = (first.rows, first.cols, first.format);
        let row_bytes = format.bytes_for(1, cols).unwrap_or(usize::MAX);
        if views.iter().any(|view| view.panels().is_some()) {
            return Err(unusable(&first.name, "weights that lie packed cannot be joined side by side"));
        }
        for view in &views {
            let alike = (view.rows, view.cols, view.format) == (rows, cols, format);
            if !alike || row_bytes.checked_mul(rows) != Some(view.bytes.len()) {
                return Err(unusable(&view.name, "only rows of one length and format can be joined"));
            }
        }
        let name = format!("{} of {} experts", first.name, self.k);
        let (bytes, shape): (Vec<u8>, _) = match projection {
            Projection::Gate | Projection::Up => {
                (views.iter().flat_map(|view| view.bytes.iter().copied()).collect(), (self.k * rows, cols))
            }
            Projection::Down => {
                let row =
                    |row: usize| views.iter().flat_map(move |v| &v.bytes[row * row_bytes..][..row_bytes]);
                ((0..rows).flat_map(row).copied().collect(), (rows, self.k * cols))
            }
        };
        Ok(WeightView::new(name, format, shape, Cow::Owned(bytes)))
    }

    fn bias(&self, _: usize, projection: Projection) -> Result<Vec<f32>> {
        let biases = (0..self.k).map(|expert| self.source.bias(expert, projection));
        let biases = biases.collect::<Result<Vec<_>>>()?;
        Ok(match projection {
            Projection::Gate | Projection::Up => biases.concat(),
            Projection::Down => biases.into_iter().reduce(|sum, bias| added(sum, &bias)).unwrap_or_default(),
        })
    }
}

fn added(mut sum: Vec<f32>, bias: &[f32]) -> Vec<f32> {
    sum.iter_mut().zip(bias).for_each(|(sum, value)| *sum += value);
    sum
}

fn unusable(name: &str, reason: &'static str) -> Error {
    Error::Weight { name: name.into(), source: reason.into() }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use moebius_backend::{Activation, Backend, WeightFormat};
    use moebius_metering::Meter;
    use moebius_router::{Routing, WeightTarget};

    use super::*;
    use crate::backend::{BackendOptions, open_backend};

    /// Experts whose weights are small numbers of their own.
    struct Numbers(ExpertSpec);

    impl ExpertSource for Numbers {
        fn get(&self, expert: usize, projection: Projection) -> Result<WeightView<'_>> {
            let (rows, cols) = self.0.shape(projection);
            let seed = 1 + expert * 3 + projection as usize;
            let value = |n: usize| ((n * 7919 * seed) % 101) as f32 / 101.0 - 0.5;
            let bytes: Vec<u8> = (0..rows * cols).flat_map(|n| value(n).to_le_bytes()).collect();
            Ok(WeightView::new(format!("{expert}"), WeightFormat::F32, (rows, cols), bytes))
        }

        fn bias(&self, expert: usize, projection: Projection) -> Result<Vec<f32>> {
            Ok((0..self.0.shape(projection).0).map(|row| (row + expert) as f32 / 50.0).collect())
        }
    }

    fn bank_of(biases: bool, gated: bool) -> (ExpertSpec, std::sync::Arc<dyn Backend>) {
        let spec = ExpertSpec {
            layer: 0,
            n_experts: 5,
            hidden: 17,
            intermediate: 9,
            format: WeightFormat::F32,
            down_format: WeightFormat::F32,
            activation: Activation::Silu,
            gated,
            biases,
        };
        (spec, open_backend(&BackendOptions { threads: Some(1), ..BackendOptions::default() }).unwrap())
    }

    #[test]
    fn the_twin_is_the_sum_of_the_experts_that_it_is_made_of() {
        for (biases, gated) in [(false, true), (true, true), (true, false)] {
            let (spec, backend) = bank_of(biases, gated);
            let source = Numbers(spec.clone());
            let joined = SideBySide { source: &source, k: 3 };
            let bank = backend.load_experts(&spec, &source).unwrap();
            let twin = backend.load_experts(&super::spec(&spec, 3), &joined).unwrap();
            let x: Vec<f32> = (0..2 * 17).map(|n| (n as f32 * 0.37).sin()).collect();
            let x = Tensor::from_vec(x, (2, 17), &Device::Cpu).unwrap();
            let three = Routing::from_parts(5, 3, vec![0, 1, 2, 0, 1, 2], vec![0.5; 6], WeightTarget::Output);
            let one = Routing::from_parts(1, 1, vec![0, 0], vec![0.5; 2], WeightTarget::Output);
            let run = |bank: &dyn moebius_backend::ExpertBank, routing: Routing, meter: &Meter| {
                bank.forward(&x, &routing, meter).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            let (routed, dense) = (Meter::new(), Meter::new());
            let expected = run(bank.as_ref(), three.unwrap(), &routed);
            let got = run(twin.as_ref(), one.unwrap(), &dense);
            let off = expected.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-4, "{off} with biases {biases}, gate {gated}");
            let (routed, dense) = (routed.snapshot(), dense.snapshot());
            assert_eq!(routed.total(), dense.total(), "the same three experts");
            assert_eq!(routed.experts().iso_active_weight_bytes, dense.total().weight_bytes);
        }
    }
}
