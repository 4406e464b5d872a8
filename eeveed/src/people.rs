//! What people may do: the rights of a uid, by the user database of the machine.
//!
//! Never by SO_PEERGROUPS: an operator has the group of the socket too. And a uid that may belong to an operator is never
//! a person, whatever the database says about it: without a token it has no rights.

use std::collections::HashMap;
use std::ffi::CString;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::sync::Semaphore;

/// Members may connect, look and publish.
const USERS: &str = "eevee";
/// Members may administer.
const ADMINS: &str = "eevee-admin";
/// systemd gives these uids to units with DynamicUser=.
const DYNAMIC_UIDS: RangeInclusive<u32> = 61_184..=65_519;
/// The user of an operator's unit.
const OPERATOR_PREFIX: &str = "eop-";
/// `user/NAME` is a value in filters and logs; useradd allows 32.
const NAME_BYTES_MAX: usize = 256;

/// How long an answer is used again; a person who was removed from a group keeps the rights for so long. A refusal is not
/// kept: who was just added to the group tries again at once.
const CACHE_TIME: Duration = Duration::from_secs(10);
/// Answers kept at most.
const CACHE_MAX: usize = 1024;
/// How long the database, which may be on another machine, has for an answer.
const LOOKUP_TIME: Duration = Duration::from_secs(5);
/// Lookups at the same time. One that hangs holds its thread until the database lets go.
const LOOKUPS_MAX: usize = 4;

/// What a uid may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Everything; the name of the person.
    Admin(String),
    /// Look, and publish as `user/NAME`.
    User(String),
    /// It is the bus's own user: no person, but a development bus trusts it.
    Daemon,
    /// Nothing, and why.
    Nobody(String),
}

/// What needs no database, and so works when it does not.
fn without_lookup(uid: u32, own: u32) -> Option<Rights> {
    if uid == 0 {
        return Some(Rights::Admin("root".to_owned()));
    }
    if uid == own {
        return Some(Rights::Daemon);
    }
    DYNAMIC_UIDS.contains(&uid).then(|| {
        Rights::Nobody(format!("uid {uid} is one that systemd gives to operators, and an operator needs its token"))
    })
}

/// Asks the user database. Blocks for as long as that likes.
fn lookup(uid: u32) -> Rights {
    let user = match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user,
        Ok(None) => return Rights::Nobody(format!("uid {uid} is no user of this machine")),
        Err(error) => return Rights::Nobody(format!("the user database does not know uid {uid}: {error}")),
    };
    let groups = CString::new(user.name.as_bytes())
        .map_err(|_| nix::errno::Errno::EINVAL)
        .and_then(|name| getgrouplist(&name, user.gid));
    match groups {
        Ok(groups) => decide(&user.name, |group| is_member(&groups, group)),
        Err(error) => Rights::Nobody(format!("the user database does not give the groups of {}: {error}", user.name)),
    }
}

fn is_member(groups: &[Gid], name: &str) -> Result<bool, String> {
    match Group::from_name(name) {
        Ok(group) => Ok(group.is_some_and(|group| groups.contains(&group.gid))),
        Err(error) => Err(format!("the user database does not give group {name}: {error}")),
    }
}

fn decide(name: &str, mut is_member: impl FnMut(&str) -> Result<bool, String>) -> Rights {
    if name.starts_with(OPERATOR_PREFIX) {
        return Rights::Nobody(format!("{name} is the user of an operator, and an operator needs its token"));
    }
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(|c: char| c.is_control() || c == '/') {
        return Rights::Nobody(format!(
            "the user name {:?} cannot be used as a source",
            name.escape_debug().to_string()
        ));
    }
    let checked = is_member(ADMINS).and_then(|admin| Ok((admin, admin || is_member(USERS)?)));
    match checked {
        Ok((true, _)) => Rights::Admin(name.to_owned()),
        Ok((_, true)) => Rights::User(name.to_owned()),
        Ok(_) => Rights::Nobody(format!(
            "{name} is in neither of the groups {USERS} and {ADMINS}; as root: usermod -aG {USERS} {name}"
        )),
        Err(reason) => Rights::Nobody(reason),
    }
}

