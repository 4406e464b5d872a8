//! Why an operator is down, in words, and what to type next.

use libeevee::{Exit, OperatorId};

use crate::bus::{self, BusView};
use crate::context::Context;
use crate::unit::UnitView;
use crate::values::Owner;
use crate::verbs::Report;
use crate::verbs::check::{self, Checked};
use crate::waiting::Waiting;
use crate::{modules, output, systemctl};

/// How the main process ended, or none where it did not end badly.
pub(crate) fn ending(view: &UnitView) -> Option<String> {
    if view.assert_failed && view.is_down() {
        return Some("it has no module file".to_owned());
    }
    let how = match (view.main_code, view.main_status) {
        (1, status) => exit_word(status),
        (2, signal) => format!("killed by {}", signal_word(signal)),
        (3, signal) => format!("crashed with {}", signal_word(signal)),
        _ => String::new(),
    };
    let with = |text: &str| if how.is_empty() { text.to_owned() } else { format!("{text} ({how})") };
    Some(match view.result.as_str() {
        "success" | "" => return None,
        "exit-code" | "signal" | "core-dump" if !how.is_empty() => how,
        "watchdog" => with("it did not answer the watchdog"),
        "timeout" => with("it took too long to start or to stop"),
        "oom-kill" => with("it was killed because memory ran out"),
        "start-limit-hit" => with("it failed again and again, and systemd gave up"),
        "protocol" => with("it ended before it said that it is ready"),
        "resources" => with("systemd lacked something to start it"),
        other => with(other),
    })
}

fn exit_word(status: u32) -> String {
    let meaning = match status {
        0 => "it ended by itself",
        1 => "it failed",
        75 => "it could not go on for now",
        78 => "its configuration was refused",
        203 => "its program could not be run",
        217 => "its user could not be made",
        226 => "its sandbox could not be made",
        238..=242 => "one of its directories could not be made",
        243 => "its credentials could not be read",
        _ => return format!("exit status {status}"),
    };
    format!("{meaning}, exit status {status}")
}

