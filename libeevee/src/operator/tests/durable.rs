//! Commands from a durable subscription: acknowledged when they are done, given back when they are not.

use super::*;
use crate::operator::COMMAND_AGE_MAX;
use crate::wire::{Ack, Content, Nack as NackFrame};
use crate::{Nack, Outgoing};

fn ack(id: u64) -> Content {
    Content::Ack(Ack { id })
}

#[tokio::test]
async fn commands_wait_for_their_operator() {
    let setup = |op: Commands<NoSettings>| {
        let op = (0..65).fold(op, |op, n| op.command(format!("c{n}"), async |_| Ok(())));
        op.concurrency(7).on("type=a", async |_| Ok(())).on_durable("mail", "type=mail", async |_| Ok(()))
    };
    with_commands("", setup, async |_, session| {
        let [first, rest, live, mail] = &session.asked[..] else { panic!("{:?}", session.asked) };
        assert_eq!((first.filters.len(), first.durable.as_deref()), (64, Some("commands")));
        assert_eq!((rest.filters.len(), rest.durable.as_deref()), (1, Some("commands-2")));
        for commands in [first, rest] {
            assert_eq!(u128::from(commands.max_age_ms), COMMAND_AGE_MAX.as_millis());
            assert_eq!(commands.window_messages, 7);
        }
        assert_eq!((live.durable.as_deref(), live.max_age_ms), (None, 0));
        assert_eq!((mail.durable.as_deref(), mail.max_age_ms, mail.window_messages), (Some("mail"), 0, 7));
    })
    .await;
    let setup = |op: Commands<NoSettings>| op.command("dice", async |_| Ok(())).live();
    with_commands("", setup, async |_, session| {
        assert_eq!(session.asked[0].durable, None);
        assert_eq!(u128::from(session.asked[0].max_age_ms), COMMAND_AGE_MAX.as_millis());
    })
    .await;
}

#[tokio::test]
async fn an_answer_is_safe_before_its_command_is_done() {
    let setup = |op: Commands<NoSettings>| op.command("dice", async |m| m.reply("6").await);
    with_commands("", setup, async |_, mut session| {
        session.confirm_publishes(false);
        let number = session.subscriptions[0].0;
        session.deliver(number, 7, &said("!dice")).await;
        let (publish, _) = session.published("chat.message").await;
        assert_eq!((publish.cause, publish.sequence), (Some(7), 1));
        assert!(session.is_without(|content| matches!(content, Content::Ack(_))).await);
        // The bus delivers again in the meantime: nobody throws the dice a second time.
        session.deliver_again(number, 7, &said("!dice"), 2).await;
        assert!(session.is_without(|content| matches!(content, Content::Publish(_) | Content::Ack(_))).await);
    })
    .await;
    with_commands("", setup, async |_, mut session| {
        let number = session.subscriptions[0].0;
        session.deliver(number, 7, &said("!dice")).await;
        session.published("chat.message").await;
        assert_eq!(session.settled().await, (number, ack(7)));
        session.deliver_again(number, 7, &said("!dice"), 2).await;
        assert_eq!(session.settled().await, (number, ack(7)));
        assert!(session.is_without(|content| matches!(content, Content::Publish(_))).await);
    })
    .await;
}

