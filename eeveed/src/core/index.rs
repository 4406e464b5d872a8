//! Which subscriptions want a message? The cost follows the number of matches, not of subscriptions.
//!
//! Every filter stands under one of its equality clauses: the one with the fewest filters under it so far, so that ten
//! thousand subscriptions of one type and a channel each stand under ten thousand channels. Filters without an equality
//! clause are a short list that is looked through for every message.

use std::borrow::Cow;
use std::rc::Rc;

use hashbrown::HashMap;
use libeevee::filter::{Clause, Fields, Filter};
use libeevee::wire::DocumentView;
use smallvec::SmallVec;

/// The place of a subscription in the core.
pub(crate) type Slot = u32;

/// Subscriptions that a message is for; few, mostly.
pub(crate) type Found = SmallVec<[Slot; 8]>;

/// Key and value of each header; as many as messages have, without an allocation.
pub(crate) type Pairs<'a> = SmallVec<[(&'a str, &'a str); 12]>;

/// The headers of a message, read here or by somebody before.
#[allow(clippy::large_enum_variant, reason = "it lives on the stack, for one message")]
pub(crate) enum Headers<'a> {
    Own(Pairs<'a>),
    Of(&'a [(&'a str, &'a str)]),
}

/// A message as filters see it: the envelope, and the headers read in place.
pub(crate) struct View<'a> {
    pub(crate) id: u64,
    pub(crate) source: &'a str,
    pub(crate) timestamp: u64,
    pub(crate) cause: Option<u64>,
    pub(crate) hops: u8,
    pub(crate) headers: Headers<'a>,
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
        Self { id, source, timestamp, cause, hops, headers: Headers::Own(document.headers().collect()) }
    }

    fn headers(&self) -> &[(&'a str, &'a str)] {
        match &self.headers {
            Headers::Own(pairs) => pairs,
            Headers::Of(pairs) => pairs,
        }
    }

    /// A header, or the source; no header has the name of a part of the envelope.
    #[inline]
    fn text(&self, key: &str) -> Option<&'a str> {
        match self.headers().iter().find(|(known, _)| *known == key) {
            Some((_, value)) => Some(value),
            None => (key == "source").then_some(self.source),
        }
    }
}

impl Fields for View<'_> {
    fn field(&self, key: &str) -> Option<Cow<'_, str>> {
        if let Some(text) = self.text(key) {
            return Some(text.into());
        }
        match key {
            "id" => Some(self.id.to_string().into()),
            "timestamp" => Some(self.timestamp.to_string().into()),
            "cause" => self.cause.map(|cause| cause.to_string().into()),
            "hops" => Some(self.hops.to_string().into()),
            _ => None,
        }
    }
}

/// A filter of a subscription, and where it stands.
#[derive(Debug)]
struct Filed {
    slot: Slot,
    filters: Rc<[Filter]>,
    /// Which of them it is.
    which: u32,
    /// The clause that it stands under; none for those that are looked through for every message.
    clause: Option<u8>,
    /// Whether that is all of it, so that nobody has to look at it again.
    alone: bool,
    /// Its place in the bucket of each value of that clause. Without one it has one place, in the list of those.
    places: SmallVec<[u32; 2]>,
}

impl Filed {
    fn filter(&self) -> &Filter {
        &self.filters[self.which as usize]
    }

    /// Key and values that it stands under.
    fn equality(&self) -> Option<(&String, &[String])> {
        equality(&self.filter().clauses()[self.clause? as usize])
    }
}

/// Filters that stand under a value: which one, and which of its places this is. Mostly it is one.
type Bucket = SmallVec<[(u32, u32); 2]>;

#[derive(Debug, Default)]
pub(crate) struct Index {
    filed: slab::Slab<Filed>,
    of_slot: HashMap<Slot, SmallVec<[u32; 2]>>,
    equal: HashMap<String, HashMap<String, Bucket>>,
    rest: Bucket,
}

