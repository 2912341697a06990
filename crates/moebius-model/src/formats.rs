//! What weights are held in, whatever they are stored in: the choice behind `--format`.
//!
//! A choice wants a format for each place of a model. A matrix gets it if its rows are whole blocks of it, and
//! otherwise the next that fits: blocks of 256 give way to [`WeightFormat::Q8_0`], blocks of 32 to what is stored.
//!
//! Invariants: the decision depends on place, stored format and columns alone, so that a plan and a load agree; a
//! block format never takes more bits than what is stored; routers stay as stored and vectors are held in f32.

use std::fmt;
use std::str::FromStr;

use moebius_backend::WeightFormat;

use crate::Error;
use crate::info::Place;

/// Below this a format is too coarse for the table of tokens and the output projection.
const FINE_BITS: f64 = 5.0;

/// What weights are held in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeldFormats {
    /// Everything as it is stored.
    #[default]
    AsStored,
    /// One format for every matrix but routers; under formats of two or four bits, embedding and output projection are held
    /// in [`WeightFormat::Q6K`].
    Uniform(WeightFormat),
    /// `q4_k_m`: experts in [`WeightFormat::Q4K`], everything else but routers in [`WeightFormat::Q6K`].
    Q4KM,
    /// `q5_k_m`: experts in [`WeightFormat::Q5K`], everything else but routers in [`WeightFormat::Q6K`].
    Q5KM,
}

impl HeldFormats {
    /// Mixes and their names.
    const MIXES: [(HeldFormats, &str); 2] = [(HeldFormats::Q4KM, "q4_k_m"), (HeldFormats::Q5KM, "q5_k_m")];

    /// Every name that [`FromStr`] reads.
    pub fn names() -> Vec<&'static str> {
        let mixes = HeldFormats::MIXES.map(|(_, name)| name);
        WeightFormat::ALL.into_iter().map(WeightFormat::name).chain(mixes).collect()
    }

    /// What a place is to be held in where the columns allow it; `None` is as stored.
    pub fn wanted(self, place: Place) -> Option<WeightFormat> {
        match (self, place) {
            (HeldFormats::AsStored, _) | (_, Place::Router | Place::Norm) => None,
            (HeldFormats::Uniform(format), Place::Embedding | Place::LmHead)
                if format.bits_per_weight() < FINE_BITS =>
            {
                Some(WeightFormat::Q6K)
            }
            (HeldFormats::Uniform(format), _) => Some(format),
            (HeldFormats::Q4KM, Place::Experts) => Some(WeightFormat::Q4K),
            (HeldFormats::Q5KM, Place::Experts) => Some(WeightFormat::Q5K),
            (HeldFormats::Q4KM | HeldFormats::Q5KM, _) => Some(WeightFormat::Q6K),
        }
    }

    /// What a matrix of `cols` columns is held in.
    pub fn held(self, place: Place, stored: WeightFormat, cols: usize) -> WeightFormat {
        let Some(wanted) = self.wanted(place) else { return stored };
        let fallback = (wanted.block_len() > WeightFormat::Q8_0.block_len()).then_some(WeightFormat::Q8_0);
        let mut candidates = [Some(wanted), fallback].into_iter().flatten();
        let fitting = candidates.find(|format| cols.is_multiple_of(format.block_len()));
        let smaller = |format: &WeightFormat| {
            format.block_len() == 1 || format.bits_per_weight() < stored.bits_per_weight()
        };
        fitting.filter(smaller).unwrap_or(stored)
    }
}

impl fmt::Display for HeldFormats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mix = HeldFormats::MIXES.into_iter().find(|(mix, _)| mix == self);
        f.pad(match (self, mix) {
            (_, Some((_, name))) => name,
            (HeldFormats::Uniform(format), None) => format.name(),
            (_, None) => "as stored",
        })
    }
}

