//! How fast kinds of devices are, fitted to measurements: a roofline of two parameters.
//!
//! A token alone: `t = bytes / (share * bandwidth) + layers * layer_seconds`, by least squares over the devices of a
//! class. A prompt: `operations / (share * peak)`, the share being the geometric mean. Bands are the largest errors when
//! each device in turn is left out of the fit.
//!
//! Invariants: one pair of numbers for a class, none for a device; what is only assumed says so.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::demand::Demand;
use super::hardware::{Class, Device, devices, measurements};
use super::weights::Weights;
use crate::bench::Shape;
use crate::{Error, Result};

/// The band around shares that are assumed and not fitted.
const ASSUMED_ERROR: f64 = 0.5;
/// Tokens of the prompts in the measurements of llama.cpp.
const PUBLISHED_PROMPT: f64 = 2048.0;
/// The model and the file that they were made with.
const PUBLISHED_MODEL: (&str, Weights) = ("gpt-oss-20b", Weights::Mxfp4Moe);

/// How fast a class of devices is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Bytes per second that are reached, as a share of the device's.
    pub bandwidth_share: f64,
    /// Seconds that each layer costs whatever it reads.
    pub layer_seconds: f64,
    /// How far off a generated token may be, relative.
    pub decode_error: f64,
    /// Operations per second that are reached in prompts, as a share of the dense peak; `None` where no peak is known.
    pub compute_share: Option<f64>,
    /// How far off a prompt may be, relative.
    pub prefill_error: f64,
    /// Measurements that this was fitted to; 0 where it is assumed.
    pub fitted_to: usize,
}

/// A point to fit to: seconds a token for bytes, bandwidth and layers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) seconds: f64,
    /// Bytes over bandwidth, in seconds.
    pub(super) ideal_seconds: f64,
    pub(super) layers: f64,
}

/// `(share, layer_seconds)` that minimise `Σ (t - ideal / share - layers * layer_seconds)²`, neither of them below zero.
pub(super) fn fit(points: &[Point]) -> Option<(f64, f64)> {
    let sum = |term: fn(&Point) -> f64| points.iter().map(term).sum::<f64>();
    let (xx, xl, ll) = (
        sum(|p| p.ideal_seconds * p.ideal_seconds),
        sum(|p| p.ideal_seconds * p.layers),
        sum(|p| p.layers * p.layers),
    );
    let (tx, tl) = (sum(|p| p.seconds * p.ideal_seconds), sum(|p| p.seconds * p.layers));
    let determinant = xx * ll - xl * xl;
    if determinant <= 1e-9 * xx * ll {
        return None;
    }
    let (slope, layer) = ((tx * ll - tl * xl) / determinant, (xx * tl - xl * tx) / determinant);
    if layer < 0.0 {
        // All time is reading then.
        return Some((xx / tx, 0.0));
    }
    (slope > 0.0).then_some((1.0 / slope, layer))
}

impl Point {
    /// Seconds that a fit says.
    pub(super) fn predicted(&self, (share, layer_seconds): (f64, f64)) -> f64 {
        self.ideal_seconds / share + self.layers * layer_seconds
    }
}

/// A device that gpt-oss-20b was measured on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Measured {
    pub(super) device: String,
    pub(super) class: Class,
    pub(super) profile: Option<String>,
    pub(super) gb_s: f64,
    pub(super) prefill: Option<f64>,
    pub(super) decode: f64,
    #[serde(default = "yes")]
    pub(super) fit: bool,
    pub(super) source: String,
}

fn yes() -> bool {
    true
}

/// What is assumed of a class that no measurement can be fitted to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Assumed {
    class: Class,
    bandwidth_share: f64,
    compute_share: f64,
    layer_us: f64,
    #[allow(dead_code, reason = "for readers of the file")]
    note: String,
    #[allow(dead_code, reason = "checked when it is built")]
    source: String,
}

/// What this program reached on a machine with a shape.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Own {
    pub(super) what: String,
    pub(super) shape: String,
    pub(super) layers: usize,
    pub(super) format: String,
    pub(super) gb_s: f64,
    pub(super) gflops: f64,
    pub(super) prefill: f64,
    pub(super) prompt: u64,
    pub(super) decode: f64,
    pub(super) source: String,
}

