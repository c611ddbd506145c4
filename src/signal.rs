//! Waiting for SIGINT or SIGTERM in a blocking program. Feature `signal-hook`, Unix only.
//!
//! Nothing else in this crate installs a signal handler, and this does only when it is called.
//!
//! ```no_run
//! use inflight::{Grace, Manager, signal};
//! use std::time::Duration;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let signals = signal::register()?; // before there is anything to lose
//!     let manager: Manager<&str> = Manager::new();
//!     // ... start the listener ...
//!     eprintln!("{}: draining", signals.wait());
//!     // ... stop the listener ...
//!     manager.shutdown(Grace::drain(Duration::from_secs(25)).then_cancel(Duration::from_secs(3)))?;
//!     Ok(())
//! }
//! ```

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator;

/// The signal that came.
///
/// ```
/// assert_eq!(inflight::signal::Signal::Terminate.to_string(), "SIGTERM");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Signal {
    /// SIGINT: Ctrl-C in a terminal.
    Interrupt,
    /// SIGTERM: what service managers send.
    Terminate,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        })
    }
}

/// SIGINT and SIGTERM, registered: [`register`].
#[derive(Debug)]
#[must_use = "the signals are caught from now on: wait for them"]
pub struct Signals {
    pending: iterator::Signals,
    second_ends: Arc<AtomicBool>,
}

/// Catches SIGINT and SIGTERM from now on: the first of them is for [`Signals::wait`], the second ends the
/// process at once, by the signal's default action.
///
/// # Errors
/// What the operating system says if it refuses.
///
/// ```no_run
/// let signals = inflight::signal::register()?;
/// println!("{}", signals.wait());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn register() -> io::Result<Signals> {
    let second_ends = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag down, and raises it for the second.
        flag::register_conditional_default(signal, Arc::clone(&second_ends))?;
        flag::register(signal, Arc::clone(&second_ends))?;
    }
    Ok(Signals { pending: iterator::Signals::new([SIGINT, SIGTERM])?, second_ends })
}

impl Signals {
    /// Waits for the first signal, or answers at once if it has come since [`register`].
    ///
    /// ```no_run
    /// let signals = inflight::signal::register()?;
    /// println!("{}", signals.wait());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn wait(mut self) -> Signal {
        let first = self.pending.forever().next();
        if first == Some(SIGINT) { Signal::Interrupt } else { Signal::Terminate }
    }
}

impl Drop for Signals {
    /// Nobody waits any more: from here on a signal does what it does by default.
    fn drop(&mut self) {
        self.second_ends.store(true, Ordering::SeqCst);
    }
}
