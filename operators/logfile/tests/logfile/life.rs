//! Its life as an operator: reload in place, a bus that is away or takes nothing, what the command line answers.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::place::{Place, SOON, next};

#[tokio::test]
async fn a_reload_changes_what_is_followed_and_loses_nothing() {
    let mut place = Place::start("files = [\"ROOT/a.log\"]");
    place.run();
    let tool = place.tool().await;
    let mut durable = tool.subscribe("type=log.line").durable("all").await.unwrap();
    place.says(&tool, "following 0 files").await;
    place.append("b.log", "old\n");
    place.append("a.log", "1\n");
    assert_eq!(next(&tool, &mut durable).await.unwrap().text(), Some("1"));

    place.configure("files = [\"ROOT/a.log\", \"ROOT/b.log\"]\nnetwork = \"other\"");
    tool.control("reload", "logs", "").await.unwrap();
    place.says(&tool, "following 2 files").await;
    place.append("b.log", "new\n");
    let message = next(&tool, &mut durable).await.unwrap();
    assert_eq!((message.text(), message.header("network")), (Some("new"), Some("other")));

    for (wrong, said) in [("files = [\"b\"]", "not an absolute path"), ("filez = []", "did you mean")] {
        place.configure(wrong);
        let error = tool.control("reload", "logs", "").await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    place.append("a.log", "2\n");
    assert_eq!(next(&tool, &mut durable).await.unwrap().text(), Some("2"));

    place.configure("files = [\"ROOT/b.log\"]\nmultiline = '^[0-9]'");
    tool.control("reload", "logs", "").await.unwrap();
    place.says(&tool, "following 1 file;").await;
    place.append("a.log", "nobody follows this\n");
    place.append("b.log", "3\n+\n4\n");
    assert_eq!(next(&tool, &mut durable).await.unwrap().text(), Some("3\n+"));
    place.end(Signal::SIGTERM);
}

#[tokio::test]
async fn what_the_bus_refuses_waits() {
    let mut place = Place::start("files = [\"ROOT/a.log\"]");
    let file = place.folder.path().join("config/modules.d/logs.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[settings]", "[bus]\nmay-publish = [\"type=other\"]\n[settings]")).unwrap();
    place.run();
    let tool = place.tool().await;
    let mut durable = tool.subscribe("type=log.line").durable("all").await.unwrap();
    place.says(&tool, "following 0 files").await;
    place.append("a.log", "1\n2\n3\n");
    place.says(&tool, "the bus takes nothing").await;
    std::fs::write(&file, text).unwrap();
    tool.control("reload", "logs", "").await.unwrap();
    for text in ["1", "2", "3"] {
        assert_eq!(next(&tool, &mut durable).await.unwrap().text(), Some(text));
    }
    place.says(&tool, "following 1 file; 3 records published").await;
    place.end(Signal::SIGTERM);
}

#[test]
fn the_command_line() {
    let logfile = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_logfile")).args(arguments).output().unwrap();
    let schema = logfile(&["--schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert!(schema.to_string().contains("multiline-wait"));
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../etc/examples/logfile.toml");
    assert!(logfile(&["--check", example]).status.success());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    std::fs::write(&file, "[settings]\nfiles = []\n").unwrap();
    let output = logfile(&["--check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing to do"));
    assert!(SOON > Duration::ZERO);
}
