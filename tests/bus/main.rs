//! The real eeveed on a socket in a temporary directory, and real clients: what it promises without systemd.
#![allow(clippy::unwrap_used)]

mod bus;
mod config;
mod full;
mod hostile;
mod messages;
mod operators;
mod pressure;
mod records;
mod storms;
mod tool;
