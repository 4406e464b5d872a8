//! A durable subscription as the model sees it: every message that was ever for it, and what became of it.
//!
//! `take` counts the batches that the store was given, over all runs of the bus. What happens while it is at `t` is written
//! by batch `t + 1`, so that it is on disk if, and only if, a batch above `t` was committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use libeevee::GapReason;
use libeevee::wire::{Deliver, GapNotice};

use super::client::ClientNumber;
use super::item::{Bounds, Item, Wish};
use super::texts::Message;
use crate::config::Limits;
use crate::core::Now;
use crate::core::storage::{DurableKey, Record};

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) key: Option<DurableKey>,
    /// Each since a take; the last is in force.
    pub(super) wishes: VecDeque<(u64, Wish)>,
    pub(super) bounds: Bounds,
    pub(super) stored: bool,
    /// It was asked to end, at this take.
    pub(super) forgetting: Option<u64>,
    /// Who is attached, and its number there.
    pub(super) holder: Option<(ClientNumber, u32)>,
    pub(super) window: u64,
    pub(super) items: BTreeMap<u64, Item>,
    /// Every message that was ever for it.
    pub(super) ids: BTreeSet<u64>,
    /// So many died and were acknowledged before the bus could look: it may take them for lost, or for done.
    pub(super) unclear: u64,
    /// So many deaths were the store's choice.
    pub(super) chosen: u64,
    /// What died in which batch, and its size.
    pub(super) dying: Vec<(u64, u64)>,
    /// What is to be told in gaps, and what was told, since the last start of the bus; by the number of the reason.
    pub(super) lost: BTreeMap<u8, u64>,
    pub(super) told: BTreeMap<u8, u64>,
    /// The last first delivery to this session.
    pub(super) last: u64,
    pub(super) outstanding: BTreeSet<u64>,
    pub(super) in_flight_max: usize,
    /// The most deliveries that were allowed of late, and the fewest.
    pub(super) attempts_max: u32,
    pub(super) attempts_min: u32,
    /// Acknowledgements that must be refused.
    pub(super) wrong: BTreeSet<u64>,
    /// Those that could not be looked at when they came.
    pub(super) early: BTreeSet<u64>,
    /// All that were made in this session.
    pub(super) wronged: BTreeSet<u64>,
    /// So many may be lost because it was full; beyond all counting where bytes are the bound.
    pub(super) too_many: u64,
    pub(super) too_large: bool,
    pub(super) read_failed: bool,
    /// The shortest age that was in force lately.
    pub(super) age_min: u64,
}

impl Kept {
    pub(super) fn new(take: u64, wish: Wish, limits: &Limits) -> Self {
        let bounds = Bounds::new(&wish, limits);
        Self {
            key: None,
            age_min: bounds.age_ms,
            bounds,
            wishes: VecDeque::from([(take, wish)]),
            stored: false,
            forgetting: None,
            holder: None,
            window: 0,
            items: BTreeMap::new(),
            ids: BTreeSet::new(),
            unclear: 0,
            chosen: 0,
            dying: Vec::new(),
            lost: BTreeMap::new(),
            told: BTreeMap::new(),
            last: 0,
            outstanding: BTreeSet::new(),
            in_flight_max: 0,
            attempts_max: 0,
            attempts_min: u32::MAX,
            wrong: BTreeSet::new(),
            wronged: BTreeSet::new(),
            early: BTreeSet::new(),
            too_many: 0,
            too_large: false,
            read_failed: false,
        }
    }

    pub(super) fn wish(&self) -> &Wish {
        &self.wishes.back().expect("one is in force").1
    }

    pub(super) fn matches(&self, message: &Message) -> bool {
        let wish = self.wish();
        self.forgetting.is_none() && message.is_permitted(wish.permit) && message.matches(&wish.filters)
    }

    /// Another wish is in force, with bounds by the present limits.
    pub(super) fn set_wish(&mut self, take: u64, wish: Wish, limits: &Limits) {
        self.set_bounds(Bounds::new(&wish, limits));
        self.change_wish(take, wish);
    }

