//! Why an operator ended, as systemd saw it. systemd forgets it at the next start of the unit, so it is asked when the
//! operator's session ends, by `systemctl show` in a child.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use libeevee::{OperatorId, Timestamp};
use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::systemd::clean_environment;

const PROPERTIES: &str =
    "--property=LoadState,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,NRestarts,StatusErrno,StatusText";
/// How long systemd may take to notice the end: the session's end is seen first.
const SETTLE_TIME: Duration = Duration::from_secs(2);
/// The first pause; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(40);
/// How long one systemctl may take.
const CHILD_TIME: Duration = Duration::from_secs(5);
/// Children at the same time, when many operators end together.
static CHILDREN: Semaphore = Semaphore::const_new(4);

/// Why an operator ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// When the bus found out, RFC 3339.
    pub(crate) time: String,
    /// systemd's word: `exit-code`, `signal`, `watchdog`, ...
    pub(crate) result: String,
    /// The same as a sentence without a full stop.
    pub(crate) text: String,
}

/// Asks systemd why the operator ended: `None` when it did not fail, when its unit goes on (it only connects anew), and
/// where there is no systemd. Takes up to 2 s, because the end of a session is seen before systemd has noticed the end of
/// the process.
pub(crate) async fn last_failure(id: &OperatorId) -> Option<Failure> {
    ask_until_settled(Path::new("systemctl"), id).await
}

async fn ask_until_settled(systemctl: &Path, id: &OperatorId) -> Option<Failure> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let state = match ask(systemctl, id).await {
            Ok(state) => state,
            Err(reason) => {
                tracing::debug!("systemd does not say why {id} ended: {reason}");
                return None;
            }
        };
        match state.verdict() {
            Verdict::Failed { result, text } => {
                return Some(Failure { time: Timestamp::now().to_string(), result, text });
            }
            Verdict::Ended => return None,
            Verdict::Running if began.elapsed() + pause > SETTLE_TIME => return None,
            Verdict::Running => sleep(pause).await,
        }
        pause *= 2;
    }
}

