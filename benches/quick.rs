//! A Criterion that is done soon.

use std::time::Duration;

use criterion::Criterion;

/// Ten samples within a second: enough to see a change of some per cent. Options after `--` win over this.
pub(crate) fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}
