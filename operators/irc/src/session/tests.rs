//! Conversations as tables: what the server says, and what comes of it.

use libeevee::chat::{IgnoreList, Rate, Recogniser, key};
use proptest::prelude::*;

use super::*;
use crate::config::{Nickserv, Password, Sasl, Wanted};

fn config() -> Config {
    Config {
        host: "irc.example.net".into(),
        network: "test".into(),
        nick: "eevee".into(),
        user: "eevee".into(),
        realname: "A Bot".into(),
        channels: vec![
            Wanted { name: "#a".into(), key: None },
            Wanted { name: "#b".into(), key: Some(Password("key".into())) },
        ],
        recogniser: Recogniser { prefix: "!".into(), ..Recogniser::default() },
        rate: Rate::default(),
        ignore: IgnoreList::default(),
        sasl: None,
        server_password: None,
        nickserv: None,
    }
}

struct Talk {
    session: Session,
    now: Instant,
}

impl Talk {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        Self { session: Session::new(Arc::new(config), now), now }
    }

    fn online(config: Config) -> Self {
        let mut talk = Self::new(config);
        talk.hear("CAP * LS :");
        talk.hear(":s 001 eevee :Welcome");
        talk.hear(":s 005 eevee CASEMAPPING=rfc1459 CHANTYPES=# STATUSMSG=@+ PREFIX=(ov)@+ :are supported");
        talk.hear(":s 376 eevee :End of MOTD");
        talk
    }

    fn joined(config: Config) -> Self {
        let mut talk = Self::online(config);
        for channel in ["#a", "#b"] {
            talk.hear(&format!(":eevee!~eevee@our.host JOIN {channel}"));
            talk.hear(&format!(":s 353 eevee = {channel} :eevee @goos +other"));
        }
        talk
    }

    fn hear(&mut self, line: &str) -> Vec<String> {
        self.session.on_line(&line.parse().unwrap(), self.now);
        self.effects()
    }

    fn wait(&mut self, seconds: u64) -> Vec<String> {
        self.now += Duration::from_secs(seconds);
        self.session.on_time(self.now);
        self.effects()
    }

    fn effects(&mut self) -> Vec<String> {
        self.session.effects().into_iter().map(|effect| self.print(effect)).collect()
    }

    fn print(&self, effect: Effect) -> String {
        match effect {
            Effect::Send(line) => format!("> {}", line.as_str()),
            Effect::Pace(line) => format!("~ {}", line.as_str()),
            Effect::Status => format!("= {}", self.session.status()),
            Effect::Confirmed(token) => format!("? {token}"),
            Effect::Echo(line) => format!("< {}", line.as_str()),
            Effect::Close { why, least } => format!("x {} {why}", least.as_secs()),
            Effect::Publish(document) => {
                let shown =
                    document.headers.iter().filter(|(k, _)| !matches!(*k, "direction" | "platform" | "network"));
                let headers: Vec<String> = shown.map(|(k, v)| format!("{k}={v}")).collect();
                format!("* {} | {}", headers.join(" "), document.text().unwrap())
            }
        }
    }
}

#[test]
fn a_registration_without_and_with_capabilities() {
    let mut talk = Talk::new(Config { server_password: Some(Password("pw".into())), ..config() });
    assert_eq!(
        talk.effects(),
        [
            "> CAP LS 302",
            "> PASS :pw",
            "> NICK eevee",
            "> USER eevee 0 * :A Bot",
            "= registering with irc.example.net as eevee"
        ]
    );
    assert_eq!(talk.hear("CAP * LS * :multi-prefix sasl=PLAIN,EXTERNAL draft/x"), [""; 0]);
    assert_eq!(
        talk.hear("CAP * LS :server-time echo-message message-tags"),
        ["> CAP REQ :echo-message message-tags multi-prefix server-time"]
    );
    assert_eq!(talk.hear("CAP * ACK :echo-message message-tags multi-prefix server-time"), ["> CAP END"]);
    assert_eq!(talk.hear(":s 001 eevee :Welcome"), ["= connected to irc.example.net as eevee, on no channel"]);
    assert_eq!(talk.hear(":s 376 eevee :End"), ["~ JOIN #b,#a key"]);
    talk.hear(":eevee!~e@h JOIN #a");
    assert_eq!(talk.hear(":eevee!~e@h JOIN :#b"), ["= connected to irc.example.net as eevee, on #a, #b (2)"]);
    assert_eq!(talk.hear("PING :token"), ["> PONG :token"]);
    assert_eq!(talk.hear("CAP eevee NEW :account-tag"), ["> CAP REQ :account-tag"]);
    assert_eq!(talk.hear("CAP eevee ACK :account-tag"), [""; 0]);
}

