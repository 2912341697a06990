//! Units as bytes and bytes as units, without a copy.
//!
//! Invariants: a [`Plain`] type has no padding, so that all of its bytes have values, and no bytes that it cannot
//! have, so that any of them may be read as it. Sizes and alignment are checked before a cast.

use std::slice;

use super::{CACHE_LINE, LANES, QUAD_BYTES};
use crate::{
    format::{
        LanesBf16, LanesF16, LanesF32, RunFactors, UnitIq4Xs, UnitMxfp4, UnitQ2K, UnitQ4_0, UnitQ4K,
        UnitQ5_1, UnitQ5K, UnitQ6K, UnitQ8_0,
    },
    shelf::Line,
};

/// Numbers side by side in a fixed order.
///
/// # Safety
/// - Every byte of a value has a value: the type has no padding.
/// - Every pattern of bytes is a value.
/// - The order of fields is fixed: the type is `repr(C)`.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($unit:ty: $bytes:expr;)+) => {
        $(
            const _: () = assert!(size_of::<$unit>() == $bytes, "a unit has no padding");
            // SAFETY: the unit is `repr(C)`, made of integers and floats only, of which every pattern of bytes is a
            // value; the assertion says that it is as large as its fields together, so that nothing lies between.
            unsafe impl Plain for $unit {}
        )+
    };
}

plain! {
    LanesF32: 4 * LANES;
    LanesBf16: 2 * LANES;
    LanesF16: 2 * LANES;
    UnitQ8_0: 2 * LANES + 8 * QUAD_BYTES;
    UnitQ4_0: 2 * LANES + 4 * QUAD_BYTES;
    RunFactors: RunFactors::BYTES;
    UnitQ5_1: (2 + 2) * LANES + (1 + 4) * QUAD_BYTES;
    UnitQ4K: RunFactors::BYTES + 32 * QUAD_BYTES;
    UnitQ5K: RunFactors::BYTES + 40 * QUAD_BYTES;
    UnitQ6K: (2 + 16) * LANES + 4 * 4 * 3 * QUAD_BYTES;
    UnitMxfp4: LANES + 4 * QUAD_BYTES;
    UnitIq4Xs: (2 + 8) * LANES + 32 * QUAD_BYTES;
    UnitQ2K: (2 + 2 + 16 + 16) * LANES + 16 * QUAD_BYTES;
    Line: CACHE_LINE;
}

/// The memory of units.
pub(crate) fn bytes_of<U: Plain>(units: &[U]) -> &[u8] {
    // SAFETY: the bytes are those of the borrowed slice, and by the first bullet of `Plain` all of them have values.
    unsafe { slice::from_raw_parts(units.as_ptr().cast(), size_of_val(units)) }
}

/// Bytes as whole units; `None` if they do not start where a unit may, or end within one.
pub(crate) fn units_of<U: Plain>(bytes: &[u8]) -> Option<&[U]> {
    let first: *const U = bytes.as_ptr().cast();
    if !bytes.len().is_multiple_of(size_of::<U>()) || !first.is_aligned() {
        return None;
    }
    // SAFETY: the units lie within the borrowed slice and start where a unit may, both checked above; by the second
    // bullet of `Plain` whatever lies there is a value.
    Some(unsafe { slice::from_raw_parts(first, bytes.len() / size_of::<U>()) })
}
