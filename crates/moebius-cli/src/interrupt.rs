//! Ctrl-C: the first stops the text that is being generated or the model that is being packed, all others end the
//! program.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::errors::INTERRUPTED;

/// Knows whether Ctrl-C was pressed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    generating: AtomicBool,
    stop: AtomicBool,
}

/// A stretch of time in which Ctrl-C stops the text only.
pub(crate) struct Generating<'a>(&'a State);

impl Interrupt {
    /// Listens from now on.
    pub(crate) fn install() -> Self {
        let interrupt = Interrupt::default();
        let state = interrupt.state.clone();
        // Without a handler Ctrl-C ends the program at once, which will do.
        let _ = ctrlc::set_handler(move || {
            if !state.generating.load(Ordering::SeqCst) || state.stop.swap(true, Ordering::SeqCst) {
                let _ = writeln!(std::io::stderr());
                std::process::exit(INTERRUPTED.into());
            }
        });
        interrupt
    }

    /// Text is generated while the result lives.
    pub(crate) fn generating(&self) -> Generating<'_> {
        self.state.stop.store(false, Ordering::SeqCst);
        self.state.generating.store(true, Ordering::SeqCst);
        Generating(&self.state)
    }
}

impl Generating<'_> {
    /// Whether the text should stop.
    pub(crate) fn stopped(&self) -> bool {
        self.0.stop.load(Ordering::SeqCst)
    }
}

impl Drop for Generating<'_> {
    fn drop(&mut self) {
        self.0.generating.store(false, Ordering::SeqCst);
    }
}