#[test]
fn servers_that_do_not_know_or_refuse_capabilities() {
    let mut talk = Talk::new(config());
    talk.effects();
    assert_eq!(talk.hear(":s 421 * CAP :Unknown command"), [""; 0]);
    assert_eq!(talk.hear(":s 001 eevee :Welcome").len(), 1);
    assert_eq!(talk.wait(10), ["~ JOIN #b,#a key"], "no end of the message of the day is needed");

    let mut talk = Talk::new(config());
    talk.effects();
    talk.hear("CAP * LS :batch chghost");
    assert_eq!(talk.hear("CAP * NAK :batch chghost"), ["> CAP REQ :batch", "> CAP REQ :chghost"]);
    assert_eq!(talk.hear("CAP * NAK :batch"), [""; 0]);
    assert_eq!(talk.hear("CAP * ACK :chghost"), ["> CAP END"]);
}

#[test]
fn sasl_plain() {
    let sasl = Sasl::Plain { account: "acc".into(), password: Password("hunter2".into()) };
    let mut talk = Talk::new(Config { sasl: Some(sasl.clone()), ..config() });
    talk.effects();
    assert_eq!(talk.hear("CAP * LS :sasl=PLAIN"), ["> CAP REQ :sasl"]);
    assert_eq!(talk.hear("CAP * ACK :sasl"), ["> AUTHENTICATE PLAIN"]);
    assert_eq!(talk.hear("AUTHENTICATE +"), ["> AUTHENTICATE YWNjAGFjYwBodW50ZXIy"]);
    assert_eq!(talk.hear(":s 903 * :SASL authentication successful"), ["> CAP END"]);

    for (lines, expected) in [
        (vec!["CAP * LS :batch"], "x 30 SASL is configured, but the server does not offer it"),
        (vec!["CAP * LS :sasl=SCRAM-SHA-256"], "x 30 the server does not offer SASL PLAIN, only SCRAM-SHA-256"),
        (vec!["CAP * LS :sasl", "CAP * NAK :sasl"], "x 30 the server offers SASL, but refuses to do it"),
        (
            vec!["CAP * LS :sasl", "CAP * ACK :sasl", ":s 904 * :SASL authentication failed"],
            "x 30 SASL failed: SASL authentication failed (904)",
        ),
        (
            vec![":s 421 * CAP :Unknown command", ":s 001 eevee :Welcome"],
            "x 30 SASL is configured, but the server welcomed us without it",
        ),
    ] {
        let mut talk = Talk::new(Config { sasl: Some(sasl.clone()), ..config() });
        let said = lines.iter().map(|line| talk.hear(line)).last().unwrap();
        assert_eq!(said.last().unwrap(), expected);
    }
}

#[test]
fn a_long_sasl_answer_goes_in_pieces_of_400() {
    // 300 bytes are 400 in base64, exactly one piece, which an empty one has to follow.
    for (password, pieces) in [("p".repeat(300 - 8), vec![400, 1]), ("p".repeat(400 - 8), vec![400, 136])] {
        let sasl = Sasl::Plain { account: "abc".into(), password: Password(password) };
        let mut talk = Talk::new(Config { sasl: Some(sasl), ..config() });
        talk.effects();
        talk.hear("CAP * LS :sasl");
        talk.hear("CAP * ACK :sasl");
        let said = talk.hear("AUTHENTICATE +");
        let lengths: Vec<usize> = said.iter().map(|l| l.trim_start_matches("> AUTHENTICATE ").len()).collect();
        assert_eq!(lengths, pieces);
    }
    let mut talk = Talk::new(Config { sasl: Some(Sasl::External { account: None }), ..config() });
    talk.effects();
    talk.hear("CAP * LS :sasl=EXTERNAL");
    assert_eq!(talk.hear("CAP * ACK :sasl"), ["> AUTHENTICATE EXTERNAL"]);
    assert_eq!(talk.hear("AUTHENTICATE +"), ["> AUTHENTICATE +"]);
}

