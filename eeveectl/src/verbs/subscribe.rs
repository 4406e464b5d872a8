//! subscribe: shows messages as they pass, for people or as JSON lines, until somebody has seen enough.

use std::io::{Write, stdout};

use libeevee::client::{Event, Notice};
use libeevee::{Exit, Filter, Gap, Message, Timestamp};

use crate::bus;
use crate::context::Context;
use crate::output;

pub(crate) async fn run(context: &Context, filters: &[Filter], json: bool, count: Option<u64>) -> anyhow::Result<Exit> {
    let client = context.bus().await.map_err(anyhow::Error::msg)?;
    let filters = if filters.is_empty() { vec![Filter::any()] } else { filters.to_vec() };
    let mut notices = client.notices();
    let mut subscription = client.subscribe(filters).await.map_err(|error| anyhow::Error::msg(bus::text_of(&error)))?;
    let mut left = count;
    let mut is_away = false;
    loop {
        let event = tokio::select! {
            event = subscription.next() => event,
            Some(notice) = notices.next() => {
                match notice {
                    Notice::Disconnected(why) => {
                        output::note(&output::safe(&format!("(the bus is away: {why})")));
                        is_away = true;
                    }
                    Notice::Connected(_) if is_away => {
                        output::note("(the bus is back)");
                        is_away = false;
                    }
                    _ => {}
                }
                continue;
            }
        };
        let text = match &event {
            None => match subscription.failure() {
                Some(why) => anyhow::bail!("the bus ended the subscription: {}", bus::text_of(why)),
                None => anyhow::bail!("the connection to the bus ended"),
            },
            Some(Event::Message(message)) if json => output::safe_json(&libeevee::json::to_line(message)),
            Some(Event::Gap(gap)) if json => output::safe_json(&libeevee::json::gap_line(gap)),
            Some(Event::Message(message)) => shown(message),
            Some(Event::Gap(gap)) => lost(gap),
        };
        writeln!(stdout(), "{text}")?;
        if let (Some(left), Some(Event::Message(_))) = (&mut left, &event) {
            *left -= 1;
            if *left == 0 {
                return Ok(Exit::DONE);
            }
        }
    }
}

/// `15:00:00.123 irc type=chat.message channel=#general | hello`. All of it may come from a network.
fn shown(message: &Message) -> String {
    let headers: Vec<String> = message.document.headers.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let body = match message.text() {
        Some(text) => text.to_owned(),
        None => format!("({} that are no text)", output::bytes(message.document.body.len() as u64)),
    };
    let line = format!("{} {} {} | {body}", clock(message.timestamp), message.source, headers.join(" "));
    libeevee::escape_for_terminal(&line).into_owned()
}

fn lost(gap: &Gap) -> String {
    let count = gap.count.map_or_else(|| "messages".to_owned(), |count| format!("{count} messages"));
    format!("--- {count} lost here, ids {} to {}: {} ---", gap.first, gap.last, gap.reason)
}

/// The time of day here.
fn clock(time: Timestamp) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default();
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests {
    use libeevee::{Delivery, Document, GapReason};

    use super::*;

    #[test]
    fn a_message_is_one_harmless_line() {
        let message = Message {
            id: 7,
            source: "irc".into(),
            timestamp: Timestamp(1),
            cause: None,
            hops: 0,
            document: Document::new([("type", "chat.message")], "a\n\u{1b}[2Jb").unwrap(),
            reply_address: None,
            delivery: Delivery::default(),
        };
        let line = shown(&message);
        assert!(line.ends_with(r"irc type=chat.message | a\n\x1b[2Jb"), "{line}");
        let binary = Message { document: Document { body: vec![0xff, 0].into(), ..message.document }, ..message };
        assert!(shown(&binary).ends_with("| (2 B that are no text)"));
    }

    #[test]
    fn a_gap_says_what_is_known() {
        let gap = Gap { first: 5, last: 9, count: Some(3), reason: GapReason::QueueFull };
        assert_eq!(lost(&gap), "--- 3 messages lost here, ids 5 to 9: queue-full ---");
        assert!(lost(&Gap { count: None, ..gap }).starts_with("--- messages lost"));
    }
}
