//! A reload in two phases: the bus sends the changed file, the operator says whether it can take it, the bus commits.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::event::Reload;
use super::inner::Inner;
use super::{Event, records, warn_lines};
use crate::settings::{Settings, parse_module};
use crate::wire::{Module, Verdict};

/// The bus waits 20 s; a verdict with a reason that is in time is better than no answer.
pub(super) const VERDICT_WITHIN: Duration = Duration::from_secs(18);

/// A reload between the bus's question and its decision.
pub(super) struct Pending<S> {
    number: u32,
    module: Module,
    settings: Arc<S>,
    accepted: bool,
}

impl<S: Settings> Inner<S> {
    /// The bus asks whether this file can be taken.
    pub(super) fn reload(self: &Rc<Self>, number: u32, module: Module) {
        let settings = match self.examine(&module) {
            Ok(settings) => Arc::new(settings),
            Err(why) => return self.verdict(number, Some(why)),
        };
        *self.reload.borrow_mut() = Some(Pending { number, module, settings: Arc::clone(&settings), accepted: false });
        self.push(Event::Reload(Reload::new(self, number, settings)));
        let inner = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            sleep(VERDICT_WITHIN).await;
            if let Some(inner) = inner.upgrade() {
                inner.refuse(number, &format!("the operator did not decide within {VERDICT_WITHIN:?}"));
            }
        });
    }

    fn examine(&self, module: &Module) -> Result<S, String> {
        if self.is_stopping() {
            return Err(format!("operator {} is stopping", self.id));
        }
        if let Some(running) = self.module.borrow().as_ref()
            && running.kind != module.kind
        {
            return Err(format!(
                "{}: the kind changed from {:?} to {:?}, which is another program: restart operator {} instead",
                module.path, running.kind, module.kind, self.id
            ));
        }
        parse_module(&module.path, &module.text).map_err(|diagnosis| diagnosis.to_string())
    }

    pub(super) fn accept(&self, number: u32) {
        match self.reload.borrow_mut().as_mut() {
            Some(pending) if pending.number == number && !pending.accepted => pending.accepted = true,
            other => {
                let is_alone = other.is_none();
                tracing::warn!("new settings were accepted too late");
                // Another reload that is in hand by now has its own end.
                if is_alone {
                    self.push(Event::Abort);
                }
                return;
            }
        }
        self.verdict(number, None);
    }

    /// Refuses what is neither accepted nor refused yet.
    pub(super) fn refuse(&self, number: u32, why: &str) {
        let undecided = |pending: &mut Pending<S>| pending.number == number && !pending.accepted;
        let refused = self.reload.borrow_mut().take_if(undecided);
        if refused.is_some() {
            self.verdict(number, Some(why.to_owned()));
        }
    }

    fn verdict(&self, number: u32, refusal: Option<String>) {
        if let Some(why) = &refusal {
            tracing::warn!("the reload is refused, the settings stay as they are");
            warn_lines(why);
            self.refusal.borrow_mut().clone_from(why);
        }
        let verdict = Verdict { accepted: refusal.is_none(), text: refusal.unwrap_or_default() };
        if let Err(error) = self.client.verdict(number, verdict) {
            tracing::warn!("the bus did not get the verdict on the reload: {error}");
        }
    }

    pub(super) fn commit(&self, number: u32) {
        let committed = self.reload.borrow_mut().take_if(|pending| pending.number == number && pending.accepted);
        let Some(Pending { module, settings, .. }) = committed else {
            return tracing::warn!(number, "the bus committed a reload that this operator had not accepted");
        };
        records::follow(&self.id, Some(&module));
        tracing::info!("reloaded {}", module.path);
        self.module.replace(Some(module));
        self.settings.replace(Arc::clone(&settings));
        self.push(Event::Settings(settings));
    }

    pub(super) fn abort(&self, number: u32, why: &str) {
        if self.reload.borrow_mut().take_if(|pending| pending.number == number).is_some() {
            tracing::warn!("the reload was called off, the settings stay as they are: {why}");
            self.push(Event::Abort);
        }
    }

    /// After a reconnect the bus knows nothing of a reload that was open, and may have read a newer file.
    pub(super) fn reload_lost(&self) {
        if self.reload.borrow_mut().take().is_some() {
            self.push(Event::Abort);
        }
    }

    pub(super) fn compare_module(&self, module: Option<&Module>) {
        let changed = match (self.module.borrow().as_ref(), module) {
            (Some(running), Some(now)) => (running.text != now.text).then(|| now.path.clone()),
            _ => None,
        };
        if let Some(path) = changed {
            tracing::warn!("{path} was changed without a reload: run eeveectl reload {}", self.id);
        }
    }
}
