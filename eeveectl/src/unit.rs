//! systemd's side, without running anything: the words for systemctl and journalctl, and the sense of what
//! `systemctl show` prints. Ids are checked before, and `--` stands before every unit name.

use std::collections::BTreeMap;

use jiff::Timestamp;
use libeevee::OperatorId;

/// What is asked of systemctl for some units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Start,
    Stop,
    Restart,
    Reload,
    ResetFailed,
    Enable,
    Disable,
}

impl Job {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::ResetFailed => "reset-failed",
            Self::Enable => "enable",
            Self::Disable => "disable",
        }
    }
}

/// A signal for the main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Halt,
    Resume,
}

/// The arguments of systemctl for a job. Off a terminal nobody could answer a question for a password.
pub(crate) fn job(job: Job, ids: &[OperatorId], terminal: bool) -> Vec<String> {
    let mut line = vec![job.word().to_owned()];
    line.extend((!terminal).then(|| "--no-ask-password".to_owned()));
    line.push("--".to_owned());
    line.extend(ids.iter().map(OperatorId::unit));
    line
}

/// The arguments of systemctl that send a signal to the main process alone.
pub(crate) fn kill(signal: Signal, id: &OperatorId, terminal: bool) -> Vec<String> {
    let signal = match signal {
        Signal::Halt => "SIGTSTP",
        Signal::Resume => "SIGCONT",
    };
    let mut line = vec!["kill".to_owned(), "--kill-whom=main".to_owned(), format!("--signal={signal}")];
    line.extend((!terminal).then(|| "--no-ask-password".to_owned()));
    line.extend(["--".to_owned(), id.unit()]);
    line
}

const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,StatusText,\
NRestarts,MemoryCurrent,MainPID,ActiveEnterTimestamp,StateChangeTimestamp,UnitFileState,AssertResult,AssertTimestamp,\
ReloadResult,ExecReload";

/// The arguments of systemctl that show these operators; without ids, all that are loaded.
pub(crate) fn show(ids: &[OperatorId], loaded: bool) -> Vec<String> {
    let mut line: Vec<String> =
        ["show", "--no-pager", "--timestamp=unix", PROPERTIES, "--"].map(str::to_owned).to_vec();
    // The only glob there is; it is ours and not a person's.
    line.extend(loaded.then(|| "eevee-op@*.service".to_owned()));
    line.extend(ids.iter().map(OperatorId::unit));
    line
}

/// The arguments of journalctl.
pub(crate) fn logs(ids: &[OperatorId], follow: bool, since: Option<&str>, lines: Option<u64>) -> Vec<String> {
    let mut line: Vec<String> = ids.iter().map(|id| format!("--unit={}", id.unit())).collect();
    line.extend(follow.then(|| "--follow".to_owned()));
    line.extend(since.map(|since| format!("--since={since}")));
    line.extend(lines.map(|lines| format!("--lines={lines}")));
    line
}

/// What systemd says of one operator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct UnitView {
    pub(crate) load: String,
    pub(crate) active: String,
    pub(crate) sub: String,
    pub(crate) result: String,
    /// How the main process ended: 1 exited, 2 killed, 3 dumped core (CLD_* of waitid).
    pub(crate) main_code: u32,
    /// Its exit status, or the signal.
    pub(crate) main_status: u32,
    pub(crate) main_pid: Option<u32>,
    pub(crate) status_text: String,
    pub(crate) restarts: u32,
    pub(crate) memory_bytes: Option<u64>,
    /// When the unit came up, or into the state that is not up.
    pub(crate) since: Option<Timestamp>,
    /// enabled, disabled, ...
    pub(crate) file_state: String,
    /// An assertion of the last start failed: there was no module file.
    pub(crate) assert_failed: bool,
    pub(crate) reload_result: String,
    /// The exit status of the last reload helper.
    pub(crate) reload_status: Option<u32>,
}

impl UnitView {
    pub(crate) fn is_active(&self) -> bool {
        self.active == "active"
    }

    pub(crate) fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed" | "")
    }
}

/// Reads what `systemctl show` printed. Blocks of units that are no operators are left out.
pub(crate) fn parse_show(text: &str) -> BTreeMap<OperatorId, UnitView> {
    text.split("\n\n").filter_map(parse_block).collect()
}

fn parse_block(block: &str) -> Option<(OperatorId, UnitView)> {
    let mut view = UnitView::default();
    let mut id = None;
    let (mut assert_no, mut asserted) = (false, false);
    let mut up_since = None;
    for (key, value) in block.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "Id" => id = value.strip_prefix("eevee-op@")?.strip_suffix(".service")?.parse().ok(),
            "LoadState" => view.load = value.to_owned(),
            "ActiveState" => view.active = value.to_owned(),
            "SubState" => view.sub = value.to_owned(),
            "Result" => view.result = value.to_owned(),
            "ExecMainCode" => view.main_code = value.parse().unwrap_or(0),
            "ExecMainStatus" => view.main_status = value.parse().unwrap_or(0),
            "MainPID" => view.main_pid = value.parse().ok().filter(|pid| *pid != 0),
            "StatusText" => view.status_text = value.to_owned(),
            "NRestarts" => view.restarts = value.parse().unwrap_or(0),
            // "[not set]" while nothing runs, and u64::MAX where accounting is off.
            "MemoryCurrent" => view.memory_bytes = value.parse().ok().filter(|bytes| *bytes != u64::MAX),
            "ActiveEnterTimestamp" => up_since = parse_time(value),
            "StateChangeTimestamp" => view.since = parse_time(value),
            "UnitFileState" => view.file_state = value.to_owned(),
            // "no" also stands there as long as nothing was ever asserted.
            "AssertResult" => assert_no = value == "no",
            "AssertTimestamp" => asserted = parse_time(value).is_some(),
            "ReloadResult" => view.reload_result = value.to_owned(),
            "ExecReload" => view.reload_status = exit_status(value),
            _ => {}
        }
    }
    view.assert_failed = assert_no && asserted;
    // A reload is a change of state too, and the unit was up before it.
    if matches!(view.active.as_str(), "active" | "reloading") {
        view.since = up_since.or(view.since);
    }
    Some((id?, view))
}

