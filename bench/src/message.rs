//! The messages of all workloads, and the chunks of encoded ones that publishers write over and over.

use crate::peer::{Message, Publisher};

/// Bytes of messages that a publisher writes at once, except where it writes each by itself.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// Encoded messages that are written in turn: this much at least, so that not one single chunk stays in every cache.
const RING_BYTES: usize = 1 << 20;

/// And this much at most, where there are many topics.
const RING_BYTES_MAX: usize = 48 << 20;

/// Where a unique value goes: sixteen of these in a row stand in no other place.
const UNIQUE_MARK: &[u8; 16] = b"@@@@@@@@@@@@@@@@";

/// The key of topic `number`, of the same length for all.
pub(crate) fn key(number: usize) -> String {
    format!("room-{number:08}")
}

/// A message of topic `number`: with 200 bytes of body, 323 bytes as a Publish frame of eevee.
pub(crate) fn message(number: usize, body_bytes: usize) -> Message {
    Message {
        headers: vec![
            ("platform", "irc".to_owned()),
            ("network", "libera.chat".to_owned()),
            ("channel", key(number)),
            ("user", "goos!~goos@honk.example.or".to_owned()),
            ("type", "chat.message".to_owned()),
        ],
        body: (0..body_bytes).map(|at| b'a' + (at % 26) as u8).collect(),
    }
}

/// The same with a sixth header whose value is another in every message ever written.
pub(crate) fn unique_message(number: usize, body_bytes: usize) -> Message {
    let mut message = message(number, body_bytes);
    message.headers.push(("trace", String::from_utf8_lossy(UNIQUE_MARK).into_owned()));
    message
}

/// Whole encoded messages, written at once.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) messages: u64,
    /// Where unique values stand in `bytes`.
    unique: Vec<usize>,
}

impl Chunk {
    /// Gives every message of the chunk a value that it never had.
    pub(crate) fn renew(&mut self, counter: &mut u64) {
        for &at in &self.unique {
            *counter += 1;
            let mut rest = *counter;
            for byte in &mut self.bytes[at..at + UNIQUE_MARK.len()] {
                *byte = b'a' + (rest & 15) as u8;
                rest >>= 4;
            }
        }
    }
}

/// Chunks of `chunk_bytes` (at least one message each) of messages that go through the topics in an order without a
/// pattern, every topic once before any comes again.
pub(crate) fn ring(
    publisher: &mut dyn Publisher,
    topics: usize,
    chunk_bytes: usize,
    make: &dyn Fn(usize) -> Message,
    seed: u64,
) -> Vec<Chunk> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut order: Vec<usize> = (0..topics).collect();
    random.shuffle(&mut order);
    let mut encoded = Vec::new();
    publisher.encode(&make(0), &mut encoded);
    let per_chunk = (chunk_bytes / encoded.len()).max(1);
    let messages = topics.max(RING_BYTES / encoded.len()).min(RING_BYTES_MAX / encoded.len());
    let chunks = messages.div_ceil(per_chunk);
    let mut numbers = order.iter().cycle();
    (0..chunks)
        .map(|_| {
            let mut bytes = Vec::with_capacity(per_chunk * encoded.len() + 64);
            for number in numbers.by_ref().take(per_chunk) {
                publisher.encode(&make(*number), &mut bytes);
            }
            let unique = marks(&bytes);
            Chunk { bytes, messages: per_chunk as u64, unique }
        })
        .collect()
}

fn marks(bytes: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| *byte == UNIQUE_MARK[0]) {
        let start = at + next;
        // A name with an @ in it is no mark.
        if bytes[start..].starts_with(UNIQUE_MARK) {
            found.push(start);
            at = start + UNIQUE_MARK.len();
        } else {
            at = start + 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_and_renewed() {
        let mut chunk = Chunk { bytes: Vec::new(), messages: 2, unique: Vec::new() };
        for _ in 0..2 {
            chunk.bytes.extend_from_slice(b"goos@honk");
            chunk.bytes.extend_from_slice(UNIQUE_MARK);
        }
        chunk.unique = marks(&chunk.bytes);
        assert_eq!(chunk.unique, [9, 34]);
        chunk.renew(&mut 0);
        assert_ne!(chunk.bytes[9..25], chunk.bytes[34..50]);
        assert_eq!(&chunk.bytes[..9], b"goos@honk");
    }
}
