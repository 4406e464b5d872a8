//! A reload of the operator: to another network it moves in two phases, and gives the new name back when nothing comes
//! of it.

use std::sync::Arc;
use std::time::Duration;

use libeevee::operator::Reload;
use libeevee::{Code, Error, ErrorKind};
use tokio::time::{Instant, timeout};

use super::{Moving, Spare, Waiting, Work, claim};
use crate::plan::Plan;
use crate::settings::IrcSettings;

/// The bus answers within milliseconds.
const MOVE_MAX: Duration = Duration::from_secs(5);

/// A reload that was accepted is committed within 20 s, or not at all.
const SPARE_MAX: Duration = Duration::from_secs(25);

impl Work<'_> {
    /// First phase of a reload: everything that can fail.
    pub(super) async fn prepare(&mut self, reload: Reload<IrcSettings>) {
        // Whatever came of the one before, this one is in its place.
        self.forget_reload().await;
        let plan = match Plan::new(reload.new.clone()) {
            Ok(plan) => plan,
            Err(error) => return reload.refuse(error),
        };
        if reload.new.network == self.network {
            self.prepared = Some((reload.new.clone(), plan));
            return reload.accept();
        }
        let network = reload.new.network.clone();
        let (op, name) = (self.op, claim(&network));
        self.spare = Some(Spare { network, until: Instant::now() + SPARE_MAX });
        let claiming: Waiting<'_> = Some(Box::pin(async move { op.claim(&name).await }));
        self.moving = Some(Moving { reload, plan, claiming });
    }

    pub(super) fn claimed_elsewhere(&mut self, result: Result<(), Error>) {
        let Some(Moving { reload, plan, .. }) = self.moving.take() else { return };
        match result {
            Ok(()) => {
                self.prepared = Some((reload.new.clone(), plan));
                reload.accept();
            }
            Err(error) => {
                self.spare = None;
                let text = format!("the network {} cannot be had: {error}", reload.new.network);
                reload.refuse(text);
            }
        }
    }

    /// It comes to nothing, and what was claimed for it is given back.
    pub(super) async fn forget_reload(&mut self) {
        self.moving = None;
        self.prepared = None;
        if let Some(Spare { network, .. }) = self.spare.take() {
            tracing::info!("the reload to network {network} was not committed: {} is given back", claim(&network));
            self.unclaim(&network).await;
        }
    }

    async fn unclaim(&self, network: &str) {
        let name = claim(network);
        // A bus that is away just now must not hold the loop.
        match timeout(MOVE_MAX, self.op.client().unclaim(&name)).await {
            Ok(Ok(())) => {}
            // Where it was not ours, there is nothing to give back.
            Ok(Err(error)) if error.kind() == ErrorKind::Refused(Code::NotFound) => {}
            Ok(Err(error)) => tracing::warn!("{name} is not given back: {error}"),
            Err(_) => tracing::warn!("{name} is not given back: the bus does not answer"),
        }
    }

    /// Second phase: the bus has committed.
    pub(super) async fn change(&mut self, settings: Arc<IrcSettings>) {
        let plan = match self.prepared.take() {
            Some((prepared, plan)) if Arc::ptr_eq(&prepared, &settings) => plan,
            _ => match Plan::new(settings.clone()) {
                Ok(plan) => plan,
                Err(error) => return tracing::error!("the new settings are not used: {error}"),
            },
        };
        self.spare.take_if(|spare| spare.network == settings.network);
        if settings.network != self.network {
            self.change_network(&settings.network).await;
        }
        let anew = self.net.change(plan);
        tracing::info!(reconnect = anew, "new settings are in force");
    }

    async fn change_network(&mut self, network: &str) {
        let old = std::mem::replace(&mut self.network, network.to_owned());
        if self.claim_at.take().is_some() || self.claiming.take().is_some() {
            // We were waiting for the old name; the new one is ours since the first phase.
            self.begin();
        }
        self.unclaim(&old).await;
        // What was for the old network comes again by the new subscription, and is refused there.
        self.net.forget_chat();
        self.saying.clear();
        if let Some(number) = self.subscription.take() {
            self.op.unsubscribe(number);
        }
        self.subscribing = None;
        self.subscribe_at = Some(Instant::now());
    }
}
