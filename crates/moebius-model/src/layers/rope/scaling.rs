//! How rotary frequencies are rescaled for contexts longer than trained, as configurations say it.
//!
//! Invariants: frequencies are f32, computed in the order of the reference implementation.

use std::f64::consts::PI;

use serde_json::Value;

use super::RopeForm;
use crate::config::{Config, MAX_NUMBER};
use crate::{Error, Result};

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
    /// The base times `alpha^(d / (d - 2))`, whatever the length.
    NtkAlpha {
        /// How far the longest wavelength is stretched.
        alpha: f64,
    },
    /// Each pair divided by a factor of its own; which ones depends on the length of the sequence.
    Long {
        /// Up to the trained context.
        short: LongFactors,
        /// For sequences that are longer.
        long: LongFactors,
        /// The trained context.
        original: f64,
    },
    /// Each pair divided by a factor of its own, whatever the length.
    Factors {
        /// One for each pair.
        factors: Vec<f32>,
    },
    /// Only the first pairs turn, with the frequencies that they have among all.
    Proportional {
        /// How many of them.
        pairs: usize,
        /// All are divided by this.
        factor: f64,
    },
}

/// One of the two sets of LongRoPE.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LongFactors {
    /// What each pair's frequency is divided by.
    factors: Vec<f32>,
    /// Factor on cosine and sine.
    scale: f32,
}

impl LongFactors {
    /// What each pair's frequency is divided by.
    pub(super) fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// Factor on cosine and sine.
    pub(super) fn scale(&self) -> f32 {
        self.scale
    }
}

/// What the frequencies of a head are computed from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Series {
    /// Base of the geometric series.
    pub(super) theta: f64,
    /// Elements that are rotated.
    pub(super) dim: usize,
}

impl Series {
    /// `theta^(2i/dim)` of every pair.
    fn powers(self, theta: f64) -> impl Iterator<Item = f32> {
        (0..self.dim / 2).map(move |i| (theta as f32).powf((2 * i) as f32 / self.dim as f32))
    }
}

impl RopeScaling {
    /// Whether a sequence of `length` positions takes other frequencies than a short one.
    pub(super) fn is_long(&self, length: usize) -> bool {
        matches!(self, RopeScaling::Long { original, .. } if length as f64 > *original)
    }

    /// Radians per position of every pair, and the factor on cosine and sine.
    pub(super) fn frequencies(&self, series: Series, is_long: bool) -> (Vec<f32>, f32) {
        let powers = series.powers(series.theta);
        match self {
            RopeScaling::None => (powers.map(|p| 1.0 / p).collect(), 1.0),
            RopeScaling::Linear { factor } => (powers.map(|p| 1.0 / p / *factor as f32).collect(), 1.0),
            RopeScaling::Llama3 { .. } => (powers.map(|p| self.by_wavelength(1.0 / p)).collect(), 1.0),
            RopeScaling::Yarn { factor, attention_factor, .. } => {
                let (low, high) = self.yarn_bounds(series);
                let blend = |(i, power): (usize, f32)| {
                    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    1.0 / (*factor as f32 * power) * ramp + 1.0 / power * (1.0 - ramp)
                };
                (powers.enumerate().map(blend).collect(), *attention_factor as f32)
            }
            RopeScaling::NtkAlpha { alpha } => {
                let dim = series.dim as f64;
                let stretched = series.theta * alpha.powf(dim / (dim - 2.0));
                (series.powers(stretched).map(|p| 1.0 / p).collect(), 1.0)
            }
            RopeScaling::Long { short, long, .. } => {
                let LongFactors { factors, scale } = if is_long { long } else { short };
                (powers.zip(factors).map(|(p, factor)| 1.0 / (factor * p)).collect(), *scale)
            }
            RopeScaling::Factors { factors } => {
                (powers.zip(factors).map(|(p, factor)| 1.0 / (factor * p)).collect(), 1.0)
            }
            RopeScaling::Proportional { pairs, factor } => {
                let turns = |(i, p): (usize, f32)| if i < *pairs { 1.0 / p / *factor as f32 } else { 0.0 };
                (powers.enumerate().map(turns).collect(), 1.0)
            }
        }
    }

