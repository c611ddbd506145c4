//! The one place that catches panics: nothing else in this crate does.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sync::assert_unlocked;

/// What was left of a panic once its payload was dropped.
#[derive(Debug)]
pub(crate) struct Panic {
    pub(crate) message: String,
    /// The payload's own `Drop` panicked as well.
    pub(crate) again: bool,
}

/// Runs the user's `code` and contains its panic.
///
/// What `code` had in hand when it panicked is not looked at again, or is the user's to keep whole: hence
/// `AssertUnwindSafe`.
pub(crate) fn catch<R>(code: impl FnOnce() -> R) -> Result<R, Panic> {
    assert_unlocked();
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let message = message(&*payload);
        let again = match catch_unwind(AssertUnwindSafe(move || drop(payload))) {
            Ok(()) => false,
            // Whoever panics with a payload that panics may do so for ever: this one is leaked.
            Err(second) => {
                std::mem::forget(second);
                true
            }
        };
        Panic { message, again }
    })
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic whose payload is no text".to_owned()
    }
}
