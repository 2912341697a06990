//! Rotary position embedding: angles by position.
//!
//! Element pair `i` of a head of width `d` turns by `position * theta^(-2i/d)` (arXiv 2104.09864). For
//! contexts longer than trained, frequencies are rescaled: linearly (arXiv 2306.15595), by wavelength as in
//! Llama 3 (arXiv 2407.21783), or by YaRN (arXiv 2309.00071), which also scales cosine and sine.
//!
//! Invariants: frequencies and angles are f32, computed in the order of the reference implementation.

use std::f64::consts::PI;

use candle_core::{Device, Tensor};
use moebius_backend::{Pairing, RopeTable};

use crate::config::Config;
use crate::{Error, Result};

/// Radians per position: one that turns faster by far has no angle left in f32.
const MAX_FREQUENCY: f32 = 1e6;
/// Factor on cosine and sine, and its reciprocal.
const MAX_FACTOR: f32 = 1e3;

/// How frequencies are rescaled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by `factor`.
    Linear {
        /// Ratio of the new to the trained context.
        factor: f64,
    },
    /// Long wavelengths divided by `factor`, short ones kept, a linear blend between.
    Llama3 {
        /// Ratio of the new to the trained context.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The trained context.
        original: f64,
    },
    /// As `Llama3`, blended over pair indices.
    Yarn {
        /// Ratio of the new to the trained context.
        factor: f64,
        /// Pairs that turn at least this often over the trained context are kept.
        beta_fast: f64,
        /// Pairs that turn at most this often are divided.
        beta_slow: f64,
        /// The trained context.
        original: f64,
        /// Whether the bounds of the blend are rounded to whole pairs.
        truncate: bool,
        /// Factor on cosine and sine.
        attention_factor: f64,
        /// What the dot products of latent attention are multiplied with, twice: `mscale_all_dim` at this factor.
        mscale_all: f64,
    },
}

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
}

