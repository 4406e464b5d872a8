//! From `main` to the operator's loop and out again.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::timeout;

use super::arguments::{self, Ask, HELP};
use super::identity::{self, Identity};
use super::inner::Inner;
use super::signals::{self, Signals};
use super::{Failure, Operator, notify, records, watch};
use crate::client::{Client, Connect};
use crate::diagnostic::read_file;
use crate::exit::Exit;
use crate::settings::{Settings, parse_module, schema};

/// The goodbye to the bus: what was published is written, and the bus has read it.
const GOODBYE_WITHIN: Duration = Duration::from_millis(1500);

/// What a program says of itself on its command line.
#[derive(Debug, Default)]
pub(super) struct About {
    pub(super) version: Option<String>,
    pub(super) text: String,
}

/// Runs a connector, or any operator with a loop of its own.
///
/// It returns when the operator was asked to stop, or when `main` returned: the exit code is 0, or that of the
/// [`Failure`]. `main` begins once the bus has welcomed the operator and its settings are read and checked.
///
/// The program answers `--check FILE`, `--schema`, `--version` and `--help`.
pub fn run_loop<S: Settings>(main: impl AsyncFnOnce(Operator<S>) -> Result<(), Failure>) -> Exit {
    run_about(&About::default(), main)
}

pub(super) fn run_about<S: Settings>(
    about: &About,
    main: impl AsyncFnOnce(Operator<S>) -> Result<(), Failure>,
) -> Exit {
    let name = program_name();
    let asked = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Ask::Run(id)) => id,
        Ok(Ask::Check(file)) => return check::<S>(&file),
        Ok(Ask::Schema) => return say(&format!("{}\n", schema::<S>())),
        Ok(Ask::Version) => return say(&format!("{}\n", version(&name, about))),
        Ok(Ask::Help) => return say(&format!("{}{}", HELP.replace("{name}", &name), about.text)),
        Err(wrong) => {
            complain(&format!("{name}: {wrong}"));
            return Exit::USAGE;
        }
    };
    // Memory holds secrets: no core dump, and no debugger of the same uid.
    let _ = nix::sys::prctl::set_dumpable(false);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("{name}: cannot start: {error}"));
            return Exit::TEMPORARY;
        }
    };
    let local = LocalSet::new();
    let exit = local.block_on(&runtime, async {
        // Before anything slow: a SIGTSTP that comes before is lost.
        let signals = Signals::install();
        let identity = identity::find(asked);
        crate::log::init(identity.as_ref().ok().map(|identity| &identity.id));
        log_panics();
        let outcome = match (signals, identity) {
            (Ok(signals), Ok(identity)) => operate(&version(&name, about), identity, signals, main).await,
            (Err(error), _) => Err(error.into()),
            (_, Err(failure)) => Err(failure),
        };
        match outcome {
            Ok(exit) => exit,
            Err(failure) => {
                crate::log::last_words(&failure.to_string());
                notify::status(&notify::line(failure.to_string().lines().next().unwrap_or_default()));
                failure.exit()
            }
        }
    });
    drop(local);
    // A blocking task that hangs must not keep the process.
    runtime.shutdown_background();
    exit
}

async fn operate<S: Settings>(
    program: &str,
    identity: Identity,
    mut signals: Signals,
    main: impl AsyncFnOnce(Operator<S>) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let connect = Connect::operator(identity.id.clone(), identity.token).program(program).wait(true);
    let client = tokio::select! {
        biased;
        () = signals.stop() => {
            tracing::info!("stopping before the bus was there");
            notify::stopping();
            return Ok(Exit::DONE);
        }
        client = Client::connect(connect) => client?,
        never = watch::first_wait() => match never {},
    };
    let module = client.welcome().module.clone();
    records::follow(&identity.id, module.as_ref());
    let settings = match &module {
        Some(module) => parse_module::<S>(&module.path, &module.text),
        // Only a development bus welcomes an operator that has no file.
        None => parse_module::<S>(&format!("modules.d/{}.toml (absent)", identity.id), ""),
    };
    let settings = match settings {
        Ok(settings) => settings,
        Err(diagnosis) => {
            records::last(&client, &diagnosis.to_string());
            let _ = timeout(GOODBYE_WITHIN, client.close()).await;
            return Err(diagnosis.into());
        }
    };
    let notices = client.notices();
    let inner = Inner::new(identity.id, client, settings, module);
    let outcome = tokio::select! {
        biased;
        exit = signals::obey(&inner, signals) => Ok(exit),
        failure = watch::notices(&inner, notices) => Err(failure),
        failure = inner.failed() => Err(failure),
        never = watch::watchdog(&inner) => match never {},
        never = watch::away(&inner) => match never {},
        never = records::publish(&inner.client) => match never {},
        done = inner.run_loop(main(Operator { inner: inner.clone() })) => done.map(|()| Exit::DONE),
    };
    inner.stop();
    match &outcome {
        Ok(_) => _ = records::flush(&inner.client),
        Err(failure) => records::last(&inner.client, &failure.to_string()),
    }
    // Answers that were given before the end are still on their way.
    match timeout(GOODBYE_WITHIN, inner.client.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if outcome.is_ok() => tracing::warn!("leaving the bus: {error}"),
        Ok(Err(_)) => {}
        Err(_) => tracing::warn!("the bus did not take everything within {GOODBYE_WITHIN:?}"),
    }
    outcome
}

fn check<S: Settings>(file: &Path) -> Exit {
    let checked = read_file(file).and_then(|text| parse_module::<S>(&file.to_string_lossy(), &text));
    match checked {
        Ok(_) => Exit::DONE,
        Err(diagnosis) => {
            complain(&diagnosis.to_string());
            Exit::CONFIGURATION
        }
    }
}

/// A panic goes to the log as one line; the default would print several to standard error.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!("panic at {place}: {}", info.payload_as_str().unwrap_or("of an unknown kind"));
    }));
}

fn version(name: &str, about: &About) -> String {
    const LIBRARY: &str = concat!("libeevee ", env!("CARGO_PKG_VERSION"));
    match &about.version {
        Some(version) => format!("{name} {version} ({LIBRARY})"),
        None => format!("{name} ({LIBRARY})"),
    }
}

fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_else(|| OsString::from("operator"));
    Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn say(text: &str) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::DONE,
        Err(_) => Exit::FAILED,
    }
}

/// For the person who typed the command; there is no log yet.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
