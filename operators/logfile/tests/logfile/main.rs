//! The log file operator on a real bus: files that are rotated under load while it is killed and started again, chat logs,
//! the journal, reloads.
#![allow(clippy::unwrap_used, reason = "a helper of a test that cannot go on fails the test")]

mod journal;
mod life;
mod place;
mod rotate;
mod write;
