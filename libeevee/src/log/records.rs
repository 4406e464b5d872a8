//! Log records on their way to the bus: those of this process that it may publish wait here, few and not for long.
//!
//! Whoever logs never waits, and nothing here logs. What is too much is left out and counted.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::LogLevel;
use super::handling::{self, Handling};
use crate::wire::limits::{RECORD_BYTES_MAX, RECORDS_BURST, RECORDS_PER_SECOND};

/// Records that wait while the bus is away.
const WAITING_MAX: usize = 256;

/// In place of a level: no record is published.
const NONE: u8 = u8::MAX;

/// A log record as the bus publishes it, with `type=log.record`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its level.
    pub level: LogLevel,
    /// The part of the program that logged it, such as `irc::connection`.
    pub target: String,
    /// What it says, its fields behind it as ` key=value`.
    pub text: String,
    /// The operator that it is about, where it is not about the program that logged it.
    pub operator: Option<String>,
    /// The message that it is about.
    pub cause: Option<u64>,
    /// How deep that message's chain is, where it is known.
    pub hops: u8,
    /// How many records before it were left out.
    pub lost: u64,
}

/// The records of this process. There is one of it: [`records`](super::records).
pub struct Records {
    level: AtomicU8,
    waiting: Mutex<Waiting>,
    came: Notify,
}

struct Waiting {
    records: VecDeque<LogRecord>,
    lost: u64,
    /// So many may come at once.
    tokens: f64,
    filled: Option<Instant>,
}

impl Records {
    pub(super) const fn new() -> Self {
        Self {
            level: AtomicU8::new(NONE),
            waiting: Mutex::new(Waiting {
                records: VecDeque::new(),
                lost: 0,
                tokens: RECORDS_BURST as f64,
                filled: None,
            }),
            came: Notify::const_new(),
        }
    }

    /// From now on, records of this level and graver ones are kept for publishing; with none, no more are.
    pub fn publish_from(&self, level: Option<LogLevel>) {
        self.level.store(level.map_or(NONE, LogLevel::number), Relaxed);
        if level.is_none() {
            let mut waiting = self.lock();
            waiting.records.clear();
            waiting.lost = 0;
        }
    }

    /// The oldest one that waits.
    pub fn take(&self) -> Option<LogRecord> {
        let mut waiting = self.lock();
        waiting.records.pop_front().or_else(|| waiting.summary(self.level()?, Instant::now()))
    }

    /// The one that was taken last could not be published yet.
    pub fn put_back(&self, record: LogRecord) {
        self.lock().records.push_front(record);
    }

    /// Comes back when there is something to take.
    pub async fn ready(&self) {
        loop {
            let lost = {
                let waiting = self.lock();
                if !waiting.records.is_empty() {
                    return;
                }
                waiting.lost
            };
            if lost == 0 {
                self.came.notified().await;
            } else if timeout(Duration::from_secs(1), self.came.notified()).await.is_err() {
                // Those that were left out are told even if none follows them.
                return;
            }
        }
    }

    pub(crate) fn add(&self, mut record: LogRecord) {
        if self.level().is_none_or(|level| record.level > level) {
            return;
        }
        if record.text.len() > RECORD_BYTES_MAX {
            record.text.truncate(record.text.floor_char_boundary(RECORD_BYTES_MAX - 6));
            record.text.push_str(" [...]");
        }
        let mut waiting = self.lock();
        if waiting.records.len() < WAITING_MAX && waiting.pays(Instant::now()) {
            record.lost += std::mem::take(&mut waiting.lost);
            waiting.records.push_back(record);
        } else {
            waiting.lost += 1;
        }
        drop(waiting);
        self.came.notify_one();
    }

