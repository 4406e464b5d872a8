//! How many commands a person may give: a token bucket for each person in each channel, in bounded memory. Pure: the
//! connector brings the time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::time::{Duration, Instant};

/// The most buckets that are remembered. Those who come beyond, while all of these are in use, share one bucket: a flood
/// by many made-up names is still a flood.
pub const PEOPLE_MAX: usize = 4096;

/// A person is told of the limit once in this time.
pub const TELL_EVERY: Duration = Duration::from_secs(60);

/// The longest part of a name that tells people apart, in bytes, so that the memory is bounded.
const KEY_BYTES_MAX: usize = 256;

/// How many commands one person may give in one channel: `burst` at once, then one every `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many at once, at least 1.
    pub burst: u32,
    /// Then one in this time.
    pub every: Duration,
}

impl Default for Rate {
    fn default() -> Self {
        Self { burst: 10, every: Duration::from_secs(2) }
    }
}

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the operators.
    Passes,
    /// It is one too many, and no command.
    Limited {
        /// When the next one passes.
        wait: Duration,
        /// Whether the person is to be told; see [`Verdict::notice`].
        tell: bool,
    },
}

impl Verdict {
    /// What a person is told, once in [`TELL_EVERY`].
    pub fn notice(self) -> Option<String> {
        match self {
            Self::Limited { wait, tell: true } => {
                let seconds = wait.as_secs_f64().ceil().max(1.0);
                Some(format!("not so fast, please: I take your next command in {seconds} s"))
            }
            _ => None,
        }
    }
}

/// Counts commands by person and channel.
///
/// ```
/// use std::time::{Duration, Instant};
/// use libeevee::chat::{Limiter, Rate, Verdict};
/// let now = Instant::now();
/// let mut limiter = Limiter::new(Rate { burst: 1, every: Duration::from_secs(2) });
/// assert_eq!(limiter.take("#rust", "goos", now), Verdict::Passes);
/// assert_eq!(limiter.take("#rust", "goos", now), Verdict::Limited { wait: Duration::from_secs(2), tell: true });
/// assert_eq!(limiter.take("#rust", "other", now), Verdict::Passes);
/// ```
pub struct Limiter {
    rate: Rate,
    people: HashMap<(String, String), Bucket>,
    /// Of all who found no room.
    others: Bucket,
    looked_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// When it is full again; nothing where it is.
    full_at: Option<Instant>,
    told_at: Option<Instant>,
}

impl Limiter {
    /// One in which everybody has the whole burst.
    pub fn new(rate: Rate) -> Self {
        Self { rate, people: HashMap::new(), others: Bucket::default(), looked_at: None }
    }

    /// Another rate, from now on. Nobody gets a new burst by it, and nobody waits longer than a bucket takes to fill.
    pub fn change(&mut self, rate: Rate, now: Instant) {
        self.rate = rate;
        let latest = now + rate.every.saturating_mul(rate.burst.max(1));
        for bucket in self.people.values_mut().chain([&mut self.others]) {
            bucket.full_at = bucket.full_at.map(|at| at.min(latest));
        }
    }

    /// A command by a person in a channel. `person` is what tells people apart and is hardest to change: the account, else
    /// the host, else the name; see [`person`].
    pub fn take(&mut self, channel: &str, person: &str, now: Instant) -> Verdict {
        let rate = self.rate;
        let key = (cut(channel), cut(person));
        if !self.people.contains_key(&key) && self.people.len() >= PEOPLE_MAX {
            self.forget(now);
        }
        let has_room = self.people.len() < PEOPLE_MAX;
        let bucket = match self.people.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) if has_room => new.insert(Bucket::default()),
            Entry::Vacant(_) => &mut self.others,
        };
        bucket.take(rate, now)
    }

    /// How many people are remembered.
    pub fn people(&self) -> usize {
        self.people.len()
    }

    /// Those whose bucket is full are as if never heard of. Looked for once in a while only: a flood must not make each
    /// of its messages cost a look at all others.
    fn forget(&mut self, now: Instant) {
        if self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < Duration::from_secs(1)) {
            return;
        }
        self.looked_at = Some(now);
        self.people.retain(|_, bucket| {
            let is_told = bucket.told_at.is_some_and(|at| now.saturating_duration_since(at) < TELL_EVERY);
            bucket.full_at.is_some_and(|at| at > now) || is_told
        });
    }
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> Verdict {
        let full_at = self.full_at.filter(|at| *at > now).unwrap_or(now);
        let room = rate.every.saturating_mul(rate.burst.max(1) - 1);
        let missing = full_at.saturating_duration_since(now);
        if missing <= room {
            self.full_at = Some(full_at + rate.every);
            return Verdict::Passes;
        }
        let tell = self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_EVERY);
        if tell {
            self.told_at = Some(now);
        }
        Verdict::Limited { wait: missing - room, tell }
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("rate", &self.rate).field("people", &self.people.len()).finish_non_exhaustive()
    }
}

