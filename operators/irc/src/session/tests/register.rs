//! Coming in: capabilities, SASL, nicks, NickServ.

use super::*;

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
