//! The element types of GGUF: how long their blocks are, and which of them are read.
//!
//! [`TensorType::reading`] is the one place that says how a type is read: a type joins the readable ones there.

use moebius_backend::{ForeignFormat, WeightFormat};

macro_rules! types {
    ($($variant:ident $id:literal $name:literal $len:literal $bytes:literal;)+) => {
        /// An element type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(non_camel_case_types, reason = "the names are those of the format")]
        pub(crate) enum TensorType {
            $($variant,)+
        }

        impl TensorType {
            /// The type with this number in a file.
            pub(super) fn of(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(TensorType::$variant),)+
                    _ => None,
                }
            }

            /// Its number in a file.
            pub(super) fn id(self) -> u32 {
                match self {
                    $(TensorType::$variant => $id,)+
                }
            }

            /// Its name.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(TensorType::$variant => $name,)+
                }
            }

            /// Elements of a block, and its bytes.
            pub(super) fn block(self) -> (u64, u64) {
                match self {
                    $(TensorType::$variant => ($len, $bytes),)+
                }
            }
        }
    };
}

types! {
    F32 0 "F32" 1 4;
    F16 1 "F16" 1 2;
    Q4_0 2 "Q4_0" 32 18;
    Q4_1 3 "Q4_1" 32 20;
    Q5_0 6 "Q5_0" 32 22;
    Q5_1 7 "Q5_1" 32 24;
    Q8_0 8 "Q8_0" 32 34;
    Q8_1 9 "Q8_1" 32 36;
    Q2_K 10 "Q2_K" 256 84;
    Q3_K 11 "Q3_K" 256 110;
    Q4_K 12 "Q4_K" 256 144;
    Q5_K 13 "Q5_K" 256 176;
    Q6_K 14 "Q6_K" 256 210;
    Q8_K 15 "Q8_K" 256 292;
    IQ2_XXS 16 "IQ2_XXS" 256 66;
    IQ2_XS 17 "IQ2_XS" 256 74;
    IQ3_XXS 18 "IQ3_XXS" 256 98;
    IQ1_S 19 "IQ1_S" 256 50;
    IQ4_NL 20 "IQ4_NL" 32 18;
    IQ3_S 21 "IQ3_S" 256 110;
    IQ2_S 22 "IQ2_S" 256 82;
    IQ4_XS 23 "IQ4_XS" 256 136;
    I8 24 "I8" 1 1;
    I16 25 "I16" 1 2;
    I32 26 "I32" 1 4;
    I64 27 "I64" 1 8;
    F64 28 "F64" 1 8;
    IQ1_M 29 "IQ1_M" 256 56;
    BF16 30 "BF16" 1 2;
    TQ1_0 34 "TQ1_0" 256 54;
    TQ2_0 35 "TQ2_0" 256 66;
    MXFP4 39 "MXFP4" 32 17;
}

/// How elements of a type are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Blocks are those of a format, byte for byte.
    Own(WeightFormat),
    /// Blocks are rewritten to those of another format, which holds the same values.
    Rewritten(ForeignFormat),
}

impl TensorType {
    /// The type whose blocks are those of a format.
    pub(super) fn of_format(format: WeightFormat) -> Self {
        let is_format = |kind: &TensorType| kind.reading() == Some(Reading::Own(format));
        (0..)
            .map_while(|id| (id < 64).then(|| TensorType::of(id)))
            .flatten()
            .find(is_format)
            .expect("every format has one")
    }

    /// The number that llama.cpp gives files whose elements are mostly of the type.
    pub(super) fn file_type(self) -> u32 {
        match self {
            TensorType::F16 => 1,
            TensorType::Q4_0 => 2,
            TensorType::Q8_0 => 7,
            TensorType::Q5_1 => 9,
            TensorType::Q2_K => 10,
            TensorType::Q4_K => 14,
            TensorType::Q5_K => 16,
            TensorType::Q6_K => 18,
            TensorType::IQ4_XS => 30,
            TensorType::BF16 => 32,
            TensorType::MXFP4 => 38,
            _ => 0,
        }
    }

    /// How elements of the type are read; `None` for a type that is not.
    pub(crate) fn reading(self) -> Option<Reading> {
        Some(match self {
            TensorType::F32 => Reading::Own(WeightFormat::F32),
            TensorType::F16 => Reading::Own(WeightFormat::F16),
            TensorType::BF16 => Reading::Own(WeightFormat::Bf16),
            TensorType::Q8_0 => Reading::Own(WeightFormat::Q8_0),
            TensorType::Q4_0 => Reading::Own(WeightFormat::Q4_0),
            TensorType::Q5_1 => Reading::Own(WeightFormat::Q5_1),
            TensorType::Q2_K => Reading::Own(WeightFormat::Q2K),
            TensorType::Q4_K => Reading::Own(WeightFormat::Q4K),
            TensorType::Q5_K => Reading::Own(WeightFormat::Q5K),
            TensorType::Q6_K => Reading::Own(WeightFormat::Q6K),
            TensorType::IQ4_XS => Reading::Own(WeightFormat::Iq4Xs),
            TensorType::MXFP4 => Reading::Own(WeightFormat::Mxfp4),
            TensorType::Q4_1 => Reading::Rewritten(ForeignFormat::Q4_1),
            TensorType::Q5_0 => Reading::Rewritten(ForeignFormat::Q5_0),
            TensorType::Q3_K => Reading::Rewritten(ForeignFormat::Q3K),
            TensorType::IQ4_NL => Reading::Rewritten(ForeignFormat::Iq4Nl),
            _ => return None,
        })
    }

    /// Bytes of `elements` in rows of `cols`; `None` when a row is no whole number of blocks or it is too much.
    pub(super) fn bytes_for(self, elements: u64, cols: u64) -> Option<u64> {
        let (len, bytes) = self.block();
        cols.is_multiple_of(len).then_some(elements / len)?.checked_mul(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_what_is_read_are_those_of_the_formats() {
        for id in 0..64 {
            let Some(kind) = TensorType::of(id) else { continue };
            let block = match kind.reading() {
                None => continue,
                Some(Reading::Own(format)) => (format.block_len(), format.block_bytes()),
                Some(Reading::Rewritten(foreign)) => (foreign.block_len(), foreign.block_bytes()),
            };
            assert_eq!(kind.block(), (block.0 as u64, block.1 as u64), "{kind:?}");
        }
        let reads =
            |wanted| (0..64).any(|id| TensorType::of(id).and_then(TensorType::reading) == Some(wanted));
        for format in WeightFormat::ALL {
            assert!(reads(Reading::Own(format)), "{format}");
        }
        for foreign in ForeignFormat::ALL {
            assert!(reads(Reading::Rewritten(foreign)), "{foreign}");
        }
    }
}
