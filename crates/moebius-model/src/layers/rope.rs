//! Rotary position embedding: angles by position.
//!
//! Element pair `i` of a head of width `d` turns by `position * theta^(-2i/d)` (arXiv 2104.09864). For
//! contexts longer than trained, frequencies are rescaled: linearly (arXiv 2306.15595), by wavelength as in
//! Llama 3 (arXiv 2407.21783), or by YaRN (arXiv 2309.00071), which also scales cosine and sine; see [`scaling`].
//!
//! Invariants: frequencies and angles are f32, computed in the order of the reference implementation.

mod scaling;

use candle_core::{Device, Tensor};
use moebius_backend::{Pairing, RopeTable};
pub(crate) use scaling::RopeScaling;
use scaling::{Place, Series, read_scaling, scaling_kind};

use crate::config::Config;
use crate::{Error, Result};

/// Radians per position: one that turns faster by far has no angle left in f32.
const MAX_FREQUENCY: f32 = 1e6;
/// Factor on cosine and sine, and its reciprocal.
const MAX_FACTOR: f32 = 1e3;

/// Rotary parameters of a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeConfig {
    /// Base of the geometric series of frequencies.
    pub(crate) theta: f64,
    /// Elements of a head that are rotated, from the first.
    pub(crate) rotary_dim: usize,
    /// Which of them turn together.
    pub(crate) pairing: Pairing,
    /// How frequencies are rescaled.
    pub(crate) scaling: RopeScaling,
}

/// What a family rotates, and what it takes when a key is absent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeDefaults {
    /// Width of a head.
    pub(crate) head_dim: usize,
    /// `rope_theta`.
    pub(crate) theta: f64,
    /// The context of the model.
    pub(crate) context: usize,
    /// `partial_rotary_factor`, for a family that rotates the first part of a head alone; `None` for one that knows no
    /// such key.
    pub(crate) partial: Option<f64>,
    /// Which elements turn together.
    pub(crate) pairing: Pairing,
    /// What the family knows beside the usual.
    pub(crate) form: RopeForm,
}

/// What only some families say about rotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RopeForm {
    /// Nothing.
    Usual,
    /// A "dynamic" scaling with `alpha` (Hunyuan).
    NtkAlpha,
    /// No scaling but LongRoPE with factors on cosine and sine (Phi-3.5-MoE).
    Long,
    /// `rope_parameters` has an object for each kind of layer; this kind's is read (Gemma 4).
    OfLayers(&'static str),
}

impl RopeConfig {
    /// Reads `rope_parameters`, or `rope_theta` with `rope_scaling`.
    ///
    /// # Errors
    /// [`Error::Config`] for a scaling that is not supported or lacks a parameter.
    pub(crate) fn read(config: &Config, defaults: RopeDefaults) -> Result<Self> {
        let RopeDefaults { context, pairing, form, .. } = defaults;
        let v5 = config.opt_object("rope_parameters")?;
        let v5 = match form {
            RopeForm::OfLayers(kind) => v5.map(|kinds| kinds.opt_object(kind)).transpose()?.flatten(),
            _ => v5,
        };
        let (key, scaling) = match config.opt_object("rope_scaling")?.filter(|s| !s.is_empty()) {
            Some(scaling) => {
                // The newer object is not looked at then, as in transformers.
                if let Some(other) = v5.filter(|other| !other.says_the_same(&scaling)) {
                    config.report_unused("rope_parameters", &other);
                }
                ("rope_scaling", Some(scaling))
            }
            None => ("rope_parameters", v5),
        };
        let inner_theta = scaling.as_ref().map(|s| s.opt_positive("rope_theta")).transpose()?.flatten();
        let outer_theta = config.opt_positive("rope_theta")?;
        let outer_original = config.opt_positive("original_max_position_embeddings")?;
        let rotary_dim = rotary_dim(config, scaling.as_ref(), defaults)?;
        let scaling = match &scaling {
            None => RopeScaling::None,
            Some(scaling) => {
                read_scaling(scaling, Place { key, form, outer_original, context, dim: rotary_dim })?
            }
        };
        let theta = inner_theta.or(outer_theta).unwrap_or(defaults.theta);
        if theta <= 1.0 {
            return Err(Error::config("rope_theta", format!("expected a number above 1, got {theta}")));
        }
        let rope = RopeConfig { theta, rotary_dim, pairing, scaling };
        rope.check_angles(key)?;
        Ok(rope)
    }

    /// No rotation, whatever the configuration says.
    pub(crate) fn none(config: &Config) -> Self {
        config.irrelevant(&["rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"]);
        RopeConfig { theta: 1e4, rotary_dim: 0, pairing: Pairing::HalfSplit, scaling: RopeScaling::None }
    }

