//! What is said, and which of it are commands.

use super::*;

#[test]
fn what_people_say() {
    let mut talk = Talk::joined(config());
    for (line, expected) in [
        (
            ":goos!~g@honk PRIVMSG #a :!dice 2d6+1",
            "* type=chat.message channel=#a user=goos user-host=~g@honk command=dice args-at=6 | !dice 2d6+1",
        ),
        (
            ":goos!~g@honk PRIVMSG #a :Eevee: weather Berlin",
            "* type=chat.message channel=#a user=goos user-host=~g@honk command=weather args-at=15 | Eevee: weather Berlin",
        ),
        (
            "@account=goos;msgid=m1;bot :goos!~g@honk PRIVMSG eevee :\x02hi\x02 there",
            "* type=chat.message channel=goos private=1 user=goos account=goos user-host=~g@honk bot=1 remote-id=m1 | \x02hi\x02 there",
        ),
        (
            ":goos!~g@honk PRIVMSG #a :\x01ACTION waves\x01",
            "* type=chat.action channel=#a user=goos user-host=~g@honk | waves",
        ),
        (":goos!~g@honk NOTICE #a :!dice", "* type=chat.notice channel=#a user=goos user-host=~g@honk | !dice"),
        (
            ":goos!~g@honk PRIVMSG @#a :for operators",
            "* type=chat.message channel=#a user=goos user-host=~g@honk | for operators",
        ),
    ] {
        assert_eq!(talk.hear(line), [expected]);
    }
    for unheard in [
        ":irc.example.net NOTICE eevee :*** hello",
        ":localhost NOTICE eevee :*** hello",
        ":goos!~g@honk PRIVMSG $* :to all",
        ":goos!~g@honk PRIVMSG other :not for us",
        ":goos!~g@honk NOTICE eevee :\x01VERSION x\x01",
        ":goos!~g@honk PRIVMSG eevee :\x01DCC SEND x 1 2 3\x01",
        ":goos!~g@honk INVITE eevee :#c",
        "PRIVMSG #a :from nowhere",
    ] {
        assert_eq!(talk.hear(unheard), [""; 0], "{unheard}");
    }
}

#[test]
fn what_the_server_says_of_our_own_lines() {
    let mut talk = Talk::joined(config());
    assert!(!talk.session.echoes());
    for (line, expected) in [
        (":eevee!~e@h PRIVMSG #a :!dice", Some("< PRIVMSG #a :!dice")),
        (":EEVEE!~e@h PRIVMSG goos :echo", Some("< PRIVMSG goos :echo")),
        (":eevee!~e@h PRIVMSG #a :\x01ACTION waves\x01", Some("< PRIVMSG #a :\x01ACTION waves\x01")),
        (":eevee!~e@h NOTICE #a :beep", Some("< NOTICE #a :beep")),
        (":s PONG s :eevee-7", Some("? 7")),
        (":s PONG eevee-8", Some("? 8")),
        (":s PONG s :eevee", None),
        (":s PONG s :eevee-", None),
        (":s PONG s :eevee--1", None),
        (":s BATCH +x chathistory #a", None),
        ("@batch=x :eevee!~e@h PRIVMSG #a :said yesterday", None),
    ] {
        assert_eq!(talk.hear(line), expected.map_or(vec![], |expected| vec![expected.to_owned()]), "{line}");
    }
    assert_eq!(confirmation(9).as_str(), "PING :eevee-9");
    talk.hear("CAP eevee NEW :echo-message");
    talk.hear("CAP eevee ACK :echo-message");
    assert!(talk.session.echoes());
}

#[test]
fn ctcp_is_answered_but_only_so_often() {
    let mut talk = Talk::joined(config());
    let version = concat!("~ NOTICE goos :\x01VERSION eevee irc ", env!("CARGO_PKG_VERSION"), "\x01");
    assert_eq!(talk.hear(":goos!~g@honk PRIVMSG eevee :\x01VERSION\x01"), [version]);
    assert_eq!(talk.hear(":goos!~g@honk PRIVMSG eevee :\x01PING 123 456\x01"), ["~ NOTICE goos :\x01PING 123 456\x01"]);
    assert_eq!(talk.hear(":goos!~g@honk PRIVMSG #a :\x01version").len(), 1);
    assert_eq!(talk.hear(":goos!~g@honk PRIVMSG eevee :\x01VERSION\x01"), [""; 0], "the fourth within seconds");
    talk.now += Duration::from_secs(10);
    assert_eq!(talk.hear(":goos!~g@honk PRIVMSG eevee :\x01VERSION\x01").len(), 1);
}

