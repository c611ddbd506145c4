//! Starts the real binary, and a real Redis, and looks at them from outside.
//!
//! - `alone`: what the server does without Redis
//! - `redis`: no job is lost, whoever ends in the middle. These need `redis-server`, and are run by
//!   `cargo test -p handoff -- --ignored`.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod alone;
mod redis;
mod support;
