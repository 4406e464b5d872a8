//! The start of an operator: show the token, get the kind, become the program. Nothing of this process stays but its pid
//! and its environment.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libeevee::client::{BUS_SOCKET, BUS_SOCKET_VARIABLE, Client, Connect};
use libeevee::{Exit, OperatorId, Programs};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior};

use crate::credential;
use crate::report::Failure;

/// While the bus is away, the start may take so much longer; said again long before it is over.
const EXTEND: Duration = Duration::from_secs(30);
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Returns only where it failed.
pub(crate) fn run(id: &OperatorId) -> Result<(), Failure> {
    let development = std::env::var_os(BUS_SOCKET_VARIABLE).is_some_and(|path| !path.is_empty() && path != BUS_SOCKET);
    let token = credential::token(id, std::env::var_os("CREDENTIALS_DIRECTORY").as_deref(), development)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::FAILED, format!("cannot begin: {error}")))?;
    let kind = runtime.block_on(kind(id, token))?;
    drop(runtime);
    let program =
        Programs::installed().find(&kind).map_err(|error| Failure::new(Exit::CONFIGURATION, error.to_string()))?;
    Err(become_program(&program))
}

/// What the bus says that this operator is. Waits for as long as the bus is away.
async fn kind(id: &OperatorId, token: String) -> Result<String, Failure> {
    // A SIGHUP would end this process. The file is read just now anyway, so it has nothing to tell.
    let _ignored = signal(SignalKind::hangup());
    let connect =
        Connect::launcher(id.clone(), token).program(concat!("eevee-op ", env!("CARGO_PKG_VERSION"))).wait(true);
    let client = tokio::select! {
        connected = Client::connect(connect) => connected.map_err(|error| Failure::from_bus(&error))?,
        () = say_waiting() => unreachable!("waiting is said for ever"),
    };
    match &client.welcome().module {
        Some(module) => Ok(module.kind.clone()),
        None => Err(Failure::new(
            Exit::CONFIGURATION,
            format!("operator {id} has no module file: write /etc/eevee/modules.d/{id}.toml (eeveectl edit {id})"),
        )),
    }
}

async fn say_waiting() {
    let begun = Instant::now();
    let mut every = tokio::time::interval_at(begun + Duration::from_secs(1), SAY_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let status = format!("waiting for the bus, {} s", begun.elapsed().as_secs());
        let extend = u32::try_from(EXTEND.as_micros()).unwrap_or(u32::MAX);
        // Ignored outside of systemd.
        let _ = sd_notify::notify(&[NotifyState::Status(&status), NotifyState::ExtendTimeoutUsec(extend)]);
    }
}

/// The program inherits pid, environment, streams and credentials. The connection to the bus is closed by then.
fn become_program(program: &Path) -> Failure {
    let error = Command::new(program).exec();
    // The file was there just now.
    let absent = error.kind() == std::io::ErrorKind::NotFound;
    let hint = if absent { ": the interpreter in its first line, or its loader, does not exist" } else { "" };
    // No start mends this; a person has to.
    Failure::new(Exit::CONFIGURATION, format!("cannot run {}: {error}{hint}", program.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_program_that_cannot_run_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("irc");
        std::fs::write(&path, "#!/nonexistent/python\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let failure = become_program(&path);
        assert_eq!(failure.exit, Exit::CONFIGURATION);
        assert!(failure.text.contains("interpreter"), "{failure:?}");
    }
}
