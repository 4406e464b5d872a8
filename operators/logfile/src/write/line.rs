//! A message as one line of a file. What others said cannot end the line, nor begin one.

use libeevee::chat::{key, kind};
use libeevee::{Delivery, Message, escape_for_terminal, json};

use super::template::time;
use crate::settings::Format;

/// With its end of line.
pub(crate) fn line(message: &Message, format: Format) -> Vec<u8> {
    let mut line = match format {
        // The same whenever it is delivered: by its line, it is known when it comes again.
        Format::Json => {
            let message = Message { delivery: Delivery::default(), ..message.clone() };
            json::to_line(&message).trim_end().to_owned()
        }
        Format::Text => format!("{} {}", time(message.timestamp), text(message)),
    };
    line.push('\n');
    line.into_bytes()
}

fn text(message: &Message) -> String {
    let user = shown(message.header(key::USER).unwrap_or(&message.source));
    let body = shown(&String::from_utf8_lossy(message.document.body_bytes()));
    let rest = |word: &str| match body.is_empty() {
        true => format!("* {user} {word}"),
        false => format!("* {user} {word}: {body}"),
    };
    match message.header(key::TYPE).unwrap_or_default() {
        kind::MESSAGE => format!("<{user}> {body}"),
        kind::ACTION => format!("* {user} {body}"),
        kind::NOTICE => format!("-{user}- {body}"),
        kind::JOIN => rest("has joined"),
        kind::PART => rest("has left"),
        kind::QUIT => rest("has quit"),
        kind::KICK => match message.header(key::TARGET) {
            Some(target) => format!("* {user} has kicked {}: {body}", shown(target)),
            None => rest("has kicked"),
        },
        kind::NICK => rest("is now known as"),
        kind::TOPIC => rest("has set the topic"),
        kind::REACTION => rest("has reacted"),
        kind::EDIT => rest("has changed it"),
        kind::DELETE => rest("has deleted a message"),
        "log.line" => body,
        other => format!("[{}] {body}", shown(other)),
    }
}

fn shown(text: &str) -> String {
    escape_for_terminal(text).to_string()
}

#[cfg(test)]
mod tests {
    use libeevee::{Document, Headers};

    use super::*;

    fn message(kind: &str, body: &str) -> Message {
        let headers = Headers::try_from([("type", kind), ("user", "goos")]).unwrap();
        Message {
            id: 4711,
            source: "irc".into(),
            timestamp: "2026-11-22T15:00:00.123456789Z".parse().unwrap(),
            cause: None,
            hops: 0,
            document: Document { headers, body: body.to_owned().into() }.into(),
            reply_address: None,
            delivery: Delivery::default(),
        }
    }

    #[test]
    fn one_line_each() {
        for (kind, body, expected) in [
            ("chat.message", "hello", "<goos> hello"),
            ("chat.message", "a\n2026 <root> b\x1b[2J", r"<goos> a\n2026 <root> b\x1b[2J"),
            ("chat.action", "waves", "* goos waves"),
            ("chat.join", "", "* goos has joined"),
            ("chat.quit", "bye", "* goos has quit: bye"),
            ("log.line", "disk full", "disk full"),
            ("weather", "rain", "[weather] rain"),
        ] {
            let line = String::from_utf8(line(&message(kind, body), Format::Text)).unwrap();
            assert_eq!(line, format!("2026-11-22T15:00:00.123Z {expected}\n"));
        }
        let line = String::from_utf8(line(&message("chat.message", "a\nb"), Format::Json)).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.starts_with("{\"id\":4711,"), "{line}");
    }
}
