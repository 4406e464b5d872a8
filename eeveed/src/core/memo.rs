//! The memo of routes: equal header bytes from one session have the same permission and the same matches, so that a
//! message whose headers were seen before is neither decoded nor matched again. It is dropped when subscriptions or
//! permissions change. (From one session, not from one source: two sessions of a person may have different rights.)
//!
//! It is bounded, because unique headers in every message would fill any memory; and where it does not help, it rests, so
//! that such messages do not pay for it.

use std::hash::{BuildHasher, Hasher};
use std::ops::Deref;
use std::rc::Rc;

use hashbrown::{DefaultHashBuilder, HashTable};
use libeevee::wire::{DocumentView, RawPublish};

use super::index::Slot;
use super::session::SessionKey;

/// A list of subscriptions, shared with the memo.
#[derive(Debug, Clone, Default)]
pub(super) enum Slots {
    #[default]
    None,
    One([Slot; 1]),
    Many(Rc<[Slot]>),
}

impl Deref for Slots {
    type Target = [Slot];

    fn deref(&self) -> &[Slot] {
        match self {
            Self::None => &[],
            Self::One(slot) => slot,
            Self::Many(slots) => slots,
        }
    }
}

impl FromIterator<Slot> for Slots {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut slots = slots.into_iter();
        match (slots.next(), slots.next()) {
            (None, _) => Self::None,
            (Some(one), None) => Self::One([one]),
            (Some(first), Some(second)) => Self::Many([first, second].into_iter().chain(slots).collect()),
        }
    }
}

/// Where a message goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Route {
    /// Whether may-publish forbids it.
    pub(super) denied: bool,
    pub(super) live: Slots,
    pub(super) durable: Slots,
}

impl Route {
    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.durable.is_empty()
    }
}

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
#[derive(Debug, Default)]
pub(crate) struct Memo {
    places: HashTable<u32>,
    known: Vec<Known>,
    /// All header bytes, one after the other: one allocation, and one to give up.
    headers: Vec<u8>,
    hasher: DefaultHashBuilder,
    /// Bytes of the lists of the routes.
    lists: usize,
    hits: u64,
    misses: u64,
    /// For so many messages it is not asked.
    rest: u32,
    /// The place that was found last: mostly the next message is like it.
    last: u32,
}

/// Enough for thirty thousand different headers; beyond it the memo starts anew. Nobody is charged for it.
const BYTES_MAX: usize = 6 << 20;

/// How long it rests when less than one message in four was found until it was full.
const REST_MESSAGES: u32 = 1 << 20;

impl Memo {
    pub(crate) fn clear(&mut self) {
        // Nothing stays behind of what once was large, and a small one is used again.
        if self.headers.capacity() > 1 << 20 {
            *self = Self { hasher: self.hasher.clone(), rest: self.rest, ..Self::default() };
            return;
        }
        self.places.clear();
        self.known.clear();
        self.headers.clear();
        (self.lists, self.hits, self.misses, self.last) = (0, 0, 0, 0);
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
        if self.bytes() + headers.len() > BYTES_MAX {
            let helps = self.hits * 3 >= self.misses;
            self.clear();
            if !helps {
                self.rest = REST_MESSAGES;
                return;
            }
        }
        self.lists += (route.live.len() + route.durable.len()) * size_of::<Slot>();
        let place = self.known.len() as u32;
        let (at, len) = (self.headers.len() as u32, headers.len() as u32);
        self.headers.extend_from_slice(headers);
        self.known.push(Known { session, at, len, route: route.clone() });
        let (known, all, hasher) = (&self.known, &self.headers, &self.hasher);
        let again = |place: &u32| {
            let known = &known[*place as usize];
            hash(hasher, known.session, &all[known.at as usize..][..known.len as usize])
        };
        self.places.insert_unique(hash(hasher, session, headers), place, again);
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

    fn route(slot: Slot) -> Route {
        Route { live: [slot].into_iter().collect(), ..Route::default() }
    }

    #[test]
    fn it_answers_for_the_same_session_and_the_same_bytes() {
        let mut memo = Memo::default();
        for number in 0..1000_u32 {
            assert!(memo.get(1, &number.to_le_bytes()).is_none());
            memo.put(1, &number.to_le_bytes(), &route(number));
        }
        for number in 0..1000_u32 {
            assert_eq!(*memo.get(1, &number.to_le_bytes()).unwrap().live, [number]);
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
            assert!(memo.bytes() <= BYTES_MAX + 1024);
            rested |= memo.rest > 0;
        }
        assert!(rested);
    }

    #[test]
    fn lists_of_any_length() {
        for count in 0..4_u32 {
            assert_eq!(*(0..count).collect::<Slots>(), (0..count).collect::<Vec<_>>());
        }
    }
}
