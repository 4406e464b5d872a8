//! The memo of routes: equal header bytes from one session have the same permission and the same matches, so that a
//! message whose headers were seen before is neither decoded nor matched again. It is dropped when subscriptions or
//! permissions change. (From one session, not from one source: two sessions of a person may have different rights.)
//!
//! It is bounded, because unique headers in every message would fill any memory. It begins small, and grows only when the
//! headers that it has no room for come again; where they do not, it rests, so that such messages do not pay for it.

mod table;

use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;

use hashbrown::DefaultHashBuilder;
use libeevee::wire::{DocumentView, RawDocument};
use smallvec::SmallVec;

use self::table::Table;
use super::index::Slot;
use super::route::Route;
use super::session::SessionKey;

/// Routes by session and exact header bytes.
#[derive(Debug)]
pub(crate) struct Memo {
    table: Table,
    hasher: DefaultHashBuilder,
    /// So many bytes it may have now.
    room: usize,
    seen: Seen,
    hits: u64,
    misses: u64,
    /// How many of the headers that were put in had been seen before.
    again: u64,
    /// How often in turn it was of no use.
    useless: u32,
    /// For so many messages it is not asked.
    rest: u32,
    /// What was found last: mostly the next message is like it.
    last: Last,
}

/// Headers, and where they go; empty for none.
#[derive(Debug, Default)]
struct Last {
    session: SessionKey,
    headers: Vec<u8>,
    route: Route,
}

/// A message of which the place is looked up together with those of others.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) document: RawDocument<'a>,
    /// Its subscription, if it is known and has just one.
    pub(super) slot: Option<Slot>,
    hash: u64,
    at: u32,
}

/// So many messages are looked up at once: the processor then waits for their cache lines together.
pub(super) const AHEAD: usize = 32;

/// They, in their order.
pub(super) type Ahead<'a> = SmallVec<[Wanted<'a>; AHEAD]>;

/// What it may have at first, and at most. Nobody is charged for it.
const ROOM_BYTES: usize = 4 << 20;
const ROOM_BYTES_MAX: usize = 32 << 20;

/// How long it rests when its headers did not come again until it was full. After a few such times, when it would have seen
/// that there are just many of them, twice as long each time.
const REST_MESSAGES: u32 = 1 << 16;
const REST_MESSAGES_MAX: u32 = 1 << 20;
const USELESS_FEW: u32 = 3;

/// Which headers were put in before, roughly: a bit for each hash, so that it can be told whether more room would help.
#[derive(Debug, Default)]
struct Seen {
    bits: Vec<u64>,
    count: usize,
}

/// With so many of them it forgets all: then an eighth of what it says is wrong.
const SEEN_MAX: usize = 1 << 18;
const SEEN_BITS: usize = SEEN_MAX * 8;

impl Seen {
    /// Whether it was there before.
    fn insert(&mut self, hash: u64) -> bool {
        if self.bits.is_empty() || self.count == SEEN_MAX {
            (self.bits, self.count) = (vec![0; SEEN_BITS / 64], 0);
        }
        let at = hash as usize % SEEN_BITS;
        let (word, bit) = (&mut self.bits[at / 64], 1 << (at % 64));
        let was_there = *word & bit != 0;
        *word |= bit;
        self.count += usize::from(!was_there);
        was_there
    }
}

impl Default for Memo {
    fn default() -> Self {
        Self {
            table: Table::default(),
            hasher: DefaultHashBuilder::default(),
            room: ROOM_BYTES,
            seen: Seen::default(),
            hits: 0,
            misses: 0,
            again: 0,
            useless: 0,
            rest: 0,
            last: Last::default(),
        }
    }
}

impl Memo {
    pub(crate) fn clear(&mut self) {
        // Nothing stays behind of what once was large, and a small one is used again.
        if self.table.capacity() > 1 << 20 {
            let (hasher, seen) = (self.hasher.clone(), std::mem::take(&mut self.seen));
            let Self { rest, room, useless, .. } = *self;
            *self = Self { hasher, rest, room, useless, seen, ..Self::default() };
            return;
        }
        self.table.clear();
        (self.hits, self.misses, self.again) = (0, 0, 0);
        self.last = Last::default();
    }

    /// Whether it is not asked now, because it did not help.
    pub(super) const fn rests(&self) -> bool {
        self.rest > 0
    }

    #[cfg(test)]
    pub(super) const fn rest_for(&mut self, messages: u32) {
        self.rest = messages;
    }

