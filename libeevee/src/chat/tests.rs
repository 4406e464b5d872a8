use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{Delivery, Timestamp};

fn message(document: Document) -> Message {
    Message {
        id: 7,
        source: "irc".into(),
        timestamp: Timestamp(0),
        cause: None,
        hops: 0,
        document: document.into(),
        reply_address: None,
        delivery: Delivery::default(),
    }
}

#[test]
fn commands() {
    let recogniser = Recogniser {
        prefix: "!".into(),
        names: vec!["Pokébot".into(), "my bot".into()],
        aliases: BTreeMap::from([("roll".to_owned(), "dice".to_owned()), ("dice".to_owned(), "dice".to_owned())]),
    };
    for (text, expected) in [
        ("!weather Berlin", Some(("weather", "Berlin"))),
        ("!dice 2d6 + 1", Some(("dice", "2d6 + 1"))),
        ("!dice", Some(("dice", ""))),
        ("!dice   ", Some(("dice", ""))),
        ("!DICE 1d6", Some(("dice", "1d6"))),
        ("!roll d6", Some(("dice", "d6"))),
        ("!größe ☃", Some(("größe", "☃"))),
        ("!hello!", Some(("hello", ""))),
        ("eevee: dice 2d6", Some(("dice", "2d6"))),
        ("eevee:dice 2d6", Some(("dice", "2d6"))),
        ("Eevee, dice 2d6", Some(("dice", "2d6"))),
        ("eevee; dice", Some(("dice", ""))),
        ("eevee dice 2d6", Some(("dice", "2d6"))),
        ("eevee: !dice 2d6", Some(("dice", "2d6"))),
        ("@eevee dice 2d6", Some(("dice", "2d6"))),
        ("pokébot: roll d6", Some(("dice", "d6"))),
        ("POKÉBOT, DICE", Some(("dice", ""))),
        ("My Bot: dice d6", Some(("dice", "d6"))),
        ("!dice\td6\nand more", Some(("dice", "d6\nand more"))),
        ("eevee:\tdice d6", Some(("dice", "d6"))),
        ("!!dice", None),
        ("eevee: !!dice", None),
        ("eevee: eevee: dice", Some(("eevee", "dice"))),
        ("@@eevee dice", None),
        ("@", None),
        ("@!dice", None),
        ("pok", None),
        ("poké", None),
        ("pokébo\u{301}t: dice", None),
        ("!!!", None),
        ("!", None),
        ("! dice", None),
        ("!?", None),
        ("", None),
        ("eevee", None),
        ("eevee:", None),
        ("eevee: !", None),
        ("eevee: :)", None),
        ("eeveebot: dice", None),
        ("say !dice", None),
        (" !dice", None),
        ("!\u{1}x", None),
        ("!a\u{2}b", None),
    ] {
        let found = recogniser.find(text, "eevee");
        let found = found.as_ref().map(|f| (f.command.as_str(), &text[f.args_at..]));
        assert_eq!(found.map(|(c, a)| (c, a.trim())), expected, "{text:?}");
    }
    let long = format!("!{}", "x".repeat(COMMAND_BYTES_MAX + 1));
    assert_eq!(recogniser.find(&long, "eevee"), None);
    assert_eq!(Recogniser::default().find("dice 2d6", ""), None, "an empty prefix never matches");
    let plus = Recogniser { prefix: "++".into(), ..Recogniser::default() };
    assert_eq!(plus.find("++dice x", "").unwrap().args_at, 7);
    assert_eq!(plus.find("+dice x", ""), None);
}

