//! Glob patterns: `*` is any text, `?` one character, and a backslash makes `*`, `?` and itself ordinary.
//!
//! The cost of a match must not depend on what pattern and value contain, because both may come from somebody hostile:
//! the text between two stars is searched once, leftmost, and never again. Where it is literal, that is `str::find`
//! (Two-Way, linear); where it holds `?`, a short one is compared at each place, and a long one is searched with one bit
//! for each of its characters, 64 at a time.

use std::fmt;
use std::str::FromStr;

/// Stand for `*` and `?` in the compiled pattern. Neither patterns nor values can hold control characters, so a pattern
/// needs no more memory than its text, however many stars are in it.
const STAR: char = '\u{1}';
const ONE: char = '\u{2}';

/// Up to this many characters, comparing at every place is quicker than preparing a search, and still linear.
const SHORT_CHARS_MAX: usize = 16;

/// A glob pattern that was checked.
///
/// ```
/// use libeevee::filter::Glob;
/// let glob: Glob = "#rust*".parse().unwrap();
/// assert!(glob.matches("#rust-de") && !glob.matches("#c"));
/// assert!(r"what\?".parse::<Glob>().unwrap().matches("what?"));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Glob(String);

/// Why a text is no glob pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlobError {
    /// Where the character stands that is wrong, in bytes; the length of the text where one is missing.
    pub offset: usize,
    /// Whether it is a control character; otherwise a backslash that escapes nothing.
    pub control: bool,
}

impl fmt::Display for GlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.offset;
        match self.control {
            true => write!(f, "byte {offset} of the pattern is a control character, which no value holds"),
            false => write!(f, r"at byte {offset} of the pattern: a backslash stands only before *, ? and \"),
        }
    }
}

impl std::error::Error for GlobError {}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let mut pattern = String::with_capacity(text.len());
        let mut characters = text.char_indices();
        while let Some((offset, c)) = characters.next() {
            pattern.push(match c {
                '*' => STAR,
                '?' => ONE,
                '\\' => match characters.next() {
                    Some((_, c @ ('*' | '?' | '\\'))) => c,
                    _ => return Err(GlobError { offset, control: false }),
                },
                c if c.is_control() => return Err(GlobError { offset, control: true }),
                c => c,
            });
        }
        Ok(Self(pattern))
    }
}

impl Glob {
    /// The pattern that matches just this text. Control characters stay out: no value holds one.
    pub fn literal(text: &str) -> Self {
        Self(text.chars().filter(|c| !c.is_control()).collect())
    }

    /// The text before the first `*` or `?`, with which every value that matches begins.
    pub fn literal_prefix(&self) -> &str {
        self.0.split([STAR, ONE]).next().unwrap_or_default()
    }

    pub(super) fn compiled(&self) -> &String {
        &self.0
    }

    /// Whether the whole value is as the pattern says.
    pub fn matches(&self, value: &str) -> bool {
        self.matches_counting(value, &mut 0)
    }

    /// As [`Glob::matches`], adding what it cost to `steps`: characters looked at, or words of 64 bits computed.
    pub(super) fn matches_counting(&self, value: &str, steps: &mut usize) -> bool {
        let Some((first, rest)) = self.0.split_once(STAR) else {
            return strip_prefix(&self.0, value, steps) == Some("");
        };
        let (middle, last) = rest.rsplit_once(STAR).unwrap_or(("", rest));
        let Some(value) = strip_prefix(first, value, steps) else { return false };
        let Some(mut value) = strip_suffix(last, value, steps) else { return false };
        for part in middle.split(STAR) {
            *steps += 1;
            match end_of(part, value, steps) {
                Some(end) => value = &value[end..],
                None => return false,
            }
        }
        true
    }
}

fn strip_prefix<'v>(part: &str, value: &'v str, steps: &mut usize) -> Option<&'v str> {
    *steps += part.len().min(value.len());
    if !part.contains(ONE) {
        return value.strip_prefix(part);
    }
    let mut characters = value.chars();
    part.chars().all(|p| characters.next().is_some_and(|v| p == ONE || p == v)).then_some(characters.as_str())
}

fn strip_suffix<'v>(part: &str, value: &'v str, steps: &mut usize) -> Option<&'v str> {
    *steps += part.len().min(value.len());
    if !part.contains(ONE) {
        return value.strip_suffix(part);
    }
    let mut characters = value.chars();
    part.chars()
        .rev()
        .all(|p| characters.next_back().is_some_and(|v| p == ONE || p == v))
        .then_some(characters.as_str())
}

/// The end of the leftmost place where this part stands, which has no star.
fn end_of(part: &str, value: &str, steps: &mut usize) -> Option<usize> {
    if !part.contains(ONE) {
        let end = value.find(part).map(|start| start + part.len());
        // What Two-Way guarantees, for nobody can count inside it.
        *steps += part.len() + end.unwrap_or(value.len());
        return end;
    }
    // The length of a part in bytes says nothing about that of its match, only the one in characters does.
    let length = part.chars().count();
    *steps += part.len();
    if length > value.len() {
        return None;
    }
    if length > SHORT_CHARS_MAX {
        return end_of_long(part, length, value, steps);
    }
    value.char_indices().find_map(|(start, _)| {
        let rest = strip_prefix(part, &value[start..], steps)?;
        Some(value.len() - rest.len())
    })
}

/// Shift-And: bit n says that the last n+1 characters of the value are the first n+1 of the part.
fn end_of_long(part: &str, length: usize, value: &str, steps: &mut usize) -> Option<usize> {
    let words = length.div_ceil(64);
    let mut alphabet: Vec<char> = part.chars().filter(|c| *c != ONE).collect();
    alphabet.sort_unstable();
    alphabet.dedup();
    // One row of bits for each character of the alphabet, and a last one for all others, which only `?` takes.
    let mut allowed = vec![0_u64; (alphabet.len() + 1) * words];
    *steps += allowed.len();
    let others = alphabet.len() * words;
    for (at, p) in part.chars().enumerate() {
        let row = if p == ONE { others } else { alphabet.binary_search(&p).unwrap_or_default() * words };
        allowed[row + at / 64] |= 1 << (at % 64);
    }
    let (rows, wild) = allowed.split_at_mut(others);
    for row in rows.chunks_exact_mut(words) {
        row.iter_mut().zip(wild.iter()).for_each(|(mask, any)| *mask |= any);
    }
    let (last, done) = (words - 1, 1_u64 << ((length - 1) % 64));
    let mut state = vec![0_u64; words];
    for (start, v) in value.char_indices() {
        let row = alphabet.binary_search(&v).unwrap_or(alphabet.len());
        let mut carry = 1;
        for (word, mask) in state.iter_mut().zip(&allowed[row * words..]) {
            let next = *word >> 63;
            *word = (*word << 1 | carry) & mask;
            carry = next;
        }
        *steps += words;
        if state[last] & done != 0 {
            return Some(start + v.len_utf8());
        }
    }
    None
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        self.0.chars().try_for_each(|c| match c {
            STAR => f.write_char('*'),
            ONE => f.write_char('?'),
            '*' | '?' | '\\' => write!(f, "\\{c}"),
            c => f.write_char(c),
        })
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({self})")
    }
}