    /// Factor on the dot products of latent attention, which takes part of YaRN's correction there.
    pub(crate) fn latent_scale(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { mscale_all, .. } => mscale_all * mscale_all,
            _ => 1.0,
        }
    }

    /// Base of the series that is used, where the scaling stretches it.
    pub(crate) fn stretched_theta(&self) -> f64 {
        match self.scaling {
            RopeScaling::NtkAlpha { alpha } => {
                let dim = self.rotary_dim as f64;
                self.theta * alpha.powf(dim / (dim - 2.0))
            }
            _ => self.theta,
        }
    }

    /// Factors that divide each pair's frequency, where no few numbers say them: by the names that GGUF gives such tables.
    pub(crate) fn tables(&self) -> Vec<(&'static str, Vec<f32>)> {
        /// What stands for a pair that does not turn.
        const STILL: f32 = 1e30;
        match &self.scaling {
            RopeScaling::Long { short, long, .. } => vec![
                ("rope_factors_long.weight", long.factors().to_vec()),
                ("rope_factors_short.weight", short.factors().to_vec()),
            ],
            RopeScaling::Factors { factors } => vec![("rope_freqs.weight", factors.clone())],
            RopeScaling::Llama3 { .. } | RopeScaling::Proportional { .. } => {
                let plain = RopeConfig { scaling: RopeScaling::None, ..self.clone() };
                let pairs = plain.frequencies(false).0.into_iter().zip(self.frequencies(false).0);
                let factor = |(plain, scaled): (f32, f32)| if scaled > 0.0 { plain / scaled } else { STILL };
                vec![("rope_freqs.weight", pairs.map(factor).collect())]
            }
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Yarn { .. }
            | RopeScaling::NtkAlpha { .. } => Vec::new(),
        }
    }

    /// Factors on cosine and sine of short and of long sequences, where LongRoPE has them.
    pub(crate) fn length_factors(&self) -> Option<[f32; 2]> {
        match &self.scaling {
            RopeScaling::Long { short, long, .. } => Some([short.scale(), long.scale()]),
            _ => None,
        }
    }

    /// What tells it from others: its angles, however they are said.
    pub(crate) fn portrait(&self) -> impl std::fmt::Debug + use<> {
        let sets = [false, true].map(|is_long| self.frequencies(is_long));
        let original = match self.scaling {
            RopeScaling::Long { original, .. } => Some(original),
            _ => None,
        };
        (self.rotary_dim, self.pairing, original, sets)
    }

    /// Parameters that are each legal may still give no usable angle together.
    fn check_angles(&self, key: &str) -> Result<()> {
        let [short, long] = [false, true].map(|is_long| self.frequencies(is_long));
        let illegal =
            short.0.into_iter().chain(long.0).find(|frequency| !(0.0..=MAX_FREQUENCY).contains(frequency));
        if let Some(got) = illegal {
            let reason = format!("expected frequencies from 0 to {MAX_FREQUENCY}, got one of {got}");
            return Err(Error::config(key, reason));
        }
        let illegal =
            [short.1, long.1].into_iter().find(|factor| !(1.0 / MAX_FACTOR..=MAX_FACTOR).contains(factor));
        if let Some(factor) = illegal {
            let reason = format!("expected an attention factor from 0.001 to {MAX_FACTOR}, got {factor}");
            return Err(Error::config(key, reason));
        }
        Ok(())
    }

    /// Whether a sequence of `length` positions takes other angles than a short one: all of its positions do.
    pub(crate) fn is_long(&self, length: usize) -> bool {
        self.scaling.is_long(length)
    }

    /// Whether angles depend on the length of the sequence.
    pub(crate) fn depends_on_length(&self) -> bool {
        matches!(self.scaling, RopeScaling::Long { .. })
    }

    /// Cosines and sines for positions in sequences of given lengths: `(position, length)`.
    pub(crate) fn table(
        &self,
        rows: impl Iterator<Item = (usize, usize)>,
        device: &Device,
    ) -> Result<RopeTable> {
        let sets = [false, true].map(|is_long| self.frequencies(is_long));
        let pairs = sets[0].0.len();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        let mut count = 0;
        for (position, length) in rows {
            count += 1;
            let (frequencies, factor) = &sets[usize::from(self.is_long(length))];
            for frequency in frequencies {
                let angle = position as f32 * frequency;
                cos.push(angle.cos() * factor);
                sin.push(angle.sin() * factor);
            }
        }
        Ok(RopeTable {
            cos: Tensor::from_vec(cos, (count, pairs), device)?,
            sin: Tensor::from_vec(sin, (count, pairs), device)?,
            pairing: self.pairing,
        })
    }

    /// Radians per position of every pair, and the factor on cosine and sine.
    fn frequencies(&self, is_long: bool) -> (Vec<f32>, f32) {
        self.scaling.frequencies(Series { theta: self.theta, dim: self.rotary_dim }, is_long)
    }
}

/// Elements of a head that are rotated.
fn rotary_dim(config: &Config, scaling: Option<&Config>, defaults: RopeDefaults) -> Result<usize> {
    const KEY: &str = "partial_rotary_factor";
    let inner = scaling.map(|s| s.opt_positive(KEY)).transpose()?.flatten();
    let head_dim = defaults.head_dim;
    let rotary_dim = match defaults.partial {
        // Of the pairs that turn, not of the head.
        None if scaling_kind(scaling)? == "proportional" => head_dim,
        // The reference takes it into account where there is a scaling alone.
        None if inner.is_some_and(|p| p != 1.0) && scaling_kind(scaling)? != "default" => {
            return Err(Error::config(KEY, "expected 1 with a scaling"));
        }
        None => head_dim,
        Some(default) => {
            let partial = inner.or(config.opt_positive(KEY)?).unwrap_or(default);
            if partial > 1.0 {
                return Err(Error::config(KEY, format!("expected a number up to 1, got {partial}")));
            }
            (head_dim as f64 * partial) as usize
        }
    };
    if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
        let reason = format!("expected an even number of rotated elements, got {rotary_dim}");
        return Err(Error::config("head_dim", reason));
    }
    Ok(rotary_dim)
}
