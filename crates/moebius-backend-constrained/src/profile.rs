//! Declared hardware: what a device that is not here has, allows and reaches.
//!
//! Plain numbers, without units or sources: who reads files of hardware, and cites them, makes one of these.
//!
//! Invariants: bytes and seconds are SI; what is not declared is `None`; a weight that [`Profile::objection`] lets pass
//! can be multiplied, at a rate that is known.

use std::fmt;

use moebius_backend::{ExpertSpec, LinearSpec, WeightSpec};
use moebius_expert_kernels::WeightFormat;

/// One machine: devices of a kind, over which the experts of every layer are spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The name that people give.
    pub name: String,
    /// Devices; everything but the experts lies on each.
    pub devices: usize,
    /// Bytes of memory of one device.
    pub memory_bytes: Option<u64>,
    /// Bytes per second that one device reads of its memory, as declared.
    pub bandwidth: f64,
    /// Bytes per second between two devices, one way.
    pub link: Option<f64>,
    /// Bytes per second from the host's memory or disk to a device.
    pub fetch: Option<f64>,
    /// What each operation costs whatever it does.
    pub launch: Launch,
    /// Dense arithmetic, operations per second.
    pub peaks: Peaks,
    /// The shares of bandwidth and arithmetic that are reached, and how well that is known.
    pub reached: Reached,
    /// Formats that weights may have, each multiplied in an arithmetic of its own; `None` takes every format, and
    /// multiplies those in blocks in half precision.
    pub formats: Option<Vec<WeightFormat>>,
    /// What matrix products are cut into.
    pub tile: Option<Tile>,
    /// Bytes of a number of the cache of keys and values.
    pub cache_number_bytes: u64,
    /// What a device takes for its experts, as a multiple of an even share.
    pub capacity_factor: Option<f64>,
    /// Power of one device.
    pub watts: Option<Watts>,
}

/// Seconds that operations cost whatever they do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Launch {
    /// A product of matrices, or attention.
    pub product: f64,
    /// A norm, an activation, rotary positions, a recurrence.
    pub vector: f64,
    /// Sending to other devices, or gathering from them.
    pub exchange: f64,
    /// A layer as a whole, where single operations are not known.
    pub layer: f64,
}

/// Dense arithmetic in operations per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Peaks {
    /// Single precision.
    pub fp32: Option<f64>,
    /// Half precision.
    pub fp16: Option<f64>,
    /// bfloat16.
    pub bf16: Option<f64>,
    /// Eight-bit integers.
    pub int8: Option<f64>,
    /// Four-bit floats.
    pub fp4: Option<f64>,
}

/// What is reached of the declared figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reached {
    /// Share of the bandwidth.
    pub bandwidth_share: f64,
    /// Share of the arithmetic.
    pub compute_share: f64,
    /// How far off a generated token may be, relative.
    pub decode_error: f64,
    /// How far off a prompt may be, relative.
    pub prefill_error: f64,
    /// Measurements that the shares were fitted to; 0 where they are assumed.
    pub fitted_to: usize,
}

/// Power in watts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watts {
    /// While it works.
    pub load: f64,
    /// While it waits; `None` counts waiting as work.
    pub idle: Option<f64>,
}

/// The block that a matrix unit multiplies: `[rows, inner] x [inner, cols]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows of activations.
    pub rows: u64,
    /// Inputs of the product.
    pub inner: u64,
    /// Outputs of the product.
    pub cols: u64,
    /// What becomes of weights that no whole blocks make up.
    pub rule: ShapeRule,
}

/// What becomes of shapes that are no multiple of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeRule {
    /// They are padded, and the padding is computed.
    Pad,
    /// They are refused. Rows of activations are always padded.
    Refuse,
}

impl Tile {
    /// Multiply-adds of `rows` rows through a matrix `[outputs, inputs]`, with the padding that is computed too.
    pub fn padded_macs(&self, rows: u64, inputs: u64, outputs: u64) -> u64 {
        let up = |n: u64, of: u64| n.div_ceil(of.max(1)).saturating_mul(of.max(1));
        up(rows, self.rows).saturating_mul(up(inputs, self.inner)).saturating_mul(up(outputs, self.cols))
    }

