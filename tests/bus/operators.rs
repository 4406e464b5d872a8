//! Operators: one holder for an id, permissions, halt, reload, claims, status.

use std::time::Duration;

use libeevee::wire::Verdict;
use libeevee::{Client, Code, Connect, Notice};

use crate::bus::{Bus, SOON, document, message};

#[tokio::test]
async fn a_second_holder_is_refused_and_the_holder_named() {
    let bus = Bus::start();
    let _irc = bus.operator("irc").await;
    let second = Connect::operator("irc".parse().unwrap(), "").socket(bus.socket());
    let error = tokio::time::timeout(Duration::from_secs(30), Client::connect(second)).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(Code::AlreadyConnected), "{error}");
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
}

#[tokio::test]
async fn permissions_come_from_the_module_file() {
    let rules = "[bus]\nmay-publish = [\"direction=in,platform=irc\"]\nmay-receive = [\"direction=out\"]\n";
    let bus = Bus::with(&[("modules.d/irc.toml", rules)]);
    let (irc, dice) = (bus.operator("irc").await, bus.operator("dice").await);
    let error = irc.publish_confirmed(document(&[("direction", "out")], "")).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Denied));
    assert!(error.to_string().contains("direction=in,platform=irc"), "{error}");
    let mut got = irc.subscribe("*").await.unwrap();
    dice.publish_confirmed(document(&[("direction", "in")], "no")).await.unwrap();
    dice.publish_confirmed(document(&[("direction", "out")], "yes")).await.unwrap();
    assert_eq!(message(&mut got).await.text(), Some("yes"));
    let control = dice.publish_confirmed(document(&[("type", "control.start")], "")).await.unwrap_err();
    assert_eq!(control.code(), Some(Code::Denied), "{control}");
}

#[tokio::test]
async fn a_bad_module_file_stops_its_operator_alone() {
    let bus = Bus::with(&[("modules.d/bad.toml", "kind = \"dice\"\n[bus]\nmay-publich = []\n")]);
    let bad = Connect::operator("bad".parse().unwrap(), "").socket(bus.socket());
    let error = Client::connect(bad).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Refused), "{error}");
    for part in ["bad.toml:3:1", "may-publich", "may-publish"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let status = bus.status(&bus.tool().await, "bad").await;
    assert_eq!(status["connected"], false);
    assert!(status["file_error"].as_str().unwrap().contains("bad.toml:3:1"), "{status}");
}

#[tokio::test]
async fn halt_holds_and_outlives_the_session_and_the_bus() {
    let mut bus = Bus::start();
    let (irc, dice, tool) = (bus.operator("irc").await, bus.operator("dice").await, bus.tool().await);
    let mut got = dice.subscribe("type=x").await.unwrap();
    let mut notices = dice.notices();
    tool.control("halt", "dice", "").await.unwrap();
    loop {
        match tokio::time::timeout(SOON, notices.next()).await.unwrap().unwrap() {
            Notice::Halted(on) => break assert!(on),
            _ => continue,
        }
    }
    irc.publish_confirmed(document(&[("type", "x")], "held")).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), got.next()).await.is_err(), "nothing while halted");
    assert_eq!(bus.status(&tool, "dice").await["queue_messages"], 1);
    tool.control("resume", "dice", "").await.unwrap();
    let held = message(&mut got).await;
    assert_eq!(held.text(), Some("held"));
    assert!(held.delivery.waited >= Duration::from_millis(200), "{:?}", held.delivery);
    tool.control("halt", "dice", "").await.unwrap();
    dice.close().await.unwrap();
    bus.restart(nix::sys::signal::Signal::SIGKILL);
    let dice = bus.operator("dice").await;
    assert!(dice.welcome().halted);
    let tool = bus.tool().await;
    let unknown = tool.control("halt", "nobody", "").await.unwrap_err();
    assert_eq!(unknown.code(), Some(Code::NotFound), "{unknown}");
}

#[tokio::test]
async fn a_reload_asks_the_operator_and_commits_or_refuses_whole() {
    let bus = Bus::with(&[("modules.d/irc.toml", "[settings]\nnick = \"a\"\n")]);
    let (irc, tool) = (bus.operator("irc").await, bus.tool().await);
    let mut notices = irc.notices();
    for (accepted, text) in [(false, "irc.toml:4:1: no such nick"), (true, "nick changes")] {
        bus.write("modules.d/irc.toml", "[bus]\nmay-publish = []\n[settings]\nnick = \"b\"\n");
        let (outcome, ()) = tokio::join!(tool.control("reload", "irc", ""), async {
            let number = loop {
                if let Notice::Reload { number, module } =
                    tokio::time::timeout(SOON, notices.next()).await.unwrap().unwrap()
                {
                    assert!(module.text.contains("nick = \"b\""));
                    break number;
                }
            };
            irc.verdict(number, Verdict { accepted, text: text.into() }).unwrap();
        });
        let published = irc.publish_confirmed(document(&[("type", "x")], "")).await;
        match outcome {
            Ok(answer) => {
                assert!(accepted && answer.unwrap().contains("nick changes"));
                assert_eq!(published.unwrap_err().code(), Some(Code::Denied), "[bus] changed too");
            }
            Err(error) => {
                assert!(!accepted && error.to_string().contains("irc.toml:4:1"), "{error}");
                published.unwrap();
            }
        }
        assert_eq!(bus.status(&tool, "irc").await["last_reload"]["accepted"], accepted);
    }
    bus.write("modules.d/irc.toml", "[bus]\nqueue = { messages = -1 }\n");
    let error = tool.control("reload", "irc", "").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Refused));
    assert!(error.to_string().contains("irc.toml:2:"), "{error}");
    let away = tool.control("reload", "dice", "").await.unwrap_err();
    assert!(matches!(away.code(), Some(Code::Refused | Code::NotConnected)), "{away}");
}

#[tokio::test]
async fn a_network_is_claimed_by_one() {
    let bus = Bus::start();
    let (one, two) = (bus.operator("one").await, bus.operator("two").await);
    one.claim("irc/libera").await.unwrap();
    let error = two.claim("irc/libera").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::AlreadyConnected));
    assert!(error.to_string().contains("one"), "{error}");
    one.close().await.unwrap();
    two.claim("irc/libera").await.unwrap();
}

#[tokio::test]
async fn status_knows_operators_that_run_and_those_that_do_not() {
    let bus = Bus::with(&[("modules.d/idle.toml", "kind = \"dice\"\n")]);
    let irc = bus.operator("irc").await;
    let _subscription = irc.subscribe("type=x").await.unwrap();
    let text = bus.tool().await.control("status", "", "").await.unwrap().unwrap();
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids: Vec<&str> = all.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["idle", "irc"]);
    assert_eq!(all[0]["state"], "away");
    assert_eq!(all[1]["connected"], true);
    assert_eq!(all[1]["pid"], std::process::id());
    assert_eq!(all[1]["subscriptions"][0]["filters"][0], "type=x");
}
