//! The token that proves an operator's id: its text, and what can be told of it without the bus's key.
//!
//! PID 1 fetches one from the bus at every start of an operator (`LoadCredential=bus-token:`). If the bus dies during the
//! fetch, the credential is empty or cut short and the start succeeds all the same; so the text has a fixed length and a
//! checksum, and an operator recognises a broken one before it bothers the bus.
//!
//! ```text
//! eevee1.irc........................<32 hex: random>.<64 hex: MAC>.<8 hex: CRC-32 of all before the last dot>
//! ```
//! The id is filled up with dots, which no id has. Only the bus can compute the MAC; see [`Token::signed_text`].

use std::fmt;
use std::str::FromStr;

use crate::id::{ID_BYTES_MAX, OperatorId};

const VERSION: &str = "eevee1.";
const RANDOM_BYTES: usize = 16;
const MAC_BYTES: usize = 32;
const ID_AT: usize = VERSION.len();
const RANDOM_AT: usize = ID_AT + ID_BYTES_MAX + 1;
const MAC_AT: usize = RANDOM_AT + 2 * RANDOM_BYTES + 1;
const CRC_AT: usize = MAC_AT + 2 * MAC_BYTES + 1;

/// The length of every token, in bytes.
pub const TOKEN_BYTES: usize = CRC_AT + 8;

/// Proof of an operator's id, as its bus gave it out. Whoever holds it is that operator: it is shown to the bus in Hello
/// and to nobody else. `Debug` prints the id only; `Display` prints the secret.
#[derive(Clone)]
pub struct Token {
    id: OperatorId,
    random: [u8; RANDOM_BYTES],
    mac: [u8; MAC_BYTES],
}

/// Why a text is not a token. An operator exits 75 on any of them: systemd then fetches anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is nothing: the bus died while systemd fetched the token.
    #[error("the token is empty: the bus was away when systemd fetched it; starting the unit again fetches a new one")]
    Empty,
    /// Cut short, or something else altogether.
    #[error("the token has {0} bytes instead of {TOKEN_BYTES}; starting the unit again fetches a new one")]
    Length(usize),
    /// The text of another version, or no token at all.
    #[error("this is no token of version 1: it does not start with \"eevee1.\"")]
    Version,
    /// Bytes were changed.
    #[error("the token is damaged: its checksum does not fit; starting the unit again fetches a new one")]
    Checksum,
    /// The checksum fits a text that no bus writes.
    #[error("the token is malformed at byte {0}")]
    Malformed(usize),
}

impl Token {
    /// The token of `id` with this random part and MAC. For the bus.
    pub const fn new(id: OperatorId, random: [u8; RANDOM_BYTES], mac: [u8; MAC_BYTES]) -> Self {
        Self { id, random, mac }
    }

    /// What the MAC is computed over: all of the text before it. For the bus.
    pub fn signed_text(id: &OperatorId, random: &[u8; RANDOM_BYTES]) -> String {
        let mut text = String::with_capacity(TOKEN_BYTES);
        text.push_str(VERSION);
        text.push_str(id.as_str());
        text.extend(std::iter::repeat_n('.', RANDOM_AT - text.len()));
        push_hex(&mut text, random);
        text
    }

    /// Reads a token: exactly [`TOKEN_BYTES`] bytes, no line end. Whether it is genuine only the bus can tell.
    ///
    /// # Errors
    /// [`TokenError`] for a text that is empty, cut short or damaged.
    ///
    /// ```
    /// use libeevee::{Token, TokenError};
    /// assert_eq!(Token::parse("").unwrap_err(), TokenError::Empty);
    /// assert_eq!(Token::parse("eevee1.irc...").unwrap_err(), TokenError::Length(13));
    /// ```
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if text.len() != TOKEN_BYTES {
            return Err(TokenError::Length(text.len()));
        }
        if !text.starts_with(VERSION) {
            return Err(TokenError::Version);
        }
        let bytes = text.as_bytes();
        let crc: [u8; 4] = hex(bytes, CRC_AT)?;
        if crc32fast::hash(&bytes[..CRC_AT - 1]) != u32::from_be_bytes(crc) {
            return Err(TokenError::Checksum);
        }
        // The text is valid UTF-8, but only these bytes are known to be ASCII; get() refuses a cut inside a character.
        let padded = text.get(ID_AT..RANDOM_AT - 1).ok_or(TokenError::Malformed(ID_AT))?;
        let id = padded.trim_end_matches('.').parse().map_err(|_| TokenError::Malformed(ID_AT))?;
        for dot in [RANDOM_AT - 1, MAC_AT - 1, CRC_AT - 1] {
            if bytes[dot] != b'.' {
                return Err(TokenError::Malformed(dot));
            }
        }
        Ok(Self { id, random: hex(bytes, RANDOM_AT)?, mac: hex(bytes, MAC_AT)? })
    }

    /// Whose token it claims to be.
    pub const fn id(&self) -> &OperatorId {
        &self.id
    }

    /// The part that makes two tokens of one id different.
    pub const fn random(&self) -> &[u8; RANDOM_BYTES] {
        &self.random
    }

    /// The MAC to be checked, in constant time.
    pub const fn mac(&self) -> &[u8; MAC_BYTES] {
        &self.mac
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::parse(text)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Self::signed_text(&self.id, &self.random);
        text.push('.');
        push_hex(&mut text, &self.mac);
        let crc = crc32fast::hash(text.as_bytes());
        write!(f, "{text}.{crc:08x}")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
}

