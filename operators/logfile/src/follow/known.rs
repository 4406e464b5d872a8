//! Files that are known. A file is what its inode is, until its first bytes or those before our place say otherwise: then
//! what it held is looked for in the files beside it.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use super::closed::Closed;
use super::print::{Head, Likeness};
use super::scan::Present;
use super::state::Entry;
use super::tail::{Key, Tail, key, looks};
use super::{Follower, OPEN_MAX};

/// How long a copy of a file is looked for that was cut to nothing.
const SEEK_MAX: Duration = Duration::from_secs(15);
/// How long before a short one that begins like it is taken for it.
const ALIKE_AFTER: Duration = Duration::from_secs(1);

impl Follower {
    /// Whether an open file still holds what it held; where it does not, a copy of it is looked for.
    pub(super) fn check(&mut self, number: u32, earlier: &[Present], now: Instant) {
        let Some(tail) = self.tails.get_mut(&number) else { return };
        if tail.is_finished() || tail.holds().unwrap_or(true) {
            return;
        }
        let lane = self.lanes.get_mut(&tail.path);
        if let Some(lane) = lane
            && lane.current == Some(number)
        {
            lane.current = None;
        }
        let mut shorter = None;
        let is_sure = tail.print.marks.covers(tail.print.offset);
        for present in earlier.iter().rev() {
            let key = key(&present.metadata);
            // Of what begins like it by chance, files that are known are not taken for it.
            let is_other = !is_sure && self.closed.get(&key).is_some_and(|closed| !closed.entry.copy);
            if is_other || Some(key) == tail.key {
                continue;
            }
            let Ok(file) = present.open() else { continue };
            // As it is now: a copy may have grown since the directory was read, and is whole since the file was cut.
            let Ok(size) = file.metadata().map(|metadata| metadata.len()) else { continue };
            match tail.print.likeness(&file, size) {
                Ok(Likeness::Whole) if tail.take_copy(file, now).is_ok() => {
                    let (path, copy) = (tail.path.display(), present.path.display());
                    tracing::info!("{path} was cut to nothing: the rest is read from {copy}");
                    tail.saved = false;
                    self.closed.remove(&key);
                    self.unclear.remove(&key);
                    return;
                }
                Ok(Likeness::Shorter) => shorter = Some(present),
                // A better one may be missed by this look.
                Ok(Likeness::Alike) if size > 0 && tail.is_sought_for(ALIKE_AFTER, now) => {
                    shorter = Some(present);
                }
                _ => {}
            }
        }
        if let Some(present) = shorter {
            let (path, copy) = (tail.path.clone(), present.path.display());
            tracing::info!("{} was cut to nothing: all that its copy {copy} has was read before", path.display());
            tail.lose();
            self.unclear.remove(&key(&present.metadata));
            return self.remember(&path, present, true);
        }
        // While names change, a look may miss one.
        if now < tail.seek(now) + SEEK_MAX {
            self.unsettled = true;
            return;
        }
        let lost = tail.incomplete();
        tracing::info!(lost, "{} holds something else now, and there is no copy of what it held", tail.path.display());
        tail.lose();
    }

    /// A file that is open, or known from before, is followed further. False for one that is not known.
    pub(super) fn resume(&mut self, path: &Path, present: &Present, at_path: bool, now: Instant) -> bool {
        let key = key(&present.metadata);
        if let Some((number, tail)) = self.tails.iter_mut().find(|(_, tail)| tail.key == Some(key)) {
            let number = *number;
            let is_own = at_path && tail.path == path;
            if is_own {
                tail.rotated_at = None;
            }
            if at_path {
                self.rotate(path, is_own.then_some(number), now);
            }
            return true;
        }
        let is_full = self.tails.len() >= OPEN_MAX;
        let Some(closed) = self.closed.get_mut(&key) else { return false };
        let size = present.metadata.len();
        let offset = closed.entry.position.offset;
        let is_own = at_path && closed.entry.path == path;
        if closed.looked == Some(looks(&present.metadata)) && (!is_own || is_full) {
            return !is_own || self.is_full();
        }
        let file = match present.open() {
            Ok(file) => file,
            Err(error) => {
                self.deny(&present.path, &error);
                return true;
            }
        };
        let whole = if closed.entry.copy { 0 } else { offset };
        if !closed.entry.digested.holds(&file, size, whole).unwrap_or(false) {
            // Another file has the inode. Where the content went, `find_orphans` sees.
            (closed.looked, closed.replaced) = (None, true);
            return false;
        }
        closed.looked = Some(looks(&present.metadata));
        if closed.entry.copy || (!is_own && size <= offset) || self.is_full() {
            return true;
        }
        let Some(closed) = self.closed.remove(&key) else { return true };
        match Tail::resume(&closed.entry, file, self.config.rules.clone(), now) {
            Ok(tail) => self.add(tail, is_own, now),
            Err(error) => {
                self.deny(&present.path, &error);
                self.closed.insert(closed);
            }
        }
        true
    }

