//! The program as a person calls it, with a systemctl and a journalctl that only write down what they were asked.

#![allow(clippy::unwrap_used, reason = "a test ends by a panic")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        for directory in ["bin", "config/modules.d", "operators"] {
            std::fs::create_dir_all(place.path(directory)).unwrap();
        }
        place.systemctl("");
        place.program("bin/journalctl", &format!("echo \"journalctl $*\" >> {}", place.path("log").display()));
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        std::fs::write(self.path(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A systemctl that also does this.
    fn systemctl(&self, script: &str) {
        self.program("bin/systemctl", &format!("echo \"$*\" >> {}\n{script}", self.path("log").display()));
    }

    fn module(&self, id: &str, text: &str) {
        std::fs::write(self.path(&format!("config/modules.d/{id}.toml")), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eeveectl"));
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(arguments)
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("EEVEE_CONFIG", self.path("config"))
            .env("EEVEE_OPERATORS", self.path("operators"))
            .env_remove("EEVEE_BUS")
            .env_remove("VISUAL")
            .env_remove("EDITOR")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What systemctl and journalctl were asked, a line each.
    fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A unit that is up, as `systemctl show` prints it.
const UP: &str = "case $1 in show) printf 'Id=eevee-op@irc.service\\nActiveState=active\\nSubState=running\\n';; esac";

/// These tests are about the bus of the system, and must not talk to a real one.
fn refuse_a_real_bus() {
    assert!(!Path::new("/run/eevee/bus.sock").exists(), "this machine runs eevee: run its tests elsewhere");
}

#[test]
fn bad_ids_are_refused_before_systemctl_sees_them() {
    let place = Place::new();
    let long = "a".repeat(28);
    for bad in ["../x", "a b", "-- -h", "*", &long, "", "[a-z]*", "-h", "--root=/x", "a\\x2fb", "eevee-op@irc"] {
        for verb in [
            "status", "start", "stop", "restart", "reload", "halt", "resume", "enable", "disable", "logs", "edit",
            "queue",
        ] {
            let output = place.run(&[verb, "--", bad]);
            assert_eq!(code(&output), 2, "{verb} {bad:?}: {}", text(&output));
            assert!(output.stdout.is_empty(), "{verb} {bad:?}: {}", text(&output));
        }
        let output = place.run(&["start", "irc", bad]);
        // Without "--" before it, clap takes -h for a plea for help.
        assert!(code(&output) == 2 || bad == "-h", "start irc {bad:?}: {}", text(&output));
    }
    assert_eq!(place.log(), [""; 0]);
}

#[test]
fn start_forgets_old_failures_first() {
    refuse_a_real_bus();
    let place = Place::new();
    place.systemctl(UP);
    let output = place.run(&["start", "irc"]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(text(&output).contains("irc: started"), "{}", text(&output));
    assert_eq!(
        place.log()[..2],
        ["reset-failed --no-ask-password -- eevee-op@irc.service", "start --no-ask-password -- eevee-op@irc.service"]
    );
}

#[test]
fn a_failed_start_says_why_and_the_worst_code_wins() {
    refuse_a_real_bus();
    let place = Place::new();
    place.systemctl(
        "case $1 in
        start) case $* in *irc*) echo 'Job failed.' >&2; exit 1;; esac;;
        show) case $* in
            *irc*) printf 'Id=eevee-op@irc.service\\nActiveState=failed\\nSubState=failed\\nResult=exit-code\\nExecMainCode=1\\nExecMainStatus=78\\nNRestarts=2\\n';;
            *) printf 'Id=eevee-op@dice.service\\nActiveState=active\\n';;
        esac;;
        esac",
    );
    place.module("irc", "kind = \"irc\"\n");
    place.program("operators/irc", "echo 'irc.toml:1:1: unknown key `nik`' >&2; exit 78");
    let output = place.run(&["start", "dice", "irc"]);
    assert_eq!(code(&output), 78, "{}", text(&output));
    for part in
        ["dice: started", "irc: did not start", "exit status 78", "2 restarts", "Job failed.", "irc.toml:1:1", "next: "]
    {
        assert!(text(&output).contains(part), "{part}: {}", text(&output));
    }
}