/// The parts of the measurements that fits need; other tables are for others.
#[derive(Deserialize)]
struct Published {
    decode: Vec<Measured>,
    assumed: Vec<Assumed>,
}

#[derive(Deserialize)]
struct OwnFile {
    own: Vec<Own>,
}

/// Reads a part of a file of measurements, which the build has checked.
pub(super) fn read<T: serde::de::DeserializeOwned>(file: &'static str) -> Result<T> {
    let fail = |error: toml::de::Error| Error::Hardware { path: file.into(), reason: error.to_string() };
    toml::from_str(measurements(file)).map_err(fail)
}

/// Measurements as points, with their names.
pub(super) struct Measurements {
    /// gpt-oss-20b by device, with the point of its generation.
    pub(super) devices: Vec<(Measured, Point)>,
    /// This program's own, with the point of its generation and the share of the peak in prompts.
    pub(super) own: Vec<(Own, Point, f64)>,
    assumed: Vec<Assumed>,
    known: Vec<Device>,
    /// Operations of a token of the published prompts.
    prompt_flops: f64,
}

impl Measurements {
    /// Reads them and computes what their models read.
    ///
    /// # Errors
    /// None for the files that come with this crate.
    pub(super) fn read() -> Result<Self> {
        let (name, weights) = PUBLISHED_MODEL;
        let demand = Demand::find(name, None, Some(weights))?;
        let (bytes, layers) = (demand.step_weight_bytes(1.0), demand.info.n_layers as f64);
        let Published { decode, assumed } = read("published.toml")?;
        let point = |measured: Measured| {
            let ideal_seconds = bytes / (1e9 * measured.gb_s);
            let point = Point { seconds: 1.0 / measured.decode, ideal_seconds, layers };
            (measured, point)
        };
        let own: OwnFile = read("own.toml")?;
        let prompt_flops =
            demand.prompt_weight_flops() + demand.attention_flops(PUBLISHED_PROMPT / 2.0, false);
        Ok(Measurements {
            devices: decode.into_iter().map(point).collect(),
            own: own.own.into_iter().map(own_point).collect::<Result<_>>()?,
            assumed,
            known: devices(),
            prompt_flops,
        })
    }

    /// The measurements of a class that fits are made of, without the one of this name.
    pub(super) fn points(&self, class: Class, without: Option<&str>) -> Vec<Point> {
        let devices = self
            .devices
            .iter()
            .filter(|(m, _)| m.class == class && m.fit && Some(m.device.as_str()) != without);
        let mut points: Vec<Point> = devices.map(|&(_, point)| point).collect();
        if class == Class::Cpu {
            let own = self.own.iter().filter(|(own, ..)| Some(own.what.as_str()) != without);
            points.extend(own.map(|&(_, point, _)| point));
        }
        points
    }

    /// Shares of the peak that prompts reached in a class, by name.
    pub(super) fn compute_shares(&self, class: Class) -> Vec<(&str, f64)> {
        let peak = |measured: &Measured| {
            let device = self.known.iter().find(|device| Some(&device.name) == measured.profile.as_ref())?;
            Some(measured.prefill? * self.prompt_flops / device.peaks.bf16?)
        };
        let devices = self.devices.iter().filter(|(m, _)| m.class == class && m.fit);
        let mut shares: Vec<_> = devices.filter_map(|(m, _)| Some((m.device.as_str(), peak(m)?))).collect();
        if class == Class::Cpu {
            shares.extend(self.own.iter().map(|(own, _, share)| (own.what.as_str(), *share)));
        }
        shares
    }

    /// How fast every class is.
    pub(super) fn speeds(&self) -> BTreeMap<Class, Speed> {
        let assumed = self.assumed.iter().map(|assumed| {
            let speed = Speed {
                bandwidth_share: assumed.bandwidth_share,
                layer_seconds: 1e-6 * assumed.layer_us,
                decode_error: ASSUMED_ERROR,
                compute_share: Some(assumed.compute_share),
                prefill_error: ASSUMED_ERROR,
                fitted_to: 0,
            };
            (assumed.class, speed)
        });
        let fitted = [Class::Cuda, Class::Metal, Class::Cpu].into_iter().filter_map(|class| {
            let points = self.points(class, None);
            let (bandwidth_share, layer_seconds) = fit(&points)?;
            let shares: Vec<f64> = self.compute_shares(class).into_iter().map(|(_, share)| share).collect();
            let speed = Speed {
                bandwidth_share,
                layer_seconds,
                decode_error: left_out_error(&points),
                compute_share: geometric_mean(&shares),
                prefill_error: spread(&shares),
                fitted_to: points.len(),
            };
            Some((class, speed))
        });
        assumed.chain(fitted).collect()
    }
}

