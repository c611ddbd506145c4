//! Starts the real binary on loopback, and looks at it from outside: over HTTP, by signals, by its exit and its
//! output, and into the file that it leaves.
//!
//! - `http`: what each route answers, and what no client may do to it
//! - `admin`: what operators are told, by the routes on their own port
//! - `page`: the page there, in a browser; needs Chromium
//! - `load`: every order that got its 202 has exactly one row, whenever the signal comes
//! - `shutdown`: the steps of the end, and each of its outcomes

#![allow(clippy::unwrap_used, reason = "what a test unwraps, it asserts")]

mod admin;
mod browser;
mod http;
mod load;
mod page;
mod shutdown;
mod support;