#[tokio::test]
async fn a_command_that_comes_again_is_answered_once() {
    let setup = |op: Commands<NoSettings>| {
        op.command("dice", async |m| {
            m.reply("6").await?;
            m.publish(Document::new([("type", "dice.rolled")], "6")?).await?;
            match m.delivery.attempt {
                1 => Err(Error::other("died after its answers")),
                _ => Ok(()),
            }
        })
        .on_durable("log", "type=chat.message", async |m| m.publish(Document::new([("type", "logged")], "")?).await)
        .on("type=live", async |m| m.publish(Document::new([("type", "heard")], "")?).await)
    };
    with_commands("", setup, async |_, mut session| {
        let [commands, log, live] = [0, 1, 2].map(|at| session.subscriptions[at].0);
        let mut identities = Vec::new();
        for attempt in [1, 2] {
            session.deliver_again(commands, 7, &said("!dice"), attempt).await;
            for kind in ["chat.message", "dice.rolled"] {
                let (publish, _) = session.published(kind).await;
                identities.push((publish.epoch, publish.sequence));
            }
            session.settled().await;
        }
        let epoch = identities[0].0;
        assert!(epoch != 0);
        assert_eq!(identities, [(epoch, 1), (epoch, 2), (epoch, 1), (epoch, 2)], "the bus knows them again");
        // Another command, and another handler of the same one, do not stand in its way.
        session.deliver(commands, 8, &said("!dice")).await;
        let (other, _) = session.published("chat.message").await;
        assert!(other.epoch != epoch && other.sequence == 1);
        session.deliver(log, 7, &said("!dice")).await;
        let (logged, _) = session.published("logged").await;
        assert!(logged.epoch != epoch && logged.sequence == 1);
        // What comes once at most needs none, and is not confirmed.
        session.deliver(live, 9, &Document::new([("type", "live")], "").unwrap()).await;
        let (heard, _) = session.published("heard").await;
        assert_eq!((heard.epoch, heard.sequence), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn what_fails_is_given_back_with_its_reason() {
    let setup = |op: Commands<NoSettings>| {
        op.command("fail", async |m| match m.delivery.attempt {
            1 => Err(Error::other("no weather today")),
            _ => m.reply("rain").await,
        })
        .command("panic", async |m| panic!("{} broke it", m.user()))
        .command("never", async |_| Err(Document::new([("Type", "x")], "").unwrap_err().into()))
        .command("own", async |m| {
            m.nack(Nack::again("asleep").after(Duration::from_secs(9)))?;
            Err(Error::other("not this"))
        })
        .command("early", async |m| {
            m.ack()?;
            panic!("after the fact")
        })
        .on("type=live", async |_| Err(Error::other("nobody waits for this")))
    };
    with_commands("", setup, async |_, mut session| {
        let (number, live) = (session.subscriptions[0].0, session.subscriptions[1].0);
        let nack =
            |id, dead, delay_ms, reason: &str| Content::Nack(NackFrame { id, dead, delay_ms, reason: reason.into() });
        session.deliver(number, 1, &said("!fail")).await;
        assert_eq!(session.settled().await, (number, nack(1, false, 0, "no weather today")));
        session.deliver_again(number, 1, &said("!fail"), 2).await;
        assert_eq!(session.published("chat.message").await.1.text(), Some("rain"));
        assert_eq!(session.settled().await, (number, ack(1)));

        session.deliver(number, 2, &said("!panic")).await;
        assert_eq!(session.settled().await, (number, nack(2, false, 0, "panic: goos broke it")));
        // No attempt can do better.
        session.deliver(number, 3, &said("!never")).await;
        let (_, Content::Nack(never)) = session.settled().await else { panic!("acknowledged") };
        assert!(never.dead && never.reason.contains("Type"), "{never:?}");
        session.deliver(number, 4, &said("!own")).await;
        assert_eq!(session.settled().await, (number, nack(4, false, 9000, "asleep")));
        session.deliver(number, 5, &said("!early")).await;
        assert_eq!(session.settled().await, (number, ack(5)));
        session.deliver(live, 6, &Document::new([("type", "live")], "").unwrap()).await;
        assert!(session.is_without(|content| matches!(content, Content::Ack(_) | Content::Nack(_))).await);
    })
    .await;
}

#[tokio::test]
async fn a_halt_lets_acknowledgements_out_and_nothing_in() {
    let gate = Rc::new(Semaphore::new(0));
    let waits = Rc::clone(&gate);
    let slow = async move |_: super::super::Command<NoSettings>| {
        waits.acquire().await.unwrap().forget();
        Ok(())
    };
    with_commands(
        "",
        |op| op.command("slow", slow).concurrency(1),
        async |op, mut session| {
            let number = session.subscriptions[0].0;
            session.deliver(number, 1, &said("!slow")).await;
            sleep(Duration::from_millis(50)).await;
            session.send(0, Content::Halted(Flag { on: true })).await;
            while !op.is_halted() {
                sleep(Duration::from_millis(1)).await;
            }
            gate.add_permits(1);
            assert_eq!(session.settled().await, (number, ack(1)));
            session.state(OperatorState::Halted).await;
            // It was on its way. Nobody takes it, and coming again changes nothing.
            session.deliver(number, 2, &said("!slow")).await;
            gate.add_permits(1);
            assert!(session.is_without(|content| matches!(content, Content::Ack(_) | Content::Nack(_))).await);
            session.send(0, Content::Halted(Flag { on: false })).await;
            assert_eq!(session.settled().await, (number, ack(2)));
        },
    )
    .await;
}

#[tokio::test]
async fn an_operator_waits_for_a_disk_that_is_full() {
    with::<NoSettings>("", async |op, mut session| {
        session.store(false);
        let asking = op.clone();
        let opened = tokio::task::spawn_local(async move { asking.subscribe("type=mail").durable("mail").await });
        let subscribe =
            |frame: crate::wire::Frame| matches!(frame.content, Content::Subscribe(_)).then_some(frame.number);
        session.expect("Subscribe", subscribe).await;
        tokio::time::pause();
        session.expect("Subscribe", subscribe).await;
        assert!(!opened.is_finished());
        session.store(true);
        let number = session.expect("Subscribe", subscribe).await;
        tokio::time::resume();
        assert_eq!(soon("the subscription", opened).await.unwrap().unwrap(), number);
    })
    .await;
}

#[tokio::test]
async fn a_loop_of_its_own_acknowledges_what_it_likes() {
    with::<NoSettings>("", async |op, mut session| {
        let mail = op.subscribe("type=mail").durable("mail").await.unwrap();
        let live = op.subscribe("type=live").await.unwrap();
        let document = |kind| Document::new([("type", kind)], "").unwrap();
        session.deliver(mail, 1, &document("mail")).await;
        session.deliver(mail, 2, &document("mail")).await;
        session.deliver(live, 3, &document("live")).await;
        let mut messages = Vec::new();
        while messages.len() < 3 {
            let Event::Message(message) = soon("a message", op.next()).await else { panic!("another event") };
            messages.push(message);
        }
        messages.sort_by_key(|message| message.id);
        // The last is of a live subscription, which waits for nothing.
        for message in &messages[1..] {
            op.ack(message).unwrap();
        }
        op.nack(&messages[0], Nack::dead("unreadable")).unwrap();
        assert_eq!(session.settled().await, (mail, ack(2)));
        let (number, Content::Nack(nack)) = session.settled().await else { panic!("acknowledged") };
        assert!(number == mail && nack.dead && nack.id == 1, "{nack:?}");
        let answer = Outgoing::from(document("answer")).answering(&messages[1]);
        assert_eq!(op.publish_confirmed(answer).await.unwrap().id, 5000);
        op.unsubscribe(mail);
        assert!(op.ack(&messages[0]).is_err());
    })
    .await;
}