#[test]
fn a_start_that_hangs_ends_at_its_deadline() {
    refuse_a_real_bus();
    let place = Place::new();
    place.systemctl(
        "case $1 in start) exec sleep 30;; show) printf 'Id=eevee-op@irc.service\\nActiveState=activating\\n';; esac",
    );
    place.module("irc", "");
    place.program("operators/irc", "exit 0");
    let began = std::time::Instant::now();
    let output = place.run(&["start", "--timeout", "300ms", "irc"]);
    assert_eq!(code(&output), 1, "{}", text(&output));
    assert!(text(&output).contains("not done after 300 ms"), "{}", text(&output));
    assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
}

#[test]
fn all_means_every_module_file() {
    refuse_a_real_bus();
    let place = Place::new();
    place.module("dice", "");
    place.module("irc", "");
    place.module("Wrong", "");
    let output = place.run(&["stop", "--all"]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    let mut stops: Vec<String> = place.log().into_iter().filter(|line| line.starts_with("stop")).collect();
    stops.sort();
    assert_eq!(
        stops,
        ["stop --no-ask-password -- eevee-op@dice.service", "stop --no-ask-password -- eevee-op@irc.service"]
    );
    assert!(text(&output).contains("Wrong.toml is left out"), "{}", text(&output));
}

#[test]
fn enable_checks_all_files_first() {
    refuse_a_real_bus();
    let place = Place::new();
    place.program("operators/irc", "exit 0");
    place.module("irc", "");
    for (ids, part) in [(&["irc", "nofile"][..], "no such file"), (&["nofile"], "no such file")] {
        let output = place.run(&[&["enable", "--now"], ids].concat());
        assert_eq!(code(&output), 78, "{}", text(&output));
        assert!(text(&output).contains(part), "{}", text(&output));
    }
    assert_eq!(place.log(), [""; 0], "nothing is enabled");
    place.systemctl(UP);
    let output = place.run(&["enable", "--now", "irc"]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert_eq!(place.log()[0], "enable --no-ask-password -- eevee-op@irc.service");
    assert!(place.log().contains(&"start --no-ask-password -- eevee-op@irc.service".to_owned()));
}

#[test]
fn another_bus_has_no_units() {
    let place = Place::new();
    for verb in ["start", "stop", "restart", "enable", "disable", "halt", "reload"] {
        let output = place.command(&[verb, "irc"]).env("EEVEE_BUS", place.path("none.sock")).output().unwrap();
        assert_eq!(code(&output), 1, "{verb}: {}", text(&output));
    }
    assert_eq!(place.log(), [""; 0]);
}

#[test]
fn logs_become_journalctl() {
    let place = Place::new();
    let output = place.run(&["logs", "irc", "dice", "-f", "--since", "1 hour ago", "-n", "5"]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert_eq!(
        place.log(),
        ["journalctl --unit=eevee-op@irc.service --unit=eevee-op@dice.service --follow --since=1 hour ago --lines=5"]
    );
}

#[test]
fn status_works_without_the_bus() {
    refuse_a_real_bus();
    let place = Place::new();
    place.systemctl(UP);
    place.module("dice", "");
    let output = place.run(&["status", "--json"]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value[0]["id"], &value[0]["active"]), (&"dice".into(), &"inactive".into()));
    assert_eq!(
        (&value[1]["id"], &value[1]["active"], &value[1]["connected"]),
        (&"irc".into(), &"active".into(), &serde_json::Value::Null)
    );
    assert!(text(&output).contains("bus not reachable"), "{}", text(&output));
    assert_eq!(code(&place.run(&["status", "unknown"])), 1);
    let table = place.run(&["status"]);
    assert!(text(&table).contains("active (running)"), "{}", text(&table));
}

#[test]
fn check_asks_the_program_of_the_kind() {
    let place = Place::new();
    place.program("operators/irc", "grep -q nick \"$2\" || { echo \"$2:1:1: no nick\" >&2; exit 78; }");
    place.module("irc", "[settings]\nnick = \"eevee\"\n");
    place.module("oftc", "kind = \"irc\"\n");
    place.module("odd", "kind = \"ircc\"\n");
    place.module("bad", "[bus]\nmay-publish = [\"a=b,,c\"]\n");
    for (arguments, exit, parts) in [
        (&["irc"][..], 0, &["irc: good"][..]),
        (&["oftc"], 78, &["oftc.toml:1:1: no nick"]),
        (&["odd"], 78, &["no operator program \"ircc\"", "did you mean \"irc\"?"]),
        (&["bad"], 78, &["bad.toml:2:21", "may-publish"]),
        (&["absent"], 78, &["no such file"]),
        (&[], 78, &["irc: good", "no nick", "ircc", "bad.toml"]),
    ] {
        let output = place.run(&[&["check"], arguments].concat());
        assert_eq!(code(&output), exit, "{arguments:?}: {}", text(&output));
        for part in parts {
            assert!(text(&output).contains(part), "{part}: {}", text(&output));
        }
    }
    assert_eq!(place.log(), [""; 0]);
}

#[test]
fn edit_replaces_a_file_only_by_a_good_one() {
    let place = Place::new();
    place.program("operators/irc", "grep -q nick \"$2\" || { echo \"$2:1:1: no nick\" >&2; exit 78; }");
    place.module("irc", "[settings]\nnick = \"eevee\"\n");
    let file = place.path("config/modules.d/irc.toml");
    let edit = |editor: &str| place.command(&["edit", "irc"]).env("EDITOR", editor).output().unwrap();

    let output = edit("sed -i s/nick/nik/");
    assert_eq!(code(&output), 78, "{}", text(&output));
    assert!(text(&output).contains("no nick"), "{}", text(&output));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "[settings]\nnick = \"eevee\"\n");

    assert_eq!(code(&edit("false")), 1);
    assert!(text(&edit("true")).contains("nothing changed"));

    let output = edit("sed -i s/eevee/other/");
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(text(&output).contains("eeveectl reload irc"), "{}", text(&output));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "[settings]\nnick = \"other\"\n");
    assert_eq!(std::fs::read_dir(place.path("config/modules.d")).unwrap().count(), 1);
}

