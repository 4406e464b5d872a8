//! Log records as messages, `type=log.record`: those of operators, which come in a frame of their own, and the bus's.
//!
//! The bus writes all headers, so that nothing else can come of such a frame, and `may-publish` has nothing to judge. The
//! module file says from which level on (`publish-log`); without it there are none.
//!
//! Records about records would never end. So an operator is not given its own; what the core logs while it publishes one stays in
//! the journal; one that is about a message counts as an answer to it, and chains of answers end; and no operator has more
//! than a few a second.

use std::rc::Rc;
use std::time::Duration;

use libeevee::Document;
use libeevee::log::{LogLevel, LogRecord, RECORD_TYPE};
use libeevee::wire::limits::{RECORD_BYTES_MAX, RECORD_TARGET_BYTES_MAX, RECORDS_BURST, RECORDS_PER_SECOND};
use libeevee::wire::{Code, Record};

use super::announce::Announced;
use super::session::{Identity, SessionKey, refusal};
use super::{Core, Now};

/// Operators bound themselves to half of it: what they send in time is not refused because clocks differ.
const BURST: f64 = 2.0 * RECORDS_BURST as f64;
const PER_SECOND: f64 = 2.0 * RECORDS_PER_SECOND as f64;

/// What an operator may still say, and how much of it was left out.
#[derive(Debug)]
pub(super) struct Pace {
    tokens: f64,
    filled: Duration,
    lost: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { tokens: BURST, filled: Duration::ZERO, lost: 0 }
    }
}

impl Pace {
    fn pays(&mut self, now: Duration) -> bool {
        let elapsed = now.saturating_sub(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * PER_SECOND).min(BURST);
        self.filled = now;
        let pays = self.tokens >= 1.0;
        if pays {
            self.tokens -= 1.0;
        }
        pays
    }
}

impl Core {
    /// A record of an operator. It is not answered: what is not published is counted in the next one that is.
    pub(super) fn record(&mut self, now: Now, key: SessionKey, number: u32, record: Record) {
        let Some(session) = self.sessions.get(&key) else { return };
        let source = session.source.clone();
        if !matches!(session.identity, Identity::Operator(_)) {
            let text = format!("{source} is no operator, and only operators publish log records");
            self.refuse(key, number, refusal(Code::Denied, text));
            return;
        }
        let wanted = self.module_of(session).and_then(|module| module.file.publish_log);
        let Some(level) = LogLevel::from_number(record.level) else { return };
        if wanted.is_none_or(|wanted| level > wanted) {
            return;
        }
        let hops = self.deeper(record.cause, record.hops);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let pace = &mut session.rare().records;
        pace.lost = pace.lost.saturating_add(record.lost);
        let (Ok(hops), true) = (hops, pace.pays(now.mono)) else {
            pace.lost = pace.lost.saturating_add(1);
            return;
        };
        let lost = std::mem::take(&mut pace.lost);
        let said = LogRecord {
            level,
            target: record.target,
            text: record.text,
            operator: None,
            cause: record.cause,
            hops,
            lost,
        };
        self.publish_record(now, source, said);
    }

    /// A record of the bus itself, which has bounded them.
    pub(super) fn own_record(&mut self, now: Now, record: LogRecord) {
        self.publish_record(now, "eeveed".into(), record);
    }

    fn publish_record(&mut self, now: Now, source: Rc<str>, record: LogRecord) {
        let mut headers = vec![
            ("type", RECORD_TYPE.to_owned()),
            ("level", record.level.number().to_string()),
            ("operator", record.operator.unwrap_or_else(|| source.to_string())),
        ];
        let target: String = record.target.chars().filter(|c| !c.is_control()).collect();
        if !target.is_empty() {
            headers.push(("target", cut(&target, RECORD_TARGET_BYTES_MAX).to_owned()));
        }
        if record.lost > 0 {
            headers.push(("lost", record.lost.to_string()));
        }
        let Ok(document) = Document::new(headers, cut(&record.text, RECORD_BYTES_MAX).to_owned()) else { return };
        let from = Announced { source, cause: record.cause, hops: record.hops, is_record: true };
        let outer = std::mem::replace(&mut self.in_record, true);
        self.announce_from(now, &from, &(&document).into());
        self.in_record = outer;
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