/// What tells people apart where names can be changed at will: the account, else the host without the name before its `@`,
/// else the name. Each kind has a mark of its own, so that nobody takes another's place by a name.
pub fn person(user: &str, account: Option<&str>, user_host: Option<&str>) -> String {
    match (account, user_host) {
        (Some(account), _) => format!("a:{account}"),
        (None, Some(host)) => format!("h:{}", host.rsplit_once('@').map_or(host, |(_, host)| host)),
        (None, None) => format!("u:{user}"),
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(KEY_BYTES_MAX)].to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter(burst: u32, seconds: u64) -> (Limiter, Instant) {
        (Limiter::new(Rate { burst, every: SECOND * u32::try_from(seconds).unwrap() }), Instant::now())
    }

    fn passed(limiter: &mut Limiter, person: &str, now: Instant, count: usize) -> usize {
        (0..count).filter(|_| limiter.take("#a", person, now) == Verdict::Passes).count()
    }

    #[test]
    fn a_burst_and_then_one_every_two_seconds() {
        let (mut limiter, now) = limiter(10, 2);
        assert_eq!(passed(&mut limiter, "goos", now, 30), 10);
        assert_eq!(passed(&mut limiter, "goos", now + SECOND * 1, 5), 0);
        assert_eq!(passed(&mut limiter, "goos", now + SECOND * 2, 5), 1);
        assert_eq!(passed(&mut limiter, "goos", now + SECOND * 12, 50), 5);
        assert_eq!(passed(&mut limiter, "goos", now + SECOND * 1000, 50), 10, "never more than the burst");
        let all: usize = (0..600).map(|second| passed(&mut limiter, "x", now + SECOND * second, 7)).sum();
        assert_eq!(all, 10 + 299, "over ten minutes");
    }

    #[test]
    fn people_and_channels_have_buckets_of_their_own() {
        let (mut limiter, now) = limiter(2, 2);
        assert_eq!(passed(&mut limiter, "goos", now, 5), 2);
        assert_eq!(passed(&mut limiter, "other", now, 5), 2);
        assert_eq!(passed(&mut limiter, "GOOS", now, 5), 0, "case is no other person");
        assert_eq!(limiter.take("#b", "goos", now), Verdict::Passes);
    }

    #[test]
    fn told_once_a_minute() {
        let (mut limiter, now) = limiter(1, 2);
        limiter.take("#a", "goos", now);
        let first = limiter.take("#a", "goos", now);
        assert_eq!(first.notice().as_deref(), Some("not so fast, please: I take your next command in 2 s"));
        let told = (1..600).filter(|i| {
            let at = now + SECOND / 10 * *i;
            matches!(limiter.take("#a", "goos", at), Verdict::Limited { tell: true, .. })
        });
        assert_eq!(told.count(), 0);
        let later = now + TELL_EVERY;
        limiter.take("#a", "goos", later);
        assert!(limiter.take("#a", "goos", later).notice().is_some());
        assert_eq!(Verdict::Passes.notice(), None);
    }

    #[test]
    fn memory_is_bounded_and_a_crowd_shares_what_one_has() {
        let (mut limiter, now) = limiter(3, 2);
        let crowd = 3 * PEOPLE_MAX;
        let passed = (0..crowd).filter(|i| limiter.take("#a", &i.to_string(), now) == Verdict::Passes).count();
        assert_eq!((passed, limiter.people()), (PEOPLE_MAX + 3, PEOPLE_MAX));
        // Once they are quiet, they are forgotten, and a stranger is a person again.
        let later = now + SECOND * 10;
        assert_eq!(limiter.take("#a", "stranger", later), Verdict::Passes);
        assert_eq!(limiter.people(), 1);
        let long = "x".repeat(100_000);
        limiter.take(&long, &long, later);
        assert!(limiter.people.keys().all(|(channel, person)| channel.len() + person.len() <= 2 * KEY_BYTES_MAX));
    }

    #[test]
    fn another_rate_gives_no_new_burst_and_keeps_nobody_waiting() {
        let (mut limiter, now) = limiter(10, 60);
        assert_eq!(passed(&mut limiter, "goos", now, 20), 10);
        limiter.change(Rate { burst: 2, every: SECOND }, now);
        assert_eq!(passed(&mut limiter, "goos", now, 20), 0);
        assert_eq!(passed(&mut limiter, "goos", now + SECOND, 20), 1);
        assert_eq!(passed(&mut limiter, "goos", now + SECOND * 4, 20), 2);
    }

    #[test]
    fn who_somebody_is() {
        assert_eq!(person("goos", Some("acc"), Some("~g@honk")), "a:acc");
        assert_eq!(person("goos", None, Some("~g@honk")), "h:honk");
        assert_eq!(person("goos", None, Some("honk")), "h:honk");
        assert_eq!(person("a:acc", None, None), "u:a:acc");
    }
}