    /// A copy that is known is not read, but what it is a copy of may be lost by now.
    pub(super) fn is_copy(&self, present: &Present) -> bool {
        self.closed.get(&key(&present.metadata)).is_some_and(|closed| closed.entry.copy)
    }

    /// Files that were known, and are not where they were: one of the unknown ones may hold what they held.
    pub(super) fn find_orphans(&mut self, path: &Path, unknown: &mut Vec<Present>, seen: &HashSet<Key>, now: Instant) {
        if unknown.is_empty() {
            return;
        }
        let is_orphan = |closed: &&Closed| {
            !closed.entry.copy
                && closed.entry.digested.head_bytes > 0
                && (!seen.contains(&closed.entry.key()) || closed.replaced)
        };
        let orphans: Vec<Key> = self.closed.of(path).filter(is_orphan).map(|closed| closed.entry.key()).collect();
        let head = |present: &Present| present.open().and_then(|file| Head::of(&file)).ok();
        let mut heads: Vec<Option<Head>> =
            if orphans.is_empty() { Vec::new() } else { unknown.iter().map(head).collect() };
        for orphan in orphans {
            let Some(entry) = self.closed.get(&orphan).map(|closed| closed.entry.clone()) else { continue };
            let likeness = |present: &Present| {
                let likeness = |file: File| entry.likeness(&file, file.metadata()?.len());
                present.open().and_then(likeness).unwrap_or(Likeness::Other)
            };
            // One that is still there was cut; one that is gone may have been deleted.
            let was_cut = self.closed.get(&orphan).is_some_and(|closed| closed.replaced);
            let least = if was_cut { Likeness::Alike } else { Likeness::Shorter };
            let mut begins = |at: usize| heads[at].as_mut().is_some_and(|head| head.is_of(&entry.digested));
            let alike = unknown.iter().enumerate().filter(|(at, _)| begins(*at));
            let likest = alike.map(|(at, present)| (likeness(present), at)).max();
            let at = match likest {
                Some((Likeness::Whole, at)) => at,
                // It was cut while we read on, and all that its copy has was read before.
                Some((likeness, at)) if likeness >= least && unknown[at].metadata.len() > 0 => {
                    let present = unknown.remove(at);
                    heads.remove(at);
                    self.closed.remove(&orphan);
                    self.remember(path, &present, true);
                    continue;
                }
                _ => continue,
            };
            let present = unknown.remove(at);
            heads.remove(at);
            let (device, inode) = key(&present.metadata);
            let entry = Entry { device, inode, ..entry };
            if present.metadata.len() <= entry.position.offset {
                self.closed.remove(&orphan);
                self.closed.insert(Closed::new(entry, Some(looks(&present.metadata))));
                continue;
            }
            let resumed = present.open().and_then(|file| Tail::resume(&entry, file, self.config.rules.clone(), now));
            match resumed {
                Ok(mut tail) => {
                    tracing::info!("the rest of {} is read from {}", path.display(), present.path.display());
                    self.closed.remove(&orphan);
                    tail.saved = false;
                    tail.ends();
                    self.add(tail, false, now);
                }
                // It has another name by now: what is known of it stays, for the next look.
                Err(error) => self.deny(&present.path, &error),
            }
        }
    }
}
