//! NVIDIA's cards: what each has taken since its driver was loaded, from the library that comes with the driver.
//!
//! The library is looked for at run time, so the program starts without it. Cards before Volta have no such counter.

use std::fmt;
use std::io;
use std::sync::Arc;

use moebius_metering::WrappingCounter;
use nvml_wrapper::{Device, Nvml, error::NvmlError};

use super::{Register, Unusable, Zone};

/// The counter of one card.
pub(super) struct Card {
    library: Arc<Nvml>,
    index: u32,
}

/// All cards, with their names; none where there is no driver.
pub(super) fn cards() -> Result<Vec<(String, Zone)>, Unusable> {
    let Ok(library) = Nvml::init() else { return Ok(Vec::new()) };
    let library = Arc::new(library);
    let count = library.device_count().map_err(|error| ("NVML".to_owned(), failed(error)))?;
    (0..count).map(|index| Card { library: library.clone(), index }.open()).collect()
}

impl Card {
    fn open(self) -> Result<(String, Zone), Unusable> {
        let name = self.device().and_then(|device| device.name());
        let name = format!("GPU {} ({})", self.index, name.as_deref().unwrap_or("without a name"));
        let counter = self.microjoules().map(|now| WrappingCounter::new(u64::MAX, now));
        match counter.map_err(|error| (name.clone(), error))? {
            Some(counter) => Ok((name, Zone::new(counter, Register::Card(self)))),
            None => unreachable!("nothing is beyond the largest number"),
        }
    }

    pub(super) fn microjoules(&self) -> io::Result<u64> {
        let millijoules = self.device().and_then(|device| device.total_energy_consumption());
        let millijoules = millijoules.map_err(failed)?;
        millijoules.checked_mul(1_000).ok_or_else(|| super::invalid(format!("got {millijoules} mJ")))
    }

    fn device(&self) -> Result<Device<'_>, NvmlError> {
        self.library.device_by_index(self.index)
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Card").field("index", &self.index).finish_non_exhaustive()
    }
}

fn failed(error: NvmlError) -> io::Error {
    let kind = match error {
        NvmlError::NoPermission => io::ErrorKind::PermissionDenied,
        NvmlError::NotSupported => io::ErrorKind::Unsupported,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_has_no_cards_and_one_with_it_names_them() {
        match (Nvml::init(), cards()) {
            (Err(_), cards) => assert!(cards.expect("no card is no failure").is_empty()),
            (Ok(_), Ok(cards)) => assert!(cards.iter().all(|(name, _)| name.starts_with("GPU "))),
            (Ok(_), Err((counter, error))) => assert!(!counter.is_empty(), "{error}"),
        }
    }

    #[test]
    fn a_card_without_a_counter_is_told_apart_from_one_that_is_forbidden() {
        assert_eq!(failed(NvmlError::NotSupported).kind(), io::ErrorKind::Unsupported);
        assert_eq!(failed(NvmlError::NoPermission).kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(failed(NvmlError::GpuLost).kind(), io::ErrorKind::Other);
    }
}
