//! Ids that are none, and ids without a module file: refused with a reason before anything was asked of systemd.

use anyhow::{Context, Result, ensure};
use eevee_tests::runner::Scenario;
use eevee_tests::{Machine, Output, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![ids_are_refused_before_systemctl_sees_them, ids_too_long_for_systemd_too, ids_without_a_module_file]
}

const USAGE: i32 = 2;
const CONFIGURATION: i32 = 78;
const NOFILE: &str = "eevee-op@nofile.service";

/// 28 characters: one more than an id has.
const LONG: &str = "abcdefghijklmnopqrstuvwxyz01";

const BAD: [&str; 13] =
    ["../x", "a b", "-- -h", "-h", "--root=/x", "*", "[a-z]*", "a?", "a/b", "", "eeveed", "Irc", LONG];

/// Every verb that takes an id, with the words that stand behind it.
const VERBS: [(&[&str], &[&str]); 13] = [
    (&["status"], &[]),
    (&["start"], &[]),
    (&["stop"], &[]),
    (&["restart"], &[]),
    (&["reload"], &[]),
    (&["halt"], &[]),
    (&["resume"], &[]),
    (&["enable"], &[]),
    (&["enable", "--now"], &[]),
    (&["disable"], &[]),
    (&["logs"], &[]),
    (&["edit"], &[]),
    (&["say"], &["#eevee", "hello"]),
];

/// Where programs that only note what they were asked stand in for the real ones.
const SPIES: &str = "/run/spies";
const SEEN: &str = "/run/spies/seen";

fn ids_are_refused_before_systemctl_sees_them(m: &Machine) -> Result<()> {
    m.write("/etc/eevee/modules.d/dice.toml", "kind = \"dice\"\n", 0o644)?;
    for program in ["systemctl", "journalctl"] {
        let spy = format!("#!/bin/sh\nprintf '%s|' \"$0\" \"$@\" >> {SEEN}\nexec /usr/bin/{program} \"$@\"\n");
        m.write(&format!("{SPIES}/{program}"), spy, 0o755)?;
    }
    // One shell for all of them: hundreds of commands one by one take a minute.
    let mut script = format!("PATH={SPIES}:$PATH\n");
    script += "try() { out=$(\"$@\" 2>&1 </dev/null); echo \"$? $*|$out\" | tr '\\n' ' '; echo; }\n";
    let mut count = 0;
    for bad in BAD {
        for (before, after) in VERBS {
            // With "--" in front as well: then it is the id that is refused, and not an option.
            for guard in [&[][..], &["--"]] {
                let words = [&["eeveectl"], before, guard, &[bad], after].concat();
                // `-h` without the guard is a request for help.
                if bad == "-h" && guard.is_empty() {
                    continue;
                }
                let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
                script += &format!("try {}\n", quoted.join(" "));
                count += 1;
            }
        }
        // Among good ones as well.
        script += &format!("try eeveectl start dice -- '{bad}'\n");
        count += 1;
    }
    let out = m.cmd(&["sh", "-c", &script]).deadline(std::time::Duration::from_secs(120)).run_ok()?;
    let lines: Vec<&str> = out.stdout.lines().collect();
    ensure!(lines.len() == count, "{count} commands, but {} lines: {out}", lines.len());
    for line in lines {
        ensure!(line.starts_with(&format!("{USAGE} eeveectl ")), "not refused as wrong usage: {line}");
        let (_, said) = line.split_once('|').context("no output")?;
        ensure!(said.contains("error: "), "refused without a reason: {line}");
    }
    let seen = m.run(&["cat", SEEN])?;
    ensure!(!seen.ok(), "systemctl or journalctl was asked: {seen}");
    ensure!(
        m.property("eevee-op@dice.service", "ActiveState")? == "inactive",
        "one bad id of two, and dice was started"
    );

    // That the spies would have seen it.
    m.sh_ok(&format!("export PATH={SPIES}:$PATH; eeveectl start dice; eeveectl logs dice"))?;
    let seen = m.read(SEEN)?;
    for part in ["systemctl|start", "journalctl|", "eevee-op@dice"] {
        ensure!(seen.contains(part), "the spies missed {part}: {seen}");
    }
    Ok(())
}