#[test]
fn a_nick_in_use_is_replaced_and_won_back() {
    let mut talk = Talk::new(config());
    talk.effects();
    let taken = ":s 433 * eevee :Nickname is already in use";
    assert_eq!(talk.hear(taken)[0], "> NICK eevee_");
    assert_eq!(talk.hear(taken)[0], "> NICK eevee__");
    talk.hear(":s 001 eevee__ :Welcome");
    assert_eq!(talk.session.status(), "connected to irc.example.net as eevee__ (eevee is taken), on no channel");
    assert!(talk.wait(59).iter().all(|line| !line.contains("NICK")));
    assert!(talk.wait(1).contains(&"> NICK eevee".to_owned()));
    assert_eq!(talk.hear(":s 433 eevee__ eevee :Nickname is already in use"), [""; 0]);
    talk.hear(":eevee__!~e@h JOIN #a");
    talk.hear(":s 353 eevee__ = #a :eevee__ eevee");
    let seen = talk.hear(":eevee!~x@y QUIT :gone");
    assert_eq!(seen[1..], ["> NICK eevee"], "tried as soon as it is free");
    let seen = talk.hear(":eevee__!~e@h NICK eevee");
    assert_eq!(seen, ["= connected to irc.example.net as eevee, on #a (1)"], "our own change is not published");

    let mut talk = Talk::new(config());
    for _ in 0..10 {
        assert!(!talk.hear(taken).iter().any(|line| line.starts_with('x')));
    }
    assert!(talk.hear(taken)[0].starts_with("x 0 the nick eevee is taken"));
    let mut talk = Talk::new(config());
    talk.effects();
    assert_eq!(
        talk.hear(":s 432 * eevee :Erroneous nickname"),
        ["x 30 the server refuses the nick eevee: Erroneous nickname"]
    );
}

#[test]
fn a_server_may_cut_the_nick() {
    let mut talk = Talk::new(Config { nick: "eeveeeeeeeee".into(), ..config() });
    talk.hear(":s 001 eeveeeeee :Welcome");
    talk.hear(":s 005 eeveeeeee NICKLEN=9 :are supported");
    assert!(talk.session.status().starts_with("connected to irc.example.net as eeveeeeee, on"));
    assert!(talk.wait(61).iter().all(|line| !line.contains("NICK")));
}

#[test]
fn nickserv_learns_the_password_and_nobody_else() {
    let nickserv = Nickserv { account: "acc".into(), password: Password("hunter2".into()) };
    let mut talk = Talk::new(Config { nickserv: Some(nickserv), ..config() });
    talk.effects();
    assert_eq!(talk.hear(":s 001 eevee :Welcome")[0], "> PRIVMSG NickServ :IDENTIFY acc hunter2");
    let mut talk = Talk::new(config());
    let changed =
        Config { nickserv: Some(Nickserv { account: "acc".into(), password: Password("hunter2".into()) }), ..config() };
    talk.hear(":s 001 eevee :Welcome");
    talk.session.change(Arc::new(changed), talk.now);
    let lines = talk.session.effects();
    assert!(!format!("{lines:?}").contains("hunter2"), "{lines:?}");
}

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

#[test]
fn a_quiet_server_is_asked_and_then_left() {
    let mut talk = Talk::joined(config());
    assert_eq!(talk.session.deadline(), Some(talk.now + Duration::from_secs(60)));
    assert_eq!(talk.wait(60), ["> PING :eevee"]);
    assert_eq!(talk.hear(":s PONG s :eevee"), [""; 0]);
    assert_eq!(talk.wait(60), ["> PING :eevee"]);
    assert_eq!(talk.wait(60), ["x 0 ping timeout: nothing heard for 120 s"]);
    let mut talk = Talk::new(config());
    talk.effects();
    talk.hear("PING :x");
    talk.now += Duration::from_secs(50);
    talk.hear("PING :x");
    assert_eq!(talk.wait(10), ["x 0 the server did not finish the registration in 60 s"]);
}

