//! The client against a scripted bus on a real socket.

mod bus;
mod confirmed;
mod durable;
mod handshake;
mod lost;
mod notices;
mod publishing;
mod requests;
mod subscribing;

use self::bus::{Bus, Peer, delivery, document, refusal, soon, text, welcome};
