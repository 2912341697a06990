//! What weights are held in, for a plan: the formats of this program, and common ones of others.

use std::fmt;
use std::str::FromStr;

use moebius_model::{HeldFormats, Place, Tally};

use super::demand::PartDemand;
use crate::{Error, Result};

/// A choice of formats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weights {
    /// As this program holds them, to the byte.
    Held(HeldFormats),
    /// Eight-bit floats; embedding, output projection, routers and norms in 16 bits.
    Fp8,
    /// Eight-bit integers; the same exceptions.
    Int8,
    /// llama.cpp's file of gpt-oss: experts in MXFP4, routers and norms in f32, everything else in q8_0.
    Mxfp4Moe,
}

/// Which peak of a device matrix products run at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// Half precision, or what block formats are multiplied in.
    Half,
    /// Eight-bit floats.
    Fp8,
    /// Eight-bit integers.
    Int8,
}

impl Default for Weights {
    fn default() -> Self {
        Weights::Held(HeldFormats::AsStored)
    }
}

impl Weights {
    const FOREIGN: [(&'static str, Weights); 3] =
        [("fp8", Weights::Fp8), ("int8", Weights::Int8), ("mxfp4_moe", Weights::Mxfp4Moe)];

    /// Every name that [`FromStr`] reads.
    pub fn names() -> Vec<&'static str> {
        HeldFormats::names().into_iter().chain(Weights::FOREIGN.map(|(name, _)| name)).collect()
    }

    /// Bits of a weight at a place and the name of its format, for what this program has no format of.
    fn bits(self, place: Place) -> (f64, &'static str) {
        match (self, place) {
            (Weights::Mxfp4Moe, Place::Experts) => (4.25, "mxfp4"),
            (Weights::Mxfp4Moe, Place::Router | Place::Norm) => (32.0, "f32"),
            (Weights::Mxfp4Moe, _) => (8.5, "q8_0"),
            (_, Place::Embedding | Place::LmHead | Place::Router | Place::Norm) => (16.0, "bf16"),
            (Weights::Int8, _) => (8.0, "int8"),
            _ => (8.0, "fp8"),
        }
    }

    /// A part of a model as held.
    pub(super) fn part(self, place: Place, tally: &Tally) -> PartDemand {
        let (parameters, active) = (tally.total, tally.active);
        let (bytes, formats) = match self {
            Weights::Held(_) => {
                let names = tally.formats.iter().map(|(format, _)| format.name().to_owned());
                (tally.bytes.unwrap_or(0), names.collect())
            }
            _ => {
                let (bits, name) = self.bits(place);
                ((parameters as f64 * bits / 8.0).round() as u64, vec![name.to_owned()])
            }
        };
        PartDemand { place, parameters, active, bytes, formats }
    }

    pub(super) fn arithmetic(self) -> Arithmetic {
        match self {
            Weights::Fp8 => Arithmetic::Fp8,
            Weights::Int8 => Arithmetic::Int8,
            Weights::Held(_) | Weights::Mxfp4Moe => Arithmetic::Half,
        }
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Weights::Held(held) => held.fmt(f),
            other => {
                let (name, _) = Weights::FOREIGN.iter().find(|(_, w)| w == other).expect("a foreign format");
                f.pad(name)
            }
        }
    }
}

impl FromStr for Weights {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match Weights::FOREIGN.iter().find(|(known, _)| *known == name) {
            Some((_, weights)) => Ok(*weights),
            None => Ok(Weights::Held(name.parse::<HeldFormats>()?)),
        }
    }
}