#[test]
fn a_server_that_throws_us_out() {
    for (line, expected) in [
        ("ERROR :Closing Link: bye\x03", "x 0 the server closed the connection: Closing Link: bye"),
        (
            "ERROR :Trying to reconnect too fast (throttled)",
            "x 30 the server closed the connection: Trying to reconnect too fast (throttled)",
        ),
        (":s 464 * :Password incorrect", "x 30 the server refuses the password: Password incorrect"),
        (":s 465 * :You are banned", "x 120 the server has banned us: You are banned"),
    ] {
        let mut talk = Talk::new(config());
        talk.effects();
        assert_eq!(talk.hear(line), [expected]);
    }
}

/// Most connections end by an ERROR of the server; one that was good for long is followed by a quick attempt.
#[test]
fn a_good_connection_stays_one_however_it_ends() {
    let mut talk = Talk::online(config());
    assert!(talk.hear("ERROR :restarting")[0].starts_with("x "));
    assert!(!talk.session.has_proved_good(talk.now));
    for end in ["ERROR :restarting", ""] {
        let mut talk = Talk::online(config());
        talk.wait(40);
        talk.hear("PING :x");
        match end {
            "" => assert!(talk.wait(60).is_empty() || talk.wait(60)[0].starts_with("x ")),
            error => assert!(talk.hear(error)[0].starts_with("x ")),
        }
        assert!(talk.session.has_proved_good(talk.now), "{end:?}");
    }
    let mut never = Talk::new(config());
    never.wait(70);
    assert!(!never.session.has_proved_good(never.now));
}

#[test]
fn after_the_goodbye_nothing_is_due() {
    let mut talk = Talk::joined(config());
    talk.hear(":op!o@h KICK #a eevee :out");
    talk.session.quit("stopping");
    talk.wait(600);
    assert_eq!(talk.session.deadline(), None);
}

/// Whatever a server says that there is, we remember only so much of it.
#[test]
fn what_a_server_can_make_us_remember_is_bounded() {
    let mut talk = Talk::joined(config());
    for number in 0..2_000 {
        talk.hear(&format!("CAP eevee NEW :x{number}=y z{number}"));
        talk.hear(&format!("CAP eevee ACK :x{number}"));
        talk.hear(&format!(":eevee!~e@h JOIN #forced{number}"));
        talk.hear(&format!(":s 353 eevee = #forced{number} :{}", "x".repeat(400)));
    }
    assert!(talk.session.registration.remembered() < 20);
    assert_eq!(talk.session.channels.list.len(), 2 + 50);
    talk.hear(&format!(":s 353 eevee = #a :{}", "x".repeat(400)));
    talk.hear(&format!(":goos!~g@h NICK {}", "y".repeat(400)));
    assert_eq!(talk.session.channels.list["#a"].members.len(), 2, "no nick has 400 bytes");
    for number in 0..21_000 {
        let nicks: Vec<String> = (0..10).map(|at| format!("n{number}-{at}")).collect();
        talk.hear(&format!(":s 353 eevee = {} :{}", ["#a", "#b"][number % 2], nicks.join(" ")));
    }
    let members: usize = talk.session.channels.list.values().map(|channel| channel.members.len()).sum();
    assert_eq!(members, 200_000);
    // A channel of the settings is joined all the same.
    talk.hear(":op!o@h KICK #a eevee :out");
    assert!(talk.hear(":eevee!~e@h JOIN #a").iter().any(|effect| effect.contains("#a")));
}

#[test]
fn our_own_mask_is_learnt() {
    let mut talk = Talk::online(config());
    let unknown = talk.session.mask_bytes();
    talk.hear(":eevee!~eevee@our.host JOIN #a");
    assert_eq!(talk.session.mask_bytes(), "eevee!~eevee@our.host".len() + 3);
    assert!(unknown > 64);
    talk.hear(":s 396 eevee cloak.example :is now your hidden host");
    assert_eq!(talk.session.mask_bytes(), "eevee!~eevee@cloak.example".len() + 3);
    talk.hear(":eevee!~eevee@cloak.example CHGHOST u longer.cloak.example");
    assert_eq!(talk.session.mask_bytes(), "eevee!u@longer.cloak.example".len() + 3);
}

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
