//! The words between the core and the store of durable messages: what the core asks to be written, and what the store says.
//! The core does no input or output; the shell carries these back and forth, one batch at a time.
//!
//! Order is a promise: the store applies batches in the order of their numbers, the writes of one in their order, each
//! batch as a whole or not at all; and what it loads is what stood there after the batches before it.

use std::sync::Arc;

use libeevee::GapReason;
use libeevee::wire::{DocumentView, EncodedDocument};

/// The number of a durable subscription in the store; never used again.
pub(crate) type DurableKey = u32;

/// The place of a message in the store. It rises over all subscriptions, and is never used again.
pub(crate) type EntryNumber = u64;

/// A message as it is stored: once for every durable subscription that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) source: Box<str>,
    pub(crate) timestamp: u64,
    pub(crate) cause: Option<u64>,
    pub(crate) hops: u8,
    pub(crate) reply_address: Option<u64>,
    /// With bytes of its own ([`EncodedDocument::detached`]); the store keeps them as they are on the wire.
    pub(crate) document: EncodedDocument,
}

impl Record {
    /// What it is counted as, in memory and in the bounds of a subscription.
    pub(crate) fn size(&self) -> u64 {
        Self::size_of(self.document.view(), &self.source)
    }

    /// The same before there is one.
    pub(crate) fn size_of(document: DocumentView<'_>, source: &str) -> u64 {
        (document.bytes().len() + source.len() + 128) as u64
    }
}

/// A durable subscription as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubscriptionRow {
    pub(crate) durable: DurableKey,
    /// The source that it belongs to: an operator's id or `user/NAME`.
    pub(crate) owner: String,
    pub(crate) name: String,
    /// Filters, bounds and permissions, as JSON of the core's own.
    pub(crate) spec: String,
}

/// What the bus remembers of one publisher, to recognise what it sends again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublisherRow {
    pub(crate) source: String,
    pub(crate) epoch: u64,
    /// The highest sequence that was taken, and what lies below it untaken, in the core's own words.
    pub(crate) state: String,
    /// Rises with every use, over all rows: the lowest is the longest unused.
    pub(crate) used: u64,
}

/// Why a message became a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Death {
    /// What its subscriber is told: expired, queue-full or dead-letter.
    pub(crate) reason: GapReason,
    /// For a person: `20 deliveries without an acknowledgement`, or the handler's own words.
    pub(crate) text: String,
    /// How often it was delivered.
    pub(crate) attempts: u32,
}

/// One change of what is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Write {
    /// A subscription is new, or changed.
    Subscription(SubscriptionRow),
    /// It ends, with all that waits in it and all its dead letters.
    Forget {
        durable: DurableKey,
    },
    /// A message waits for a subscription. Times are of the store's own clock: milliseconds that only rise.
    Enqueue {
        entry: EntryNumber,
        durable: DurableKey,
        since_ms: u64,
        /// When it is no longer wanted; 0 for never.
        expires_ms: u64,
        record: Arc<Record>,
    },
    /// Entries of the subscription up to this one may have been delivered.
    Delivered {
        durable: DurableKey,
        entry: EntryNumber,
    },
    /// So often was this one delivered, exactly.
    Attempts {
        entry: EntryNumber,
        attempts: u32,
    },
    /// Done; it is deleted.
    Acknowledge {
        entry: EntryNumber,
    },
    /// It becomes a dead letter.
    Die {
        entry: EntryNumber,
        death: Death,
    },
    /// The oldest entries of a subscription above `after` become dead letters, until so many messages and so many bytes
    /// are gone.
    DieOldest {
        durable: DurableKey,
        after: EntryNumber,
        messages: u64,
        bytes: u64,
        death: Death,
    },
    /// All entries above `after` become dead letters that wait since before `before_ms`, or whose `expires_ms` is before
    /// `now_ms`.
    Expire {
        durable: DurableKey,
        after: EntryNumber,
        before_ms: u64,
        now_ms: u64,
        death: Death,
    },
    /// What is known of a publisher.
    Publisher(PublisherRow),
    ForgetPublisher {
        source: String,
        epoch: u64,
    },
    /// A dead letter waits again, as this new entry, as if it had just come.
    Retry {
        dead: EntryNumber,
        entry: EntryNumber,
        since_ms: u64,
    },
    /// A dead letter is deleted. An entry that is no dead letter any more is no error, here and in Retry.
    DropDead {
        dead: EntryNumber,
    },
    /// All dead letters but the newest are deleted: of each owner, and then of all, these stay at most.
    TrimDead {
        all: DeadBounds,
        of_owner: DeadBounds,
    },
}

