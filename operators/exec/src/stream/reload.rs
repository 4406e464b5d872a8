//! A reload in mode `stream`: a program that can is asked whether it takes its new settings; any other is started again.

use std::sync::Arc;
use std::time::Duration;

use libeevee::escape_for_terminal;
use libeevee::json::settings_line;
use libeevee::operator::{Failure, Reload};
use tokio::time::Instant;

use super::Work;
use crate::child;
use crate::credentials::Credentials;
use crate::journal::cut;
use crate::settings::{ExecSettings, Mode};

/// How long the program has for its answer. The bus waits longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What is passed on of its reason to refuse, which is for a person.
const WHY_BYTES_MAX: usize = 2048;

/// A question that the program has not answered.
pub(super) struct Asking {
    reload: Reload<ExecSettings>,
    pub(super) until: Instant,
}

impl Work<'_> {
    /// First phase: everything that can fail.
    pub(super) fn on_reload(&mut self, reload: Reload<ExecSettings>) {
        self.refuse_asking("another reload came");
        if reload.new.mode != Mode::Stream {
            return reload.refuse("the mode cannot change while it runs: eeveectl restart does it");
        }
        let possible =
            child::check(&reload.new.run).and_then(|()| Credentials::hand_over(self.op, &reload.new).map(drop));
        if let Err(why) = possible {
            return reload.refuse(why);
        }
        let asks = reload.new.answers_reload && reload.old.answers_reload && reload.new.run == reload.old.run;
        match self.program.as_mut().filter(|program| asks && !program.is_ending()) {
            Some(program) if self.is_ready && !program.has_room() => {
                reload.refuse("the program does not read its standard input, and cannot be asked");
            }
            Some(program) if self.is_ready => {
                program.tell(&settings_line(&reload.new.program_json()));
                self.asking = Some(Asking { reload, until: Instant::now() + ANSWER_WITHIN });
            }
            _ => reload.accept(),
        }
    }

    pub(super) fn on_accept(&mut self) {
        match self.asking.take() {
            Some(asking) => {
                self.told.clone_from(&asking.reload.new.program);
                asking.reload.accept();
            }
            // Some programs say so at their start, too.
            None if !self.is_unanswered => {}
            None => {
                tracing::warn!("the program accepted settings that nobody asks it about any more: it is started again");
                self.start_again();
            }
        }
    }

    pub(super) fn on_refuse(&mut self, why: &str) {
        let why = escape_for_terminal(cut(why, WHY_BYTES_MAX));
        self.refuse_asking(&format!("the program refuses the new settings: {why}"));
        self.is_unanswered = false;
    }

    pub(super) fn refuse_asking(&mut self, why: &str) {
        if let Some(asking) = self.asking.take() {
            self.is_unanswered = true;
            asking.reload.refuse(why);
        }
    }

    /// Second phase: the bus has committed.
    pub(super) async fn on_settings(&mut self, settings: Arc<ExecSettings>) -> Result<(), Failure> {
        let old = std::mem::replace(&mut self.settings, settings);
        let new = Arc::clone(&self.settings);
        self.subscription.change(self.op, &new).await?;
        if new.credentials != old.credentials {
            match Credentials::hand_over(self.op, &new) {
                Ok(credentials) => self.credentials = credentials,
                Err(why) => tracing::error!("the credentials stay as they were: {why}"),
            }
        }
        let restarts = new.run != old.run
            || new.credentials != old.credentials
            || new.program != self.told
            || new.expect_ready != old.expect_ready
            || new.answers_reload != old.answers_reload
            || (!new.answers_reload && new != old);
        if restarts {
            self.start_again();
        }
        if new.pings != old.pings && self.is_ready && !restarts {
            self.ping.is_open = false;
            self.ping.due = new.pings.then(Instant::now);
        }
        tracing::info!(restarts, "new settings are in force");
        Ok(())
    }

    /// The bus has called it off.
    pub(super) fn on_abort(&mut self) {
        self.refuse_asking("the reload was called off");
        if self.program.is_some() && self.told != self.settings.program {
            tracing::warn!("the program has settings that did not come into force: it is started again");
            self.start_again();
        }
    }

    /// Ends the program in good order, and starts it at once when it has ended.
    fn start_again(&mut self) {
        self.pause = super::PAUSE_MIN;
        if self.stopping.is_some() {
            return;
        }
        if self.program.is_some() {
            self.is_restarting = true;
            self.end_program();
        } else {
            self.start_at = Some(Instant::now());
        }
    }
}