    /// A frequency as Llama 3 rescales it.
    fn by_wavelength(&self, frequency: f32) -> f32 {
        let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } = *self else {
            unreachable!("only called for llama3")
        };
        let wavelength = (2.0 * PI) as f32 / frequency;
        if wavelength > (original / low_freq_factor) as f32 {
            return frequency / factor as f32;
        }
        if wavelength < (original / high_freq_factor) as f32 {
            return frequency;
        }
        let kept = (original as f32 / wavelength - low_freq_factor as f32)
            / (high_freq_factor - low_freq_factor) as f32;
        (1.0 - kept) * frequency / factor as f32 + kept * frequency
    }

    /// Pair indices between which YaRN blends.
    fn yarn_bounds(&self, series: Series) -> (f64, f64) {
        let RopeScaling::Yarn { beta_fast, beta_slow, original, truncate, .. } = *self else {
            unreachable!("only called for yarn")
        };
        let dim = series.dim as f64;
        let pair_with_turns =
            |turns: f64| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * series.theta.ln());
        let (mut low, mut high) = (pair_with_turns(beta_fast), pair_with_turns(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high { (low, high + 0.001) } else { (low, high) }
    }
}

/// Where a scaling stands, and what it is read for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The key of its object.
    pub(super) key: &'static str,
    /// What the family knows beside the usual.
    pub(super) form: RopeForm,
    /// `original_max_position_embeddings` beside the object.
    pub(super) outer_original: Option<f64>,
    /// The context of the model.
    pub(super) context: usize,
    /// Elements of a head that are rotated.
    pub(super) dim: usize,
}

/// `rope_type`, or `type` as it was called before.
pub(super) fn scaling_kind(scaling: Option<&Config>) -> Result<&str> {
    let Some(scaling) = scaling else { return Ok("default") };
    let (new, old) = (scaling.opt_text("rope_type")?, scaling.opt_text("type")?);
    Ok(new.or(old).unwrap_or("default"))
}

