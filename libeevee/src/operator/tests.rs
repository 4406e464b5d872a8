//! What only handlers of the test's own can show: slow ones, broken ones, a loop that is stuck.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::commands::{Commands, serve_commands};
use super::inner::Inner;
use super::{Event, Operator, watch};
use crate::client::{Client, Connect};
use crate::settings::{NoSettings, Settings, parse_module};
use crate::wire::{Content, Flag};
use crate::{Document, Error, OperatorState};

#[path = "../../tests/support/mod.rs"]
mod support;
use support::{Bus, Session, module, said, soon, welcome};

mod durable;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Greeting {
    greeting: String,
}

impl Settings for Greeting {}

/// An operator that is connected, and the bus's side of it; `script` runs beside the notices of the bus.
async fn with<S: Settings>(text: &str, script: impl AsyncFnOnce(Operator<S>, Session)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus.sock");
    let bus = Bus::at(&path);
    let connect = Connect::operator("test".parse().unwrap(), "").socket(&path);
    let (client, session) =
        tokio::join!(Client::connect(connect), bus.session(Content::Welcome(welcome("test", "test", Some(text)))));
    let client = client.unwrap();
    let notices = client.notices();
    let module = client.welcome().module.clone();
    let inner = Inner::new("test".parse().unwrap(), client, parse_module::<S>("test.toml", text).unwrap(), module);
    LocalSet::new()
        .run_until(async {
            tokio::select! {
                failure = watch::notices(&inner, notices) => panic!("{failure}"),
                failure = inner.failed() => panic!("{failure}"),
                () = script(Operator { inner: Rc::clone(&inner) }, session) => {}
            }
        })
        .await;
}

/// The same with handlers, once they are ready.
async fn with_commands<S: Settings>(
    text: &str,
    setup: impl FnOnce(Commands<S>) -> Commands<S>,
    script: impl AsyncFnOnce(Operator<S>, Session),
) {
    let commands = setup(Commands::new());
    with(text, async |op: Operator<S>, mut session: Session| {
        let serving = op.clone();
        tokio::task::spawn_local(async move { serve_commands(&serving, commands).await });
        session.state(OperatorState::Ready).await;
        script(op, session).await;
    })
    .await;
}

async fn text_of(session: &mut Session) -> String {
    session.published("chat.message").await.1.text().unwrap().to_owned()
}

#[tokio::test]
async fn a_halt_waits_for_what_is_in_hand() {
    let gate = Rc::new(Semaphore::new(0));
    let waits = Rc::clone(&gate);
    let slow = async move |m: super::Command<NoSettings>| {
        let _permit = waits.acquire().await;
        m.reply("done").await
    };
    with_commands(
        "",
        |op| op.command("slow", slow),
        async |op, mut session| {
            let number = session.subscriptions[0].0;
            session.deliver(number, 1, &said("!slow")).await;
            sleep(Duration::from_millis(50)).await;
            session.send(0, Content::Halted(Flag { on: true })).await;
            session.deliver(number, 2, &said("!slow")).await;
            assert!(session.is_without(|content| matches!(content, Content::State(_) | Content::Publish(_))).await);
            assert!(op.is_halted());
            gate.add_permits(1);
            let (publish, _) = session.published("chat.message").await;
            assert_eq!(publish.cause, Some(1));
            assert_eq!(session.state(OperatorState::Halted).await, "halted");
            assert!(session.is_without(|content| matches!(content, Content::Publish(_))).await);
            // Halted and resumed again and again, the second order is still there, once.
            for on in [false, true, false] {
                session.send(0, Content::Halted(Flag { on })).await;
            }
            gate.add_permits(10);
            assert_eq!(session.published("chat.message").await.0.cause, Some(2));
            assert!(session.is_without(|content| matches!(content, Content::Publish(_))).await);
        },
    )
    .await;
}

#[tokio::test]
async fn a_broken_handler_harms_no_other() {
    let setup = |op: Commands<NoSettings>| {
        op.command("panic", async |m| panic!("{}", m.user()))
            .command("fail", async |_| Err(Error::other("no weather today")))
            .command("good", async |m| m.reply(format!("{} said {}", m.user(), m.args())).await)
            .on("type=weather.report", async |m| m.publish(Document::new([("type", "chat.message")], "rain")?).await)
    };
    with_commands("", setup, async |_, mut session| {
        let (commands, others) = (session.subscriptions[0].clone(), session.subscriptions[1].clone());
        assert_eq!(commands.1.len(), 3);
        assert_eq!(others.1, ["type=weather.report"]);
        for (id, text) in ["!panic", "!fail", "!good  morning ", "!panic"].iter().enumerate() {
            session.deliver(commands.0, id as u64, &said(text)).await;
        }
        assert_eq!(text_of(&mut session).await, "goos said morning");
        session.deliver(others.0, 9, &Document::new([("type", "weather.report")], "").unwrap()).await;
        let (publish, document) = session.published("chat.message").await;
        assert_eq!((publish.cause, document.text()), (Some(9), Some("rain")));
    })
    .await;
}