impl RopeConfig {
    /// Reads `rope_parameters`, or `rope_theta` with `rope_scaling`.
    ///
    /// # Errors
    /// [`Error::Config`] for a scaling that is not supported or lacks a parameter.
    pub(crate) fn read(config: &Config, defaults: RopeDefaults) -> Result<Self> {
        let RopeDefaults { context, pairing, .. } = defaults;
        let v5 = config.opt_object("rope_parameters")?;
        let (key, scaling) = match config.opt_object("rope_scaling")?.filter(|s| !s.is_empty()) {
            Some(scaling) => ("rope_scaling", Some(scaling)),
            None => ("rope_parameters", v5),
        };
        let inner_theta = scaling.as_ref().map(|s| s.opt_positive("rope_theta")).transpose()?.flatten();
        let outer_theta = config.opt_positive("rope_theta")?;
        let outer_original = config.opt_positive("original_max_position_embeddings")?;
        let rotary_dim = rotary_dim(config, scaling.as_ref(), defaults)?;
        let scaling = match &scaling {
            None => RopeScaling::None,
            Some(scaling) => read_scaling(scaling, key, outer_original, context)?,
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

    /// Parameters that are each legal may still give no usable angle together.
    fn check_angles(&self, key: &str) -> Result<()> {
        let (frequencies, factor) = self.frequencies();
        let illegal = frequencies.into_iter().find(|frequency| !(0.0..=MAX_FREQUENCY).contains(frequency));
        if let Some(got) = illegal {
            let reason = format!("expected frequencies from 0 to {MAX_FREQUENCY}, got one of {got}");
            return Err(Error::config(key, reason));
        }
        if !(1.0 / MAX_FACTOR..=MAX_FACTOR).contains(&factor) {
            let reason = format!("expected an attention factor from 0.001 to {MAX_FACTOR}, got {factor}");
            return Err(Error::config(key, reason));
        }
        Ok(())
    }

    /// Cosines and sines for `positions`.
    pub(crate) fn table(&self, positions: impl Iterator<Item = usize>, device: &Device) -> Result<RopeTable> {
        let (frequencies, factor) = self.frequencies();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        let mut rows = 0;
        for position in positions {
            rows += 1;
            for frequency in &frequencies {
                let angle = position as f32 * frequency;
                cos.push(angle.cos() * factor);
                sin.push(angle.sin() * factor);
            }
        }
        let shape = (rows, frequencies.len());
        Ok(RopeTable {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
            pairing: self.pairing,
        })
    }

    /// Radians per position of every pair, and the factor on cosine and sine.
    fn frequencies(&self) -> (Vec<f32>, f32) {
        let dim = self.rotary_dim;
        let powers = (0..dim / 2).map(|i| (self.theta as f32).powf((2 * i) as f32 / dim as f32));
        match &self.scaling {
            RopeScaling::None => (powers.map(|p| 1.0 / p).collect(), 1.0),
            RopeScaling::Linear { factor } => (powers.map(|p| 1.0 / p / *factor as f32).collect(), 1.0),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let rescale = |frequency: f32| {
                    let wavelength = (2.0 * PI) as f32 / frequency;
                    if wavelength > (original / low_freq_factor) as f32 {
                        return frequency / *factor as f32;
                    }
                    if wavelength < (original / high_freq_factor) as f32 {
                        return frequency;
                    }
                    let kept = (*original as f32 / wavelength - *low_freq_factor as f32)
                        / (high_freq_factor - low_freq_factor) as f32;
                    (1.0 - kept) * frequency / *factor as f32 + kept * frequency
                };
                (powers.map(|p| rescale(1.0 / p)).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, attention_factor, .. } => {
                let (low, high) = self.yarn_bounds();
                let blend = |(i, power): (usize, f32)| {
                    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    1.0 / (*factor as f32 * power) * ramp + 1.0 / power * (1.0 - ramp)
                };
                (powers.enumerate().map(blend).collect(), *attention_factor as f32)
            }
        }
    }

    /// Pair indices between which YaRN blends.
    fn yarn_bounds(&self) -> (f64, f64) {
        let RopeScaling::Yarn { beta_fast, beta_slow, original, truncate, .. } = self.scaling else {
            unreachable!("only called for yarn")
        };
        let dim = self.rotary_dim as f64;
        let pair_with_turns =
            |turns: f64| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (pair_with_turns(beta_fast), pair_with_turns(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high { (low, high + 0.001) } else { (low, high) }
    }
}

/// Elements of a head that are rotated.
fn rotary_dim(config: &Config, scaling: Option<&Config>, defaults: RopeDefaults) -> Result<usize> {
    const KEY: &str = "partial_rotary_factor";
    let inner = scaling.map(|s| s.opt_positive(KEY)).transpose()?.flatten();
    let head_dim = defaults.head_dim;
    let rotary_dim = match defaults.partial {
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

/// `rope_type`, or `type` as it was called before.
fn scaling_kind(scaling: Option<&Config>) -> Result<&str> {
    let Some(scaling) = scaling else { return Ok("default") };
    let (new, old) = (scaling.opt_text("rope_type")?, scaling.opt_text("type")?);
    Ok(new.or(old).unwrap_or("default"))
}

fn read_scaling(
    scaling: &Config,
    key: &'static str,
    outer_original: Option<f64>,
    context: usize,
) -> Result<RopeScaling> {
    let kind = scaling_kind(Some(scaling))?;
    let wrong = |reason: String| Error::config(key, reason);
    let original = match outer_original {
        Some(original) => original,
        None => scaling.opt_positive("original_max_position_embeddings")?.unwrap_or(context as f64),
    };
    // Text has the same position in all of the sections that pictures tell apart.
    scaling.irrelevant(&["original_max_position_embeddings", "mrope_section", "mrope_interleaved"]);
    let factor = scaling.opt_positive("factor")?;
    let need = |name: &str| {
        let value = scaling.opt_positive(name)?;
        value.ok_or_else(|| wrong(format!("`{kind}` scaling needs `{name}`")))
    };
    let parsed = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: need("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original,
        },
        "yarn" => read_yarn(scaling, factor.unwrap_or(context as f64 / original), original)?,
        other => {
            let expected = "`default`, `linear`, `llama3` or `yarn`";
            return Err(wrong(format!("`rope_type`: expected {expected}, got `{other}`")));
        }
    };
    match scaling.unused().as_slice() {
        [] => Ok(parsed),
        unused => Err(wrong(format!("`{}` is not known for `{kind}` scaling", unused.join("`, `")))),
    }
}

fn read_yarn(scaling: &Config, factor: f64, original: f64) -> Result<RopeScaling> {
    let grown = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    // Zero means "not given" in these files.
    let given = |name: &str| Ok::<_, Error>(scaling.opt_number(name)?.filter(|v| *v != 0.0));
    let turns = |name: &str, default: f64| match given(name)? {
        Some(turns) if turns < 0.0 => {
            Err(Error::config(name, format!("expected a number of at least 0, got {turns}")))
        }
        turns => Ok(turns.unwrap_or(default)),
    };
    let mscale_all_dim = given("mscale_all_dim")?;
    let by_mscale = match (given("mscale")?, mscale_all_dim) {
        (Some(mscale), Some(all)) => grown(mscale) / grown(all),
        _ => grown(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: turns("beta_fast", 32.0)?,
        beta_slow: turns("beta_slow", 1.0)?,
        original,
        truncate: scaling.flag_or("truncate", true)?,
        attention_factor: scaling.opt_positive("attention_factor")?.unwrap_or(by_mscale),
        mscale_all: mscale_all_dim.map_or(1.0, grown),
    })
}
