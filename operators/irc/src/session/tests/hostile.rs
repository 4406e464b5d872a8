//! Whatever a server says.

use super::*;

proptest! {
    /// Whatever a server says, we do not panic, never send two lines in one, and never publish what breaks the contract.
    #[test]
    fn hostile_servers(lines in prop::collection::vec(hostile_line(), 1..40)) {
        let mut talk = Talk::joined(config());
        for line in lines {
            let Ok(message) = line.parse::<Message>() else { continue };
            talk.session.on_line(&message, talk.now);
            talk.now += Duration::from_secs(7);
            talk.session.on_time(talk.now);
            for effect in talk.session.effects() {
                match effect {
                    Effect::Send(line) | Effect::Pace(line) => {
                        prop_assert!(!line.as_str().contains(['\r', '\n', '\0']));
                        prop_assert!(line.as_str().len() <= 510);
                    }
                    Effect::Publish(document) => {
                        let pairs: Vec<_> = document.headers.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                        prop_assert!(libeevee::Headers::try_from(pairs).is_ok());
                        prop_assert_eq!(document.headers.get(key::DIRECTION), Some("in"));
                    }
                    Effect::Status | Effect::Close { .. } | Effect::Confirmed(_) | Effect::Echo(_) => {}
                }
            }
            prop_assert!(!talk.session.status().contains(char::is_control));
        }
    }
}

proptest! {
    /// The parser is somebody else's, and a panic in it would be ours.
    #[test]
    fn the_parser_does_not_panic(
        command in "[A-Z]{3,12}|[0-9]{1,5}|MODE|METADATA|NICKSERV|MONITOR|BATCH|CAP|ISON|AUTHENTICATE",
        words in prop::collection::vec("[ -~]{0,6}|#a|\\+[a-zA-Z]{1,4}|-[a-zA-Z]{1,4}|\\PC{0,3}", 0..18),
        text in prop::option::of(any::<String>()),
        tags in prop::option::of("[ -~]{0,20}"),
        anything in any::<String>(),
    ) {
        let mut line = tags.map(|tags| format!("@{tags} ")).unwrap_or_default() + &command;
        for word in &words {
            line.push(' ');
            line.push_str(word);
        }
        if let Some(text) = text {
            line.push_str(" :");
            line.push_str(&text);
        }
        let _ = line.parse::<Message>();
        let _ = anything.parse::<Message>();
    }
}

fn hostile_line() -> impl Strategy<Value = String> {
    let command = prop::sample::select(vec![
        "PRIVMSG",
        "NOTICE",
        "JOIN",
        "PART",
        "KICK",
        "QUIT",
        "NICK",
        "TOPIC",
        "MODE",
        "CAP",
        "BATCH",
        "CHGHOST",
        "001",
        "005",
        "353",
        "376",
        "396",
        "401",
        "404",
        "432",
        "433",
        "437",
        "470",
        "474",
        "903",
        "AUTHENTICATE",
        "PING",
        "ACCOUNT",
        "INVITE",
    ]);
    let word = prop_oneof![
        Just("eevee".to_owned()),
        Just("#a".to_owned()),
        Just("goos".to_owned()),
        Just("*".to_owned()),
        Just("+x".to_owned()),
        Just("LS".to_owned()),
        Just("NICKLEN=0".to_owned()),
        Just("NICKLEN=1".to_owned()),
        Just("CHANTYPES=".to_owned()),
        Just("\u{1}ACTION".to_owned()),
        "\\PC{0,8}",
        "[\\x00-\\x1f]{1,3}",
    ];
    let source = prop::sample::select(vec![
        "",
        ":eevee!~e@h ",
        ":goos!~g@h ",
        ":s ",
        ":é\u{2}!\u{1}@\u{7f} ",
        "@account=\u{7};msgid=\u{1}x :goos!g@h ",
    ]);
    (source, command, prop::collection::vec(word, 0..6), "[^\r\n]{0,30}")
        .prop_map(|(source, command, words, text)| format!("{source}{command} {} :{text}", words.join(" ")))
}
