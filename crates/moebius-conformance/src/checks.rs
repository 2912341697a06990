//! The checks, one module per group; which exist is said by the table in `macros.rs`.
#![allow(missing_docs, reason = "the name of a check is the sentence that it checks")]

pub mod bitwise;
pub mod experts;
pub mod linear;
pub mod loading;
pub mod ops;

use crate::Group;
use crate::run::Check;

/// Every check with its group and name, in the order in which they run.
pub(crate) fn all() -> Vec<(Group, &'static str, Check)> {
    [
        crate::__checks!(loading, __listed),
        crate::__checks!(linear, __listed),
        crate::__checks!(experts, __listed),
        crate::__checks!(ops, __listed),
        crate::__checks!(bitwise, __listed),
    ]
    .concat()
}
