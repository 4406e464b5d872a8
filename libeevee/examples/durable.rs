//! A mailbox: it keeps every message of type `mail`, also those that were sent while it was stopped, halted or dead, and
//! acknowledges each once it is safe. `eeveectl queue mailbox` shows what still waits.

use libeevee::operator::{self, Event, Failure, Operator, StoreError};
use libeevee::{Exit, Message, Nack, NoSettings};

async fn run(op: Operator<NoSettings>) -> Result<(), Failure> {
    op.subscribe("type=mail").durable("mail").await?;
    op.ready("keeping mail").await;
    loop {
        match op.next().await {
            Event::Message(mail) => match keep(&op, &mail).await {
                Ok(()) => op.ack(&mail)?,
                // A disk that is full now may have room later: it comes again, and becomes a dead letter in the end.
                Err(Trouble::Store(error)) => op.nack(&mail, Nack::again(error.to_string()))?,
                Err(Trouble::NoText) => op.nack(&mail, Nack::dead("it is no text, and never will be"))?,
            },
            Event::Gap(gap) => tracing::warn!("{:?} letters are lost: {}", gap.count, gap.reason),
            Event::Reload(reload) => reload.accept(),
            Event::Stop => return Ok(()),
            _ => {}
        }
    }
}

enum Trouble {
    NoText,
    Store(StoreError),
}

/// A letter may come a second time, where its acknowledgement was lost. It is kept under its id, so that twice is once.
async fn keep(op: &Operator<NoSettings>, mail: &Message) -> Result<(), Trouble> {
    let text = mail.text().ok_or(Trouble::NoText)?;
    op.store().set(&format!("mail-{}", mail.id), text).await.map_err(Trouble::Store)
}

fn main() -> Exit {
    operator::run_loop(run)
}