    fn level(&self) -> Option<LogLevel> {
        LogLevel::from_number(self.level.load(Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("level", &self.level()).finish_non_exhaustive()
    }
}

impl Waiting {
    fn pays(&mut self, now: Instant) -> bool {
        let elapsed = self.filled.replace(now).map_or(Duration::ZERO, |filled| now.duration_since(filled));
        let filled = self.tokens + elapsed.as_secs_f64() * f64::from(RECORDS_PER_SECOND);
        self.tokens = filled.min(f64::from(RECORDS_BURST));
        let pays = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(pays));
        pays
    }

    /// A record about those that were left out, when there is room for one again.
    fn summary(&mut self, level: LogLevel, now: Instant) -> Option<LogRecord> {
        if self.lost == 0 || !self.pays(now) {
            return None;
        }
        let lost = std::mem::take(&mut self.lost);
        Some(LogRecord {
            level: level.min(LogLevel::WARNING),
            target: module_path!().to_owned(),
            text: format!("{lost} log records were left out here: more than {RECORDS_PER_SECOND} a second"),
            operator: None,
            cause: None,
            hops: 0,
            lost,
        })
    }
}

/// Keeps for the bus what the log gets.
pub(super) struct Publishing(pub(super) &'static Records);

impl<S: Subscriber> Layer<S> for Publishing {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = LogLevel::from(*event.metadata().level());
        if self.0.level().is_none_or(|wanted| level > wanted) {
            return;
        }
        let (cause, hops) = match handling::current() {
            // What publishing itself logs, or who handles a log record, must not make another.
            Some(Handling::Record) => return,
            Some(Handling::Message { id, hops }) => (Some(id), hops),
            None => (None, 0),
        };
        let mut parts = Parts::default();
        event.record(&mut parts);
        let hops = if parts.message.is_none_or(|message| Some(message) == cause) { hops } else { 0 };
        parts.text.push_str(&parts.fields);
        self.0.add(LogRecord {
            level,
            target: event.metadata().target().to_owned(),
            text: parts.text,
            operator: parts.operator,
            cause: parts.message.or(cause),
            hops,
            lost: 0,
        });
    }
}

#[derive(Default)]
struct Parts {
    text: String,
    fields: String,
    operator: Option<String>,
    message: Option<u64>,
}

impl Visit for Parts {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "eevee.message" => self.message = Some(value),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.text.push_str(value),
            "eevee.operator" => self.operator = Some(value.to_owned()),
            _ if value.is_empty() => {}
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.text, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn logged(level: Option<LogLevel>, log: impl FnOnce()) -> &'static Records {
        let records: &'static Records = Box::leak(Box::new(Records::new()));
        records.publish_from(level);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Publishing(records)), log);
        records
    }

    fn texts(records: &Records) -> Vec<String> {
        std::iter::from_fn(|| records.take()).map(|record| record.text).collect()
    }

    #[test]
    fn nothing_without_a_level_and_nothing_below_it() {
        let log = || {
            tracing::error!("error");
            tracing::warn!("warning");
            tracing::info!("info");
            tracing::debug!("debug");
        };
        assert_eq!(texts(logged(None, log)), [""; 0]);
        assert_eq!(texts(logged(Some(LogLevel::ERROR), log)), ["error"]);
        assert_eq!(texts(logged(LogLevel::from_number(2), log)), [""; 0]);
        assert_eq!(texts(logged(LogLevel::from_number(5), log)), ["error", "warning"]);
        assert_eq!(texts(logged(Some(LogLevel::DEBUG), log)), ["error", "warning", "info", "debug"]);
    }

    #[test]
    fn a_record_knows_what_it_is_about() {
        let message = Handling::Message { id: 7, hops: 3 };
        let records = logged(Some(LogLevel::INFO), || {
            tracing::warn!(eevee.message = 7_u64, code = "denied", rule = "", "no {}", "way");
            handling::within(message, || {
                tracing::info!("in hand");
                tracing::info!(eevee.message = 9_u64, "another");
                tracing::info!(eevee.message = None::<u64>, eevee.operator = "irc", "a third");
            });
            handling::within(Handling::Record, || tracing::error!("about a log record"));
        });
        let said: Vec<_> = std::iter::from_fn(|| records.take())
            .map(|record| (record.text, record.cause, record.hops, record.operator))
            .collect();
        assert_eq!(
            said,
            [
                ("no way code=\"denied\"".to_owned(), Some(7), 0, None),
                ("in hand".to_owned(), Some(7), 3, None),
                ("another".to_owned(), Some(9), 0, None),
                ("a third".to_owned(), Some(7), 3, Some("irc".to_owned())),
            ]
        );
    }

    #[test]
    fn a_flood_is_bounded_and_what_is_left_out_is_counted() {
        let records = logged(Some(LogLevel::INFO), || (0..5_000).for_each(|n| tracing::info!("record {n}")));
        let taken: Vec<_> = std::iter::from_fn(|| records.take()).collect();
        // A few more than the burst may have paid, if this machine was slow.
        assert!((RECORDS_BURST as usize..200).contains(&taken.len()), "{}", taken.len());
        std::thread::sleep(Duration::from_millis(150));
        let all: Vec<_> = taken.into_iter().chain(records.take()).collect();
        // What was left out is told in a record of its own.
        let passed = all.iter().filter(|record| record.text.starts_with("record ")).count() as u64;
        let told: u64 = all.iter().map(|record| record.lost).sum();
        assert_eq!(told + passed, 5_000);
        assert_eq!(records.take(), None);
    }

    #[test]
    fn a_long_text_is_cut() {
        let records = logged(Some(LogLevel::INFO), || tracing::info!("{}", "ü".repeat(RECORD_BYTES_MAX)));
        let text = records.take().unwrap().text;
        assert!(text.len() <= RECORD_BYTES_MAX && text.ends_with("ü [...]"), "{}", text.len());
    }

    #[tokio::test(start_paused = true)]
    async fn ready_comes_for_a_record_and_for_the_count_of_lost_ones() {
        let records = logged(Some(LogLevel::INFO), || tracing::info!("one"));
        records.ready().await;
        let one = records.take().unwrap();
        records.put_back(one);
        records.ready().await;
        assert_eq!(texts(records), ["one"]);
        assert!(timeout(Duration::from_secs(60), records.ready()).await.is_err());
        records.lock().lost = 3;
        records.ready().await;
        assert!(records.take().unwrap().text.starts_with("3 log records were left out"));
    }
}
