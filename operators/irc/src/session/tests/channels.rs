//! Coming to channels and leaving them.

use super::*;

#[test]
fn comings_and_goings() {
    let mut talk = Talk::joined(config());
    talk.hear("CAP eevee ACK :extended-join");
    for (line, expected) in [
        (":x!~x@h JOIN #a acc :Real", vec!["* type=chat.join channel=#a user=x user-host=~x@h account=acc | "]),
        (":y!~y@h JOIN #a * :Real", vec!["* type=chat.join channel=#a user=y user-host=~y@h | "]),
        (":x!~x@h PART #a :bye", vec!["* type=chat.part channel=#a user=x user-host=~x@h | bye"]),
        (
            ":goos!~g@honk NICK newgoos",
            vec![
                "* type=chat.nick channel=#a user=goos user-host=~g@honk target=newgoos | newgoos",
                "* type=chat.nick channel=#b user=goos user-host=~g@honk target=newgoos | newgoos",
            ],
        ),
        (
            ":newgoos!~g@honk KICK #b other :rude",
            vec!["* type=chat.kick channel=#b user=newgoos user-host=~g@honk target=other | rude"],
        ),
        (
            ":other!~o@h QUIT :Ping timeout",
            vec!["* type=chat.quit channel=#a user=other user-host=~o@h | Ping timeout"],
        ),
        (":stranger!~o@h QUIT", vec!["* type=chat.quit user=stranger user-host=~o@h | "]),
        (":y!~y@h TOPIC #a :new topic", vec!["* type=chat.topic channel=#a user=y user-host=~y@h | new topic"]),
    ] {
        assert_eq!(talk.hear(line), expected, "{line}");
    }
}

#[test]
fn a_kick_is_answered_by_a_patient_rejoin() {
    let mut talk = Talk::joined(config());
    let kick = ":goos!~g@honk KICK #a eevee :out";
    let seen = talk.hear(kick);
    assert_eq!(seen[0], "= connected to irc.example.net as eevee, on #b (1); not on #a: kicked by goos: out");
    assert_eq!(seen[1], "* type=chat.kick channel=#a user=goos user-host=~g@honk target=eevee | out");
    assert_eq!(talk.session.reach("#a"), Reach::Never("kicked by goos: out".into()));
    assert_eq!(talk.wait(4), [""; 0]);
    assert_eq!(talk.wait(1), ["~ JOIN #a"]);
    assert_eq!(talk.session.reach("#A"), Reach::Soon);
    talk.hear(":eevee!~e@h JOIN #a");
    assert_eq!(talk.session.reach("#A"), Reach::Now);
    talk.hear(kick);
    assert_eq!(talk.wait(9), [""; 0], "each time later");
    assert_eq!(talk.wait(1), ["~ JOIN #a"]);
}

#[test]
fn a_refused_join_is_said_and_tried_again() {
    let mut talk = Talk::online(config());
    assert_eq!(
        talk.hear(":s 474 eevee #a :Cannot join channel (+b)"),
        ["= connected to irc.example.net as eevee, on no channel; not on #a: banned (474)"]
    );
    assert_eq!(
        talk.hear(":s 475 eevee #b :Cannot join channel (+k)"),
        ["= connected to irc.example.net as eevee, on no channel; not on #a: banned (474); not on #b: wrong key (475)"]
    );
    assert_eq!(
        talk.session.reach("#c"),
        Reach::Never("not on this channel, and it is not among channels in the settings".into())
    );
    let seen = talk.wait(60);
    assert!(seen.contains(&"~ JOIN #b,#a key".to_owned()), "{seen:?}");
    // A join that nobody answers.
    talk.hear("PONG x");
    let seen = talk.wait(30);
    assert!(seen.iter().any(|line| line.contains("not on #a: the server does not answer")), "{seen:?}");
}

#[test]
fn a_reload_joins_and_parts_in_place() {
    let mut talk = Talk::joined(config());
    let mut changed = config();
    changed.channels = vec![Wanted { name: "#B".into(), key: None }, Wanted { name: "#c".into(), key: None }];
    changed.recogniser.prefix = ".".into();
    talk.session.change(Arc::new(changed.clone()), talk.now);
    assert_eq!(talk.effects(), ["~ PART #a", "~ JOIN #c", "= connected to irc.example.net as eevee, on #b (1)"]);
    assert_eq!(talk.hear(":eevee!~e@h PART #a"), [""; 0]);
    assert!(talk.hear(":goos!~g@honk PRIVMSG #b :.dice")[0].contains("command=dice"));
    assert!(!talk.hear(":goos!~g@honk PRIVMSG #b :!dice")[0].contains("command=dice"));
    changed.nick = "umbreon".into();
    talk.session.change(Arc::new(changed), talk.now);
    assert_eq!(talk.effects()[0], "> NICK umbreon");
    assert_eq!(talk.hear(":eevee!~e@h NICK umbreon").len(), 1);
    assert!(talk.hear(":goos!~g@honk PRIVMSG #b :umbreon: dice")[0].contains("command=dice"));
}