    /// A message went by while it rested.
    pub(super) const fn rest(&mut self) {
        self.rest = self.rest.saturating_sub(1);
    }

    /// Reads a document of which the headers are those that were found last.
    #[inline]
    pub(super) fn like_last<'a>(
        &mut self,
        session: SessionKey,
        document: &'a [u8],
    ) -> Option<(DocumentView<'a>, &Route)> {
        let last = &self.last;
        if last.session != session || last.headers.is_empty() {
            return None;
        }
        let document = RawDocument::read_after(document, &last.headers)?;
        self.hits += 1;
        Some((document.known(), &last.route))
    }

    /// A message that is looked up next, by [`Memo::look_up`].
    #[inline]
    pub(super) fn want<'a>(&self, session: SessionKey, document: RawDocument<'a>) -> Wanted<'a> {
        Wanted { document, hash: hash(&self.hasher, session, document.header_bytes()), slot: None, at: 0 }
    }

    /// Looks for all of them, one step after the other and not one message after the other, so that what each step has to
    /// wait for is waited for once.
    #[inline]
    pub(super) fn look_up(&self, session: SessionKey, ahead: &mut [Wanted<'_>]) {
        for wanted in &mut *ahead {
            wanted.at = self.table.guess(wanted.hash);
        }
        let touched =
            |touched, wanted: &Wanted<'_>| touched ^ self.table.touch(wanted.at, wanted.document.header_bytes().len());
        black_box(ahead.iter().fold(0, touched));
        for wanted in ahead {
            let headers = wanted.document.header_bytes();
            if wanted.at != 0 && !self.table.is(wanted.at, session, headers) {
                wanted.at = self.table.find(wanted.hash, session, headers);
            }
            wanted.slot = self.table.slot(wanted.at);
        }
    }

    /// Whether it knows a message that was looked up, and that is next now.
    #[inline]
    pub(super) fn has_found(&mut self, session: SessionKey, wanted: &mut Wanted<'_>) -> bool {
        if wanted.at == 0 {
            // One before it may have had the same headers.
            wanted.at = self.table.find(wanted.hash, session, wanted.document.header_bytes());
        }
        self.hits += u64::from(wanted.at != 0);
        wanted.at != 0
    }

    /// The route of a message that it knows.
    #[inline]
    pub(super) fn route_of(&self, wanted: &Wanted<'_>) -> Route {
        self.table.route(wanted.at)
    }

    /// The next message is likely to be as this one that was found.
    #[inline]
    pub(super) fn keep_last(&mut self, session: SessionKey, wanted: &Wanted<'_>) {
        self.last.headers.clear();
        self.last.headers.extend_from_slice(wanted.document.header_bytes());
        (self.last.session, self.last.route) = (session, self.table.route(wanted.at));
    }

    /// The route of a message with these header bytes, if some like it went before. Then the bytes are well formed, too.
    pub(super) fn get(&mut self, session: SessionKey, headers: &[u8]) -> Option<Route> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        match self.table.find(hash(&self.hasher, session, headers), session, headers) {
            0 => None,
            at => {
                self.hits += 1;
                Some(self.table.route(at))
            }
        }
    }

    /// Keeps a route that [`Memo::get`] had not.
    pub(super) fn put(&mut self, session: SessionKey, headers: &[u8], route: &Route) {
        self.put_hashed(session, headers, hash(&self.hasher, session, headers), route);
    }

    /// Keeps the route of a message that was looked up and not found. If it forgot all others for it, what was looked up with
    /// this one is worth nothing; then it is false.
    pub(super) fn put_wanted(&mut self, session: SessionKey, wanted: &Wanted<'_>, route: &Route) -> bool {
        let before = self.table.len();
        self.put_hashed(session, wanted.document.header_bytes(), wanted.hash, route);
        self.table.len() > before
    }

    fn put_hashed(&mut self, session: SessionKey, headers: &[u8], hash: u64, route: &Route) {
        if self.rest > 0 {
            return;
        }
        self.misses += 1;
        if self.table.bytes() + Table::bytes_of(headers) > self.room && !self.make_room() {
            return;
        }
        self.again += u64::from(self.seen.insert(hash));
        self.table.insert(hash, session, headers, route);
    }

    /// Grows if that helps, else begins anew; false if it rests now.
    fn make_room(&mut self) -> bool {
        let comes_again = self.again * 4 >= self.table.len() as u64;
        if comes_again && self.room < ROOM_BYTES_MAX {
            (self.room, self.useless) = (self.room * 2, 0);
            return true;
        }
        let helps = comes_again || self.hits * 3 >= self.misses;
        self.clear();
        if helps {
            self.useless = 0;
        } else {
            let longer = self.useless.saturating_sub(USELESS_FEW).min(16);
            self.rest = (REST_MESSAGES << longer).min(REST_MESSAGES_MAX);
            (self.room, self.useless) = (ROOM_BYTES, self.useless + 1);
        }
        helps
    }
}