    /// The disk learns of it unless it has it.
    pub(super) fn change_wish(&mut self, take: u64, wish: Wish) {
        for item in self.items.values_mut() {
            item.denied |= !item.message.is_permitted(wish.permit);
        }
        if *self.wish() != wish {
            self.wishes.push_back((take, wish));
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.items.values().filter(|item| item.waits()).count() as u64
    }

    /// The bus restarted, and has other limits since it was subscribed to.
    pub(super) fn take_limits(&mut self, limits: &Limits) {
        self.set_bounds(Bounds::new(self.wish(), limits));
    }

    fn set_bounds(&mut self, bounds: Bounds) {
        self.age_min = self.age_min.min(bounds.age_ms);
        self.bounds = bounds;
    }

    /// Messages and bytes as the core counts them, at most: it does not know of deaths in the batches that have no answer.
    pub(super) fn counted(&self, answered: u64) -> (u64, u64) {
        let counts = |item: &&Item| item.waits() || item.dead.is_none() && matches!(item.acked, Some((_, false)));
        let waiting = self.items.values().filter(counts).map(|item| item.size);
        let dying = self.dying.iter().filter(|(take, _)| *take > answered).map(|(_, size)| *size);
        waiting.chain(dying).fold((0, 0), |(count, bytes), size| (count + 1, bytes + size))
    }

    /// A message is for it.
    pub(super) fn add(&mut self, take: u64, message: Rc<Message>, since_ms: u64, answered: u64) {
        let id = message.id;
        let size = match message.source {
            // Its status is not known yet.
            "eeveed" => 220,
            source => Record::size_of(message.document.view(), source),
        };
        let item = Item {
            message,
            size,
            take,
            pending: true,
            written: false,
            confirmed: false,
            since_ms,
            deliveries: 0,
            last_attempt: 0,
            starts: 0,
            in_run: false,
            in_session: false,
            due: Duration::ZERO,
            flying: false,
            acked: None,
            unsure: false,
            refused: false,
            killed: false,
            may_die: false,
            put_off: false,
            dead: None,
            trimmed: false,
            retry: false,
            drop: false,
            revived: false,
            denied: false,
        };
        self.ids.insert(id);
        self.items.insert(id, item);
        let (messages, bytes) = (self.bounds.messages, self.bounds.bytes);
        let counted = self.counted(answered);
        self.too_many += counted.0.saturating_sub(messages);
        self.too_large |= counted.1 > bytes;
    }

    pub(super) fn lose(&mut self, reason: GapReason, count: u64) {
        *self.lost.entry(reason as u8).or_default() += count;
    }

    /// A session takes it.
    pub(super) fn attach(&mut self, holder: (ClientNumber, u32), window: u64, in_flight_max: usize) {
        self.detach();
        self.holder = Some(holder);
        self.window = window;
        self.in_flight_max = in_flight_max;
    }

    pub(super) fn detach(&mut self) {
        self.holder = None;
        self.last = 0;
        self.outstanding.clear();
        self.wrong.clear();
        self.wronged.clear();
        self.early.clear();
        self.forget_early();
        for item in self.items.values_mut() {
            (item.in_session, item.flying) = (false, false);
        }
    }

    /// What was acknowledged and could not be looked at yet may come again.
    pub(super) fn forget_early(&mut self) {
        for item in self.items.values_mut() {
            item.unsure |= matches!(item.acked, Some((_, false)));
        }
    }

    /// A delivery came. `answered`: the take of the last batch that the bus knows the end of.
    pub(super) fn deliver(&mut self, now: Now, now_ms: u64, deliver: &Deliver, answered: u64, limits: &Limits) {
        let id = deliver.id;
        assert!(self.window > 0, "a delivery beyond the window");
        self.window -= 1;
        let (permit, age_max) = (self.wish().permit, self.bounds.age_ms);
        let item = self.items.get_mut(&id).expect("a delivery of what is not for it, or was done with");
        assert!(!item.pending, "{id} is delivered before it is on disk");
        item.take_back();
        assert!(item.acked.is_none(), "{id} is delivered after it was acknowledged");
        assert!(!item.killed, "{id} is delivered after it was given up");
        assert!(item.dead.is_none_or(|(_, take)| take > answered), "{id} is a dead letter, and delivered");
        assert!(item.message.is_permitted(permit), "{id} may not be received, and is");
        assert!(item.is_announcement() || deliver.document == item.message.document, "another document");
        assert_eq!((&*deliver.source, deliver.hops), (item.message.source, item.message.hops));
        let age = now_ms.saturating_sub(item.since_ms);
        assert!(age <= age_max, "{id} is delivered {age} ms old, at most {} were wanted", age_max);
        assert!(deliver.waited_ms <= age, "{id} waited {} ms in {age}", deliver.waited_ms);

        item.deliveries += 1;
        if item.starts == 0 {
            assert_eq!(deliver.attempt, item.deliveries, "{id}: attempt");
        } else {
            let next = item.last_attempt + 1;
            let may_be = next..=next + item.starts;
            assert!(may_be.contains(&deliver.attempt), "{id}: attempt {}, not {may_be:?}", deliver.attempt);
        }
        let most = self.attempts_max.max(limits.attempts) + item.starts;
        assert!(deliver.attempt <= most, "{id}: attempt {}", deliver.attempt);
        item.last_attempt = deliver.attempt;
        if item.in_session {
            assert!(now.mono >= item.due, "{id} comes again {:?} too early", item.due.saturating_sub(now.mono));
        } else if !item.revived && !item.put_off {
            assert!(id > self.last, "{id} comes after {}", self.last);
            self.last = id;
        }
        (item.in_run, item.in_session, item.flying) = (true, true, true);
        item.due = now.mono + limits.acknowledge_within;
        self.outstanding.insert(id);
        let items = &self.items;
        self.outstanding.retain(|id| items.get(id).is_some_and(|item| item.waits() && !item.killed && !item.refused));
        self.in_flight_max = self.in_flight_max.max(limits.in_flight);
        let sure = |id: &&u64| items.get(id).is_some_and(|item| item.last_attempt < limits.attempts);
        let count = self.outstanding.iter().filter(sure).count();
        assert!(count <= self.in_flight_max, "{count} are in flight, at most {} may be", self.in_flight_max);
    }

    pub(super) fn gap(&mut self, gap: &GapNotice) {
        assert!(gap.first <= gap.last, "{gap:?}");
        for end in [gap.first, gap.last] {
            assert!(self.ids.contains(&end), "{gap:?} tells of a message that was not for it");
        }
        // Which of them, a gap of many does not say.
        self.outstanding.retain(|id| !(gap.first..=gap.last).contains(id));
        *self.told.entry(gap.reason).or_default() += gap.count.expect("nothing is damaged, so that the count is known");
    }

    /// What was in flight is late only from now on.
    pub(super) fn resumed(&mut self, now: Now, halted: Duration, limits: &Limits) {
        for item in self.items.values_mut().filter(|item| item.flying && item.due > halted) {
            item.due = now.mono + limits.acknowledge_within;
        }
    }

    /// Whether an acknowledgement of this one has to be taken.
    pub(super) fn may_acknowledge(&self, id: u64, answered: u64) -> bool {
        let known = |item: &Item| item.dead.is_some_and(|(_, take)| take <= answered);
        self.items.get(&id).is_some_and(|item| {
            item.deliveries > 0 && item.acked.is_none() && !item.pending && !item.killed && !known(item)
        })
    }

    /// It was acknowledged, and that is wrong.
    pub(super) fn acknowledge_wrongly(&mut self, id: u64) {
        self.wrong.insert(id);
        self.wronged.insert(id);
    }

    /// It was acknowledged, and this ought to be right.
    pub(super) fn acknowledge(&mut self, id: u64, take: u64) {
        self.outstanding.remove(&id);
        let Some(item) = self.items.get_mut(&id) else { return };
        item.acked = Some((take, item.in_run));
        if !item.in_run {
            self.early.insert(id);
            self.unclear += u64::from(item.dead.is_some());
        } else if let Some((reason, _)) = item.dead {
            // It died on disk a moment ago, and is no loss.
            *self.lost.entry(reason as u8).or_default() -= 1;
        }
    }

    /// The bus refused an acknowledgement.
    pub(super) fn acknowledgement_refused(&mut self, id: u64, text: &str) {
        if self.wrong.remove(&id) || self.wronged.contains(&id) {
            return;
        }
        let Some(item) = self.items.get_mut(&id) else {
            assert!(self.early.contains(&id), "an acknowledgement of {id} was refused that was not made");
            return;
        };
        let Some((_, at_once)) = item.acked.take() else {
            // A negative one.
            item.refused = true;
            return;
        };
        if let Some((reason, _)) = item.dead.filter(|_| at_once) {
            *self.lost.entry(reason as u8).or_default() += 1;
        }
        if text.contains("too many are acknowledged") {
            assert!(!at_once, "{text}");
        } else {
            item.refused = true;
        }
    }

    /// What a batch made of an entry: a dead letter.
    pub(super) fn died(&mut self, id: u64, reason: GapReason, take: u64, time_ms: u64, limits: &Limits) {
        let (age_min, attempts_min) = (self.age_min, self.attempts_min);
        let item = self.items.get_mut(&id).expect("a dead letter that was not for it");
        assert!(item.dead.is_none(), "{id} dies twice");
        match reason {
            GapReason::Expired => {
                let age = time_ms.saturating_sub(item.since_ms);
                assert!(age > age_min, "{id} expired after {age} ms, {age_min} were wanted");
            }
            GapReason::DeadLetter => {
                let often = item.last_attempt >= limits.attempts.min(attempts_min) || item.starts > 0;
                assert!(item.killed || item.may_die || often, "{id} was given up after {} deliveries", item.deliveries);
            }
            GapReason::QueueFull => {
                assert!(self.too_large || self.too_many > 0, "{id} was lost though there was room");
                self.too_many = self.too_many.saturating_sub(1);
            }
            other => panic!("{id} died of {other:?}"),
        }
        item.dead = Some((reason, take));
        self.dying.push((take, item.size));
        (item.retry, item.drop) = (false, false);
        self.outstanding.remove(&id);
        // What was acknowledged before the bus could look is told all the same.
        let early = item.acked.is_some_and(|(_, at_once)| !at_once);
        self.unclear += u64::from(early);
        if early || item.acked.is_none() {
            self.lose(reason, 1);
        }
    }

    /// A batch deleted an entry.
    pub(super) fn deleted(&mut self, id: u64) {
        let item = self.items.get_mut(&id).expect("an entry that was not for it is deleted");
        if item.acked.is_none() {
            // Not even as a dead letter: its owner may not read it.
            assert!(item.denied, "{id} is deleted, and nobody acknowledged it");
            self.lose(GapReason::Expired, 1);
        } else if item.denied && matches!(item.acked, Some((_, false))) {
            // It was acknowledged in a session that ended before the bus could look, and may not be received any more.
            self.unclear += 1;
            self.lose(GapReason::Expired, 1);
        }
        self.items.remove(&id);
        self.outstanding.remove(&id);
    }

    /// A dead letter waits again.
    pub(super) fn retried(&mut self, id: u64, since_ms: u64) {
        let permit = self.wish().permit;
        let item = self.items.get_mut(&id).expect("what waits again was never there");
        assert!(item.retry && item.dead.is_some(), "{id} waits again, and nobody asked for it");
        (item.dead, item.acked, item.revived, item.killed, item.refused) = (None, None, true, false, false);
        (item.deliveries, item.last_attempt, item.since_ms) = (0, 0, since_ms);
        (item.in_session, item.in_run, item.flying, item.starts) = (false, false, false, 0);
        item.denied = !item.message.is_permitted(permit);
    }

    /// The bus starts anew; the batches up to `done` are on disk. False when it is not there any more.
    pub(super) fn start(&mut self, done: u64, limits: &Limits) -> bool {
        let is_there = |take: u64| take < done;
        self.detach();
        (self.forgetting, self.read_failed) = (None, false);
        (self.lost, self.told) = (BTreeMap::new(), BTreeMap::new());
        while self.wishes.back().is_some_and(|(take, _)| !is_there(*take)) {
            self.wishes.pop_back();
        }
        if self.wishes.is_empty() {
            return false;
        }
        self.stored = true;
        self.take_limits(limits);
        for item in self.items.values_mut() {
            if !is_there(item.take) || !item.written {
                assert!(!is_there(item.take) || item.is_announcement(), "{} was not written", item.message.id);
                assert!(!item.confirmed, "{} was confirmed, and is not on disk", item.message.id);
                item.take = u64::MAX;
            }
            // What was acknowledged in a batch that came to nothing comes again.
            item.acked = item.acked.filter(|(take, at_once)| !at_once || is_there(*take));
            (item.pending, item.in_run, item.starts) = (false, false, item.starts + 1);
            (item.killed, item.refused) = (false, false);
        }
        self.items.retain(|_, item| item.take != u64::MAX);
        true
    }
}
