//! What every public type is: `Send`, `Sync`, `UnwindSafe`, `RefUnwindSafe`; and how large the common ones are.

#![allow(clippy::unwrap_used)]

use inflight::{
    Backoff, BuildError, Builder, Cancelled, Canceller, Context, Grace, Handle, Kind, Manager, ManualClock,
    Phase, Reason, Rejected, Retry, Scope, Stats, Task, TaskError, TaskId, TaskInfo, Unfinished,
};
use std::cell::UnsafeCell;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::panic::{RefUnwindSafe, UnwindSafe};

fn sound<T: Send + Sync + UnwindSafe + RefUnwindSafe>() {}
fn unwind_safe<T: UnwindSafe + RefUnwindSafe>() {}
fn debug<T: Debug>() {}
fn error<T: Error + Debug + Display + Send + Sync + 'static>() {}

/// Neither `Debug` nor unwind safe by itself.
struct Plain(#[allow(dead_code)] std::sync::Mutex<u8>);

#[test]
fn every_public_type_may_be_sent_shared_and_carried_over_a_panic() {
    sound::<Manager<Plain>>();
    sound::<Builder<Plain>>();
    sound::<Task<Plain>>();
    sound::<Context>();
    sound::<Canceller>();
    sound::<Cancelled>();
    sound::<Handle<Plain>>();
    sound::<Grace>();
    sound::<Retry>();
    sound::<Backoff>();
    sound::<TaskError>();
    sound::<Rejected<Plain>>();
    sound::<Unfinished<Plain>>();
    sound::<TaskInfo<Plain>>();
    sound::<TaskId>();
    sound::<Kind>();
    sound::<Phase>();
    sound::<Stats>();
    sound::<BuildError>();
    sound::<Scope<'static, 'static, Plain>>();
    sound::<ManualClock>();
    unwind_safe::<Reason>();
    unwind_safe::<Rejected<UnsafeCell<u8>>>();
}

#[test]
fn errors_are_errors_for_every_meta_and_the_rest_is_debug() {
    error::<Rejected<Plain>>();
    error::<Unfinished<u8>>();
    error::<TaskError>();
    error::<BuildError>();
    error::<Cancelled>();
    debug::<Manager<Plain>>();
    debug::<Builder<Plain>>();
    debug::<Task<Plain>>();
    debug::<Handle<Plain>>();
    debug::<Scope<'static, 'static, Plain>>();
    debug::<(Context, Canceller, Grace, Retry, Backoff, TaskId, Kind, Phase, Stats, Reason, ManualClock)>();
}

#[test]
fn the_debug_of_a_manager_says_which_it_is_and_how_it_stands() {
    let manager: Manager<Plain> = Manager::builder().name("mail").build().unwrap();
    let shown = format!("{manager:?}");
    assert_eq!(shown, r#"Manager { name: "mail", len: 0, closed: false, counted: true, .. }"#);
    manager.close();
    let shown = format!("{:?}", manager.uncounted());
    assert_eq!(shown, r#"Manager { name: "mail", len: 0, closed: true, counted: false, .. }"#);
}

#[test]
fn what_is_moved_often_is_small() {
    let word = size_of::<usize>();
    assert!(size_of::<Rejected<[u8; 4096]>>() <= 2 * word);
    assert!(size_of::<Task<[u8; 4096]>>() <= 3 * word);
    assert!(size_of::<Manager<Plain>>() <= 2 * word);
}