/// The rights of people for the loop of the bus: looked up in other threads, with a deadline, and remembered for some
/// seconds.
#[derive(Debug, Clone)]
pub(crate) struct People {
    cache: Arc<Mutex<HashMap<u32, (Instant, Rights)>>>,
    lookups: Arc<Semaphore>,
    lookup: fn(u32) -> Rights,
    lookup_time: Duration,
    own: u32,
}

impl People {
    pub(crate) fn new() -> Self {
        Self {
            cache: Arc::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            lookup,
            lookup_time: LOOKUP_TIME,
            own: Uid::effective().as_raw(),
        }
    }

    /// The rights of a uid; nobody's, with the reason, when the database does not answer in 5 s. Root and operators are
    /// told apart without it.
    pub(crate) async fn rights_of(&self, uid: u32) -> Rights {
        if let Some(rights) = without_lookup(uid, self.own) {
            return rights;
        }
        if let Some(rights) = self.remembered(uid) {
            return rights;
        }
        match tokio::time::timeout(self.lookup_time, self.look_up(uid)).await {
            Ok(rights) => rights,
            Err(_) => {
                Rights::Nobody(format!("the user database did not say who uid {uid} is within {:?}", self.lookup_time))
            }
        }
    }

    async fn look_up(&self, uid: u32) -> Rights {
        let Ok(permit) = self.lookups.clone().acquire_owned().await else {
            return Rights::Nobody("the bus is stopping".to_owned());
        };
        // Somebody else may have asked for the same uid while this one waited.
        if let Some(rights) = self.remembered(uid) {
            return rights;
        }
        let (cache, lookup) = (self.cache.clone(), self.lookup);
        let asked = tokio::task::spawn_blocking(move || {
            let rights = lookup(uid);
            // An answer that came too late for this caller is there for the next.
            remember(&cache, uid, &rights);
            drop(permit);
            rights
        });
        match asked.await {
            Ok(rights) => rights,
            Err(error) => Rights::Nobody(format!("looking up uid {uid} failed: {error}")),
        }
    }

    fn remembered(&self, uid: u32) -> Option<Rights> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(&uid).filter(|(since, _)| since.elapsed() < CACHE_TIME).map(|(_, rights)| rights.clone())
    }
}

