//! Real IRC servers in a machine, and a small real client to talk to them.

mod client;
mod config;
mod server;

pub use client::{IrcClient, privmsg};
pub use server::{IrcServer, ServerKind};
