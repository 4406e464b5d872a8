//! From the bytes of a file to records: lines, or lines joined by a pattern. Where a record ends follows from the place
//! where the first one begins, from the bytes, and from the cuts that are written down: so a second reading, after a crash,
//! finds the same records again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex::bytes::Regex;
use serde::{Deserialize, Serialize};

/// A longer line is published in pieces, a longer record is ended.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 10;
const RECORD_LINES_MAX: usize = 1000;

/// How lines become records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// What the first line of a record matches; without it, each line is a record.
    pub(crate) begins: Option<Regex>,
    /// When nothing more comes for so long, a record of several lines is complete.
    pub(crate) wait: Duration,
}

/// Where a record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) offset: u64,
    /// How many pieces of the line at this place were taken already.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) part: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(part: &u32) -> bool {
    *part == 0
}

/// One or several lines, without the end of the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) body: Vec<u8>,
    pub(crate) end: Position,
    /// The number of this piece of a line that is too long for one; 0 where it is whole.
    pub(crate) part: u32,
    /// Whether another piece follows.
    pub(crate) more: bool,
    /// The last bytes that it was made of, by which the place is known again.
    pub(crate) guard: Vec<u8>,
}

/// How many bytes before a place are remembered of it.
pub(crate) const GUARD_BYTES: usize = 64;

pub(crate) struct Splitter {
    rules: Arc<Rules>,
    /// The place of `buffer[head]`: where the next record begins.
    at: Position,
    buffer: Vec<u8>,
    head: usize,
    /// Complete lines of the record so far: `buffer[head..head + joined]`.
    joined: usize,
    lines: usize,
    /// No line ends before this, from `head`.
    scanned: usize,
    cuts: VecDeque<u64>,
    fed_at: Option<Instant>,
}

impl Splitter {
    pub(crate) fn new(rules: Arc<Rules>, at: Position, cuts: impl IntoIterator<Item = u64>) -> Self {
        let cuts = cuts.into_iter().filter(|cut| *cut > at.offset).collect();
        Self { rules, at, buffer: Vec::new(), head: 0, joined: 0, lines: 0, scanned: 0, cuts, fed_at: None }
    }

    /// Where the next record begins.
    pub(crate) fn begin(&self) -> Position {
        self.at
    }

    /// Where the bytes end that it was given.
    pub(crate) fn end(&self) -> u64 {
        self.at.offset + self.rest().len() as u64
    }

    /// The cuts that lie ahead.
    pub(crate) fn cuts(&self) -> impl Iterator<Item = u64> {
        self.cuts.iter().copied()
    }

    pub(crate) fn feed(&mut self, bytes: &[u8], now: Instant) {
        self.buffer.drain(..self.head);
        self.head = 0;
        self.buffer.extend_from_slice(bytes);
        self.fed_at = Some(now);
    }

    /// NULs follow up to this place; whether it is between two records, where they are no text.
    pub(crate) fn skip_hole(&mut self, to: u64) -> bool {
        self.pass_hole();
        let is_between = self.joined == 0 && self.at.part == 0 && self.rest().is_empty();
        if is_between {
            (self.at.offset, self.scanned) = (to, 0);
            self.cuts.retain(|cut| *cut > to);
        }
        is_between
    }

    /// Other rules, from the next record on.
    pub(crate) fn set_rules(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
        (self.joined, self.lines, self.scanned) = (0, 0, 0);
    }

    /// When a record that waits for more lines is complete.
    pub(crate) fn complete_at(&self) -> Option<Instant> {
        (self.joined > 0).then_some(self.fed_at? + self.rules.wait)
    }

    /// A record waits for more lines: it ends here. The caller writes the cut down before it takes the record.
    pub(crate) fn cut_joined(&mut self) {
        self.cut(self.at.offset + self.joined as u64);
    }

    /// Nothing more comes: all that is here is a record, its last line too. Likewise.
    pub(crate) fn cut_all(&mut self) {
        self.cut(self.end());
    }

