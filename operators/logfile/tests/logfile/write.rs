//! Chat logs: every message once in its file, whatever happens to the operator or the files.

use std::fs;

use libeevee::{Client, Document};
use nix::sys::signal::Signal;

use crate::place::{Count, Place};

const WRITE: &str = "write = { subscribe = [\"type=chat.message\"], directory = \"chat\"";

async fn say(tool: &Client, channel: &str, text: &str) {
    let headers = [("type", "chat.message"), ("network", "libera"), ("channel", channel), ("user", "goos")];
    tool.publish_confirmed(Document::new(headers, text.to_owned()).unwrap()).await.unwrap();
}

/// The texts in a file, in their order.
fn texts(file: &str) -> Vec<&str> {
    file.lines().map(|line| line.split_once("<goos> ").unwrap().1).collect()
}

#[tokio::test]
async fn a_file_for_each_channel() {
    let mut place = Place::start(&format!("{WRITE} }}"));
    place.run();
    let tool = place.tool().await;
    place.says(&tool, "0 messages written").await;
    for (channel, text) in [("#a", "one"), ("../../x", "two"), ("#a", "th\nree\x1b")] {
        say(&tool, channel, text).await;
    }
    place.says(&tool, "3 messages written").await;
    assert_eq!(texts(&place.written("chat/libera/#a.log")), ["one", "th\\nree\\x1b"]);
    assert_eq!(texts(&place.written("chat/libera/%2E.%2F..%2Fx.log")), ["two"]);

    // What is said while it is away is written after, and what was moved away is opened anew.
    place.end(Signal::SIGTERM);
    say(&tool, "#a", "away").await;
    place.run();
    place.until("the line", || place.written("chat/libera/#a.log").contains("away")).await;
    let chat = place.folder.path().join("logs/chat/libera");
    fs::rename(chat.join("#a.log"), chat.join("#a.old")).unwrap();
    place.signal(Signal::SIGHUP);
    place.until("SIGHUP", || place.log().contains("files are opened anew")).await;
    say(&tool, "#a", "four").await;
    place.until("the new file", || texts(&place.written("chat/libera/#a.log")) == ["four"]).await;
    place.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_holds_the_messages() {
    let mut place = Place::start(&format!("{WRITE}, pattern = \"{{channel}}/x.log\" }}"));
    let chat = place.folder.path().join("logs/chat");
    fs::create_dir(&chat).unwrap();
    fs::write(chat.join("#a"), "in the way").unwrap();
    place.run();
    let tool = place.tool().await;
    place.says(&tool, "0 messages written").await;
    for text in ["one", "two"] {
        say(&tool, "#a", text).await;
    }
    place.says(&tool, "nothing can be written, messages wait").await;
    fs::remove_file(chat.join("#a")).unwrap();
    place.until("the lines", || texts(&place.written("chat/#a/x.log")) == ["one", "two"]).await;
    place.says(&tool, "2 messages written").await;
    place.end(Signal::SIGTERM);
}

/// Other filters are another subscription: what waited for the disk comes again by it.
#[tokio::test]
async fn a_reload_while_messages_wait_for_the_disk() {
    let mut place = Place::start(&format!("{WRITE}, pattern = \"{{channel}}/x.log\" }}"));
    let chat = place.folder.path().join("logs/chat");
    fs::create_dir(&chat).unwrap();
    fs::write(chat.join("#a"), "in the way").unwrap();
    place.run();
    let tool = place.tool().await;
    place.says(&tool, "0 messages written").await;
    let expected: Vec<String> = (0..50).map(|number| format!("message {number}")).collect();
    for text in &expected {
        say(&tool, "#a", text).await;
    }
    place.says(&tool, "nothing can be written, messages wait").await;
    let other = WRITE.replace("type=chat.message", "type=chat.message,network=libera");
    place.configure(&format!("{other}, pattern = \"{{channel}}.log\" }}"));
    tool.control("reload", "logs", "").await.unwrap();
    place.until("the lines", || texts(&place.written("chat/#a.log")) == expected).await;
    place.says(&tool, "50 messages written").await;
    assert_eq!(texts(&place.written("chat/#a.log")), expected);
    place.end(Signal::SIGTERM);
}

#[tokio::test]
async fn every_message_once_over_rotations_and_kills() {
    let rotate = "rotate = { size = \"4 KiB\", keep = 500 }";
    let mut place = Place::start(&format!("{WRITE}, {rotate} }}"));
    place.run();
    let tool = place.tool().await;
    place.says(&tool, "0 messages written").await;
    let mut expected = Vec::new();
    for number in 0..1500 {
        let text = format!("message {number}");
        say(&tool, if number % 3 == 0 { "#a" } else { "#b" }, &text).await;
        expected.push(text);
        if number % 300 == 299 {
            place.end(if number < 900 { Signal::SIGKILL } else { Signal::SIGTERM });
            place.run();
        }
    }
    let all = || {
        let mut count = Count::default();
        for entry in fs::read_dir(place.folder.path().join("logs/chat/libera")).unwrap() {
            for text in texts(&fs::read_to_string(entry.unwrap().path()).unwrap()) {
                count.add(text);
            }
        }
        count
    };
    place.until("all messages", || all().kinds() == expected.len()).await;
    assert_eq!(all().lost_and_repeated(&expected), (0, 0));
    let folder = place.folder.path().join("logs/chat/libera");
    assert!(folder.join("#b.log.5").exists());
    assert!(fs::read_dir(folder).unwrap().all(|entry| entry.unwrap().metadata().unwrap().len() <= 4096));
    place.end(Signal::SIGTERM);
}