fn signal_word(signal: u32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// The next thing to type for an operator that is down.
pub(crate) fn next(id: &OperatorId, view: &UnitView, has_file: bool) -> String {
    let unit = id.unit();
    let unit = unit.trim_end_matches(".service");
    if !has_file {
        format!("eeveectl edit {id}, or copy one of /usr/share/eevee/examples, then eeveectl start {id}")
    } else if view.main_code == 1 && view.main_status == 78 {
        format!(
            "eeveectl edit {id}, or put in place the secret that eeveectl check {id} misses; then eeveectl start {id}"
        )
    } else if view.is_active() {
        format!("journalctl -u {unit} -n 50")
    } else {
        format!("journalctl -u {unit} -n 50, then eeveectl start {id}")
    }
}

/// All that is known about an operator that did not do as it was told.
pub(crate) async fn explain(context: &Context, id: &OperatorId, what: &str, complaint: Option<&str>) -> Report {
    let view = systemctl::show_one(id).await;
    let (bus, waiting) = match context.bus().await {
        Ok(client) => {
            let waiting = Waiting::of(client, &Owner::Operator(id.clone())).await;
            (bus::status_one(client, id).await, waiting.unwrap_or_default())
        }
        Err(why) => (Err(why), Waiting::default()),
    };
    let file = check::module(&modules::path(&context.config, id), Some(id)).await;
    compose(id, what, complaint, &view, (&bus, &waiting), &file)
}

fn compose(
    id: &OperatorId,
    what: &str,
    complaint: Option<&str>,
    view: &Result<UnitView, String>,
    (bus, waiting): (&Result<Option<BusView>, String>, &Waiting),
    file: &Checked,
) -> Report {
    let mut text = what.to_owned();
    let unit = view.as_ref().ok();
    if let Some(how) = unit.and_then(ending) {
        text.push_str(&format!(": {how}"));
    }
    match view {
        Ok(view) => {
            text.push_str(&format!("\n  unit: {} ({}), result {}", view.active, view.sub, view.result));
            text.push_str(&format!(", last exit status {}, {} restarts", view.main_status, view.restarts));
            if view.sub.starts_with("auto-restart") {
                text.push_str("; systemd is about to try again");
            }
            if !view.status_text.is_empty() {
                text.push_str(&format!("\n  status: {}", libeevee::escape_for_terminal(&view.status_text)));
            }
        }
        Err(why) => text.push_str(&format!("\n  unit: unknown, {why}")),
    }
    match bus {
        Ok(Some(bus)) => {
            let place = if bus.connected { bus.state.as_str() } else { "not connected" };
            text.push_str(&format!("\n  bus: {place}{}", if bus.halted { ", halted" } else { "" }));
            if let Some(failure) = &bus.last_failure {
                let when = failure.time.map(|time| format!(" {} ago", output::span(output::ago(time))));
                text.push_str(&format!("\n  last failure{}: {}", when.unwrap_or_default(), failure_text(failure)));
            }
        }
        Ok(None) => text.push_str("\n  bus: knows no such operator"),
        Err(why) => text.push_str(&format!("\n  bus: not reachable: {why}")),
    }
    let operator = bus.as_ref().ok().and_then(Option::as_ref);
    for trouble in waiting.troubles(operator) {
        text.push_str(&format!("\n  {}", trouble.what));
    }
    if let Some(complaint) = complaint.filter(|complaint| !complaint.is_empty()) {
        text.push_str(&format!("\n  systemctl: {}", complaint.replace('\n', "\n    ")));
    }
    if file.exit != Exit::DONE {
        text.push_str(&format!("\n{}", file.text.trim_end()));
    }
    let unset = UnitView::default();
    text.push_str(&format!("\n  next: {}", next(id, unit.unwrap_or(&unset), file.exists)));
    let configuration = file.exit == Exit::CONFIGURATION
        || unit.is_some_and(|view| view.main_code == 1 && view.main_status == 78 && !view.is_active());
    Report { exit: if configuration { Exit::CONFIGURATION } else { Exit::FAILED }, text, warning: None }
}

/// `exit-code: exited with status 1`, without saying a thing twice.
pub(crate) fn failure_text(failure: &bus::Failure) -> String {
    match (failure.result.as_str(), failure.text.as_str()) {
        (result, "") => result.to_owned(),
        ("", text) => text.to_owned(),
        (result, text) if text.contains(result) => text.to_owned(),
        (result, text) => format!("{result}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::tests::{sample_dead, sample_queues};

    fn view(result: &str, main_code: u32, main_status: u32) -> UnitView {
        UnitView {
            active: "failed".into(),
            sub: "failed".into(),
            result: result.into(),
            main_code,
            main_status,
            ..UnitView::default()
        }
    }

    #[test]
    fn how_a_process_ended() {
        for (result, code, status, want) in [
            ("exit-code", 1, 78, Some("its configuration was refused, exit status 78")),
            ("exit-code", 1, 42, Some("exit status 42")),
            ("signal", 2, 9, Some("killed by SIGKILL")),
            ("core-dump", 3, 11, Some("crashed with SIGSEGV")),
            ("watchdog", 3, 6, Some("it did not answer the watchdog (crashed with SIGABRT)")),
            ("start-limit-hit", 2, 9, Some("it failed again and again, and systemd gave up (killed by SIGKILL)")),
            ("timeout", 0, 0, Some("it took too long to start or to stop")),
            ("success", 1, 0, None),
        ] {
            assert_eq!(ending(&view(result, code, status)).as_deref(), want, "{result}");
        }
        let nofile = UnitView { assert_failed: true, active: "inactive".into(), ..UnitView::default() };
        assert_eq!(ending(&nofile).as_deref(), Some("it has no module file"));
    }

    #[test]
    fn an_explanation_has_all_that_is_known() {
        let id: OperatorId = "irc".parse().unwrap();
        let failure = bus::Failure { time: None, result: "exit-code".into(), text: "exited 78".into() };
        let bus = BusView { last_failure: Some(failure), ..BusView::default() };
        let waiting = Waiting { queues: sample_queues()[..1].to_vec(), dead: sample_dead() };
        let good = Checked { exit: Exit::DONE, text: String::new(), exists: true };
        let bad = Checked {
            exit: Exit::CONFIGURATION,
            text: "error: unknown key `nik`\n --> irc.toml:7:1".into(),
            exists: true,
        };
        let report = compose(
            &id,
            "did not start",
            Some("Job failed."),
            &Ok(view("exit-code", 1, 78)),
            (&Ok(Some(bus)), &waiting),
            &bad,
        );
        assert_eq!(report.exit, Exit::CONFIGURATION);
        for part in [
            "did not start",
            "refused",
            "last exit status 78",
            "exit-code: exited 78",
            "irc.toml:7:1",
            "Job failed.",
            "next: eeveectl edit irc",
            "commands: 12 messages wait, the oldest for 9 min: nobody is attached",
            "2 waited longer than 5 min",
        ] {
            assert!(report.text.contains(part), "{part}: {}", report.text);
        }
        let report = compose(
            &id,
            "did not start",
            None,
            &Ok(view("signal", 2, 9)),
            (&Err("gone".into()), &Waiting::default()),
            &good,
        );
        assert_eq!(report.exit, Exit::FAILED);
        assert!(report.text.contains("journalctl -u eevee-op@irc -n 50"), "{}", report.text);
        assert!(report.text.contains("not reachable: gone"), "{}", report.text);
    }
}