impl FromStr for HeldFormats {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        if let Some((mix, _)) = HeldFormats::MIXES.into_iter().find(|(_, mix)| *mix == name) {
            return Ok(mix);
        }
        let unknown =
            |_| Error::UnknownFormat { got: name.into(), expected: HeldFormats::names().join(", ") };
        name.parse().map(HeldFormats::Uniform).map_err(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use WeightFormat::{Bf16, F16, F32, Iq4Xs, Mxfp4, Q2K, Q4_0, Q4K, Q5_1, Q5K, Q6K, Q8_0};

    /// Checks what `name` holds a bf16 matrix of 512 columns in, at each kind of place.
    #[track_caller]
    fn check(name: &str, expected: [WeightFormat; 4]) {
        let formats: HeldFormats = name.parse().unwrap();
        let at = |place| formats.held(place, Bf16, 512);
        assert_eq!(
            [Place::Experts, Place::Attention, Place::LmHead, Place::Router].map(at),
            expected,
            "{name}"
        );
        assert_eq!([Place::SharedExperts, Place::Dense].map(at), [expected[1]; 2], "{name}");
        assert_eq!(at(Place::Embedding), expected[2], "{name}");
    }

    #[test]
    fn every_name_gives_each_place_its_format_and_routers_stay_as_stored() {
        check("f32", [F32, F32, F32, Bf16]);
        check("bf16", [Bf16; 4]);
        check("f16", [F16, F16, F16, Bf16]);
        check("q8_0", [Q8_0, Q8_0, Q8_0, Bf16]);
        check("q6_k", [Q6K, Q6K, Q6K, Bf16]);
        check("q4_0", [Q4_0, Q4_0, Q6K, Bf16]);
        check("q4_k", [Q4K, Q4K, Q6K, Bf16]);
        check("mxfp4", [Mxfp4, Mxfp4, Q6K, Bf16]);
        check("q5_1", [Q5_1, Q5_1, Q5_1, Bf16]);
        check("q5_k", [Q5K, Q5K, Q5K, Bf16]);
        check("iq4_xs", [Iq4Xs, Iq4Xs, Q6K, Bf16]);
        check("q2_k", [Q2K, Q2K, Q6K, Bf16]);
        check("q4_k_m", [Q4K, Q6K, Q6K, Bf16]);
        check("q5_k_m", [Q5K, Q6K, Q6K, Bf16]);
    }

    #[test]
    fn without_a_choice_everything_stays_as_stored() {
        for stored in WeightFormat::ALL {
            assert_eq!(HeldFormats::default().held(Place::Experts, stored, 256), stored);
        }
    }

    #[test]
    fn columns_that_cut_a_block_get_the_next_format_that_fits() {
        let held = |format, cols| HeldFormats::Uniform(format).held(Place::Experts, Bf16, cols);
        assert_eq!([held(Q4K, 768), held(Q4K, 1408), held(Q6K, 1408)], [Q4K, Q8_0, Q8_0]);
        assert_eq!([held(Q4K, 48), held(Q8_0, 48), held(Q4_0, 48), held(Mxfp4, 48)], [Bf16; 4]);
        assert_eq!([held(F16, 3), held(F32, 3)], [F16, F32]);
        let head = HeldFormats::Uniform(Q4_0).held(Place::LmHead, Bf16, 96);
        assert_eq!(head, Q8_0);
    }

    #[test]
    fn what_is_stored_in_fewer_bits_is_not_blown_up_unless_floats_are_asked_for() {
        let held = |format, stored| HeldFormats::Uniform(format).held(Place::Experts, stored, 256);
        assert_eq!(
            [held(Q8_0, Q4K), held(Q6K, Mxfp4), held(Q4K, Q4_0), held(Q4_0, Mxfp4)],
            [Q4K, Mxfp4, Q4_0, Mxfp4]
        );
        assert_eq!([held(Mxfp4, Q4_0), held(Q4_0, Q8_0)], [Mxfp4, Q4_0]);
        assert_eq!([held(F32, Q4K), held(Bf16, Q8_0), held(F16, F32)], [F32, Bf16, F16]);
        // The fallback counts, not what it stands in for.
        assert_eq!(HeldFormats::Uniform(Q4K).held(Place::Experts, Q4_0, 96), Q4_0);
    }

    #[test]
    fn names_are_read_back_and_others_are_refused_with_the_list() {
        for name in HeldFormats::names() {
            assert_eq!(name.parse::<HeldFormats>().unwrap().to_string(), name);
        }
        for name in ["", "q3_k", "Q4_0", "as stored"] {
            let error = name.parse::<HeldFormats>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{name}`")) && error.ends_with("q2_k, q4_k_m, q5_k_m"),
                "{error}"
            );
        }
    }
}
