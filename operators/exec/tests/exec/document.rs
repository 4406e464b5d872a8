//! docs/STREAM.md says what is true: every line in it is read, or written, as it stands there.

use std::collections::BTreeSet;

use libeevee::json::{
    Line, ProgramControl, ProgramLine, control_line, gap_line, parse_line, ping_line, settings_line, to_line,
};

const DOCUMENT: &str = include_str!("../../../../docs/STREAM.md");

/// The lines of all blocks of this kind.
fn lines(kind: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in DOCUMENT.lines() {
        match line.strip_prefix("```") {
            Some(begin) => inside = begin == kind,
            None if inside => found.push(line),
            None => {}
        }
    }
    found
}

#[test]
fn a_program_may_say_all_that_the_document_says() {
    let mut verbs = BTreeSet::new();
    for line in lines("json from") {
        let said = ProgramLine::parse(1, line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
        let verb = match said {
            ProgramLine::Publish(_) => "publish",
            ProgramLine::Reply { .. } => "reply",
            ProgramLine::Ack(_) => "ack",
            ProgramLine::Nack { .. } => "nack",
            ProgramLine::Log { .. } => "log",
            ProgramLine::Status(_) => "status",
            ProgramLine::Ready => "ready",
            ProgramLine::Pong(_) => "pong",
            ProgramLine::Accept => "accept",
            ProgramLine::Refuse(_) => "refuse",
        };
        assert!(line.starts_with(&format!("{{\"{verb}\":")), "{line}");
        verbs.insert(verb);
    }
    assert_eq!(verbs.len(), 10, "an example of every line: {verbs:?}");
}

#[test]
fn a_program_is_told_just_what_the_document_says() {
    let mut kinds = BTreeSet::new();
    for line in lines("json to") {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let (kind, written) = if let Some(settings) = value.get("settings") {
            ("settings", settings_line(settings))
        } else if let Some(ping) = value.get("ping") {
            ("ping", ping_line(ping.as_u64().unwrap()))
        } else if let Some(control) = value.get("control") {
            let all = [ProgramControl::Halt, ProgramControl::Resume, ProgramControl::Stop];
            let control = all.into_iter().find(|known| Some(known.as_str()) == control.as_str()).unwrap();
            (control.as_str(), control_line(control))
        } else {
            match parse_line(1, line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}")) {
                Line::Message(message) => ("message", to_line(&message)),
                Line::Gap(gap) => ("gap", gap_line(&gap)),
            }
        };
        assert_eq!(written, line);
        kinds.insert(kind);
    }
    assert_eq!(kinds.len(), 7, "an example of every line: {kinds:?}");
}

/// The whole operator of the document is the one among the examples, which is run.
#[test]
fn its_program_is_the_one_that_is_run() {
    let program = include_str!("../../examples/five-lines.py");
    assert_eq!(lines("python").join("\n"), program.trim_end());
}
