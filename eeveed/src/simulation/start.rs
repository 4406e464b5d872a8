//! The bus ends, well or by a crash, and starts anew with what is on disk.

use std::time::Duration;

use super::client::ClientNumber;
use super::world::{Taken, World};
use crate::core::{Core, Event, Now};

impl World {
    /// A client's connection is gone, as far as the client knows.
    pub(super) fn disconnected(&mut self, at: ClientNumber) {
        for kept in self.kept.values_mut().filter(|kept| kept.holder.is_some_and(|(holder, _)| holder == at)) {
            kept.detach();
        }
        if let Some(session) = self.clients[at].session {
            self.woken.remove(&session);
            self.closing.insert(session);
        }
        self.clients[at].disconnected();
    }

    /// The bus is told to stop, and does so when all is on disk.
    pub(super) fn stop(&mut self) {
        self.note(|| "stop".into());
        self.closing.extend(self.clients.iter().filter_map(|client| client.session));
        self.step(Event::Stop("a new version".into()), false);
        self.read_all_control();
        self.core.hurry();
        self.give_batch();
        for _ in 0..1000 {
            if !self.core.is_committing() {
                break;
            }
            self.work();
            self.answer();
        }
        self.start_anew();
    }

    /// Nobody was asked; the batch that is under way comes to the disk or not.
    pub(super) fn crash(&mut self) {
        self.note(|| "crash".into());
        for _ in 0..self.random.usize(0..3) {
            if !self.disk.failed {
                self.work();
            }
        }
        self.start_anew();
    }

    fn start_anew(&mut self) {
        self.runs += 1;
        self.disk.forget_jobs();
        for at in 0..self.clients.len() {
            self.disconnected(at);
        }
        self.closing.clear();
        let (done, limits) = (self.done, self.limits());
        self.taken.retain(|_, taken| {
            let (Taken::Open { take, id } | Taken::Done { take, id }) = *taken;
            *taken = Taken::Done { take, id };
            take < done
        });
        self.kept.retain(|_, kept| {
            !(kept.forgetting.is_some() && kept.key.is_none() && kept.stored) && kept.start(done, &limits)
        });
        self.answerable.clear();
        self.hops.clear();
        (self.answered, self.sick) = (self.takes, false);

        self.pass_alone();
        let ids = self.core.next_unused_id() + self.random.u64(0..1000)..1 << 53;
        let halted = self.halted.keys().map(|id| id.parse().unwrap()).collect();
        let recovered = self.disk.store.reopen(self.now.wall);
        let (_, written) = self.last_write;
        assert!(recovered.time_ms >= written, "the store's clock goes back");
        self.clock_base = recovered.time_ms.cast_signed() - self.now.mono.as_millis() as i64;
        let found: Vec<String> =
            recovered.subscriptions.iter().map(|found| found.row.owner.clone() + &found.row.name).collect();
        let mut wanted: Vec<String> = self.kept.keys().map(|name| name.owner.to_owned() + name.name).collect();
        let mut sorted = found.clone();
        sorted.sort();
        wanted.sort();
        assert_eq!(sorted, wanted, "durable subscriptions at the start");
        let direct_bytes = self.core.direct_bytes;
        self.core = Core::new(self.now, self.random.u64(..), self.core.limits.clone(), halted, ids);
        self.core.direct_bytes = direct_bytes;
        self.core.recover(self.now, recovered, &mut self.actions);
        self.carry_out();
        self.note(|| format!("started; {} is on disk", self.done));
        self.reconcile(true);
    }

    /// Time between two runs, by clocks that may have been set.
    fn pass_alone(&mut self) {
        let away = Duration::from_millis(self.random.u64(0..20_000));
        let (wall, written) = self.last_write;
        let since = (self.now_ms() + away.as_millis() as u64).saturating_sub(written);
        let wall = match self.random.u8(0..6) {
            0 => wall.saturating_sub(self.random.u64(..1 << 50)),
            1 => wall.saturating_add(self.random.u64(..1 << 48)),
            _ => wall.saturating_add(since.saturating_mul(1_000_000)),
        };
        let reboot = self.random.bool();
        let mono = if reboot { Duration::from_secs(self.random.u64(1..100)) } else { self.now.mono + away };
        self.now = Now { mono, wall };
        for since in self.halted.values_mut() {
            *since = mono;
        }
    }
}