fn remember(cache: &Mutex<HashMap<u32, (Instant, Rights)>>, uid: u32, rights: &Rights) {
    if matches!(rights, Rights::Nobody(_)) {
        return;
    }
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.len() >= CACHE_MAX {
        cache.retain(|_, (since, _)| since.elapsed() < CACHE_TIME);
    }
    if cache.len() < CACHE_MAX {
        cache.insert(uid, (Instant::now(), rights.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn in_groups<'a>(groups: &'a [&'a str]) -> impl FnMut(&str) -> Result<bool, String> + 'a {
        |group| Ok(groups.contains(&group))
    }

    fn is_nobody(rights: &Rights, why: &str) -> bool {
        matches!(rights, Rights::Nobody(reason) if reason.contains(why))
    }

    #[test]
    fn groups_decide() {
        assert_eq!(decide("ann", in_groups(&["eevee"])), Rights::User("ann".into()));
        assert_eq!(decide("ann", in_groups(&["eevee-admin"])), Rights::Admin("ann".into()));
        assert_eq!(decide("ann", in_groups(&["eevee", "eevee-admin"])), Rights::Admin("ann".into()));
        assert!(is_nobody(&decide("ann", in_groups(&["users"])), "usermod -aG eevee ann"));
        // An operator is in the group of the socket.
        assert!(is_nobody(&decide("eop-irc", in_groups(&["eevee", "eevee-admin"])), "needs its token"));
    }

    #[test]
    fn names_that_would_lie_in_a_source_are_nobody() {
        for name in ["", "a/b", "a\nb", "a\u{1b}[2J", &"a".repeat(257)] {
            assert!(is_nobody(&decide(name, in_groups(&["eevee"])), "cannot be used"), "{name:?}");
        }
        assert_eq!(decide("DOMAIN\\ann müller", in_groups(&["eevee"])), Rights::User("DOMAIN\\ann müller".into()));
    }

    #[test]
    fn a_database_that_fails_gives_no_rights() {
        let failing =
            |at: &'static str| move |group: &str| if group == at { Err("broken".to_owned()) } else { Ok(false) };
        for group in [ADMINS, USERS] {
            assert!(is_nobody(&decide("ann", failing(group)), "broken"));
        }
    }

    #[test]
    fn some_uids_need_no_database() {
        assert_eq!(without_lookup(0, 990), Some(Rights::Admin("root".into())));
        assert_eq!(without_lookup(0, 0), Some(Rights::Admin("root".into())));
        assert_eq!(without_lookup(990, 990), Some(Rights::Daemon));
        for uid in [61_184, 63_000, 65_519] {
            assert!(is_nobody(&without_lookup(uid, 990).unwrap(), "needs its token"));
        }
        for uid in [1, 1000, 61_183, 65_520, 65_534, u32::MAX] {
            assert_eq!(without_lookup(uid, 990), None);
        }
    }

    #[test]
    fn the_database_of_this_machine() {
        assert!(is_nobody(&lookup(4_123_456_789), "uid 4123456789 is no user"));
        // Some user that every machine has and that is in no group of ours.
        let daemon = User::from_name("daemon").unwrap().unwrap().uid.as_raw();
        assert!(is_nobody(&lookup(daemon), "usermod -aG eevee daemon"));
    }

    fn people(lookup: fn(u32) -> Rights) -> People {
        People { lookup, own: 990, ..People::new() }
    }

    #[tokio::test]
    async fn answers_are_used_again_and_refusals_are_not() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let people = people(|uid| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            if uid == 1000 { Rights::User("ann".into()) } else { Rights::Nobody("no".into()) }
        });
        for _ in 0..10 {
            assert_eq!(people.rights_of(1000).await, Rights::User("ann".into()));
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
        assert_eq!(people.rights_of(990).await, Rights::Daemon);
        people.cache.lock().unwrap().get_mut(&1000).unwrap().0 -= CACHE_TIME;
        people.rights_of(1000).await;
        assert_eq!(ASKED.load(Ordering::SeqCst), 2);
        people.rights_of(1001).await;
        people.rights_of(1001).await;
        assert_eq!(ASKED.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn a_database_that_hangs_holds_only_those_who_need_it() {
        static RUNNING: AtomicU32 = AtomicU32::new(0);
        static MOST: AtomicU32 = AtomicU32::new(0);
        let people = People {
            lookup_time: Duration::from_millis(50),
            ..people(|uid| {
                MOST.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(400));
                RUNNING.fetch_sub(1, Ordering::SeqCst);
                Rights::User(format!("u{uid}"))
            })
        };
        let waiting: Vec<_> = (2000..2020)
            .map(|uid| {
                let people = people.clone();
                tokio::spawn(async move { people.rights_of(uid).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(people.rights_of(0).await, Rights::Admin("root".into()));
        assert!(is_nobody(&people.rights_of(61_200).await, "token"));
        for asked in waiting {
            assert!(is_nobody(&asked.await.unwrap(), "within 50ms"));
        }
        assert_eq!(MOST.load(Ordering::SeqCst), LOOKUPS_MAX as u32);
        // The late answers were kept.
        let began = Instant::now();
        while people.rights_of(2000).await != Rights::User("u2000".into()) {
            assert!(began.elapsed() < Duration::from_secs(10));
        }
    }

    #[test]
    fn the_memory_is_bounded() {
        let cache = Mutex::default();
        for uid in 0..3000 {
            remember(&cache, uid, &Rights::User(String::new()));
        }
        assert_eq!(cache.lock().unwrap().len(), CACHE_MAX);
    }
}
