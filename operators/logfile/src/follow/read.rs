//! What is read of the files that are open: as long as there is room, the older generation of a path before the younger.

use std::time::Instant;

use super::closed::Closed;
use super::tail::Look;
use super::{Follower, Line, ROTATED_MAX, SAVE_EVERY, Sink};

impl Follower {
    /// Records that waited for more lines long enough.
    pub(super) fn end_what_waited(&mut self, now: Instant) {
        for tail in self.tails.values_mut() {
            if tail.complete_at().is_some_and(|at| now >= at) {
                tail.complete();
            }
        }
    }

    /// Reads while there is room. Whether there is more to read, and room for it.
    pub(super) fn read_all(&mut self, sink: &mut impl Sink, now: Instant) -> bool {
        self.save_new(now);
        let is_hot = |number: &u32| self.tails.get(number).is_some_and(|tail| tail.hot);
        let hot = self.lanes.values().filter(|lane| lane.tails.iter().any(is_hot));
        let lanes: Vec<Vec<u32>> = hot.map(|lane| lane.tails.clone()).collect();
        let mut more = false;
        for tails in lanes {
            for number in tails {
                if !sink.has_room() {
                    // The sink calls when it has some.
                    return false;
                }
                match self.read_one(number, sink, now) {
                    Progress::Drained => {}
                    // A younger generation waits for the older one.
                    Progress::More => {
                        more = true;
                        break;
                    }
                    Progress::Lost => {
                        self.scan_at = now;
                        more = true;
                        break;
                    }
                }
            }
        }
        more && sink.has_room()
    }

    fn save_new(&mut self, now: Instant) {
        if self.tails.values().any(|tail| !tail.saved) {
            self.save(now);
        }
    }

    /// Publishes what a file has, and reads one piece more.
    fn read_one(&mut self, number: u32, sink: &mut impl Sink, now: Instant) -> Progress {
        let Some(tail) = self.tails.get_mut(&number).filter(|tail| tail.hot) else { return Progress::Drained };
        let mut has_read = false;
        loop {
            while sink.has_room() && tail.saved {
                let Some(record) = tail.next_record() else { break };
                sink.take(Line {
                    tail: number,
                    epoch: tail.epoch,
                    end: record.end,
                    channel: tail.channel.clone(),
                    body: record.body,
                    part: record.part,
                    more: record.more,
                });
            }
            tail.drained = false;
            // What it is known by has to be on disk before anything of it is published.
            if !sink.has_room() || has_read || !tail.saved {
                return Progress::More;
            }
            match tail.read(now) {
                Ok(Look::More) => has_read = true,
                Ok(Look::End) => {
                    tail.hot = false;
                    tail.drained = true;
                    return Progress::Drained;
                }
                // The next look at the directories finds the copy.
                Ok(Look::Other) => return Progress::Lost,
                Err(error) => {
                    tracing::error!("{}: {error}", tail.path.display());
                    tail.hot = false;
                    return Progress::Drained;
                }
            }
        }
    }

    /// Closes rotated files that are at rest. Whether one has a last line to give.
    pub(super) fn retire(&mut self, now: Instant) -> bool {
        let mut more = false;
        let mut rotated: Vec<(Instant, u32)> =
            self.tails.iter().filter_map(|(number, tail)| Some((tail.rotated_at?, *number))).collect();
        rotated.sort_unstable();
        let crowded = rotated.len().saturating_sub(ROTATED_MAX);
        for (at, (_, number)) in rotated.into_iter().enumerate() {
            let Some(tail) = self.tails.get_mut(&number) else { continue };
            let replaced = self.lanes.get(&tail.path).is_some_and(|lane| lane.current.is_some());
            let at_rest = tail.quiet_since().is_some_and(|since| now >= since + self.config.quiet) || at < crowded;
            if tail.drained && !tail.is_finished() && at_rest && (replaced || at < crowded || !tail.is_linked()) {
                tail.finish();
                more = true;
            } else if tail.is_over() {
                self.close(number);
            }
        }
        more
    }

    fn close(&mut self, number: u32) {
        let Some(tail) = self.tails.remove(&number) else { return };
        if let Some(lane) = self.lanes.get_mut(&tail.path) {
            lane.tails.retain(|other| *other != number);
        }
        self.moved.remove(&number);
        self.save_at.get_or_insert(Instant::now() + SAVE_EVERY);
        if let (Some(entry), true) = (tail.entry(), tail.is_linked()) {
            tracing::debug!("{}: a rotated file is at rest", tail.path.display());
            self.closed.insert(Closed::new(entry, tail.looks()));
        }
    }
}

enum Progress {
    Drained,
    More,
    Lost,
}
