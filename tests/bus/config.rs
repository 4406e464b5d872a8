//! eeveed.toml: defaults when it is bad at the start, the old one when it is bad at a reload.

use libeevee::Code;

use crate::bus::{Bus, document};

#[tokio::test]
async fn a_bad_file_at_the_start_means_defaults_loudly() {
    let bus = Bus::configured("[limits]\nqueue-mesages = 5\n");
    bus.operator("a").await.publish_confirmed(document(&[("type", "x")], "")).await.unwrap();
    for part in ["eeveed.toml:2:1", "queue-mesages", "queue-messages"] {
        assert!(bus.log().contains(part), "{}", bus.log());
    }
}

#[tokio::test]
async fn a_reload_takes_a_good_file_and_refuses_a_bad_one() {
    let bus = Bus::configured("[limits]\nsubscriptions-per-session = 2\n");
    let (a, tool) = (bus.operator("a").await, bus.tool().await);
    let mut kept = Vec::new();
    for _ in 0..2 {
        kept.push(a.subscribe("type=x").await.unwrap());
    }
    let error = a.subscribe("type=x").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Quota));
    assert!(error.to_string().contains('2'), "{error}");
    bus.write("eeveed.toml", "[limits]\nsubscriptions-per-session = 0\n");
    let refused = tool.control("reload-bus", "", "").await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Refused));
    assert!(refused.to_string().contains("eeveed.toml:2:"), "{refused}");
    bus.write("eeveed.toml", "[limits]\nsubscriptions-per-session = 3\n");
    tool.control("reload-bus", "", "").await.unwrap();
    kept.push(a.subscribe("type=x").await.unwrap());
    assert_eq!(a.subscribe("type=x").await.unwrap_err().code(), Some(Code::Quota));
}