/// Past eeveectl: the unit's own limits hold, and a name with a slash, which systemctl changes, starts nothing.
fn ids_too_long_for_systemd_too(m: &Machine) -> Result<()> {
    for id in [LONG, "Irc", "eeveed"] {
        m.write(&format!("/etc/eevee/modules.d/{id}.toml"), "kind = \"dice\"\n", 0o644)?;
    }
    m.write("/etc/eevee/x.toml", "kind = \"dice\"\n", 0o644)?;
    for id in [LONG, "Irc", "eeveed", "../x", "..-x"] {
        let started = m.run(&["systemctl", "start", &format!("eevee-op@{id}")])?;
        ensure!(!started.ok(), "a unit of {id:?} started: {started}");
    }
    let active = m.run_ok(&["systemctl", "list-units", "--no-legend", "--state=active", "eevee-op@*"])?;
    ensure!(active.stdout.trim().is_empty(), "active: {active}");
    // The longest that is allowed is no harder than others.
    let longest = &LONG[1..];
    m.write(&format!("/etc/eevee/modules.d/{longest}.toml"), "kind = \"dice\"\n", 0o644)?;
    m.run_ok(&["eeveectl", "start", longest])?;
    Ok(())
}

fn ids_without_a_module_file(m: &Machine) -> Result<()> {
    let plain = m.run(&["systemctl", "enable", "--now", "eevee-op@nofile"])?;
    ensure!(plain.status == 1, "it has to fail: {plain}");
    plain.expect_text("Assertion failed on job for eevee-op@nofile.service")?;
    ensure!(m.property(NOFILE, "ActiveState")? == "inactive" && m.property(NOFILE, "NRestarts")? == "0");
    // What the person types next says what to do about it.
    let status = m.run(&["systemctl", "status", "--full", NOFILE])?;
    status.expect_text("AssertPathExists=/etc/eevee/modules.d/nofile.toml")?;
    m.run(&["eeveectl", "status", "nofile"])?.expect_text("no module file")?.expect_text("eeveectl edit nofile")?;
    m.run_ok(&["systemctl", "disable", "eevee-op@nofile"])?;
    m.run(&["systemctl", "reset-failed", NOFILE])?;

    for verb in [&["enable"][..], &["enable", "--now"]] {
        let refused = m.run(&[&["eeveectl"], verb, &["nofile"]].concat())?;
        not_enabled(m, refused)?;
    }
    m.run(&["eeveectl", "start", "nofile"])?.expect_status(CONFIGURATION)?.expect_text("there is no such file")?;

    // With a file that is wrong, as without one; and not half of a set.
    m.write("/etc/eevee/modules.d/nofile.toml", "kind = \"dice\"\n[settings]\nsides = 6\n", 0o644)?;
    m.write("/etc/eevee/modules.d/dice.toml", "kind = \"dice\"\n", 0o644)?;
    let refused = m.run(&["eeveectl", "enable", "--now", "dice", "nofile"])?;
    not_enabled(m, refused.expect_text("/etc/eevee/modules.d/nofile.toml:3:1")?)?;
    ensure!(m.property("eevee-op@dice.service", "ActiveState")? == "inactive", "dice was started");

    m.write("/etc/eevee/modules.d/nofile.toml", "kind = \"dice\"\n", 0o644)?;
    m.run_ok(&["eeveectl", "enable", "--now", "dice", "nofile"])?;
    ensure!(m.property(NOFILE, "ActiveState")? == "active");
    m.run_ok(&["test", "-L", &link("nofile")])?;
    Ok(())
}

fn not_enabled(m: &Machine, refused: Output) -> Result<()> {
    refused.expect_status(CONFIGURATION)?.expect_text("nofile")?.expect_text("not enabled")?;
    for id in ["nofile", "dice"] {
        ensure!(!m.run(&["test", "-L", &link(id)])?.ok(), "{id} was refused, and enabled all the same");
    }
    Ok(())
}

fn link(id: &str) -> String {
    format!("/etc/systemd/system/eevee.target.wants/eevee-op@{id}.service")
}