    fn objection(&self, rows: usize, cols: usize) -> Option<String> {
        let fits = |n: usize, of: u64| (n as u64).is_multiple_of(of.max(1));
        (self.rule == ShapeRule::Refuse && !(fits(rows, self.cols) && fits(cols, self.inner))).then(|| {
            let (outputs, inputs) = (self.cols, self.inner);
            format!("expected multiples of {outputs} outputs and {inputs} inputs, got [{rows}, {cols}]")
        })
    }
}

impl Profile {
    /// Operations per second of products with weights in `format`; `None` where no such arithmetic is declared.
    pub fn peak(&self, format: WeightFormat) -> Option<f64> {
        let Peaks { fp32, fp16, bf16, int8, fp4 } = self.peaks;
        let half = bf16.or(fp16);
        match (format, self.formats.is_some()) {
            (WeightFormat::F32, true) => fp32,
            (WeightFormat::F32, false) => fp32.or(half),
            (WeightFormat::F16, _) => fp16.or(bf16),
            (WeightFormat::Bf16, _) => half,
            // Of eight bits are the numbers themselves; of blocks with fewer, what kernels widen them to.
            (WeightFormat::Q8_0, true) => int8,
            (WeightFormat::Mxfp4, true) => fp4,
            _ => half,
        }
    }

    /// Operations per second of attention, which has no weights.
    pub fn half_peak(&self) -> Option<f64> {
        self.peaks.bf16.or(self.peaks.fp16)
    }

    /// Why a weight cannot be held or multiplied there, if it cannot.
    pub fn objection(&self, spec: &WeightSpec<'_>) -> Option<String> {
        for format in spec.formats() {
            let allowed = self.formats.as_ref().is_none_or(|formats| formats.contains(&format));
            if !allowed || self.peak(format).is_none() {
                let formats: Vec<&str> = self.allowed().map(WeightFormat::name).collect();
                let expected = formats.join(", ");
                return Some(format!("`{}` has no arithmetic for {format}, only for {expected}", self.name));
            }
        }
        let tile = self.tile.as_ref()?;
        let bad = shapes(spec).into_iter().find_map(|(rows, cols)| tile.objection(rows, cols))?;
        Some(format!("`{}` multiplies whole tiles: {bad}", self.name))
    }

    /// Formats that a weight may have.
    pub fn allowed(&self) -> impl Iterator<Item = WeightFormat> {
        let listed = |format: &WeightFormat| {
            self.formats.as_ref().is_none_or(|formats| formats.contains(format))
                && self.peak(*format).is_some()
        };
        WeightFormat::ALL.into_iter().filter(listed)
    }