/// `N` bytes from lower-case hexadecimal at `at`: one text per token, so no upper case.
fn hex<const N: usize>(text: &[u8], at: usize) -> Result<[u8; N], TokenError> {
    let mut out = [0; N];
    for (index, byte) in out.iter_mut().enumerate() {
        for place in 0..2 {
            let position = at + 2 * index + place;
            let digit = match text.get(position) {
                Some(digit @ b'0'..=b'9') => digit - b'0',
                Some(digit @ b'a'..=b'f') => digit - b'a' + 10,
                _ => return Err(TokenError::Malformed(position)),
            };
            *byte = *byte << 4 | digit;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Token {
        Token::new("irc".parse().unwrap(), [0xa5; 16], [0x3c; 32])
    }

    /// The text with the checksum that fits it.
    fn sealed(mut text: String) -> String {
        text.truncate(CRC_AT - 1);
        let crc = crc32fast::hash(text.as_bytes());
        format!("{text}.{crc:08x}")
    }

    #[test]
    fn the_text_is_fixed() {
        let text = sample().to_string();
        assert_eq!(text.len(), TOKEN_BYTES);
        assert_eq!(
            text,
            format!("eevee1.irc{}.{}.{}.{}", ".".repeat(24), "a5".repeat(16), "3c".repeat(32), &text[CRC_AT..])
        );
        assert_eq!(sealed(text.clone()), text);
        let read = Token::parse(&text).unwrap();
        assert_eq!((read.id().as_str(), read.random(), read.mac()), ("irc", &[0xa5; 16], &[0x3c; 32]));
        assert!(text.starts_with(&Token::signed_text(read.id(), read.random())));
    }

    #[test]
    fn ids_of_every_length_come_back() {
        for len in 1..=ID_BYTES_MAX {
            let id: OperatorId = "a".repeat(len).parse().unwrap();
            let text = Token::new(id.clone(), [0; 16], [0; 32]).to_string();
            assert_eq!(text.len(), TOKEN_BYTES);
            assert_eq!(Token::parse(&text).unwrap().id(), &id);
        }
    }

    #[test]
    fn cut_at_any_byte_it_is_recognised() {
        let text = sample().to_string();
        for len in 1..text.len() {
            assert_eq!(Token::parse(&text[..len]).unwrap_err(), TokenError::Length(len));
        }
        assert_eq!(Token::parse("").unwrap_err(), TokenError::Empty);
        assert_eq!(Token::parse(&format!("{text}\n")).unwrap_err(), TokenError::Length(TOKEN_BYTES + 1));
    }

    #[test]
    fn any_flipped_bit_is_recognised() {
        let text = sample().to_string().into_bytes();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut damaged = text.clone();
                damaged[at] ^= 1 << bit;
                let Ok(damaged) = String::from_utf8(damaged) else { continue };
                assert!(Token::parse(&damaged).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_fitting_checksum_is_not_enough() {
        let good = sample().to_string();
        for (from, to) in [
            ("irc...", "../etc"),
            ("irc...", "......"),
            ("irc...", "irc..a"),
            ("irc...", "IRC..."),
            ("eevee1", "eevee2"),
            ("a5a5", "A5a5"),
            ("5.3c", "5a3c"),
            ("irc.......................", "eeveed...................."),
            (".........", "\u{e9}......."),
        ] {
            let bad = sealed(good.replacen(from, to, 1));
            assert_eq!(bad.len(), TOKEN_BYTES, "{to}");
            assert!(Token::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn debug_keeps_the_secret() {
        assert_eq!(format!("{:?}", sample()), r#"Token { id: OperatorId("irc"), .. }"#);
    }

    proptest! {
        #[test]
        fn print_and_parse_are_inverse(id in "[a-z0-9][a-z0-9_-]{0,26}", random: [u8; 16], mac: [u8; 32]) {
            let Ok(id) = id.parse::<OperatorId>() else { return Ok(()) };
            let text = Token::new(id, random, mac).to_string();
            prop_assert_eq!(Token::parse(&text).unwrap().to_string(), text);
        }

        #[test]
        fn nonsense_is_refused(text in "\\PC{0,200}") {
            prop_assert!(Token::parse(&text).is_err());
        }

        #[test]
        fn nonsense_of_the_right_length_is_refused(bytes in prop::collection::vec(32u8..127, TOKEN_BYTES)) {
            prop_assert!(Token::parse(&String::from_utf8(bytes).unwrap()).is_err());
        }
    }
}
