//! Client library and operator runtime of the eevee bus.
//!
//! This is a whole operator, which answers `!hello` on every chat network that is on the bus:
//!
//! ```no_run
//! fn main() -> libeevee::Exit { libeevee::operator::run(|op| op.command("hello", async |m| m.reply("hello").await)) }
//! ```
//!
//! - [`operator`] is the life of an operator: settings, readiness, watchdog, halt and resume, reload, stop.
//! - [`Client`] is the connection below it, which tools use by themselves.
//! - [`SubscribeBuilder::durable`] is for what must not be missed, [`Client::publish_confirmed`] for what must not be lost.
//! - [`Message`], [`Document`], [`Headers`] and [`Filter`] are what the bus carries, and who gets it.
//! - [`chat`] has the headers of chat messages, for connectors to networks.
//! - [`wire`] is the protocol itself, for the bus.
#![warn(missing_docs)]

// Unit tests and integration tests share the support in tests/support.
#[cfg(test)]
extern crate self as libeevee;

pub mod chat;
pub mod client;
pub mod diagnostic;
mod error;
mod escape;
mod exit;
pub mod filter;
pub mod header;
mod id;
pub mod json;
pub mod log;
mod message;
pub mod module;
pub mod operator;
mod program;
pub mod settings;
mod source;
mod token;
pub mod wire;

pub use crate::client::{
    Client, Connect, Event, FilterTexts, Nack, Notice, NoticeReceiver, Outgoing, Published, Response, SubscribeBuilder,
    Subscription,
};
pub use crate::diagnostic::{Diagnosis, parse_toml};
pub use crate::error::{Error, ErrorKind};
pub use crate::escape::escape_for_terminal;
pub use crate::exit::Exit;
pub use crate::filter::{Clause, Fields, Filter, FilterError};
pub use crate::header::{HeaderError, Headers};
pub use crate::id::{ID_BYTES_MAX, IdError, OperatorId};
pub use crate::message::{Delivery, Document, Gap, GapReason, Message, Timestamp};
pub use crate::program::{PROGRAM_DIRECTORIES, ProgramError, Programs};
pub use crate::settings::{ModuleFile, NoSettings, Secret, Settings, parse_module};
pub use crate::source::Source;
pub use crate::token::{TOKEN_BYTES, Token, TokenError};
pub use crate::wire::{Code, EncodedDocument, OperatorState, Overflow};