/// The largest relative error of a rate that a fit to the others predicts.
fn left_out_error(points: &[Point]) -> f64 {
    let error = |index: usize| {
        let others: Vec<Point> =
            points.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, point)| *point).collect();
        let point = points[index];
        fit(&others).map_or(ASSUMED_ERROR, |fitted| (point.seconds / point.predicted(fitted) - 1.0).abs())
    };
    (0..points.len()).map(error).fold(0.0, f64::max)
}

fn geometric_mean(values: &[f64]) -> Option<f64> {
    let logs: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (logs / values.len() as f64).exp())
}

/// The largest factor between a value and the mean of the others, less one.
fn spread(values: &[f64]) -> f64 {
    let of = |index: usize| {
        let others: Vec<f64> =
            values.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, value)| *value).collect();
        geometric_mean(&others)
            .map_or(ASSUMED_ERROR, |mean| (values[index] / mean).max(mean / values[index]) - 1.0)
    };
    (0..values.len()).map(of).fold(0.0, f64::max)
}

/// One of this program's own measurements as a point, and the share of the peak in prompts.
fn own_point(own: Own) -> Result<(Own, Point, f64)> {
    let demand = Demand::cut(&Shape::find(&own.shape)?, own.layers, own.format.parse()?)?;
    let ideal_seconds = demand.step_weight_bytes(1.0) / (1e9 * own.gb_s);
    let point = Point { seconds: 1.0 / own.decode, ideal_seconds, layers: own.layers as f64 };
    let flops = demand.prompt_weight_flops() + demand.attention_flops(own.prompt as f64 / 2.0, true);
    let share = own.prefill * flops / (1e9 * own.gflops);
    Ok((own, point, share))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(share: f64, layer_seconds: f64) -> Vec<Point> {
        let point = |(ideal_seconds, layers): (f64, f64)| {
            let point = Point { seconds: 0.0, ideal_seconds, layers };
            Point { seconds: point.predicted((share, layer_seconds)), ..point }
        };
        [(1e-3, 24.0), (3e-3, 24.0), (9e-3, 36.0)].map(point).to_vec()
    }

    #[test]
    fn a_fit_finds_what_made_the_points() {
        let (share, layer) = fit(&points(0.8, 1e-4)).expect("three points");
        assert!((share - 0.8).abs() < 1e-9 && (layer - 1e-4).abs() < 1e-12, "{share} {layer}");
        assert!(left_out_error(&points(0.8, 1e-4)) < 1e-9);
    }

    #[test]
    fn points_that_do_not_tell_the_two_apart_give_no_fit() {
        let point = points(0.8, 1e-4)[0];
        assert_eq!(fit(&[point, point]), None);
        assert_eq!(fit(&[]), None);
    }

    #[test]
    fn a_layer_never_takes_less_than_no_time() {
        let mut points = points(0.8, 0.0);
        points[0].seconds *= 0.9;
        let (share, layer) = fit(&points).expect("three points");
        assert!(layer == 0.0 && share > 0.7, "{share} {layer}");
    }

    #[test]
    fn constants_of_the_published_devices_are_as_a_least_squares_fit_by_hand_gives() {
        let speeds = Measurements::read().unwrap().speeds();
        let metal = speeds[&Class::Metal];
        // 73 % and 3.9 ms for 24 layers.
        assert!((metal.bandwidth_share - 0.73).abs() < 0.02, "{metal:?}");
        assert!((24.0 * metal.layer_seconds - 3.9e-3).abs() < 2e-4, "{metal:?}");
        assert_eq!(
            (metal.fitted_to, speeds[&Class::Cuda].fitted_to, speeds[&Class::Ascend].fitted_to),
            (5, 9, 0)
        );
        assert!(speeds[&Class::Cuda].decode_error < 0.3, "{:?}", speeds[&Class::Cuda]);
    }
}