    /// Why no time can be modelled, if it cannot.
    pub fn gap(&self) -> Option<&'static str> {
        let positive = |share: f64| share.is_finite() && share > 0.0;
        if self.half_peak().is_none() {
            return Some("it says nothing of arithmetic in half precision");
        }
        if !positive(self.bandwidth) || !positive(self.reached.bandwidth_share) {
            return Some("its bandwidth is not known");
        }
        if !positive(self.reached.compute_share) {
            return Some("it is not known what share of its arithmetic is reached");
        }
        (self.devices > 1 && self.link.is_none()).then_some("it says nothing of links between devices")
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Rows and columns of the matrices of a weight.
fn shapes(spec: &WeightSpec<'_>) -> Vec<(usize, usize)> {
    match spec {
        WeightSpec::Linear(LinearSpec { inputs, outputs, .. })
        | WeightSpec::Heads(LinearSpec { inputs, outputs, .. }, _) => vec![(*outputs, *inputs)],
        WeightSpec::Experts(spec) => {
            ExpertSpec::projections(spec).iter().map(|&projection| spec.shape(projection)).collect()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use moebius_backend::Activation;

    use super::*;

    /// Round numbers: 1 GB/s, 1 TFLOPS in half precision, all of it reached, nothing for launches.
    pub(crate) fn round(devices: usize) -> Profile {
        Profile {
            name: "round".into(),
            devices,
            memory_bytes: Some(1 << 30),
            bandwidth: 1e9,
            link: Some(1e9),
            fetch: Some(1e8),
            launch: Launch::default(),
            peaks: Peaks { bf16: Some(1e12), ..Peaks::default() },
            reached: Reached {
                bandwidth_share: 1.0,
                compute_share: 1.0,
                decode_error: 0.2,
                prefill_error: 0.3,
                fitted_to: 3,
            },
            formats: None,
            tile: None,
            cache_number_bytes: 2,
            capacity_factor: None,
            watts: None,
        }
    }

    fn linear(outputs: usize, inputs: usize, format: WeightFormat) -> LinearSpec {
        LinearSpec { name: "w".into(), inputs, outputs, format }
    }

    #[test]
    fn a_format_without_arithmetic_is_refused_and_others_are_named() {
        let mut profile = round(1);
        profile.formats = Some(vec![WeightFormat::Bf16, WeightFormat::Q8_0]);
        profile.peaks.int8 = Some(2e12);
        let objection = |format| profile.objection(&WeightSpec::Linear(&linear(32, 32, format)));
        assert_eq!((objection(WeightFormat::Bf16), objection(WeightFormat::Q8_0)), (None, None));
        let reason = objection(WeightFormat::Q4_0).expect("a refusal");
        assert_eq!(reason, "`round` has no arithmetic for q4_0, only for bf16, q8_0");
    }

    #[test]
    fn a_listed_format_needs_a_peak_too() {
        let mut profile = round(1);
        profile.formats = Some(vec![WeightFormat::F32]);
        assert!(profile.objection(&WeightSpec::Linear(&linear(16, 16, WeightFormat::F32))).is_some());
        profile.peaks.fp32 = Some(1e11);
        assert_eq!(profile.objection(&WeightSpec::Linear(&linear(16, 16, WeightFormat::F32))), None);
    }

    #[test]
    fn without_a_list_every_format_goes_in_half_precision() {
        let profile = round(1);
        assert_eq!(profile.allowed().count(), WeightFormat::ALL.len());
        assert!(WeightFormat::ALL.iter().all(|&format| profile.peak(format) == Some(1e12)));
    }

    #[test]
    fn padding_rounds_every_side_up_to_the_tile() {
        let tile = Tile { rows: 16, inner: 16, cols: 16, rule: ShapeRule::Pad };
        assert_eq!(tile.padded_macs(1, 64, 32), 16 * 64 * 32);
        assert_eq!(tile.padded_macs(17, 15, 33), 32 * 16 * 48);
        assert_eq!(tile.padded_macs(0, 15, 33), 0);
    }

    #[test]
    fn a_shape_that_no_whole_tiles_make_up_is_refused_where_the_rule_says_so() {
        let mut profile = round(1);
        let experts = ExpertSpec {
            layer: 0,
            n_experts: 4,
            hidden: 64,
            intermediate: 40,
            format: WeightFormat::Bf16,
            down_format: WeightFormat::Bf16,
            activation: Activation::Silu,
            gated: true,
            biases: false,
        };
        let mut tile = Tile { rows: 16, inner: 16, cols: 16, rule: ShapeRule::Pad };
        profile.tile = Some(tile);
        assert_eq!(profile.objection(&WeightSpec::Experts(&experts)), None);
        tile.rule = ShapeRule::Refuse;
        profile.tile = Some(tile);
        let reason = profile.objection(&WeightSpec::Experts(&experts)).expect("a refusal");
        assert!(reason.contains("multiples of 16 outputs and 16 inputs, got [40, 64]"), "{reason}");
        let whole = ExpertSpec { intermediate: 48, ..experts };
        assert_eq!(profile.objection(&WeightSpec::Experts(&whole)), None);
    }

    #[test]
    fn what_is_missing_for_a_model_of_time_is_named() {
        assert_eq!(round(8).gap(), None);
        assert!(Profile { link: None, ..round(8) }.gap().is_some_and(|gap| gap.contains("links")));
        assert_eq!(Profile { link: None, ..round(1) }.gap(), None);
        assert!(
            Profile { peaks: Peaks::default(), ..round(1) }
                .gap()
                .is_some_and(|gap| gap.contains("arithmetic"))
        );
        assert!(Profile { bandwidth: f64::NAN, ..round(1) }.gap().is_some());
    }
}
