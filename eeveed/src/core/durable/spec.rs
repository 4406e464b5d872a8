//! What a durable subscription is, as it was asked for and as its row on disk says.

use libeevee::filter::Filter;
use libeevee::wire::{Code, Overflow, Refusal};
use serde::{Deserialize, Serialize};

use super::{Durable, DurableBounds};
use crate::core::Core;
use crate::core::permit::Permit;
use crate::core::session::refusal;
use crate::core::storage::SubscriptionRow;

/// Names of durable subscriptions: as the keys of headers.
const NAME_BYTES_MAX: usize = 64;

/// What a durable subscription is, as its row on disk says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::core) struct Spec {
    pub(in crate::core) filters: Vec<String>,
    /// 0 for no limit but that of the bus.
    pub(in crate::core) max_age_ms: u64,
    /// A number of [`Overflow`].
    pub(in crate::core) overflow: u8,
    /// 0 for the default.
    pub(in crate::core) messages: u64,
    pub(in crate::core) bytes: u64,
    /// May-receive of its owner when it was last seen, for what comes while it is away.
    pub(in crate::core) may_receive: MayReceive,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::core) enum MayReceive {
    /// An administrator: everything.
    All,
    /// No list: everything but `control.*`.
    Usual,
    Filters(Vec<String>),
}

impl MayReceive {
    pub(super) fn of(permit: &Permit) -> Self {
        match permit {
            Permit::All => Self::All,
            Permit::Usual => Self::Usual,
            Permit::Filters(filters) => Self::Filters(filters.iter().map(ToString::to_string).collect()),
        }
    }

    /// A filter that does not parse admits nothing.
    pub(super) fn permit(&self) -> Permit {
        match self {
            Self::All => Permit::All,
            Self::Usual => Permit::Usual,
            Self::Filters(texts) => {
                let filters: Vec<Filter> = texts.iter().filter_map(|text| text.parse().ok()).collect();
                Permit::from_list(Some(&filters))
            }
        }
    }
}

impl Durable {
    /// What the disk is to know.
    pub(super) fn row(&self) -> SubscriptionRow {
        SubscriptionRow {
            durable: self.key,
            owner: self.owner.to_string(),
            name: self.name.clone(),
            spec: serde_json::to_string(&self.spec).unwrap_or_default(),
        }
    }

    /// Whether this has to be written before it is in force.
    pub(super) fn is_news(&self, spec: &Spec) -> bool {
        !self.stored || self.unwritten || self.writing > 0 || self.spec != *spec
    }
}

impl Core {
    pub(super) fn durable_bounds(&self, spec: &Spec) -> DurableBounds {
        let limits = &self.limits;
        let within = |asked: u64, max: u64| if asked == 0 { max } else { asked.min(max) };
        DurableBounds {
            messages: within(spec.messages, limits.durable_messages),
            bytes: within(spec.bytes, limits.durable_bytes),
            overflow: Overflow::from_number(spec.overflow).unwrap_or_default(),
            age_ms: u64::try_from(limits.durable_age.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

pub(super) fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    if fits {
        return Ok(());
    }
    let name = crate::core::session::shortened(name, NAME_BYTES_MAX);
    let text = format!("{name:?} is no name of a durable subscription: [a-z0-9][a-z0-9._-]{{0,63}}");
    Err(refusal(Code::Refused, text))
}