impl Index {
    pub(crate) fn insert(&mut self, slot: Slot, filters: &Rc<[Filter]>) {
        for (which, filter) in (0..).zip(filters.iter()) {
            let clause = self.most_selective(filter);
            let entry = self.filed.vacant_entry();
            let number = entry.key() as u32;
            let alone = clause.is_some() && filter.clauses().len() == 1;
            let mut filed = Filed { slot, filters: filters.clone(), which, clause, alone, places: SmallVec::new() };
            match filed.equality() {
                None => {
                    filed.places = [self.rest.len() as u32].into_iter().collect();
                    self.rest.push((number, 0));
                }
                Some((key, values)) => {
                    let by_value = self.equal.entry_ref(key).or_default();
                    let mut places = SmallVec::with_capacity(values.len());
                    for (place, value) in (0..).zip(values) {
                        let bucket = by_value.entry_ref(value).or_default();
                        places.push(bucket.len() as u32);
                        bucket.push((number, place));
                    }
                    filed.places = places;
                }
            }
            self.of_slot.entry(slot).or_default().push(number);
            entry.insert(filed);
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        for number in self.of_slot.remove(&slot).unwrap_or_default() {
            let filed = self.filed.remove(number as usize);
            let Some((key, values)) = filed.equality() else {
                take_out(&mut self.filed, &mut self.rest, filed.places[0]);
                continue;
            };
            let Some(by_value) = self.equal.get_mut(key) else { continue };
            for (value, place) in values.iter().zip(&filed.places) {
                if let Some(bucket) = by_value.get_mut(value) {
                    take_out(&mut self.filed, bucket, *place);
                    if bucket.is_empty() {
                        by_value.remove(value);
                    }
                }
            }
            if by_value.is_empty() {
                self.equal.remove(key);
            }
        }
    }

    /// Each subscription that wants the message, once; `work` grows by the filters that were looked at.
    pub(crate) fn find(&self, view: &View<'_>, work: &mut usize) -> Found {
        let mut found = Found::new();
        // By the keys that filters stand under where these are few, as they mostly are; else by those of the message.
        if self.equal.len() <= view.headers().len() {
            for (key, by_value) in &self.equal {
                if let Some(bucket) = view.text(key).and_then(|value| by_value.get(value)) {
                    self.check(bucket, view, &mut found, work);
                }
            }
        } else {
            for (key, value) in view.headers().iter().copied().chain([("source", view.source)]) {
                if let Some(bucket) = self.equal.get(key).and_then(|by_value| by_value.get(value)) {
                    self.check(bucket, view, &mut found, work);
                }
            }
        }
        self.check(&self.rest, view, &mut found, work);
        if found.len() > 1 {
            found.sort_unstable();
            found.dedup();
        }
        found
    }

    fn check(&self, bucket: &Bucket, view: &View<'_>, found: &mut Found, work: &mut usize) {
        *work += bucket.len();
        for (number, _) in bucket {
            let filed = &self.filed[*number as usize];
            // The clause that it was found by holds.
            let mut others = (0..).zip(filed.filter().clauses()).filter(|(at, _)| filed.clause != Some(*at));
            // Filters on what is in no text of a message are not kept here.
            let holds = |(_, clause): (u8, &Clause)| clause.matches(view.text(clause.key()));
            if filed.alone || others.all(holds) {
                found.push(filed.slot);
            }
        }
    }

    /// The equality clause under which the fewest filters stand, counting all values of a set.
    fn most_selective(&self, filter: &Filter) -> Option<u8> {
        let crowd = |key: &str, values: &[String]| -> usize {
            let Some(by_value) = self.equal.get(key) else { return values.len() };
            values.iter().map(|value| 1 + by_value.get(value).map_or(0, Bucket::len)).sum()
        };
        let clauses = (0..).zip(filter.clauses());
        let equalities = clauses.filter_map(|(at, clause)| Some((at, equality(clause)?)));
        equalities.min_by_key(|(_, (key, values))| crowd(key, values)).map(|(at, _)| at)
    }
}

/// Whether a filter is found by an equality clause, and costs nothing with messages that have other values.
pub(super) fn is_indexed(filter: &Filter) -> bool {
    filter.clauses().iter().any(|clause| equality(clause).is_some())
}

/// Key and values of a clause that a filter can stand under.
fn equality(clause: &Clause) -> Option<(&String, &[String])> {
    let (key, values) = match clause {
        Clause::Equals { key, value } => (key, std::slice::from_ref(value)),
        Clause::In { key, values } => (key, values.as_slice()),
        _ => return None,
    };
    (!matches!(key.as_str(), "id" | "timestamp" | "cause" | "hops")).then_some((key, values))
}

/// Empties a place; the last of its bucket moves there.
fn take_out(filed: &mut slab::Slab<Filed>, bucket: &mut Bucket, place: u32) {
    bucket.swap_remove(place as usize);
    if let Some((moved, which)) = bucket.get(place as usize)
        && let Some(moved) = filed.get_mut(*moved as usize)
    {
        moved.places[*which as usize] = place;
    }
}
