//! Mode `command`: the program runs once for each message. Its arguments are on its standard input, what it prints is
//! the answer, and its exit status says whether the message is done.

mod run;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use libeevee::operator::{Event, Failure, Operator, Reload};
use libeevee::{Gap, GapReason, Message, Nack};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use self::run::{Outcome, Place};
use crate::answer;
use crate::child;
use crate::credentials::Credentials;
use crate::descendants::Descendants;
use crate::journal::Journal;
use crate::settings::{ExecSettings, Mode};
use crate::subscription::{Subscription, described};

/// A stop may take 8 s in all, and what is left then is killed.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

pub(crate) async fn serve(op: &Operator<ExecSettings>, descendants: &Rc<Descendants>) -> Result<(), Failure> {
    let credentials = Credentials::hand_over(op, &op.settings()).map_err(Failure::config)?;
    let mut subscription = Subscription::open(op).await?;
    op.ready(&described(&op.settings())).await;
    let hands = Rc::new(Hands {
        op: op.clone(),
        place: Place { id: op.id().clone(), descendants: Rc::clone(descendants), journal: Rc::new(Journal::new()) },
        credentials: RefCell::new(Rc::new(credentials)),
        failed: Cell::new(0),
    });
    let mut running = JoinSet::new();
    let mut shown = 0;
    loop {
        if hands.failed.get() != shown {
            shown = hands.failed.get();
            op.status(&format!("{}; {shown} runs failed", described(&op.settings()))).await;
        }
        let has_room = running.len() < op.settings().parallel();
        let event = tokio::select! {
            event = async { if has_room { op.next().await } else { op.next_but_work().await } } => event,
            Some(_) = running.join_next(), if !running.is_empty() => continue,
        };
        match event {
            Event::Message(message) => {
                running.spawn_local(Rc::clone(&hands).handle(op.settings(), message));
            }
            Event::Gap(gap) => lost(&gap),
            Event::Reload(reload) => decide(op, reload),
            Event::Settings(settings) => {
                subscription.change(op, &settings).await?;
                hands.change_credentials(&settings);
                hands.failed.set(0);
                shown = 0;
                op.status(&described(&settings)).await;
            }
            Event::Stop => break,
            _ => {}
        }
    }
    finish(&mut running).await;
    Ok(())
}

/// Waits for the runs in hand; what is not done then is ended by dropping it, and comes again where it is durable.
async fn finish(running: &mut JoinSet<()>) {
    let deadline = Instant::now() + FINISH_WITHIN;
    while !running.is_empty() {
        if timeout_at(deadline, running.join_next()).await.is_err() {
            tracing::warn!("stopping: {} runs are not done after {FINISH_WITHIN:?}, they are ended", running.len());
            running.shutdown().await;
        }
    }
}

fn decide(op: &Operator<ExecSettings>, reload: Reload<ExecSettings>) {
    if reload.new.mode != Mode::Command {
        return reload.refuse("the mode cannot change while it runs: eeveectl restart does it");
    }
    let possible = child::check(&reload.new.run).and_then(|()| Credentials::hand_over(op, &reload.new).map(drop));
    match possible {
        Ok(()) => reload.accept(),
        Err(why) => reload.refuse(why),
    }
}

pub(crate) fn lost(gap: &Gap) {
    let count = gap.count.map_or("an unknown number of".to_owned(), |count| count.to_string());
    match gap.reason {
        // Said where it happened, by whoever refused it.
        GapReason::DeadLetter => tracing::debug!(gap.first, gap.last, "{count} messages became dead letters"),
        reason => tracing::warn!(gap.first, gap.last, "{count} messages were lost: {reason}"),
    }
}

/// What every run needs.
struct Hands {
    op: Operator<ExecSettings>,
    place: Place,
    /// A run keeps those that it began with.
    credentials: RefCell<Rc<Credentials>>,
    failed: Cell<u64>,
}

impl Hands {
    async fn handle(self: Rc<Self>, settings: Arc<ExecSettings>, message: Message) {
        let _in_hand = self.op.in_hand();
        self.place.journal.hears(&message);
        let id = message.id;
        let credentials = Rc::clone(&self.credentials.borrow());
        let nack = match self.place.run(&settings, &credentials, &message).await {
            Outcome::Done(output) => self.answer(&message, output).await.err(),
            Outcome::Again(why) => Some(Nack::again(self.failed(id, why))),
            Outcome::Never(why) => Some(Nack::dead(self.failed(id, why))),
        };
        let settled = match nack {
            None => self.op.ack(&message),
            Some(nack) => self.op.nack(&message, nack),
        };
        if let Err(error) = settled {
            tracing::warn!(eevee.message = id, "message {id} will come again: {error}");
        }
    }

    async fn answer(&self, message: &Message, output: Vec<u8>) -> Result<(), Nack> {
        let id = message.id;
        if output.is_empty() {
            return Ok(());
        }
        if !answer::is_possible(message) {
            let bytes = output.len();
            self.place.journal.warns(
                &format!("message {id} is from no chat: the {bytes} bytes that the program printed answer nobody"),
                Some(id),
            );
            return Ok(());
        }
        answer::publish(&self.op, message, output.into(), true).await.map_err(|error| {
            let why = self.failed(id, format!("the answer is not published: {error}"));
            if answer::is_final(&error) { Nack::dead(why) } else { Nack::again(why) }
        })
    }

    fn change_credentials(&self, settings: &ExecSettings) {
        match Credentials::hand_over(&self.op, settings) {
            Ok(credentials) => drop(self.credentials.replace(Rc::new(credentials))),
            Err(why) => tracing::error!("the credentials stay as they were: {why}"),
        }
    }

    fn failed(&self, id: u64, why: String) -> String {
        self.failed.set(self.failed.get() + 1);
        self.place.journal.warns(&format!("message {id} is not done: {why}"), Some(id));
        why
    }
}