/// `@1763829900` as asked for, or `Sat 2026-11-22 16:45:00 UTC` where systemctl prints that in spite of it.
fn parse_time(text: &str) -> Option<Timestamp> {
    if let Some(seconds) = text.strip_prefix('@') {
        return Timestamp::from_second(seconds.split('.').next()?.parse().ok()?)
            .ok()
            .filter(|time| time.as_second() > 0);
    }
    let mut words = text.split(' ').skip(1);
    let (date, time) = (words.next()?, words.next()?);
    format!("{date}T{time}Z").parse().ok()
}

/// The status in `{ path=... ; pid=12 ; code=exited ; status=78 }`, if that command ran to its end.
fn exit_status(text: &str) -> Option<u32> {
    let part = |key: &str| {
        text.split(" ; ").find_map(|part| part.trim().strip_prefix(key)).map(|value| value.trim_end_matches([' ', '}']))
    };
    if part("code=")? != "exited" {
        return None;
    }
    part("status=")?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[&str]) -> Vec<OperatorId> {
        list.iter().map(|id| id.parse().unwrap()).collect()
    }

    #[test]
    fn lines_for_systemctl() {
        let both = ids(&["irc", "dice"]);
        for (want, got) in [
            ("start -- eevee-op@irc.service eevee-op@dice.service", job(Job::Start, &both, true)),
            ("stop --no-ask-password -- eevee-op@irc.service", job(Job::Stop, &both[..1], false)),
            ("reset-failed -- eevee-op@irc.service", job(Job::ResetFailed, &both[..1], true)),
            ("kill --kill-whom=main --signal=SIGTSTP -- eevee-op@irc.service", kill(Signal::Halt, &both[0], true)),
            (
                "kill --kill-whom=main --signal=SIGCONT --no-ask-password -- eevee-op@irc.service",
                kill(Signal::Resume, &both[0], false),
            ),
            (
                "--unit=eevee-op@irc.service --follow --since=-1h --lines=5",
                logs(&both[..1], true, Some("-1h"), Some(5)),
            ),
        ] {
            assert_eq!(got.join(" "), want);
        }
        let line = show(&both, true);
        assert_eq!(line[4..], ["--", "eevee-op@*.service", "eevee-op@irc.service", "eevee-op@dice.service"]);
        assert!(!show(&both, false).iter().any(|word| word.contains('*')));
    }

    #[test]
    fn what_show_prints() {
        let text = "\
Id=eevee-op@irc.service\nLoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainCode=1\n\
ExecMainStatus=78\nStatusText=\nNRestarts=3\nMemoryCurrent=[not set]\nMainPID=0\n\
ActiveEnterTimestamp=@1763829800\nStateChangeTimestamp=@1763829900\nUnitFileState=enabled\nAssertResult=yes\nReloadResult=exit-code\n\
ExecReload={ path=/usr/lib/eevee/eevee-op ; argv[]=/usr/lib/eevee/eevee-op --reload -- irc ; ignore_errors=no ; \
start_time=[@1763829900] ; stop_time=[@1763829901] ; pid=44 ; code=exited ; status=78 }\n\n\
Id=eevee-op@dice.service\nActiveState=active\nSubState=running\nResult=success\nMainPID=812\nMemoryCurrent=1052672\n\
StatusText=ready = yes\nActiveEnterTimestamp=Sat 2025-11-22 16:45:00 UTC\nStateChangeTimestamp=@1763829999\nAssertResult=no\nAssertTimestamp=@1763829900\n\
ExecReload={ path=/x ; start_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }\n\n\
Id=eevee-op@never.service\nActiveState=inactive\nAssertResult=no\nAssertTimestamp=\n\n\
Id=ssh.service\nActiveState=active\n";
        let views = parse_show(text);
        assert_eq!(views.len(), 3);
        assert!(!views[&ids(&["never"])[0]].assert_failed);
        let irc = &views[&ids(&["irc"])[0]];
        assert_eq!(
            (irc.main_code, irc.main_status, irc.restarts, irc.memory_bytes, irc.main_pid),
            (1, 78, 3, None, None)
        );
        assert_eq!((irc.reload_status, irc.is_down(), irc.assert_failed), (Some(78), true, false));
        let dice = &views[&ids(&["dice"])[0]];
        assert_eq!(
            (dice.status_text.as_str(), dice.main_pid, dice.memory_bytes),
            ("ready = yes", Some(812), Some(1_052_672))
        );
        assert_eq!((dice.reload_status, dice.is_active(), dice.assert_failed), (None, true, true));
        assert_eq!(irc.since, dice.since);
        assert!(irc.since.is_some());
        for none in ["", "n/a", "@0", "[not set]"] {
            assert_eq!(parse_time(none), None, "{none:?}");
        }
        assert!(parse_show("").is_empty());
    }
}
