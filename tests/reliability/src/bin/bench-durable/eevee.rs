//! eeveed's turn.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use eevee_reliability::session::{NO_WINDOW, subscribe};
use eevee_reliability::{Eeveed, Ground, Session};
use libeevee::Document;
use libeevee::wire::{Ack, CONFIRM, Content, EncodedDocument, Frame, Publish};
use tokio::task::JoinSet;

use crate::{ACKNOWLEDGED, BODY_BYTES, IN_FLIGHT, MANY, Meter, Turn};

/// As much as is published here stays below these.
const BOUNDS: &str = "durable-messages = 100000000\ndurable-bytes = \"64 GiB\"\n";

/// One turn, on an empty store.
pub(crate) async fn turn(time: Duration) -> Result<Turn> {
    let ground = Ground::new("bench-durable-eevee", &format!("[limits]\n{BOUNDS}in-flight = {IN_FLIGHT}\n"))?;
    let bus = Eeveed::start(&ground)?;
    let outcome = measure(&ground.socket(), time).await;
    let turn = outcome.with_context(|| format!("eeveed's log ends:\n{}", ground.log_tail()))?;
    drop(bus);
    ground.remove();
    Ok(turn)
}

async fn measure(socket: &Path, time: Duration) -> Result<Turn> {
    let one = publish(socket, "one", 1, Limit::Time(Rc::new(Meter::new(time)))).await?;
    let many = publish(socket, "many", MANY, Limit::Time(Rc::new(Meter::new(time)))).await?;
    publish(socket, "work", MANY, Limit::Count(ACKNOWLEDGED / MANY)).await?;
    Ok(Turn { one, many, acknowledged: acknowledge(socket).await? })
}

#[derive(Clone)]
enum Limit {
    Time(Rc<Meter>),
    Count(usize),
}

/// A durable subscription of this name collects; nobody is attached.
async fn publish(socket: &Path, name: &str, publishers: usize, limit: Limit) -> Result<f64> {
    let mut session = Session::connect(socket, Some("keeper"), 1).await?;
    session.send(&Frame::new(1, Content::Subscribe(subscribe(&format!("type={name}"), Some(name), NO_WINDOW))));
    let answer = session.frame().await?.content;
    ensure!(answer == Content::Ok, "the bus answered Subscribe with {answer:?}");
    session.leave(|_| Ok(())).await?;
    let mut all = JoinSet::new();
    for number in 0..publishers {
        let session = Session::connect(socket, Some(&format!("{name}{number}")), 1).await?;
        all.spawn_local(publish_all(session, name.to_owned(), limit.clone()));
    }
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    Ok(match limit {
        Limit::Time(meter) => meter.per_second(),
        Limit::Count(_) => 0.0,
    })
}

/// One after the other, each confirmed before the next; numbered, as libeevee numbers them, so that the bus could
/// recognise a repetition.
async fn publish_all(mut session: Session, name: String, limit: Limit) -> Result<()> {
    let document = Document::new([("type", name)], "x".repeat(BODY_BYTES))?;
    let document = EncodedDocument::from(&document);
    for sequence in 1.. {
        let publish = Publish { cause: None, hops: 0, epoch: 1, sequence, document: document.clone() };
        session.send(&Frame { flags: CONFIRM, number: 1, content: Content::Publish(publish) });
        loop {
            match session.frame().await?.content {
                Content::Published(published) => {
                    ensure!(published.durable == 1, "a message matched {} durable subscriptions", published.durable);
                    break;
                }
                Content::Error(refusal) => bail!("a publish was refused: {}", refusal.text),
                _ => {}
            }
        }
        let goes_on = match &limit {
            Limit::Time(meter) => meter.count(),
            Limit::Count(count) => sequence < *count as u64,
        };
        if !goes_on {
            break;
        }
    }
    session.leave(|_| Ok(())).await
}

/// Until the bus says that nothing waits.
async fn acknowledge(socket: &Path) -> Result<f64> {
    let mut session = Session::connect(socket, Some("keeper"), 1).await?;
    let mut tool = Session::connect(socket, None, 0).await?;
    let began = Instant::now();
    session.send(&Frame::new(1, Content::Subscribe(subscribe("type=work", Some("work"), NO_WINDOW))));
    let all = ACKNOWLEDGED;
    let mut done = 0;
    while done < all {
        let mut acks = Vec::new();
        let goes_on = session.turn(None, |frame| {
            match frame.content {
                Content::Deliver(deliver) => Frame::new(1, Content::Ack(Ack { id: deliver.id })).encode_into(&mut acks),
                Content::Gap(gap) => bail!("a gap: {gap:?}"),
                Content::Error(refusal) => bail!("the bus refused: {}", refusal.text),
                _ => return Ok(()),
            }
            done += 1;
            Ok(())
        });
        ensure!(goes_on.await?, "the bus closed the connection");
        session.send_bytes(&acks);
    }
    session.leave(|_| Ok(())).await?;
    loop {
        let queues = tool.control("queues", r#"{"owner":"keeper"}"#).await?;
        let waits = queues.as_array().into_iter().flatten().find(|queue| queue["name"] == "work");
        match waits.and_then(|queue| queue["messages"].as_u64()) {
            Some(0) => break,
            Some(_) if began.elapsed() < Duration::from_secs(60) => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => bail!("{done} were acknowledged, and the bus keeps: {queues}"),
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    Ok(done as f64 / began.elapsed().as_secs_f64())
}
