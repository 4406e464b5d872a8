//! Routes by hash, in as few cache lines as possible: with many subscriptions no line of this is in a near cache. A place is
//! eight bytes; what it leads to, with the headers that it has to be compared with, lies together.

use std::rc::Rc;

use super::super::index::Slot;
use super::super::route::{Lists, Route};
use super::super::session::SessionKey;

/// Where an entry may be found.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Half of its hash.
    hash: u32,
    /// Where it begins, plus 1; 0 for none.
    at: u32,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    /// A power of two of them. An entry stands at the first free one from where its hash points to.
    places: Vec<Place>,
    count: usize,
    /// Session, length of the headers, kind of route and its subscription or list, and the headers; one entry after the other.
    /// One allocation, and one to give up.
    entries: Vec<u8>,
    lists: Vec<Rc<Lists>>,
    list_bytes: usize,
}

/// What an entry has before its headers.
const HEAD_BYTES: usize = 20;

/// What an entry has of the places: after they became twice as many, three eighths are in use.
const PLACE_BYTES: usize = 3 * size_of::<Place>();

const NOWHERE: u32 = 0;
const DENIED: u32 = 1;
const ONE: u32 = 2;
const MANY: u32 = 3;

const LINE_BYTES: usize = 64;

impl Table {
    /// How many entries it has.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) const fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.entries.len() + self.list_bytes + self.count * PLACE_BYTES
    }

    /// What one more would take.
    pub(super) const fn bytes_of(headers: &[u8]) -> usize {
        HEAD_BYTES + headers.len() + PLACE_BYTES
    }

    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.entries.clear();
        self.lists.clear();
        (self.count, self.list_bytes) = (0, 0);
    }

    /// Where the entry begins that most likely has this hash; 0 for none. The rest of the way is [`Table::find`].
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> u32 {
        let mut number = hash as usize;
        loop {
            let Some(place) = self.places.get(number & self.places.len().wrapping_sub(1)) else { return 0 };
            if place.hash == hash as u32 || place.at == 0 {
                return place.at;
            }
            number += 1;
        }
    }

    /// Loads the lines of an entry, and hands on something of them, so that a compiler cannot leave it out.
    #[inline]
    pub(super) fn touch(&self, at: u32, header_bytes: usize) -> u8 {
        let entry = self.entries.get(start(at)..).unwrap_or_default();
        let line = |number: usize| entry.get(number * LINE_BYTES).copied().unwrap_or_default();
        line(0) ^ line(1) ^ entry.get(HEAD_BYTES + header_bytes).copied().unwrap_or_default()
    }

    /// Where the entry of these headers begins; 0 if there is none.
    #[inline]
    pub(super) fn find(&self, hash: u64, session: SessionKey, headers: &[u8]) -> u32 {
        let mut number = hash as usize;
        loop {
            let Some(place) = self.places.get(number & self.places.len().wrapping_sub(1)) else { return 0 };
            if place.at == 0 || (place.hash == hash as u32 && self.is(place.at, session, headers)) {
                return place.at;
            }
            number += 1;
        }
    }

    /// Whether the entry is the one of these headers.
    #[inline]
    pub(super) fn is(&self, at: u32, session: SessionKey, headers: &[u8]) -> bool {
        self.entry(at).is_some_and(|entry| {
            entry[..8] == session.to_le_bytes() && self.headers(at, entry).is_some_and(|known| known == headers)
        })
    }

    #[inline]
    fn entry(&self, at: u32) -> Option<&[u8; HEAD_BYTES]> {
        self.entries.get(start(at)..)?.first_chunk()
    }

    #[inline]
    fn headers(&self, at: u32, entry: &[u8; HEAD_BYTES]) -> Option<&[u8]> {
        self.entries.get(start(at).saturating_add(HEAD_BYTES)..)?.get(..word(entry, 8) as usize)
    }

    #[inline]
    pub(super) fn route(&self, at: u32) -> Route {
        let Some(entry) = self.entry(at) else { return Route::Nowhere };
        match (word(entry, 12), word(entry, 16)) {
            (ONE, slot) => Route::One([slot]),
            (MANY, list) => Route::Many(self.lists[list as usize].clone()),
            (DENIED, _) => Route::Denied,
            _ => Route::Nowhere,
        }
    }

    /// The subscription of an entry that has one alone.
    #[inline]
    pub(super) fn slot(&self, at: u32) -> Option<Slot> {
        let entry = self.entry(at)?;
        (word(entry, 12) == ONE).then(|| word(entry, 16))
    }

    /// Adds what is not there yet.
    pub(super) fn insert(&mut self, hash: u64, session: SessionKey, headers: &[u8], route: &Route) {
        if (self.count + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        let (kind, value) = match route {
            Route::Nowhere => (NOWHERE, 0),
            Route::Denied => (DENIED, 0),
            Route::One([slot]) => (ONE, *slot),
            Route::Many(list) => {
                self.lists.push(list.clone());
                (MANY, self.lists.len() as u32 - 1)
            }
        };
        self.list_bytes += route.list_bytes();
        let at = self.entries.len() as u32 + 1;
        let mut entry = [0; HEAD_BYTES];
        entry[..8].copy_from_slice(&session.to_le_bytes());
        for (word, at) in [headers.len() as u32, kind, value].into_iter().zip([8, 12, 16]) {
            entry[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        self.entries.reserve(HEAD_BYTES + headers.len());
        self.entries.extend_from_slice(&entry);
        self.entries.extend_from_slice(headers);
        self.count += 1;
        put(&mut self.places, Place { hash: hash as u32, at });
    }

    fn grow(&mut self) {
        let mut places = vec![Place::default(); (self.places.len() * 2).max(64)];
        for place in self.places.iter().filter(|place| place.at != 0) {
            put(&mut places, *place);
        }
        self.places = places;
    }
}

/// Beyond every end, for 0.
#[inline]
const fn start(at: u32) -> usize {
    (at as usize).wrapping_sub(1)
}

fn put(places: &mut [Place], place: Place) {
    let mask = places.len() - 1;
    let mut number = place.hash as usize;
    while places[number & mask].at != 0 {
        number += 1;
    }
    places[number & mask] = place;
}

#[inline]
fn word(entry: &[u8; HEAD_BYTES], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&entry[at..at + 4]);
    u32::from_le_bytes(word)
}
