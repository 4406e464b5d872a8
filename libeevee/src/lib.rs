//! Client library and operator runtime of the eevee bus.
#![warn(missing_docs)]

pub mod header;
mod id;
mod message;
pub mod wire;

pub use crate::header::{HeaderError, Headers};
pub use crate::id::{ID_BYTES_MAX, IdError, OperatorId};
pub use crate::message::{Delivery, Document, Gap, GapReason, Message, Timestamp};
pub use crate::wire::Code;