#[test]
fn too_many_commands_are_no_commands_and_are_told_once() {
    let mut talk = Talk::joined(config());
    let said = |nick: &str, target: &str| format!(":{nick}!~g@honk PRIVMSG {target} :!dice");
    for _ in 0..10 {
        assert!(talk.hear(&said("goos", "#a"))[0].contains("command=dice args-at=5"));
    }
    assert_eq!(
        talk.hear(&said("goos", "#a")),
        [
            "~ NOTICE goos :not so fast, please: I take your next command in 2 s",
            "* type=chat.message channel=#a user=goos user-host=~g@honk held-back=limit | !dice"
        ]
    );
    // Another nick is no other person, and neither is another name before the @; what is no command is not counted.
    assert_eq!(talk.hear(&said("goos2", "#A")).len(), 1);
    assert!(talk.hear(":goos3!~other@honk PRIVMSG #a :!dice")[0].contains("held-back=limit"));
    assert!(!talk.hear(":goos!~g@honk PRIVMSG #a :hello")[0].contains("held-back"));
    assert!(talk.hear(&said("goos", "#b"))[0].contains("command=dice"), "another channel");
    assert!(talk.hear(&said("goos", "eevee"))[0].contains("command=dice"), "in private");
    assert!(talk.hear(":x!~g@elsewhere PRIVMSG #a :!dice")[0].contains("command=dice"), "somebody else");
    talk.now += Duration::from_secs(2);
    assert!(talk.hear(&said("goos", "#a"))[0].contains("command=dice"));
    assert!(talk.hear(&said("goos", "#a"))[0].contains("held-back=limit"));
    // A reload: at once, and for everybody.
    talk.session
        .change(Arc::new(Config { rate: Rate { burst: 1, every: Duration::from_secs(1) }, ..config() }), talk.now);
    talk.effects();
    talk.now += Duration::from_secs(1);
    assert!(talk.hear(&said("goos", "#a"))[0].contains("command=dice"));
    assert!(talk.hear(&said("goos", "#a"))[0].contains("held-back=limit"));
}

#[test]
fn a_crowd_that_floods_is_not_answered_by_a_flood() {
    let rate = Rate { burst: 1, every: Duration::from_secs(60) };
    let mut talk = Talk::joined(Config { rate, ..config() });
    let mut told = 0;
    for person in 0..100 {
        for _ in 0..2 {
            let lines = talk.hear(&format!(":n{person}!~g@host{person} PRIVMSG #a :!dice"));
            told += lines.iter().filter(|line| line.starts_with("~ NOTICE")).count();
        }
    }
    assert_eq!(told, 5);
}

#[test]
fn whoever_is_ignored_gives_no_commands() {
    let ignore = IgnoreList::parse(["*!*@*.spam.example", "noisy"]).unwrap();
    let mut talk = Talk::joined(Config { ignore, ..config() });
    for (line, expected) in [
        (":x!~g@mx.spam.example PRIVMSG #a :!dice", "held-back=ignored | !dice"),
        ("@account=Noisy :x!~g@honk PRIVMSG #a :eevee: dice", "held-back=ignored | eevee: dice"),
        (":noisy!~g@honk PRIVMSG #a :hello", "user-host=~g@honk | hello"),
        (":goos!~g@honk PRIVMSG #a :!dice", "command=dice args-at=5 | !dice"),
    ] {
        let heard = talk.hear(line);
        assert!(heard.len() == 1 && heard[0].ends_with(expected), "{heard:?}");
    }
    talk.session.change(Arc::new(config()), talk.now);
    talk.effects();
    assert!(talk.hear(":x!~g@mx.spam.example PRIVMSG #a :!dice")[0].contains("command=dice"));
}

#[test]
fn names_and_aliases() {
    let mut config = config();
    config.recogniser.names = vec!["bot".into()];
    config.recogniser.aliases = [("roll".to_owned(), "dice".to_owned())].into();
    let mut talk = Talk::joined(config);
    for text in ["!roll d6", "bot: roll d6", "@Bot, !dice d6", "EEVEE: Roll d6"] {
        assert!(talk.hear(&format!(":goos!~g@honk PRIVMSG #a :{text}"))[0].contains("command=dice"), "{text}");
    }
    assert!(!talk.hear(":goos!~g@honk PRIVMSG #a :bottle: dice")[0].contains("command"));
}

#[test]
fn history_that_is_played_back_carries_no_command() {
    let mut talk = Talk::joined(config());
    assert_eq!(talk.hear("BATCH +x chathistory #a"), [""; 0]);
    assert_eq!(
        talk.hear("@batch=x :goos!~g@honk PRIVMSG #a :!dice"),
        ["* type=chat.message channel=#a user=goos user-host=~g@honk replayed=1 | !dice"]
    );
    talk.hear("BATCH -x");
    assert!(talk.hear("@batch=x :goos!~g@honk PRIVMSG #a :!dice")[0].contains("command=dice"));
    talk.hear("BATCH +n netjoin");
    assert!(talk.hear("@batch=n :goos!~g@honk PRIVMSG #a :!dice")[0].contains("command=dice"));
}