/// How many dead letters are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DeadBounds {
    pub(crate) messages: u64,
    /// All of them together.
    pub(crate) bytes: u64,
}

impl DeadBounds {
    /// Whether this is more than `most`.
    pub(crate) const fn is_beyond(self, most: Self) -> bool {
        self.messages > most.messages || self.bytes > most.bytes
    }
}

/// What is written in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Batch {
    /// Rises by one with each that is given to the store.
    pub(crate) number: u64,
    /// The time of the store's own clock.
    pub(crate) time_ms: u64,
    /// Nanoseconds since the Unix epoch, so that the own clock can count the time while nobody runs.
    pub(crate) wall: u64,
    pub(crate) writes: Vec<Write>,
}

impl Batch {
    /// Whether it brings what was not there: messages, or a subscription that is none of `known`. All else deletes or
    /// replaces, and may have the last room on the disk.
    pub(crate) fn grows(&self, known: impl Fn(DurableKey) -> bool) -> bool {
        self.writes.iter().any(|write| match write {
            Write::Enqueue { .. } => true,
            Write::Subscription(row) => !known(row.durable),
            _ => false,
        })
    }
}

/// A message that a write removed from a queue, which the core did not name itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Died {
    pub(crate) durable: DurableKey,
    pub(crate) entry: EntryNumber,
    pub(crate) id: u64,
    /// Its [`Record::size`].
    pub(crate) bytes: u64,
    pub(crate) reason: GapReason,
}

/// A dead letter that waits again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revived {
    pub(crate) durable: DurableKey,
    pub(crate) entry: EntryNumber,
    pub(crate) bytes: u64,
}

/// What a batch did, beyond what the core knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    /// By DieOldest and Expire, in the order of entries.
    pub(crate) died: Vec<Died>,
    pub(crate) revived: Vec<Revived>,
    /// Dead letters that DropDead, Retry, TrimDead and Forget removed: of which subscription, how many.
    pub(crate) dead_removed: Vec<(DurableKey, u64)>,
    /// Why batches that bring something are refused for now, though this one was taken: there is room only for what
    /// deletes and replaces. None when all is well.
    pub(crate) tight: Option<String>,
}

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StorageError {
    /// Nothing of the batch is there, and the store is whole: the disk is full or read-only. Worth trying again later; a
    /// batch that brought something, at once without that.
    Unavailable(String),
    /// What is on the disk is not known any more: a sync failed. Only a new start may look.
    Failed(String),
}

/// One message that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) entry: EntryNumber,
    pub(crate) since_ms: u64,
    pub(crate) expires_ms: u64,
    /// How often it was delivered, as far as it was written.
    pub(crate) attempts: u32,
    pub(crate) record: Arc<Record>,
}

/// Some entries of a subscription, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Loaded>,
    /// Whether there are more behind them.
    pub(crate) more: bool,
    /// Entries whose bytes are not what was written: (entry, id as far as it can be read, size). Who is told of
    /// them acknowledges them.
    pub(crate) damaged: Vec<(EntryNumber, u64, u64)>,
}

/// A subscription as the store has it at a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecoveredSubscription {
    pub(crate) row: SubscriptionRow,
    /// Entries up to this one may have been delivered.
    pub(crate) delivered: EntryNumber,
    pub(crate) messages: u64,
    /// The sum of their [`Record::size`].
    pub(crate) bytes: u64,
    pub(crate) oldest_ms: Option<u64>,
    pub(crate) dead: u64,
    /// Something that waited here may be missing, or what was done may come again.
    pub(crate) damaged: bool,
}

/// What the store has at a start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    pub(crate) subscriptions: Vec<RecoveredSubscription>,
    pub(crate) publishers: Vec<PublisherRow>,
    /// Above every entry that ever was, also deleted ones.
    pub(crate) next_entry: EntryNumber,
    pub(crate) next_durable: DurableKey,
    /// The number of the last batch; the next one is this plus one.
    pub(crate) batch: u64,
    /// The store's own clock at this moment: what stood there, and the time since then as far as the wall clock tells.
    pub(crate) time_ms: u64,
    /// What a person has to know: damage, and where the damaged files are now.
    pub(crate) problems: Vec<String>,
}
