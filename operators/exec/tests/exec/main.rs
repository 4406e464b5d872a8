//! The exec operator with real programs (sh, python3, node) between a real eeveed and a person in a channel.
#![allow(clippy::unwrap_used, reason = "a helper of a test that cannot go on fails the test")]

mod announce;
#[path = "../../../../tests/bus/bus.rs"]
#[allow(dead_code, reason = "the bus tests use the rest")]
mod bus;
mod commands;
mod document;
mod examples;
mod excess;
mod hostile;
mod life;
mod place;
mod records;