proptest! {
    #[test]
    fn arguments_always_begin_inside_the_text(text in "(!|eevee[:, ]|@eevee |i̇x |İX: |)\\PC{0,20}", prefix in "[!.]{0,2}", name in "eevee|ı|") {
        let recogniser = Recogniser { prefix, names: vec!["İx".into()], aliases: BTreeMap::new() };
        if let Some(found) = recogniser.find(&text, &name) {
            prop_assert!(text.is_char_boundary(found.args_at));
            prop_assert!(!found.command.is_empty());
            prop_assert_eq!(text[found.args_at..].trim_start(), &text[found.args_at..]);
        }
    }

    #[test]
    fn any_event_is_a_document_within_the_contract(user in any::<String>(), host in any::<String>(), long in "\\PC{0,3000}") {
        let document = Event::new(kind::MESSAGE, "irc", &user).channel(&long).user(&user).user_host(Some(&host)).document(&user);
        let pairs = document.headers.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<Vec<_>>();
        prop_assert!(Headers::try_from(pairs).is_ok());
        prop_assert_eq!(document.text(), Some(user.as_str()));
    }
}

#[test]
fn an_answer_goes_where_the_message_came_from() {
    let found = Recognised { command: "dice".into(), args_at: 6 };
    let heard = Event::new(kind::MESSAGE, "irc", "libera")
        .private("goos")
        .user("goos")
        .remote_id(Some("abc"))
        .command(Some(&found))
        .document("!dice  2d6 ");
    let heard = message(heard);
    assert_eq!(arguments(&heard), "2d6");
    let answer = reply(&heard, "goos: 7").unwrap();
    let headers = answer.headers.iter().collect::<Vec<_>>();
    assert_eq!(
        headers,
        [
            ("type", "chat.message"),
            ("direction", "out"),
            ("platform", "irc"),
            ("network", "libera"),
            ("channel", "goos"),
            ("private", "1"),
            ("in-reply-to", "abc"),
        ]
    );
    assert_eq!(answer.text(), Some("goos: 7"));

    let elsewhere = message(Document::new([("platform", "log"), ("network", "x")], "").unwrap());
    assert_eq!(reply(&elsewhere, "").unwrap_err(), NotChat { id: 7, missing: "channel" });
}

#[test]
fn an_aside_bothers_as_few_as_the_platform_allows() {
    let heard = |platform, user| {
        Event::new(kind::MESSAGE, platform, "net")
            .channel("#here")
            .user(user)
            .remote_id(Some("abc"))
            .with(key::THREAD, "t")
    };
    let all = |document: Document| {
        let answer = aside(&message(document), "x").unwrap();
        let value = |key| answer.headers.get(key).unwrap_or("-").to_owned();
        assert_eq!((value("direction"), answer.text()), ("out".into(), Some("x")));
        [key::TYPE, key::CHANNEL, key::PRIVATE, key::THREAD].map(value).join(" ")
    };
    assert_eq!(all(heard("irc", "goos").document("")), "chat.notice goos 1 t");
    // Elsewhere a display name is no address.
    assert_eq!(all(heard("matrix", "goos").document("")), "chat.notice #here - t");
    assert_eq!(all(heard("irc", "").document("")), "chat.notice #here - t");
    let private = |platform| Event::new(kind::MESSAGE, platform, "net").private("goos").user("goos").document("");
    assert_eq!(all(private("irc")), "chat.notice goos 1 -");
    assert_eq!(all(private("xmpp")), "chat.notice goos 1 -");
    let elsewhere = message(Document::new([("platform", "irc"), ("network", "x"), ("user", "goos")], "").unwrap());
    assert_eq!(aside(&elsewhere, "").unwrap_err(), NotChat { id: 7, missing: "channel" });
}

#[test]
fn a_lying_args_at_reads_as_no_arguments() {
    for at in ["99", "2", "-1", "x"] {
        let lie = message(Document::new([("args-at", at)], "!ü").unwrap());
        assert_eq!(arguments(&lie), "", "{at}");
    }
}

#[test]
fn a_header_set_again_replaces_and_a_bad_key_is_left_out() {
    let document = Event::new(kind::NICK, "irc", "l").user("a").user("b").with("Bad", "x").with("id", "x").document("");
    assert_eq!(document.headers.get("user"), Some("b"));
    assert_eq!(document.headers.len(), 5);
}
