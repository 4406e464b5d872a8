//! The life of a connection, and what it may make us remember.

use super::*;

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
