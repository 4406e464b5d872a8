//! The environment of a program: the operator's own without what systemd gave to the operator alone, and the headers of
//! the message.
//!
//! Headers come from anybody in a chat. So every variable that is made of one begins with `EEVEE_`, which neither the
//! dynamic linker nor a shell obeys, and only those of the vocabulary have short names: any other header is
//! `EEVEE_HEADER_NAME`, so that none can pass for one of them.

use libeevee::operator::PRIVATE_ENVIRONMENT;
use libeevee::{Message, OperatorId};
use tokio::process::Command;

/// The prefix of all that is made here.
const PREFIX: &str = "EEVEE_";

/// What programs of eevee read from their environment; no header gets one of these names.
const INHERITED: [&str; 2] = ["EEVEE_BUS", "EEVEE_CONFIG"];

/// The headers of the vocabulary, of which the bus and the connectors tell what they mean.
const VOCABULARY: [&str; 19] = [
    "type",
    "direction",
    "platform",
    "network",
    "channel",
    "private",
    "user",
    "account",
    "user-host",
    "bot",
    "command",
    "args-at",
    "target",
    "in-reply-to",
    "thread",
    "remote-id",
    "replayed",
    "held-back",
    "level",
];

/// All the values together; a program that is given more cannot be started at all. The headers of one message have at
/// most 68 KiB.
const BYTES_MAX: usize = 128 << 10;

/// Gives the program what it may know of the operator.
pub(crate) fn of_operator(command: &mut Command, id: &OperatorId) {
    // It would name our standard error, and the program's is a pipe to us.
    for name in PRIVATE_ENVIRONMENT.iter().chain(&["JOURNAL_STREAM"]) {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_none_or(|name| name.starts_with(PREFIX) && !INHERITED.contains(&name));
        if ours {
            command.env_remove(&name);
        }
    }
    command.env("EEVEE_OPERATOR", id.as_str());
}

/// Gives it the headers of a message, and what the bus wrote on it.
pub(crate) fn of_message(command: &mut Command, message: &Message) {
    command.envs(variables(message));
}

fn variables(message: &Message) -> Vec<(String, String)> {
    let mut variables = vec![
        ("EEVEE_MESSAGE".to_owned(), message.id.to_string()),
        ("EEVEE_SOURCE".to_owned(), message.source.to_string()),
        ("EEVEE_TIMESTAMP".to_owned(), message.timestamp.to_string()),
        ("EEVEE_ATTEMPT".to_owned(), message.delivery.attempt.to_string()),
    ];
    let mut bytes: usize = 0;
    for (key, value) in message.document.headers() {
        let name = name(key);
        bytes += name.len() + value.len() + 2;
        // The bus lets no control character into a value; a NUL would keep the program from starting at all.
        if bytes > BYTES_MAX || value.contains('\0') || variables.iter().any(|(earlier, _)| *earlier == name) {
            continue;
        }
        variables.push((name, value.to_owned()));
    }
    variables
}

fn name(key: &str) -> String {
    let between = if VOCABULARY.contains(&key) { "" } else { "HEADER_" };
    let letters = key.bytes().map(|b| if b.is_ascii_alphanumeric() { b.to_ascii_uppercase() as char } else { '_' });
    format!("{PREFIX}{between}{}", letters.collect::<String>())
}

#[cfg(test)]
mod tests {
    use libeevee::{Delivery, Document, Headers, Timestamp};
    use proptest::prelude::*;

    use super::*;

    fn message(headers: Vec<(String, String)>) -> Message {
        Message {
            id: 4711,
            source: "irc".into(),
            timestamp: Timestamp(1_000_000_000),
            cause: None,
            hops: 0,
            document: Document { headers: Headers::try_from(headers).unwrap(), body: "x".into() }.into(),
            reply_address: None,
            delivery: Delivery::default(),
        }
    }

    fn of(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        variables(&message(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()))
    }

    #[test]
    fn the_vocabulary_has_short_names_and_nothing_else() {
        let got = of(&[
            ("channel", "#a b"),
            ("user-host", "g@h"),
            ("held-back", "limit"),
            ("path", "/evil"),
            ("message", "1"),
            ("bus", "/x"),
            ("ld_preload", "y"),
        ]);
        let value = |name: &str| got.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!(value("EEVEE_CHANNEL"), Some("#a b"));
        assert_eq!((value("EEVEE_USER_HOST"), value("EEVEE_HELD_BACK")), (Some("g@h"), Some("limit")));
        assert_eq!(value("EEVEE_HEADER_PATH"), Some("/evil"));
        assert_eq!(value("EEVEE_HEADER_LD_PRELOAD"), Some("y"));
        assert_eq!((value("EEVEE_MESSAGE"), value("EEVEE_HEADER_MESSAGE")), (Some("4711"), Some("1")));
        assert_eq!((value("EEVEE_BUS"), value("EEVEE_HEADER_BUS")), (None, Some("/x")));
        assert_eq!(value("EEVEE_TIMESTAMP"), Some("1970-01-01T00:00:01.000000000Z"));
    }

    #[test]
    fn the_first_of_two_that_read_alike_wins() {
        let got = of(&[("a-b", "1"), ("a.b", "2"), ("user", "goos"), ("header.user", "evil")]);
        assert_eq!(got.iter().filter(|(name, _)| name == "EEVEE_HEADER_A_B").count(), 1);
        assert!(got.contains(&("EEVEE_HEADER_A_B".into(), "1".into())));
        assert!(got.contains(&("EEVEE_USER".into(), "goos".into())));
    }

    proptest! {
        #[test]
        fn no_header_becomes_anything_that_is_obeyed(
            headers in proptest::collection::btree_map("[a-z0-9][a-z0-9._-]{0,63}", "\\PC{0,40}", 0..64)
        ) {
            let headers: Vec<_> = headers
                .into_iter()
                .filter(|(key, value)| !libeevee::header::ENVELOPE_KEYS.contains(&key.as_str()) && !value.contains(char::is_control))
                .collect();
            for (name, value) in variables(&message(headers)) {
                prop_assert!(name.starts_with("EEVEE_") && !value.contains('\0'));
                prop_assert!(name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'));
                prop_assert!(!PRIVATE_ENVIRONMENT.contains(&name.as_str()) && !INHERITED.contains(&name.as_str()));
                prop_assert!(name != "EEVEE_LOG" && name != "EEVEE_OPERATOR");
            }
        }
    }
}