    fn cut(&mut self, at: u64) {
        if at > self.at.offset && !self.cuts.contains(&at) {
            self.cuts.push_back(at);
            self.cuts.make_contiguous().sort_unstable();
            // A cut before what was looked through already.
            self.scanned = self.scanned.min((at - self.at.offset) as usize);
        }
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.head..]
    }

    /// The next record that is complete.
    pub(crate) fn next(&mut self) -> Option<Record> {
        loop {
            self.pass_hole();
            let cut = self.cuts.front().map(|cut| (cut - self.at.offset) as usize);
            let rest = self.rest();
            let edge = cut.map_or(rest.len(), |cut| cut.min(rest.len()));
            let from = self.scanned.max(self.joined);
            let (line, next) = match rest[from..edge].iter().position(|byte| *byte == b'\n') {
                Some(at) => (from + at, from + at + 1),
                // What stands before a cut is a line.
                None if cut == Some(edge) && edge > self.joined => (edge, edge),
                None if cut == Some(edge) => return Some(self.take_joined()),
                None if edge - self.joined > RECORD_BYTES_MAX => (edge, edge),
                None => {
                    self.scanned = edge;
                    return None;
                }
            };
            if line - self.joined > RECORD_BYTES_MAX {
                if self.joined > 0 {
                    return Some(self.take_joined());
                }
                return Some(self.take_piece());
            }
            if self.at.part > 0 {
                return Some(self.take(line, next, self.at.part + 1, false));
            }
            let Some(begins) = &self.rules.begins else { return Some(self.take(line, next, 0, false)) };
            let is_full = next > RECORD_BYTES_MAX || self.lines == RECORD_LINES_MAX;
            if self.joined > 0 && (is_full || begins.is_match(without_cr(&rest[self.joined..line]))) {
                return Some(self.take_joined());
            }
            self.joined = next;
            self.lines += 1;
            self.scanned = next;
            if cut == Some(next) {
                return Some(self.take_joined());
            }
        }
    }

    /// A hole that a writer left behind when its file was cut to nothing reads as NULs, of any length, before its next line.
    fn pass_hole(&mut self) {
        if self.joined > 0 || self.at.part > 0 {
            return;
        }
        let hole = self.rest().iter().take_while(|byte| **byte == 0).count();
        self.head += hole;
        self.at.offset += hole as u64;
        self.scanned = self.scanned.saturating_sub(hole);
        while self.cuts.front().is_some_and(|cut| *cut <= self.at.offset) {
            self.cuts.pop_front();
        }
    }

    /// The lines that are joined.
    fn take_joined(&mut self) -> Record {
        let end = self.joined;
        let text = if self.rest()[..end].ends_with(b"\n") { end - 1 } else { end };
        self.take(text, end, 0, false)
    }

    /// The first piece of a line that is too long.
    fn take_piece(&mut self) -> Record {
        let rest = self.rest();
        // Not within a character, where it is text.
        let is_inside = |at: &usize| rest[*at] & 0xC0 == 0x80;
        let end = (RECORD_BYTES_MAX - 3..=RECORD_BYTES_MAX).rev().find(|at| !is_inside(at)).unwrap_or(RECORD_BYTES_MAX);
        self.take(end, end, self.at.part + 1, true)
    }

    fn take(&mut self, text: usize, end: usize, part: u32, more: bool) -> Record {
        let rest = self.rest();
        let body = body(&rest[..text], more);
        let guard = rest[end.saturating_sub(GUARD_BYTES)..end].to_vec();
        self.head += end;
        self.at = Position { offset: self.at.offset + end as u64, part: if more { part } else { 0 } };
        (self.joined, self.lines, self.scanned) = (0, 0, 0);
        while self.cuts.front().is_some_and(|cut| *cut <= self.at.offset) {
            self.cuts.pop_front();
        }
        Record { body, end: self.at, part, more, guard }
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The text of lines with any end of line, each ended by a line feed but the last.
fn body(bytes: &[u8], more: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(bytes.len());
    let mut lines = bytes.split(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none();
        body.extend_from_slice(if is_last && more { line } else { without_cr(line) });
        if !is_last {
            body.push(b'\n');
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(begins: Option<&str>) -> Arc<Rules> {
        Arc::new(Rules { begins: begins.map(|text| Regex::new(text).unwrap()), wait: Duration::from_secs(1) })
    }

    fn all(splitter: &mut Splitter) -> Vec<Record> {
        std::iter::from_fn(|| splitter.next()).collect()
    }

    fn texts(records: &[Record]) -> Vec<String> {
        records.iter().map(|record| String::from_utf8_lossy(&record.body).into_owned()).collect()
    }

    fn split(begins: Option<&str>, text: &[u8], finish: bool) -> Vec<Record> {
        let mut splitter = Splitter::new(rules(begins), Position::default(), []);
        splitter.feed(text, Instant::now());
        let mut records = all(&mut splitter);
        if finish {
            splitter.cut_all();
            records.extend(all(&mut splitter));
        }
        records
    }

    #[test]
    fn lines() {
        let records = split(None, b"one\r\ntwo\n\n\xff\nrest", false);
        assert_eq!(texts(&records), ["one", "two", "", "\u{fffd}"]);
        assert_eq!(records.iter().map(|record| record.end.offset).collect::<Vec<_>>(), [5, 9, 10, 12]);
        assert_eq!(texts(&split(None, b"one\nrest", true)), ["one", "rest"]);
        assert_eq!(texts(&split(None, b"\0\0\0one\nt\0wo\n\0", true)), ["one", "t\0wo"]);
        assert!(split(None, &[0; 4 * RECORD_BYTES_MAX], true).is_empty());
        assert!(split(None, b"", true).is_empty());
    }

    #[test]
    fn joined_by_a_pattern() {
        let text = b"1 a\n  b\r\n  c\n2 d\n3 e\n  f";
        assert_eq!(texts(&split(Some("^[0-9]"), text, false)), ["1 a\n  b\n  c", "2 d"]);
        assert_eq!(texts(&split(Some("^[0-9]"), text, true)), ["1 a\n  b\n  c", "2 d", "3 e\n  f"]);
        assert_eq!(texts(&split(Some("^[0-9]"), b"  x\n1 a\n2", true)), ["  x", "1 a", "2"]);
        let many = "  x\n".repeat(RECORD_LINES_MAX + 1);
        assert_eq!(split(Some("^[0-9]"), many.as_bytes(), true).len(), 2);
    }

    #[test]
    fn a_record_that_waits_is_cut_and_found_again() {
        let now = Instant::now();
        let rules = rules(Some("^[0-9]"));
        let mut splitter = Splitter::new(rules.clone(), Position::default(), []);
        splitter.feed(b"1 a\n  b\n  ", now);
        assert_eq!(splitter.next(), None);
        assert_eq!(splitter.complete_at(), Some(now + Duration::from_secs(1)));
        splitter.cut_joined();
        let cuts: Vec<u64> = splitter.cuts().collect();
        assert_eq!(cuts, [8]);
        let first = splitter.next().unwrap();
        assert_eq!((first.body.as_slice(), first.end.offset), (&b"1 a\n  b"[..], 8));
        splitter.feed(b"c\n2 d\n", now);
        assert_eq!(splitter.next().unwrap().body, b"  c");
        // After a crash, with the cut written down.
        let mut again = Splitter::new(rules, Position::default(), cuts);
        again.feed(b"1 a\n  b\n  c\n2 d\n", now);
        assert_eq!(again.next().unwrap(), first);
        assert_eq!(again.next().unwrap().body, b"  c");
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let mut text = "ü".repeat(RECORD_BYTES_MAX).into_bytes();
        text.insert(0, b'x');
        text.extend_from_slice(b"\nshort\n");
        let records = split(None, &text, false);
        assert_eq!(
            records.iter().map(|r| (r.part, r.more)).collect::<Vec<_>>(),
            [(1, true), (2, true), (3, false), (0, false)]
        );
        let joined: Vec<u8> = records[..3].iter().flat_map(|record| record.body.clone()).collect();
        assert_eq!(joined, text[..text.len() - 7]);
        assert!(records.iter().all(|record| std::str::from_utf8(&record.body).is_ok()));
        assert_eq!((records[0].end.part, records[2].end.part), (1, 0));
        // From within the line on.
        let mut again = Splitter::new(rules(None), records[0].end, []);
        again.feed(&text[records[0].end.offset as usize..], Instant::now());
        assert_eq!(all(&mut again), records[1..]);
    }

    proptest! {
        /// However the bytes come, and from whichever record on they are read, the records are the same.
        #[test]
        fn the_same_records_again(
            lines in prop::collection::vec((any::<bool>(), 0_usize..200, prop::bool::weighted(0.1)), 1..40),
            pieces in prop::collection::vec(1_usize..40_000, 1..20),
            pick in any::<prop::sample::Index>(),
            joins in any::<bool>(),
        ) {
            let mut text = Vec::new();
            for (begins, length, long) in lines {
                let length = if long { length * 1500 } else { length };
                text.extend(std::iter::repeat_n(if begins { b'1' } else { b' ' }, length));
                text.extend_from_slice(if begins { b"\n" } else { b"\r\n" });
            }
            let begins = joins.then_some("^1");
            let whole = split(begins, &text, false);
            let mut splitter = Splitter::new(rules(begins), Position::default(), []);
            let mut found = Vec::new();
            let mut left = &text[..];
            for piece in pieces.iter().cycle() {
                if left.is_empty() { break; }
                let (now, rest) = left.split_at((*piece).min(left.len()));
                splitter.feed(now, Instant::now());
                found.extend(all(&mut splitter));
                left = rest;
            }
            prop_assert_eq!(&found, &whole);
            if !whole.is_empty() {
                let at = pick.index(whole.len());
                let from = whole[at].end;
                let mut again = Splitter::new(rules(begins), from, []);
                again.feed(&text[from.offset as usize..], Instant::now());
                prop_assert_eq!(&all(&mut again), &whole[at + 1..]);
            }
        }
    }
}