#[tokio::test]
async fn handlers_are_bounded_and_events_still_come() {
    let gate = Rc::new(Semaphore::new(0));
    let running = Rc::new(Cell::new(0));
    let (waits, counts) = (Rc::clone(&gate), Rc::clone(&running));
    let slow = async move |m: super::Command<NoSettings>| {
        counts.set(counts.get() + 1);
        waits.acquire().await.unwrap().forget();
        counts.set(counts.get() - 1);
        m.reply("done").await
    };
    with_commands(
        "",
        |op| op.command("slow", slow).concurrency(3).live(),
        async |op, mut session| {
            for id in 0..10 {
                session.deliver(session.subscriptions[0].0, id, &said("!slow")).await;
            }
            sleep(Duration::from_millis(200)).await;
            assert_eq!(running.get(), 3);
            // All hands are full, and the loop still answers the watchdog and a reload.
            soon("the beat", op.inner.beat()).await;
            session.send(5, Content::Reload(module("test", "test", "[bus]\n"))).await;
            assert_eq!(session.verdict().await, (5, true, String::new()));
            gate.add_permits(10);
            for _ in 0..10 {
                assert_eq!(text_of(&mut session).await, "done");
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_handler_keeps_the_settings_that_its_message_met() {
    let setup = |op: Commands<Greeting>| {
        op.command("greet", async |m| {
            let settings = m.settings();
            sleep(Duration::from_millis(200)).await;
            m.reply(&settings.greeting).await
        })
    };
    with_commands("[settings]\ngreeting = \"old\"", setup, async |_, mut session| {
        let number = session.subscriptions[0].0;
        session.deliver(number, 1, &said("!greet")).await;
        session.send(5, Content::Reload(module("test", "test", "[settings]\ngreeting = \"new\""))).await;
        assert!(session.verdict().await.1);
        session.send(5, Content::Commit).await;
        session.deliver(number, 2, &said("!greet")).await;
        assert_eq!(text_of(&mut session).await, "old");
        assert_eq!(text_of(&mut session).await, "new");
    })
    .await;
}

#[tokio::test]
async fn a_loop_that_does_not_come_back_has_no_beat() {
    with::<NoSettings>("", async |op, _session| {
        let beat = op.inner.beat();
        tokio::pin!(beat);
        assert!(timeout(Duration::from_millis(100), &mut beat).await.is_err());
        let looping = op.clone();
        tokio::task::spawn_local(async move {
            loop {
                looping.next().await;
            }
        });
        soon("the beat", beat).await;
        soon("another beat", op.inner.beat()).await;
    })
    .await;
}

#[tokio::test]
async fn a_loop_that_waits_for_the_bus_has_a_beat_and_its_tasks_have_none() {
    with::<NoSettings>("", async |op, session| {
        session.close();
        while op.client().is_connected() {
            sleep(Duration::from_millis(1)).await;
        }
        tokio::select! {
            published = op.inner.run_loop(op.publish(Document::default())) => panic!("{published:?}"),
            () = async {
                soon("the beat", op.inner.beat()).await;
                soon("another beat", op.inner.beat()).await;
            } => {}
        }
        tokio::select! {
            published = op.publish(Document::default()) => panic!("{published:?}"),
            beat = timeout(Duration::from_millis(100), op.inner.beat()) => assert!(beat.is_err()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_reload_that_nobody_decides_is_refused() {
    with::<Greeting>("[settings]\ngreeting = \"old\"", async |op, mut session| {
        let changed = || module("test", "test", "[settings]\ngreeting = \"new\"");
        session.send(5, Content::Reload(changed())).await;
        let Event::Reload(reload) = soon("the reload", op.next()).await else { panic!("another event") };
        assert_eq!((&*reload.old.greeting, &*reload.new.greeting), ("old", "new"));
        drop(reload);
        let (number, accepted, why) = session.verdict().await;
        assert!(number == 5 && !accepted && why.contains("neither accepted nor refused"), "{why}");

        tokio::time::pause();
        session.send(6, Content::Reload(changed())).await;
        let Event::Reload(late) = op.next().await else { panic!("another event") };
        let (number, accepted, why) = session.verdict().await;
        assert!(number == 6 && !accepted && why.contains("did not decide within 18s"), "{why}");
        tokio::time::resume();
        late.accept();
        assert!(matches!(soon("the end of it", op.next()).await, Event::Abort));
        session.send(6, Content::Commit).await;
        assert!(session.is_without(|content| matches!(content, Content::Verdict(_))).await);
        assert_eq!(op.settings().greeting, "old");
    })
    .await;
}

#[tokio::test]
async fn what_is_over_is_not_told() {
    with::<NoSettings>("", async |op, session| {
        for on in [true, false, true, false, true] {
            session.send(0, Content::Halted(Flag { on })).await;
        }
        while !op.is_halted() {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_millis(50)).await;
        assert!(matches!(op.next().await, Event::Halt));
        let more = timeout(Duration::from_millis(50), op.next()).await;
        assert!(more.is_err(), "{more:?}");
    })
    .await;
}

#[tokio::test]
async fn a_busy_subscription_starves_no_other() {
    with::<NoSettings>("", async |op, session| {
        let (busy, quiet) = (op.subscribe("a=1").await.unwrap(), op.subscribe("b=1").await.unwrap());
        let document = |key: &str| Document::new([(key, "1")], "").unwrap();
        for id in 0..50 {
            session.deliver(busy, id, &document("a")).await;
        }
        session.deliver(quiet, 99, &document("b")).await;
        sleep(Duration::from_millis(200)).await;
        let mut before = 0;
        loop {
            match poll_fn(|cx| op.inner.poll(cx, true)).await.1 {
                Event::Message(message) if message.id == 99 => break,
                Event::Message(_) => before += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(before <= 2, "{before} messages of the other subscription came first");
        op.unsubscribe(busy);
        assert!(timeout(Duration::from_millis(50), op.next()).await.is_err());
    })
    .await;
}

#[test]
fn scratch_directories_go_away_and_take_no_name_of_others() {
    let runtime = tempfile::tempdir().unwrap();
    let variable = format!("{}:/nonexistent", runtime.path().display());
    let (one, two) = (super::scratch(Some(variable.into())).unwrap(), super::scratch(None).unwrap());
    assert_eq!(one.path().parent(), Some(runtime.path()));
    assert!(two.path().is_dir());
    drop(one);
    assert_eq!(std::fs::read_dir(runtime.path()).unwrap().count(), 0);
}