async fn ask(systemctl: &Path, id: &OperatorId) -> Result<State, String> {
    let _permit = CHILDREN.acquire().await.map_err(|error| error.to_string())?;
    let mut command = Command::new(systemctl);
    clean_environment(&mut command);
    command
        .args(["show", "--no-pager", PROPERTIES, "--"])
        .arg(id.unit())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(CHILD_TIME, command.output())
        .await
        .map_err(|_| format!("systemctl took more than {} s", CHILD_TIME.as_secs()))?
        .map_err(|error| format!("systemctl cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("systemctl: {}", output.status));
    }
    Ok(State::parse(&String::from_utf8_lossy(&output.stdout)))
}

/// What `systemctl show` printed.
#[derive(Debug, Default)]
struct State(HashMap<String, String>);

enum Verdict {
    Failed {
        result: String,
        text: String,
    },
    /// Without a failure; or there is no such unit.
    Ended,
    /// As far as systemd knows by now.
    Running,
}

impl State {
    fn parse(output: &str) -> Self {
        Self(
            output
                .lines()
                .filter_map(|line| line.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    fn number(&self, key: &str) -> i32 {
        self.get(key).parse().unwrap_or_default()
    }

    fn verdict(&self) -> Verdict {
        if self.get("LoadState") != "loaded" {
            return Verdict::Ended;
        }
        // A start sets it back to success, so that anything else is from the run that just ended.
        let result = self.get("Result");
        if !matches!(result, "success" | "") {
            return Verdict::Failed { result: result.to_owned(), text: self.sentence(result) };
        }
        match self.get("ActiveState") {
            "inactive" | "failed" => Verdict::Ended,
            // Restart=always after a clean exit, or a start by hand.
            "activating" => Verdict::Ended,
            _ => Verdict::Running,
        }
    }

    fn sentence(&self, result: &str) -> String {
        let status = self.number("ExecMainStatus");
        let text = match result {
            "exit-code" => exit_status(status),
            "signal" => format!("killed by {}", signal(status)),
            "core-dump" => format!("crashed with {}", signal(status)),
            "watchdog" => "killed by the watchdog: it gave no sign of life in time".to_owned(),
            "timeout" => "it did not start or stop in time".to_owned(),
            "oom-kill" => "killed for want of memory".to_owned(),
            "protocol" => "it ended before it said that it is ready".to_owned(),
            "start-limit-hit" => "it was started too often in too short a time".to_owned(),
            "resources" => "systemd could not give it what its unit asks for".to_owned(),
            other => format!("systemd says {other}"),
        };
        match self.number("NRestarts") {
            0 => text,
            1 => format!("{text}; restarted once"),
            times => format!("{text}; restarted {times} times"),
        }
    }
}

/// The statuses that operators use, and those with which systemd says that it could not even run the program.
fn exit_status(status: i32) -> String {
    let meaning = match status {
        75 => "temporary, to be tried again",
        78 => "configuration",
        200 => "CHDIR: no working directory",
        203 => "EXEC: the program cannot be run",
        214 | 215 | 218..=222 => "the unit's sandbox could not be set up",
        216 => "GROUP: a group of the unit is missing",
        217 => "USER: the unit's user cannot be had",
        226 => "NAMESPACE: the unit's sandbox could not be set up",
        228 => "SECCOMP: the unit's sandbox could not be set up",
        233 => "RUNTIME_DIRECTORY",
        238 => "STATE_DIRECTORY",
        239 => "CACHE_DIRECTORY",
        240 => "LOGS_DIRECTORY",
        243 => "CREDENTIALS: the token or a secret could not be had",
        _ => return format!("exit status {status}"),
    };
    format!("exit status {status} ({meaning})")
}

fn signal(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => format!("signal {number} ({signal})"),
        Err(_) => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn show(active: &str, result: &str, status: i32, restarts: i32) -> String {
        format!(
            "Result={result}\nNRestarts={restarts}\nStatusText=a=b\nExecMainCode=1\nExecMainStatus={status}\n\
             LoadState=loaded\nActiveState={active}\nSubState=x\n"
        )
    }

    fn text(active: &str, result: &str, status: i32, restarts: i32) -> Option<String> {
        match State::parse(&show(active, result, status, restarts)).verdict() {
            Verdict::Failed { text, .. } => Some(text),
            _ => None,
        }
    }

    #[test]
    fn sentences() {
        for (result, status, restarts, says) in [
            ("exit-code", 1, 0, "exit status 1"),
            ("exit-code", 78, 0, "exit status 78 (configuration)"),
            ("exit-code", 75, 3, "exit status 75 (temporary, to be tried again); restarted 3 times"),
            ("exit-code", 203, 0, "exit status 203 (EXEC: the program cannot be run)"),
            ("signal", 9, 1, "killed by signal 9 (SIGKILL); restarted once"),
            ("signal", 99, 0, "killed by signal 99"),
            ("core-dump", 11, 0, "crashed with signal 11 (SIGSEGV)"),
            ("watchdog", 6, 0, "killed by the watchdog: it gave no sign of life in time"),
            ("something-new", 0, 0, "systemd says something-new"),
        ] {
            assert_eq!(text("activating", result, status, restarts).as_deref(), Some(says));
        }
        assert_eq!(text("inactive", "success", 0, 4), None);
        assert_eq!(text("active", "success", 0, 0), None);
    }

    /// A systemctl that prints one of the outputs at each call, the last one for ever; it also keeps its arguments.
    fn scripted(dir: &Path, outputs: &[String]) -> PathBuf {
        let mut script = format!(
            "#!/bin/sh\nexec 2>/dev/null\ncd {0}\nprintf '%s\\n' \"$@\" >args\nenv >env\necho >>calls\n\
             case $(wc -l <calls) in\n",
            dir.display()
        );
        for (at, output) in outputs.iter().enumerate() {
            let pattern = if at + 1 == outputs.len() { "*".to_owned() } else { (at + 1).to_string() };
            script.push_str(&format!("{pattern}) cat <<'E'\n{output}E\n;;\n"));
        }
        script.push_str("esac\n");
        program(dir, &script)
    }

    fn program(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("systemctl");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn asked(systemctl: &Path) -> Option<Failure> {
        let id = "irc".parse().unwrap();
        // Linux refuses to run a file that another test's child still has open for writing (ETXTBSY).
        for _ in 0..100 {
            match ask(systemctl, &id).await {
                Err(reason) if reason.contains("busy") => sleep(Duration::from_millis(10)).await,
                _ => break,
            }
        }
        let _ = std::fs::remove_file(systemctl.with_file_name("calls"));
        ask_until_settled(systemctl, &id).await
    }

    #[tokio::test]
    async fn systemd_may_notice_later_than_the_bus() {
        let dir = tempfile::tempdir().unwrap();
        let running = show("active", "success", 0, 0);
        let outputs =
            [running.clone(), running, show("deactivating", "success", 0, 0), show("activating", "signal", 9, 0)];
        let failure = asked(&scripted(dir.path(), &outputs)).await.unwrap();
        assert_eq!((failure.result.as_str(), failure.text.as_str()), ("signal", "killed by signal 9 (SIGKILL)"));
        assert!(failure.time.parse::<Timestamp>().is_ok());
        let args = std::fs::read_to_string(dir.path().join("args")).unwrap();
        assert!(args.ends_with("--\neevee-op@irc.service\n"), "{args}");
    }

    #[tokio::test]
    async fn children_get_a_clean_environment() {
        let dir = tempfile::tempdir().unwrap();
        asked(&scripted(dir.path(), &[show("inactive", "success", 0, 0)])).await;
        let env = std::fs::read_to_string(dir.path().join("env")).unwrap();
        assert!(!env.contains("CARGO") && !env.contains("NOTIFY_SOCKET") && env.contains("LC_ALL=C"), "{env}");
    }

    #[tokio::test]
    async fn no_failure_is_none() {
        for output in [
            show("inactive", "success", 0, 0),
            // It goes on, and only connects anew: found out after 2 s.
            show("active", "success", 0, 0),
            "LoadState=not-found\nActiveState=inactive\nResult=success\n".to_owned(),
            "nonsense\n\n===\n".to_owned(),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let began = Instant::now();
            assert_eq!(asked(&scripted(dir.path(), &[output])).await, None);
            assert!(began.elapsed() < Duration::from_secs(6));
        }
    }

    #[tokio::test]
    async fn without_systemd_there_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(asked(&dir.path().join("none")).await, None);
        assert_eq!(asked(&program(dir.path(), "#!/bin/sh\nexit 1\n")).await, None);
    }
}