/// Reads the object of a scaling.
pub(super) fn read_scaling(scaling: &Config, place: Place) -> Result<RopeScaling> {
    let Place { key, form, outer_original, context, dim } = place;
    let kind = scaling_kind(Some(scaling))?;
    let wrong = |reason: String| Error::config(key, reason);
    let inner_original = scaling.opt_positive("original_max_position_embeddings")?;
    let original = match (outer_original, inner_original) {
        (Some(outer), Some(inner)) if outer != inner => {
            let reason =
                format!("`original_max_position_embeddings`: expected {outer} as beside it, got {inner}");
            return Err(wrong(reason));
        }
        (outer, inner) => outer.or(inner).unwrap_or(context as f64),
    };
    // Text has the same position in all of the sections that pictures tell apart.
    scaling.irrelevant(&["mrope_section", "mrope_interleaved"]);
    let factor = scaling.opt_positive("factor")?;
    let need = |name: &str| {
        let value = scaling.opt_positive(name)?;
        value.ok_or_else(|| wrong(format!("`{kind}` scaling needs `{name}`")))
    };
    let parsed = match kind {
        "default" => RopeScaling::None,
        "linear" if form != RopeForm::Long => RopeScaling::Linear { factor: need("factor")? },
        "llama3" if form != RopeForm::Long => RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original,
        },
        "yarn" if form != RopeForm::Long => {
            read_yarn(scaling, factor.unwrap_or(context as f64 / original), original)?
        }
        "dynamic" if form == RopeForm::NtkAlpha => read_alpha(scaling, dim, wrong)?,
        "longrope" if form == RopeForm::Long => read_long(scaling, dim, original, wrong)?,
        // What a GGUF file has in place of the words for a scaling.
        "factors" if form != RopeForm::Long => {
            RopeScaling::Factors { factors: factors(scaling, "factors", dim, &wrong)? }
        }
        "proportional" if matches!(form, RopeForm::OfLayers(_)) => {
            let partial = scaling.opt_positive("partial_rotary_factor")?.unwrap_or(1.0).min(1.0);
            RopeScaling::Proportional {
                pairs: (partial * dim as f64 / 2.0) as usize,
                factor: factor.unwrap_or(1.0),
            }
        }
        other => {
            let expected = match form {
                RopeForm::Usual => "`default`, `linear`, `llama3` or `yarn`",
                RopeForm::NtkAlpha => "`default`, `linear`, `llama3`, `yarn` or `dynamic` with `alpha`",
                RopeForm::Long => "`default` or `longrope`",
                RopeForm::OfLayers(_) => "`default`, `linear`, `llama3`, `yarn` or `proportional`",
            };
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

/// The "dynamic" scaling of Hunyuan, which is static.
fn read_alpha(scaling: &Config, dim: usize, wrong: impl Fn(String) -> Error) -> Result<RopeScaling> {
    // Written beside `alpha`, of no effect.
    scaling.irrelevant(&["beta_fast", "beta_slow", "mscale", "mscale_all_dim"]);
    let Some(alpha) = scaling.opt_positive("alpha")? else {
        return Err(wrong(
            "`dynamic` scaling needs `alpha`; one that depends on the length is not known".into(),
        ));
    };
    if dim <= 2 {
        return Err(wrong(format!("`alpha`: expected heads of more than 2 rotated elements, got {dim}")));
    }
    Ok(RopeScaling::NtkAlpha { alpha })
}

/// A factor for each pair.
fn factors(scaling: &Config, name: &str, dim: usize, wrong: &impl Fn(String) -> Error) -> Result<Vec<f32>> {
    let factor = |value: &Value| value.as_f64().filter(|n| (1.0 / MAX_NUMBER..=MAX_NUMBER).contains(n));
    let values = scaling.list(name, "positive numbers", factor)?;
    let values = values.ok_or_else(|| wrong(format!("this scaling needs `{name}`")))?;
    if values.len() != dim / 2 {
        return Err(wrong(format!("`{name}`: expected {} numbers, got {}", dim / 2, values.len())));
    }
    Ok(values.into_iter().map(|v| v as f32).collect())
}

/// LongRoPE (arXiv 2402.13753) with a factor on cosine and sine for either length.
fn read_long(
    scaling: &Config,
    dim: usize,
    original: f64,
    wrong: impl Fn(String) -> Error,
) -> Result<RopeScaling> {
    // The two factors take the place of what would be computed from these.
    scaling.irrelevant(&["attention_factor"]);
    let set = |name: &str, scale: &str| {
        let factors = factors(scaling, name, dim, &wrong)?;
        let missing = || wrong(format!("`longrope` scaling needs `{scale}`"));
        let scale = scaling.opt_positive(scale)?.ok_or_else(missing)? as f32;
        Ok::<_, Error>(LongFactors { factors, scale })
    };
    let (short, long) = (set("short_factor", "short_mscale")?, set("long_factor", "long_mscale")?);
    Ok(RopeScaling::Long { short, long, original })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES: Series = Series { theta: 10_000.0, dim: 4 };

    fn read(form: RopeForm, scaling: serde_json::Value) -> Result<RopeScaling> {
        let scaling = Config::from_map(scaling.as_object().unwrap().clone());
        read_scaling(&scaling, Place { key: "rope_scaling", form, outer_original: None, context: 64, dim: 4 })
    }

    fn message(form: RopeForm, scaling: serde_json::Value) -> String {
        read(form, scaling).unwrap_err().to_string()
    }

    #[test]
    fn alpha_stretches_the_base_whatever_the_length() {
        let scaling = serde_json::json!({"type": "dynamic", "alpha": 10.0, "factor": 1.0, "beta_fast": 32});
        let scaling = read(RopeForm::NtkAlpha, scaling).unwrap();
        // 10000 * 10^(4/2) = 1e6, whose root is 1000.
        let expected = (vec![1.0, 1.0 / 1000.0], 1.0);
        assert_eq!(scaling.frequencies(SERIES, false), expected);
        assert_eq!(scaling.frequencies(SERIES, true), expected);
        assert!(!scaling.is_long(1 << 20));
    }

    #[test]
    fn a_sequence_takes_the_long_factors_from_one_position_past_the_trained_context() {
        let scaling = serde_json::json!({"type": "longrope", "original_max_position_embeddings": 8,
            "short_factor": [1.0, 2.0], "long_factor": [4.0, 5.0], "short_mscale": 1.5, "long_mscale": 2.5});
        let scaling = read(RopeForm::Long, scaling).unwrap();
        assert!(!scaling.is_long(8) && scaling.is_long(9));
        assert_eq!(scaling.frequencies(SERIES, false), (vec![1.0, 1.0 / 200.0], 1.5));
        assert_eq!(scaling.frequencies(SERIES, true), (vec![0.25, 1.0 / 500.0], 2.5));
    }

    #[test]
    fn pairs_that_do_not_turn_have_the_frequency_zero() {
        let scaling = serde_json::json!({"rope_type": "proportional", "partial_rotary_factor": 0.5});
        let scaling = read(RopeForm::OfLayers("full_attention"), scaling).unwrap();
        assert_eq!(scaling.frequencies(SERIES, false), (vec![1.0, 0.0], 1.0));
    }

    #[test]
    fn a_scaling_of_another_family_is_refused_by_name() {
        let dynamic = serde_json::json!({"type": "dynamic", "factor": 2.0});
        assert!(message(RopeForm::Usual, dynamic.clone()).contains("got `dynamic`"));
        assert!(message(RopeForm::NtkAlpha, dynamic).contains("needs `alpha`"));
        let yarn = serde_json::json!({"type": "yarn", "factor": 2.0});
        assert!(message(RopeForm::Long, yarn).contains("expected `default` or `longrope`, got `yarn`"));
        let long = serde_json::json!({"type": "longrope", "short_factor": [1.0], "short_mscale": 1.0});
        assert!(message(RopeForm::Long, long).contains("`short_factor`: expected 2 numbers, got 1"));
    }
}