#[inline]
fn hash(hasher: &DefaultHashBuilder, session: SessionKey, headers: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u64(session);
    state.write(headers);
    state.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(slot: u32) -> Route {
        Route::to(&[slot], &[])
    }

    #[test]
    fn it_answers_for_the_same_session_and_the_same_bytes() {
        let mut memo = Memo::default();
        for number in 0..1000_u32 {
            assert!(memo.get(1, &number.to_le_bytes()).is_none());
            memo.put(1, &number.to_le_bytes(), &route(number));
        }
        for number in 0..1000_u32 {
            assert_eq!(*memo.get(1, &number.to_le_bytes()).unwrap().live(), [number]);
            assert!(memo.get(2, &number.to_le_bytes()).is_none());
        }
        memo.clear();
        assert!(memo.get(1, &7_u32.to_le_bytes()).is_none());
    }

    #[test]
    fn unique_headers_make_it_rest_and_never_grow_beyond_its_bound() {
        let mut memo = Memo::default();
        let mut rested = false;
        for number in 0..2_000_000_u64 {
            let headers = [number.to_le_bytes(); 12];
            assert!(memo.get(1, headers.as_flattened()).is_none());
            memo.put(1, headers.as_flattened(), &route(1));
            assert!(memo.table.bytes() <= ROOM_BYTES);
            rested |= memo.rest > 0;
        }
        assert!(rested);
    }

    /// A document whose header has this number.
    fn document(number: u32) -> Vec<u8> {
        let value = number.to_string();
        let mut bytes = vec![1, 1, b'k', value.len() as u8];
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        bytes
    }

    #[test]
    fn it_looks_up_many_at_once() {
        let mut memo = Memo::default();
        for number in 0..50_000_u32 {
            memo.put(1, RawDocument::read(&document(number)).unwrap().header_bytes(), &route(number));
        }
        for first in (0..60_000_u32).step_by(AHEAD) {
            let documents: Vec<Vec<u8>> = (first..).take(AHEAD).map(document).collect();
            for session in [1, 2] {
                let raw = documents.iter().map(|bytes| RawDocument::read(bytes).unwrap());
                let mut ahead: Ahead<'_> = raw.map(|raw| memo.want(session, raw)).collect();
                memo.look_up(session, &mut ahead);
                for (number, wanted) in (first..).zip(&mut ahead) {
                    let known = session == 1 && number < 50_000;
                    assert_eq!(memo.has_found(session, wanted), known);
                    assert_eq!(wanted.slot, known.then_some(number));
                    assert_eq!(*memo.route_of(wanted).live(), *wanted.slot.as_slice());
                }
            }
        }
    }

    #[test]
    fn what_came_twice_is_kept_once() {
        let mut memo = Memo::default();
        let document = document(7);
        let want = |memo: &Memo| memo.want(1, RawDocument::read(&document).unwrap());
        let mut ahead = [want(&memo), want(&memo)];
        memo.look_up(1, &mut ahead);
        let [first, second] = &mut ahead;
        assert!(!memo.has_found(1, first));
        assert!(memo.put_wanted(1, first, &route(3)));
        assert!(memo.has_found(1, second));
        assert_eq!((memo.route_of(second).live(), memo.table.len()), (&[3][..], 1));
        memo.keep_last(1, second);
        assert!(memo.like_last(1, &document).is_some() && memo.like_last(2, &document).is_none());
        memo.clear();
        assert!(memo.like_last(1, &document).is_none());
    }

    #[test]
    fn it_grows_for_headers_that_come_again() {
        let mut memo = Memo::default();
        let mut pass = || {
            let mut hits = 0;
            for number in 0..100_000_u64 {
                let headers = [number.to_le_bytes(); 12];
                match memo.get(1, headers.as_flattened()) {
                    Some(_) => hits += 1,
                    None => memo.put(1, headers.as_flattened(), &route(1)),
                }
            }
            assert!(memo.table.bytes() <= ROOM_BYTES_MAX);
            hits
        };
        let hits: Vec<u32> = (0..10).map(|_| pass()).collect();
        assert_eq!(hits[9], 100_000, "{hits:?}");
    }
}
