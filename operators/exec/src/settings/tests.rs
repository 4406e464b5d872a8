use libeevee::parse_module;

use super::*;

const RUN: &str = "run = \"/usr/local/lib/eevee/hello\"\n";

fn parse(text: &str) -> Result<ExecSettings, String> {
    parse_module("exec.toml", &format!("[settings]\n{text}")).map_err(|diagnosis| diagnosis.summary())
}

#[test]
fn the_least_there_can_be() {
    let settings = parse(&format!("{RUN}command = \"hello\"")).unwrap();
    assert_eq!((settings.mode, settings.timeout(), settings.parallel()), (Mode::Command, Duration::from_secs(30), 4));
    assert!(settings.is_durable(), "as a command of libeevee is");
    assert!(!parse(&format!("{RUN}subscribe = \"*\"")).unwrap().is_durable());
    let stream =
        parse(&format!("{RUN}mode = \"stream\"\n[settings.program]\nat = 07:30:00\nn = [1, 2.5, true]")).unwrap();
    assert_eq!((stream.timeout(), stream.parallel()), (Duration::from_secs(10), 16));
    assert_eq!(stream.program_json().to_string(), r#"{"at":"07:30:00","n":[1,2.5,true]}"#);
    assert!(
        !parse(&format!("{RUN}mode = \"stream\"\ncommand = \"x\"")).unwrap().is_durable(),
        "five lines never acknowledge"
    );
    assert!(parse(&format!("{RUN}mode = \"stream\"\ncommand = [\"x\", \"y\"]\ndurable = true")).unwrap().is_durable());
}

#[test]
fn mistakes_are_shown_at_their_place() {
    for (text, expected) in [
        ("command = \"x\"", "exec.toml:1:1: missing key `run`"),
        (RUN, "exec.toml:1:1: mode command needs command or subscribe"),
        ("run = 5\ncommand = \"x\"", "exec.toml:2:7: "),
        ("run = []\ncommand = \"x\"", "exec.toml:2:7: the list is empty"),
        ("run = \"hello\"\ncommand = \"x\"", "exec.toml:2:7: \"hello\" is not the path of a program"),
        ("run = [\"hello\", \"a\"]\ncommand = \"x\"", "exec.toml:2:8: \"hello\" is not the path of a program"),
        ("run = [\"/a\", \"\\u0000\"]\ncommand = \"x\"", "exec.toml:2:14: no argument can have a NUL character"),
        ("run = \"/a\"\ncommand = \"\"", "exec.toml:3:11: \"\" is no command"),
        ("run = \"/a\"\ncommand = \"Hello\"", "exec.toml:3:11: \"Hello\" is no command: it is in lower case"),
        ("run = \"/a\"\ncommand = [\"a\", \"a b\"]", "exec.toml:3:17: \"a b\" is no command"),
        ("run = \"/a\"\ncommand = [\"a\", \"a\"]", "exec.toml:3:17: \"a\" stands twice"),
        ("run = \"/a\"\ncommand = []", "exec.toml:3:11: 0 in the list: 1 to 64 are possible"),
        ("run = \"/a\"\ncommand = \"a\"\nsubscribe = \"*\"", "exec.toml:4:13: command or subscribe, not both"),
        ("run = \"/a\"\nsubscribe = [\"*\", \"a==\"]", "exec.toml:3:19: "),
        ("run = \"/a\"\ncommand = \"a\"\nmode = \"loop\"", "exec.toml:4:8: "),
        ("run = \"/a\"\ncommand = \"a\"\ntimeout = 5", "exec.toml:4:11: "),
        ("run = \"/a\"\ncommand = \"a\"\ntimeout = \"99 ms\"", "exec.toml:4:11: timeout is 100 ms to 1 h"),
        ("run = \"/a\"\ncommand = \"a\"\nparallel = 0", "exec.toml:4:12: parallel is 1 to 100"),
        ("run = \"/a\"\ncommand = \"a\"\npings = true", "exec.toml:4:9: pings is for mode = \"stream\""),
        ("run = \"/a\"\ncommand = \"a\"\n[settings.program]\nx = 1", "exec.toml:4:1: program is for mode = \"stream\""),
        ("run = \"/a\"\nmode = \"stream\"\ndurable = true", "exec.toml:4:11: nothing is subscribed"),
        ("run = \"/a\"\nmode = \"stream\"\nprogram = { a = [1.0, nan] }", "exec.toml:4:23: nan and inf"),
        ("run = \"/a\"\nmode = \"stream\"\nacknowledge-within = \"5 s\"", "exec.toml:4:22: nothing has to be"),
        (
            "run = \"/a\"\ncommand = \"a\"\nacknowledge-within = \"5 s\"",
            "exec.toml:4:22: acknowledge-within is for mode",
        ),
        ("run = \"/a\"\ncommand = \"a\"\ncredentials = [\"hunter2\"]", "exec.toml:4:16: a secret cannot stand in"),
        ("run = \"/a\"\ncommand = \"a\"\ncredentials = [\"credential:bus-token\"]", "exec.toml:4:16: bus-token proves"),
        ("run = \"/a\"\ncomand = \"a\"", "exec.toml:3:1: unknown key `comand`"),
        ("run = \"/a\"\nsubscribe = \"*\"\nusage = \"x\"", "exec.toml:4:9: usage is of a command, and there is none"),
        ("run = \"/a\"\ncommand = \"a\"\nusage = \"\"", "exec.toml:4:9: usage is one line of 1 to 200 characters"),
        ("run = \"/a\"\ncommand = \"a\"\nabout = \"x\\ny\"", "exec.toml:4:9: about is one line of 1 to 200 characters"),
    ] {
        let said = parse(text).unwrap_err();
        assert!(said.starts_with(expected), "{text}: {said}");
    }
}

#[test]
fn an_argument_that_the_kernel_does_not_take_is_a_mistake() {
    let of = |bytes: usize| parse(&format!("run = [\"/a\", \"{}\"]\ncommand = \"a\"", "x".repeat(bytes)));
    assert!(of(131_071).is_ok());
    assert!(of(131_072).unwrap_err().starts_with("exec.toml:2:14: 131072 bytes: the kernel takes"));
}

#[test]
fn the_example_of_an_alarm() {
    let text = include_str!("../../../../etc/examples/alarm.toml");
    let settings: ExecSettings = parse_module("alarm.toml", text).map_err(|d| d.to_string()).unwrap();
    assert!(settings.is_durable() && settings.mode == Mode::Stream);
}

/// The examples that are shipped are right as they stand, and with all that they only mention.
#[test]
fn the_examples() {
    for text in
        [include_str!("../../../../etc/examples/hello.toml"), include_str!("../../../../etc/examples/exec.toml")]
    {
        let settings: ExecSettings = parse_module("exec.toml", text).map_err(|d| d.to_string()).unwrap();
        let mentioned = |line: &str| {
            let setting = line.strip_prefix("# ")?;
            let (key, _) = setting.split_once(" = ")?;
            (!key.contains(' ')).then(|| setting.to_owned())
        };
        let all: Vec<String> = text.lines().map(|line| mentioned(line).unwrap_or_else(|| line.to_owned())).collect();
        let whole: ExecSettings = parse_module("exec.toml", &all.join("\n")).map_err(|d| d.to_string()).unwrap();
        assert!(whole != settings, "something is only mentioned in\n{text}");
    }
}
