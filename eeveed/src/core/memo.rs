//! The memo of routes: equal header bytes from one session have the same permission and the same matches, so that a
//! message whose headers were seen before is neither decoded nor matched again. It is dropped when subscriptions or
//! permissions change. (From one session, not from one source: two sessions of a person may have different rights.)
//!
//! It is bounded, because unique headers in every message would fill any memory. It begins small, and grows only when the
//! headers that it has no room for come again; where they do not, it rests, so that such messages do not pay for it.

use std::hash::{BuildHasher, Hasher};

use hashbrown::{DefaultHashBuilder, HashTable};
use libeevee::wire::{DocumentView, RawPublish};

use super::route::Route;
use super::session::SessionKey;

/// What is known of a session's messages with these header bytes.
#[derive(Debug)]
struct Known {
    session: SessionKey,
    /// Where its bytes stand in [`Memo::headers`].
    at: u32,
    len: u32,
    route: Route,
}

/// Routes by session and exact header bytes.
#[derive(Debug)]
pub(crate) struct Memo {
    places: HashTable<u32>,
    known: Vec<Known>,
    /// All header bytes, one after the other: one allocation, and one to give up.
    headers: Vec<u8>,
    hasher: DefaultHashBuilder,
    /// Bytes of the lists of the routes.
    lists: usize,
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
    /// The place that was found last: mostly the next message is like it.
    last: u32,
}

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
            places: HashTable::new(),
            known: Vec::new(),
            headers: Vec::new(),
            hasher: DefaultHashBuilder::default(),
            lists: 0,
            room: ROOM_BYTES,
            seen: Seen::default(),
            hits: 0,
            misses: 0,
            again: 0,
            useless: 0,
            rest: 0,
            last: 0,
        }
    }
}

impl Memo {
    pub(crate) fn clear(&mut self) {
        // Nothing stays behind of what once was large, and a small one is used again.
        if self.headers.capacity() > 1 << 20 {
            let (hasher, seen) = (self.hasher.clone(), std::mem::take(&mut self.seen));
            let Self { rest, room, useless, .. } = *self;
            *self = Self { hasher, rest, room, useless, seen, ..Self::default() };
            return;
        }
        self.places.clear();
        self.known.clear();
        self.headers.clear();
        (self.lists, self.hits, self.misses, self.again, self.last) = (0, 0, 0, 0, 0);
    }

    /// Whether it is not asked now, because it did not help.
    pub(super) const fn rests(&self) -> bool {
        self.rest > 0
    }

    /// Reads the body of a Publish whose headers are known.
    #[inline]
    pub(super) fn read<'a>(&mut self, session: SessionKey, body: &'a [u8]) -> Option<(DocumentView<'a>, &Route)> {
        if self.rest > 0 {
            return None;
        }
        if let Some(last) = self.known.get(self.last as usize)
            && last.session == session
            && let Some(raw) = RawPublish::read_after(body, &self.headers[last.at as usize..][..last.len as usize])
        {
            self.hits += 1;
            return Some((raw.known(), &last.route));
        }
        let raw = RawPublish::read(body)?;
        let place = self.place(session, raw.header_bytes())?;
        self.last = place;
        self.hits += 1;
        Some((raw.known(), &self.known[place as usize].route))
    }

    fn place(&self, session: SessionKey, headers: &[u8]) -> Option<u32> {
        let (known, all) = (&self.known, &self.headers);
        let is_it = |place: &u32| {
            let known = &known[*place as usize];
            known.session == session && all[known.at as usize..][..known.len as usize] == *headers
        };
        self.places.find(hash(&self.hasher, session, headers), is_it).copied()
    }

    /// The route of a message with these header bytes, if some like it went before. Then the bytes are well formed, too.
    #[inline]
    pub(super) fn get(&mut self, session: SessionKey, headers: &[u8]) -> Option<Route> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        match self.place(session, headers) {
            Some(place) => {
                self.hits += 1;
                Some(self.known[place as usize].route.clone())
            }
            None => {
                self.misses += 1;
                None
            }
        }
    }

    /// Keeps a route that [`Memo::get`] had not.
    pub(super) fn put(&mut self, session: SessionKey, headers: &[u8], route: &Route) {
        if self.rest > 0 {
            return;
        }
        if self.bytes() + headers.len() > self.room && !self.make_room() {
            return;
        }
        let hash_of_these = hash(&self.hasher, session, headers);
        self.again += u64::from(self.seen.insert(hash_of_these));
        self.lists += route.list_bytes();
        let place = self.known.len() as u32;
        let (at, len) = (self.headers.len() as u32, headers.len() as u32);
        self.headers.extend_from_slice(headers);
        self.known.push(Known { session, at, len, route: route.clone() });
        let (known, all, hasher) = (&self.known, &self.headers, &self.hasher);
        let again = |place: &u32| {
            let known = &known[*place as usize];
            hash(hasher, known.session, &all[known.at as usize..][..known.len as usize])
        };
        self.places.insert_unique(hash_of_these, place, again);
    }

    /// Grows if that helps, else begins anew; false if it rests now.
    fn make_room(&mut self) -> bool {
        let comes_again = self.again * 4 >= self.known.len() as u64;
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

    fn bytes(&self) -> usize {
        self.headers.len() + self.lists + self.known.len() * (size_of::<Known>() + 8)
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
            assert!(memo.bytes() <= ROOM_BYTES);
            rested |= memo.rest > 0;
        }
        assert!(rested);
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
            assert!(memo.bytes() <= ROOM_BYTES_MAX);
            hits
        };
        let hits: Vec<u32> = (0..10).map(|_| pass()).collect();
        assert_eq!(hits[9], 100_000, "{hits:?}");
    }
}
