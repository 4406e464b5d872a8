//! Frames as bytes, made before anything is measured.

use libeevee::wire::{Ack, CONFIRM, Content, EncodedDocument, Frame, Grant, Hello, Publish, Role, Subscribe, VERSION};
use libeevee::{Document, Headers};

use crate::peer::Message;

/// Appends a message as a Publish; with a number, as one that has to be confirmed.
pub(crate) fn publish(message: &Message, confirm: Option<u32>, out: &mut Vec<u8>) -> usize {
    let document = EncodedDocument::from(&document(message));
    let bytes = document.bytes().len();
    let publish = Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document };
    let flags = if confirm.is_some() { CONFIRM } else { 0 };
    Frame { flags, number: confirm.unwrap_or(0), content: Content::Publish(publish) }.encode_into(out);
    bytes
}

/// A message as users of the library make it.
pub(crate) fn document(message: &Message) -> Document {
    let mut headers = Headers::default();
    for (key, value) in &message.headers {
        // The benchmark's own headers follow the grammar; one that does not shows as a message that nobody gets.
        let _ = headers.set(*key, value.clone());
    }
    Document { headers, body: message.body.clone().into() }
}

pub(super) fn hello() -> Vec<u8> {
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        role: Role::Tool as u8,
        id: None,
        token: String::new(),
        instance: fastrand::u64(1..),
        program: "eevee-bench".to_owned(),
        capabilities: Vec::new(),
    };
    Frame::new(0, Content::Hello(hello)).encode()
}

pub(super) fn subscribe(number: u32, filter: &str, window: Grant, durable: Option<&str>, out: &mut Vec<u8>) {
    let subscribe = Subscribe {
        filters: vec![filter.to_owned()],
        overflow: 0,
        queue_messages: 0,
        queue_bytes: 0,
        max_age_ms: 0,
        window_messages: window.messages,
        window_bytes: window.bytes,
        durable: durable.map(str::to_owned),
    };
    Frame::new(number, Content::Subscribe(subscribe)).encode_into(out);
}

pub(super) fn grant(number: u32, grant: Grant) -> Vec<u8> {
    Frame::new(number, Content::Grant(grant)).encode()
}

pub(super) fn ack(number: u32, id: u64, out: &mut Vec<u8>) {
    Frame::new(number, Content::Ack(Ack { id })).encode_into(out);
}
