//! The typed errors of the protocol: one number and one word each, the same on the wire, in logs and in JSON.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal;)*) => {
        /// What kind of error an Error frame reports.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum Code { $($(#[$doc])* $name = $number,)* }

        impl Code {
            /// All codes, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The word used in logs and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// From its number on the wire; a number of a later version reads as [`Code::Internal`].
            pub const fn from_number(number: u16) -> Self {
                match number { $($number => Self::$name,)* _ => Self::Internal }
            }

            /// From its word.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$name),)* _ => None }
            }
        }
    };
}

codes! {
    /// Something in the bus itself went wrong.
    Internal = 1, "internal";
    /// A length prefix above the frame limit. The session ends.
    FrameTooLarge = 2, "frame-too-large";
    /// A length prefix of zero. The session ends.
    EmptyFrame = 3, "empty-frame";
    /// Bytes that are no frame. The session ends.
    Malformed = 4, "malformed";
    /// A frame was begun and not finished in 10 s. The session ends.
    FrameTimeout = 5, "frame-timeout";
    /// No Hello came in 5 s, or too many connections wait with theirs. The session ends.
    HandshakeTimeout = 6, "handshake-timeout";
    /// More than 64 headers. The session ends.
    TooManyHeaders = 7, "too-many-headers";
    /// A header key or value outside the contract.
    BadHeader = 8, "bad-header";
    /// A header key stands twice.
    DuplicateHeader = 9, "duplicate-header";
    /// A kind of frame that this side does not know, or that this role may not send.
    UnknownType = 10, "unknown-type";
    /// No protocol version in common. The session ends.
    Version = 11, "version";
    /// Who the peer is could not be proved. The session ends.
    Auth = 12, "auth";
    /// A limit on connections, subscriptions or requests.
    Quota = 13, "quota";
    /// A filter with too many clauses or bytes.
    FilterTooLarge = 14, "filter-too-large";
    /// A filter that does not parse.
    BadFilter = 15, "bad-filter";
    /// `may-publish`, `may-receive` or the rights of a person do not allow it.
    Denied = 16, "denied";
    /// A chain of more than 16 answers.
    Loop = 17, "loop";
    /// A request that no subscription matched.
    NoResponder = 18, "no-responder";
    /// A request was not answered before its deadline.
    Deadline = 19, "deadline";
    /// Another session holds this operator id, or this network. For an id, the session ends.
    AlreadyConnected = 20, "already-connected";
    /// There is no such operator, subscription, request or verb.
    NotFound = 21, "not-found";
    /// A configuration was refused; the text is the diagnosis.
    Refused = 22, "refused";
    /// The disk did not take it.
    Storage = 23, "storage";
    /// An acknowledgement of what this durable subscription did not deliver, or that was acknowledged before.
    BadAck = 24, "bad-ack";
    /// Faster than `rate` allows, until the publish's deadline.
    Rate = 25, "rate";
    /// The daemon's memory limit is reached.
    Memory = 26, "memory";
    /// The bus is stopping.
    Stopping = 27, "stopping";
    /// More was published than the credit granted. The session ends.
    Credit = 28, "credit";
    /// The operator is not connected.
    NotConnected = 29, "not-connected";
    /// The operator did not answer in time.
    NoAnswer = 30, "no-answer";
    /// The subscription's policy for a full queue is to disconnect. The session ends.
    SlowConsumer = 31, "slow-consumer";
    /// A durable subscription that matched is full, and its policy is to reject.
    Full = 32, "full";
}

impl Code {
    /// Whether the side that sends this error closes the session after it.
    pub const fn closes(self) -> bool {
        matches!(
            self,
            Self::FrameTooLarge
                | Self::EmptyFrame
                | Self::Malformed
                | Self::FrameTimeout
                | Self::HandshakeTimeout
                | Self::TooManyHeaders
                | Self::Version
                | Self::Auth
                | Self::Credit
                | Self::SlowConsumer
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_are_inverse() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(*code as u16), *code);
            assert_eq!(Code::from_word(code.as_str()), Some(*code));
        }
        assert_eq!(Code::from_number(60000), Code::Internal);
    }
}
