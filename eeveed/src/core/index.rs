//! Which subscriptions want a message? The cost follows the number of matches, not of subscriptions.
//!
//! Every filter stands under one of its equality clauses: the one with the fewest filters under it so far, so that ten
//! thousand subscriptions of one type and a channel each stand under ten thousand channels. Filters without an equality
//! clause are a short list that is looked through for every message.

use std::borrow::Cow;

use hashbrown::HashMap;
use libeevee::filter::{Clause, Fields, Filter};
use libeevee::wire::DocumentView;
use smallvec::SmallVec;

/// The place of a subscription in the core.
pub(crate) type Slot = u32;

/// Subscriptions that a message is for; few, mostly.
pub(crate) type Found = SmallVec<[Slot; 8]>;

/// A message as filters see it: the envelope, and the headers read in place.
pub(crate) struct View<'a> {
    pub(crate) id: u64,
    pub(crate) source: &'a str,
    pub(crate) timestamp: u64,
    pub(crate) cause: Option<u64>,
    pub(crate) hops: u8,
    /// As many as messages have, without an allocation.
    headers: SmallVec<[(&'a str, &'a str); 12]>,
}

impl<'a> View<'a> {
    pub(crate) fn new(
        id: u64,
        source: &'a str,
        timestamp: u64,
        cause: Option<u64>,
        hops: u8,
        document: DocumentView<'a>,
    ) -> Self {
        Self { id, source, timestamp, cause, hops, headers: document.headers().collect() }
    }
}

impl<'a> View<'a> {
    /// A header, or the source.
    fn text(&self, key: &str) -> Option<&'a str> {
        if key == "source" {
            return Some(self.source);
        }
        self.headers.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }
}

impl Fields for View<'_> {
    fn field(&self, key: &str) -> Option<Cow<'_, str>> {
        match key {
            "id" => Some(self.id.to_string().into()),
            "source" => Some(self.source.into()),
            "timestamp" => Some(self.timestamp.to_string().into()),
            "cause" => self.cause.map(|cause| cause.to_string().into()),
            "hops" => Some(self.hops.to_string().into()),
            _ => self.text(key).map(Cow::Borrowed),
        }
    }
}

/// A filter of a subscription, and where it stands.
#[derive(Debug)]
struct Filed {
    slot: Slot,
    filter: Filter,
    /// The key that it stands under; none for those that are looked through for every message.
    key: Option<String>,
    /// Its place under each value, sorted by value, so that it is taken out without a search. Without a key it has one
    /// place, under the empty value.
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    value: String,
    at: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    filed: slab::Slab<Filed>,
    of_slot: HashMap<Slot, Vec<usize>>,
    equal: HashMap<String, HashMap<String, Vec<usize>>>,
    rest: Vec<usize>,
}

impl Index {
    pub(crate) fn insert(&mut self, slot: Slot, filters: &[Filter]) {
        for filter in filters {
            let (key, values) = match self.most_selective(filter) {
                None => (None, vec![String::new()]),
                Some((key, values)) => (Some(key), values),
            };
            let entry = self.filed.vacant_entry();
            let mut places = Vec::with_capacity(values.len());
            for value in values {
                let bucket = match &key {
                    None => &mut self.rest,
                    Some(key) => self.equal.entry_ref(key).or_default().entry_ref(&value).or_default(),
                };
                bucket.push(entry.key());
                places.push(Place { value, at: bucket.len() - 1 });
            }
            self.of_slot.entry(slot).or_default().push(entry.key());
            entry.insert(Filed { slot, filter: filter.clone(), key, places });
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        for at in self.of_slot.remove(&slot).unwrap_or_default() {
            let Filed { key, places, .. } = self.filed.remove(at);
            let Some(key) = key else {
                places.iter().for_each(|place| take_out(&mut self.filed, &mut self.rest, place));
                continue;
            };
            let Some(by_value) = self.equal.get_mut(&key) else { continue };
            for place in &places {
                if let Some(bucket) = by_value.get_mut(&place.value) {
                    take_out(&mut self.filed, bucket, place);
                    if bucket.is_empty() {
                        by_value.remove(&place.value);
                    }
                }
            }
            if by_value.is_empty() {
                self.equal.remove(&key);
            }
        }
    }

    /// Each subscription that wants the message, once.
    pub(crate) fn find(&self, view: &View<'_>) -> Found {
        let mut found = Found::new();
        // By the keys that filters stand under where these are few, as they mostly are; else by those of the message.
        if self.equal.len() <= view.headers.len() {
            for (key, by_value) in &self.equal {
                if let Some(bucket) = view.text(key).and_then(|value| by_value.get(value)) {
                    self.check(bucket, view, &mut found);
                }
            }
        } else {
            for (key, value) in view.headers.iter().copied().chain([("source", view.source)]) {
                if let Some(bucket) = self.equal.get(key).and_then(|by_value| by_value.get(value)) {
                    self.check(bucket, view, &mut found);
                }
            }
        }
        self.check(&self.rest, view, &mut found);
        found.sort_unstable();
        found.dedup();
        found
    }

    fn check(&self, bucket: &[usize], view: &View<'_>, found: &mut Found) {
        found.extend(
            bucket.iter().map(|at| &self.filed[*at]).filter(|filed| filed.filter.matches(view)).map(|filed| filed.slot),
        );
    }

    /// The equality clause under which the fewest filters stand, counting all values of a set.
    fn most_selective(&self, filter: &Filter) -> Option<(String, Vec<String>)> {
        let crowd = |key: &str, values: &[String]| -> usize {
            let Some(by_value) = self.equal.get(key) else { return values.len() };
            values.iter().map(|value| 1 + by_value.get(value).map_or(0, Vec::len)).sum()
        };
        equalities(filter).min_by_key(|(key, values)| crowd(key, values)).map(|(key, values)| {
            let mut values = values.to_vec();
            values.sort_unstable();
            values.dedup();
            (key.clone(), values)
        })
    }
}

/// Whether a filter is found by an equality clause, and costs nothing with messages that have other values.
pub(super) fn is_indexed(filter: &Filter) -> bool {
    equalities(filter).next().is_some()
}

/// The clauses that a filter can stand under.
fn equalities(filter: &Filter) -> impl Iterator<Item = (&String, &[String])> {
    let of_headers = |(key, _): &(&String, _)| !matches!(key.as_str(), "id" | "timestamp" | "cause" | "hops");
    filter
        .clauses()
        .iter()
        .filter_map(|clause| match clause {
            Clause::Equals { key, value } => Some((key, std::slice::from_ref(value))),
            Clause::In { key, values } => Some((key, values.as_slice())),
            _ => None,
        })
        .filter(of_headers)
}

/// Empties a place; the last of its bucket moves there.
fn take_out(filed: &mut slab::Slab<Filed>, bucket: &mut Vec<usize>, place: &Place) {
    bucket.swap_remove(place.at);
    let Some(moved) = bucket.get(place.at).and_then(|moved| filed.get_mut(*moved)) else { return };
    if let Ok(at) = moved.places.binary_search_by(|known| known.value.cmp(&place.value)) {
        moved.places[at].at = place.at;
    }
}
