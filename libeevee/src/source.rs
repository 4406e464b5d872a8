//! Who published a message: a short text that comes with every one, and is kept without an allocation.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// Ids have 27 bytes at most; this is also enough for most people.
const SHORT: usize = 31;

/// Who published a message: an operator id, `user/NAME` or `eeveed`; proved, never claimed.
///
/// It is a text, and can be used as one.
///
/// ```
/// use libeevee::Source;
/// let source = Source::from("irc");
/// assert_eq!(source, "irc");
/// assert!(!source.starts_with("user/"));
/// let owned: String = source.into();
/// # assert_eq!(owned, "irc");
/// ```
#[derive(Clone)]
pub struct Source(Kept);

#[derive(Clone)]
enum Kept {
    Short(Short),
    Boxed(Box<str>),
}

/// So many of these bytes. It is copied for every message: as four words at once, and not as two, one, and seven bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Short {
    length: u8,
    bytes: [u8; SHORT],
}

impl Source {
    /// For bytes that were checked to be a text.
    #[inline]
    pub(crate) fn from_checked(text: &[u8]) -> Self {
        let mut short = Short { length: text.len() as u8, bytes: [0; SHORT] };
        match short.bytes.get_mut(..text.len()) {
            Some(room) => {
                room.copy_from_slice(text);
                Self(Kept::Short(short))
            }
            None => Self(Kept::Boxed(std::str::from_utf8(text).unwrap_or_default().into())),
        }
    }

    /// The text.
    #[inline]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // It was a text when it came, so it is one.
            Kept::Short(Short { length, bytes }) => {
                bytes.get(..usize::from(*length)).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
            }
            Kept::Boxed(text) => text,
        }
    }
}

impl From<&str> for Source {
    #[inline]
    fn from(text: &str) -> Self {
        Self::from_checked(text.as_bytes())
    }
}

impl From<String> for Source {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Box<str>> for Source {
    fn from(text: Box<str>) -> Self {
        (&*text).into()
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.as_str().to_owned()
    }
}

impl Default for Source {
    fn default() -> Self {
        "".into()
    }
}

impl Deref for Source {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Source {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Borrow<str> for Source {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Source {}

impl PartialEq<str> for Source {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for Source {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl PartialEq<String> for Source {
    fn eq(&self, other: &String) -> bool {
        **self == **other
    }
}

impl PartialOrd for Source {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Source {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Source {
    /// As its text, so that a map of sources can be asked for a text.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn short_and_long_ones_are_texts() {
        assert_eq!(size_of::<Source>(), 40);
        for length in [0, 1, 27, SHORT - 1, SHORT, SHORT + 1, 300] {
            let text = "ü".repeat(length / 2) + &"x".repeat(length % 2);
            let source = Source::from(text.as_str());
            assert_eq!(source, text);
            assert_eq!((source.to_string(), format!("{source:?}")), (text.clone(), format!("{text:?}")));
            let map = HashMap::from([(source.clone(), 1)]);
            assert_eq!(map.get(text.as_str()), Some(&1));
        }
        let mut sources = ["user/goos", "dice", "irc"].map(Source::from);
        sources.sort();
        assert_eq!(sources, ["dice", "irc", "user/goos"].map(Source::from));
        assert_eq!(format!("{:>5}|", Source::from("irc")), "  irc|");
    }
}
