//! `[limits]` of eeveed.toml: every key, its default, its bounds, in one table.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use libeevee::Diagnosis;
use libeevee::module::ByteSize;
use libeevee::wire::limits::{FILTER_BYTES_MAX, FILTER_CLAUSES_MAX, FRAME_BYTES_CEILING, FRAME_BYTES_MAX};
use serde::Deserialize;
use toml::Spanned;

use super::span::TimeSpan;

/// How a limit is written in the file.
macro_rules! written {
    (count) => {
        i64
    };
    (bytes) => {
        ByteSize
    };
    (time) => {
        TimeSpan
    };
}

/// A checked value in the type of its field: bounds leave nothing that does not fit.
macro_rules! value {
    (count, $value:expr) => {
        $value.try_into().unwrap_or_default()
    };
    (bytes, $value:expr) => {
        $value.0.try_into().unwrap_or_default()
    };
    (time, $value:expr) => {
        $value.duration()
    };
}

macro_rules! limits {
    ($($(#[$doc:meta])* $key:ident: $type:ty as $written:ident = $default:expr, $bounds:expr;)*) => {
        /// What the bus lets its clients use.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct Limits { $($(#[$doc])* pub(crate) $key: $type,)* }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($key: value!($written, $default),)* }
            }
        }

        /// `[limits]` as it is written.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub(super) struct LimitsText { $($key: Option<Spanned<written!($written)>>,)* }

        impl LimitsText {
            /// Checks every value alone, then those that depend on each other.
            pub(super) fn check(self, path: &str, text: &str) -> Result<Limits, Diagnosis> {
                let mut limits = Limits {
                    $($key: value!($written, within(path, text, stringify!($key), &self.$key, $default, $bounds)?),)*
                };
                self.derive(&mut limits);
                self.check_together(path, text, &limits)?;
                Ok(limits)
            }
        }

        #[cfg(test)]
        /// Key, default and bounds as they are written in the file.
        fn table() -> Vec<(String, String, String, String)> {
            vec![$({
                let bounds: RangeInclusive<written!($written)> = $bounds;
                let default: written!($written) = $default;
                (key_of(stringify!($key)), tests::toml(&default), tests::toml(bounds.start()), tests::toml(bounds.end()))
            },)*]
        }
    };
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn bytes(first: u64, last: u64) -> RangeInclusive<ByteSize> {
    ByteSize(first)..=ByteSize(last)
}

limits! {
    /// The largest frame, and with it the largest message.
    frame_bytes: usize as bytes = ByteSize(FRAME_BYTES_MAX as u64), bytes(4 * KIB, FRAME_BYTES_CEILING as u64);
    /// Connections that have not said who they are; beyond, the oldest is closed.
    handshakes: usize as count = 64, 1..=4096;
    /// How long each may take.
    handshake_time: Duration as time = TimeSpan::seconds(5), TimeSpan::milliseconds(100)..=TimeSpan::seconds(60);
    /// Connections of one user. The unit's LimitNOFILE= is the bound of all together.
    connections_per_uid: usize as count = 256, 1..=16_384;
    /// Subscriptions of one session.
    subscriptions_per_session: usize as count = 512, 1..=65_536;
    /// Filters of one user. Each may have to be looked at for a message that it does not match.
    filters_per_uid: usize as count = 4096, 1..=1_000_000;
    /// Filters of one user that are looked at for every message: those without an equality clause, and those that look
    /// at id, timestamp, cause or hops.
    unindexed_filters: usize as count = 64, 0..=65_536;
    /// Clauses in one filter. The protocol has no more than the default.
    filter_clauses: usize as count = FILTER_CLAUSES_MAX as i64, 1..=FILTER_CLAUSES_MAX as i64;
    /// Bytes in one filter. The protocol has no more than the default.
    filter_bytes: usize as bytes = ByteSize(FILTER_BYTES_MAX as u64), bytes(64, FILTER_BYTES_MAX as u64);
    /// Messages that wait for one live subscription, where the module file says nothing.
    queue_messages: usize as count = 1000, 1..=1_000_000;
    /// Bytes that wait for it.
    queue_bytes: usize as bytes = ByteSize(8 * MIB), bytes(KIB, 4 * GIB);
    /// Messages that a publisher may be ahead of the bus.
    credit_messages: u64 as count = 4096, 1..=1_000_000;
    /// Bytes that it may be ahead.
    credit_bytes: u64 as bytes = ByteSize(8 * MIB), bytes(4 * KIB, GIB);
    /// Messages of a durable subscription that were delivered and not acknowledged.
    in_flight: usize as count = 100, 1..=100_000;
    /// How long an acknowledgement may take until the message is delivered again.
    acknowledge_within: Duration as time = TimeSpan::seconds(30), TimeSpan::seconds(1)..=TimeSpan::seconds(86_400);
    /// Deliveries of one message until it is a dead letter.
    attempts: u32 as count = 20, 1..=1000;
    /// Messages that wait for one durable subscription.
    durable_messages: u64 as count = 100_000, 1..=100_000_000;
    /// Bytes that wait for it.
    durable_bytes: u64 as bytes = ByteSize(256 * MIB), bytes(64 * KIB, 1024 * GIB);
    /// How long they wait.
    durable_age: Duration as time = TimeSpan::seconds(7 * 86_400), TimeSpan::seconds(60)..=TimeSpan::seconds(3650 * 86_400);
    /// Dead letters that are kept.
    dead_letters: u64 as count = 10_000, 1..=10_000_000;
    /// Bytes of all dead letters together.
    dead_bytes: u64 as bytes = ByteSize(256 * MIB), bytes(64 * KIB, 1024 * GIB);
    /// Of these, those of one owner; a quarter of dead-letters where the file says nothing.
    dead_letters_per_owner: u64 as count = 2500, 1..=10_000_000;
    /// Bytes of those; a quarter of dead-bytes where the file says nothing.
    dead_bytes_per_owner: u64 as bytes = ByteSize(64 * MIB), bytes(16 * KIB, 1024 * GIB);
    /// Bytes of all messages that wait in durable subscriptions.
    store_bytes: u64 as bytes = ByteSize(GIB), bytes(MIB, 1024 * GIB);
    /// Bytes of those of one owner; a quarter of store-bytes where the file says nothing.
    store_bytes_per_owner: u64 as bytes = ByteSize(256 * MIB), bytes(64 * KIB, 1024 * GIB);
    /// Memory for all messages that wait anywhere. The unit's MemoryMax= has to be well above.
    memory_bytes: usize as bytes = ByteSize(256 * MIB), bytes(16 * MIB, 64 * GIB);
    /// What one user may have of it; a quarter of memory-bytes where the file says nothing.
    memory_per_uid: usize as bytes = ByteSize(64 * MIB), bytes(4 * MIB, 64 * GIB);
}

impl LimitsText {
    /// Shares follow what they are shares of, where they are not written themselves.
    fn derive(&self, limits: &mut Limits) {
        if self.memory_per_uid.is_none() {
            limits.memory_per_uid = (limits.memory_bytes / 4).max(least_share(limits)).min(limits.memory_bytes);
        }
        if self.store_bytes_per_owner.is_none() {
            limits.store_bytes_per_owner = limits.store_bytes / 4;
        }
        if self.dead_letters_per_owner.is_none() {
            limits.dead_letters_per_owner = (limits.dead_letters / 4).max(1);
        }
        if self.dead_bytes_per_owner.is_none() {
            limits.dead_bytes_per_owner = limits.dead_bytes / 4;
        }
    }

    /// What could be accepted and then never work.
    fn check_together(&self, path: &str, text: &str, limits: &Limits) -> Result<(), Diagnosis> {
        let size = |bytes: usize| ByteSize(bytes as u64);
        let credit_bytes = usize::try_from(limits.credit_bytes).unwrap_or(usize::MAX);
        let frame_span = self.frame_bytes.as_ref().map(Spanned::span);
        for (key, value, span) in [
            ("queue-bytes", limits.queue_bytes, self.queue_bytes.as_ref().map(Spanned::span)),
            ("credit-bytes", credit_bytes, self.credit_bytes.as_ref().map(Spanned::span)),
        ] {
            if value < limits.frame_bytes {
                // One of the two stands in the file: the defaults go together.
                let span = span.or(frame_span.clone()).unwrap_or_default();
                let (value, frame) = (size(value), size(limits.frame_bytes));
                let message =
                    format!("{key} is {value}, less than frame-bytes, {frame}: the largest messages would never pass");
                return Err(Diagnosis::at(path, text, span, message));
            }
        }
        if limits.memory_bytes < limits.queue_bytes {
            let span = self.memory_bytes.as_ref().map(Spanned::span);
            let span = span.or(self.queue_bytes.as_ref().map(Spanned::span)).unwrap_or_default();
            let (memory, queue) = (size(limits.memory_bytes), size(limits.queue_bytes));
            let message =
                format!("memory-bytes is {memory}, less than queue-bytes, {queue}: one queue could never fill");
            return Err(Diagnosis::at(path, text, span, message));
        }
        if let Some(share) = &self.memory_per_uid {
            let (memory, value) = (size(limits.memory_bytes), size(limits.memory_per_uid));
            let message = if limits.memory_per_uid > limits.memory_bytes {
                format!("memory-bytes is {memory}, less than memory-per-uid, {value}: a share is a part")
            } else if limits.memory_per_uid < least_share(limits) {
                let least = size(least_share(limits));
                format!(
                    "memory-per-uid is {value}, less than {least}, which queue-bytes and twice frame-bytes need: one \
                     queue could never fill, or the largest messages would never pass"
                )
            } else {
                String::new()
            };
            if !message.is_empty() {
                return Err(Diagnosis::at(path, text, share.span(), message));
            }
        }
        if let Some(share) = &self.dead_letters_per_owner
            && limits.dead_letters_per_owner > limits.dead_letters
        {
            let (all, owner) = (limits.dead_letters, limits.dead_letters_per_owner);
            let message =
                format!("dead-letters is {all}, less than dead-letters-per-owner, {owner}: a share is a part");
            return Err(Diagnosis::at(path, text, share.span(), message));
        }
        if let Some(share) = &self.dead_bytes_per_owner
            && limits.dead_bytes_per_owner > limits.dead_bytes
        {
            let (all, owner) = (ByteSize(limits.dead_bytes), ByteSize(limits.dead_bytes_per_owner));
            let message = format!("dead-bytes is {all}, less than dead-bytes-per-owner, {owner}: a share is a part");
            return Err(Diagnosis::at(path, text, share.span(), message));
        }
        if let Some(share) = &self.store_bytes_per_owner
            && limits.store_bytes_per_owner > limits.store_bytes
        {
            let (store, owner) = (ByteSize(limits.store_bytes), ByteSize(limits.store_bytes_per_owner));
            let message =
                format!("store-bytes is {store}, less than store-bytes-per-owner, {owner}: a share is a part");
            return Err(Diagnosis::at(path, text, share.span(), message));
        }
        Ok(())
    }
}

/// With less than this, the share of a uid would keep its largest queue or message from ever passing.
fn least_share(limits: &Limits) -> usize {
    limits.queue_bytes.max(2 * limits.frame_bytes)
}

fn within<T: Copy + Ord + Display>(
    path: &str,
    text: &str,
    field: &str,
    value: &Option<Spanned<T>>,
    default: T,
    bounds: RangeInclusive<T>,
) -> Result<T, Diagnosis> {
    let Some(value) = value else { return Ok(default) };
    let (first, last, found) = (bounds.start(), bounds.end(), value.get_ref());
    if bounds.contains(found) {
        return Ok(*found);
    }
    let key = key_of(field);
    Err(Diagnosis::at(path, text, value.span(), format!("{key} is {found}, it has to be from {first} to {last}")))
}

fn key_of(field: &str) -> String {
    field.replace('_', "-")
}

#[cfg(test)]
mod tests {
    use libeevee::parse_toml;

    use super::*;

    fn check(lines: &str) -> Result<Limits, Diagnosis> {
        parse_toml::<LimitsText>("t", lines)?.check("t", lines)
    }

    /// A value as a line of the file has it.
    pub(super) fn toml(value: &impl Display) -> String {
        let text = value.to_string();
        if text.parse::<i64>().is_ok() { text } else { format!("{text:?}") }
    }

    #[test]
    fn every_default_and_bound_can_be_written() {
        let all: String = table().iter().map(|(key, default, ..)| format!("{key} = {default}\n")).collect();
        assert_eq!(check(&all), Ok(Limits::default()));
        for (key, _, first, last) in table() {
            for value in [first, last] {
                let lines = format!("{key} = {value}\n");
                let wrong = parse_toml::<LimitsText>("t", &lines).unwrap().check("t", &lines).err();
                // What depends on another key may refuse it, its own bounds may not.
                assert!(wrong.is_none_or(|wrong| wrong.message().contains("less than")), "{lines}");
            }
        }
    }

    #[test]
    fn the_defaults_of_the_design() {
        let limits = Limits::default();
        assert_eq!(limits.frame_bytes, 1 << 20);
        assert_eq!((limits.handshakes, limits.handshake_time), (64, Duration::from_secs(5)));
        assert_eq!((limits.connections_per_uid, limits.subscriptions_per_session), (256, 512));
        assert_eq!((limits.filter_clauses, limits.filter_bytes), (32, 4096));
        assert_eq!((limits.queue_messages, limits.queue_bytes), (1000, 8 << 20));
        assert_eq!((limits.in_flight, limits.acknowledge_within, limits.attempts), (100, Duration::from_secs(30), 20));
        assert_eq!((limits.durable_messages, limits.durable_bytes), (100_000, 256 << 20));
        assert_eq!(limits.durable_age, Duration::from_secs(7 * 86_400));
        assert_eq!((limits.dead_letters, limits.memory_bytes), (10_000, 256 << 20));
    }

    #[test]
    fn values_out_of_bounds_are_refused_where_they_stand() {
        for (lines, says) in [
            ("handshakes = 0", "t:1:14: handshakes is 0, it has to be from 1 to 4096"),
            ("handshakes = -1", "t:1:14: handshakes is -1, "),
            ("handshakes = 9223372036854775807", "t:1:14: handshakes is 9223372036854775807, "),
            ("handshakes = \"64\"", "t:1:14: "),
            ("handshake-time = 5", "t:1:18: expected a length of time with its unit"),
            ("handshake-time = \"5 sec\"", "t:1:18: \"5 sec\" is not a length of time"),
            ("handshake-time = \"1 h\"", "t:1:18: handshake-time is 1 h, it has to be from 100 ms to 1 min"),
            ("filter-clauses = 33", "t:1:18: filter-clauses is 33, it has to be from 1 to 32"),
            ("frame-bytes = \"65 MiB\"", "t:1:15: frame-bytes is 65 MiB, it has to be from 4 KiB to 64 MiB"),
            ("frame-bytes = \"16 EiB\"", "t:1:15: \"16 EiB\" is not a size"),
            ("memory-bytes = 1.0", "t:1:16: "),
            ("queue-bytes = 2048", "t:1:15: queue-bytes is 2 KiB, less than frame-bytes, 1 MiB"),
            ("frame-bytes = \"16 MiB\"", "t:1:15: queue-bytes is 8 MiB, less than frame-bytes, 16 MiB"),
            ("queue-bytes = \"1 GiB\"", "t:1:15: memory-bytes is 256 MiB, less than queue-bytes, 1 GiB"),
            ("credit-bytes = \"512 KiB\"", "t:1:16: credit-bytes is 512 KiB, less than frame-bytes"),
        ] {
            let summary = check(lines).unwrap_err().summary();
            assert!(summary.starts_with(says), "{lines}\n{summary}");
        }
        assert!(check("frame-bytes = 4096\nqueue-bytes = \"4 KiB\"\n").is_ok());
    }
}