#[test]
fn ids_are_completed_from_the_files() {
    let place = Place::new();
    place.module("dice", "");
    place.module("irc", "");
    let output = place
        .command(&["--", "eeveectl", "reload", "i"])
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "2")
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "irc", "{}", text(&output));
    assert_eq!(place.log(), [""; 0]);
}

#[test]
fn the_verbs_of_dead_and_whose_they_are_are_completed() {
    let place = Place::new();
    place.module("dice", "");
    for (words, index, want) in [
        (&["dead", "re"][..], "2", "retry"),
        (&["dead", "drop", "--from", "d"], "4", "dice"),
        (&["queue", "d"], "2", "dice"),
        (&["forget", "d"], "2", "dice"),
    ] {
        let line = [&["--", "eeveectl"], words].concat();
        let mut command = place.command(&line);
        command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index).env("_CLAP_COMPLETE_COMP_TYPE", "9");
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), want, "{words:?}: {}", text(&output));
    }
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let place = Place::new();
    for line in [
        &[][..],
        &["nonsense"],
        &["start"],
        &["publish", "no-header"],
        &["subscribe", "a=b,,"],
        &["subscribe", "--durable", "A", "a=b"],
        &["subscribe", "--reject", "a=b"],
        &["say", "irc"],
        &["queue", "user/"],
        &["forget", "dice"],
        &["forget", "dice", "../x"],
        &["dead"],
        &["dead", "drop"],
        &["dead", "drop", "--name", "commands"],
        &["dead", "drop", "--all", "--name", "commands"],
        &["dead", "show", "0"],
    ] {
        assert_eq!(code(&place.run(line)), 2, "{line:?}");
    }
    assert_eq!(code(&place.run(&["--help"])), 0);
    assert_eq!(code(&place.run(&["--version"])), 0);
}
