//! check: what bus and operator would say of a file, without either. The part for the bus is checked here, the rest by
//! the operator's own program; eeveed.toml by eeveed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use libeevee::diagnostic::read_file;
use libeevee::module::Module;
use libeevee::{Diagnosis, Exit, OperatorId, Programs};
use tokio::process::Command;

use super::worse;
use crate::context::Context;
use crate::values::Target;
use crate::{modules, output, secrets};

/// Checking a file of 1 MiB takes milliseconds; a program that takes this long does something else.
const WAIT: Duration = Duration::from_secs(20);

/// Stands for the operator where a file is named after none.
static NAMELESS: LazyLock<OperatorId> = LazyLock::new(|| "0_named_after_no_operator".parse().expect("it is an id"));

/// What is to be said of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) exit: Exit,
    /// The diagnosis, or warnings, or nothing.
    pub(crate) text: String,
    /// There is such a file.
    pub(crate) exists: bool,
}

impl Checked {
    fn bad(text: impl ToString) -> Self {
        Self { exit: Exit::CONFIGURATION, text: text.to_string(), exists: true }
    }
}

pub(crate) async fn run(context: &Context, targets: &[Target]) -> anyhow::Result<Exit> {
    let mut exit = Exit::DONE;
    let all;
    let targets = match targets {
        [] => {
            (all, exit) = everything(context)?;
            &all
        }
        some => some,
    };
    for target in targets {
        let (name, checked) = match target {
            Target::Id(id) => (id.to_string(), module(&modules::path(&context.config, id), Some(id)).await),
            Target::File(path) if is_bus_file(path) => (path.display().to_string(), bus(path).await),
            Target::File(path) => (path.display().to_string(), module(path, None).await),
        };
        let text = output::safe(checked.text.trim_end());
        if checked.exit == Exit::DONE {
            if !text.is_empty() {
                output::note(&text);
            }
            output::line(&output::safe(&format!("{name}: good")));
        } else {
            output::note(&text);
        }
        exit = worse(exit, checked.exit);
    }
    Ok(exit)
}

/// eeveed.toml, where there is one, and every module file. A file that can be none is told at once.
fn everything(context: &Context) -> anyhow::Result<(Vec<Target>, Exit)> {
    let list = modules::list(&context.config)?;
    let bus = Some(context.config.join("eeveed.toml")).filter(|path| path.exists());
    let mut targets: Vec<Target> = bus.into_iter().map(Target::File).collect();
    targets.extend(list.ids.into_iter().map(Target::Id));
    if targets.is_empty() {
        output::note(&format!("there is nothing to check in {}", context.config.display()));
    }
    for (path, why) in &list.misnamed {
        let diagnosis = Diagnosis::file(&path.to_string_lossy(), format!("the file is named after no operator: {why}"));
        output::note(&output::safe(&diagnosis.to_string()));
    }
    let exit = if list.misnamed.is_empty() { Exit::DONE } else { Exit::CONFIGURATION };
    Ok((targets, exit))
}

fn is_absent(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn is_bus_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "eeveed.toml")
}

/// Checks the module file of an operator; without an id, that of the operator that the file is named after.
pub(crate) async fn module(path: &Path, id: Option<&OperatorId>) -> Checked {
    let name = path.to_string_lossy();
    if is_absent(path) {
        let text = Diagnosis::file(&name, "there is no such file")
            .help("examples are in /usr/share/eevee/examples; eeveectl edit ID begins with one");
        return Checked { exists: false, ..Checked::bad(text) };
    }
    let text = match read_file(path) {
        Ok(text) => text,
        Err(diagnosis) => return Checked::bad(diagnosis),
    };
    let named = match id {
        Some(id) => Ok(id.clone()),
        None => path.file_stem().unwrap_or_default().to_string_lossy().parse::<OperatorId>(),
    };
    // The kind of a file that says none is the id. A file elsewhere may have any name, if it says its kind.
    let (id, unnamed) = match named {
        Ok(id) => (id, None),
        Err(error) => (NAMELESS.clone(), Some(error)),
    };
    let kind = match Module::parse(&id, &name, &text) {
        Ok(file) => file.kind,
        Err(diagnosis) => return Checked::bad(diagnosis),
    };
    if let Some(error) = unnamed.as_ref().filter(|_| kind == NAMELESS.as_str()) {
        return Checked::bad(
            Diagnosis::file(&name, format!("the file is named after no operator: {error}"))
                .help("name it ID.toml, or write kind = \"...\" in it"),
        );
    }
    match Programs::installed().find(&kind) {
        Ok(program) => {
            let mut checked = by_program(&program, path).await;
            if checked.exit == Exit::DONE && unnamed.is_none() {
                for warning in secrets::missing(&id, &name, &text) {
                    checked.text.push_str(&warning);
                    checked.text.push('\n');
                }
            }
            checked
        }
        Err(error) => Checked::bad(Diagnosis::file(&name, error.to_string())),
    }
}

/// Checks eeveed.toml. The eeveed beside this program is the one that belongs to it.
async fn bus(path: &Path) -> Checked {
    // eeveed itself would take the defaults, but who names a file means one.
    if is_absent(path) {
        let text = Diagnosis::file(&path.to_string_lossy(), "there is no such file");
        return Checked { exists: false, ..Checked::bad(text) };
    }
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("eeveed")).filter(|exe| exe.exists());
    by_program(&beside.unwrap_or_else(|| PathBuf::from("eeveed")), path).await
}

async fn by_program(program: &Path, file: &Path) -> Checked {
    let mut command = Command::new(program);
    // Not the environment of whoever runs this: what it says must not depend on it.
    command.arg("--check").arg(file).env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).kill_on_drop(true);
    let program = program.display();
    let output = match tokio::time::timeout(WAIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return failed(format!("{program} --check cannot be run: {error}")),
        Err(_) => {
            return failed(format!("{program} --check {} did not end within {}", file.display(), output::span(WAIT)));
        }
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Checked { exit: Exit::DONE, text: said, exists: true },
        Some(78) => Checked::bad(said),
        _ => failed(format!("{program} --check {} failed ({}):\n{said}", file.display(), output.status)),
    }
}

/// The file may be good or bad; nobody could tell.
fn failed(text: String) -> Checked {
    Checked { exit: Exit::FAILED, text: format!("error: {text}"), exists: true }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(directory: &Path, name: &str, text: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn what_a_program_says_decides() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("irc.toml");
        for (text, exit, part) in [
            ("test \"$1\" = --check && test -n \"$2\" || exit 1; echo careful >&2", Exit::DONE, "careful"),
            ("echo \"$2:7:1: unknown key\" >&2; exit 78", Exit::CONFIGURATION, "irc.toml:7:1"),
            ("echo oops >&2; exit 3", Exit::FAILED, "oops"),
            ("kill -9 $$", Exit::FAILED, "signal: 9"),
        ] {
            let checked = by_program(&script(dir.path(), "irc", text), &file).await;
            assert_eq!(checked.exit, exit, "{checked:?}");
            assert!(checked.text.contains(part), "{checked:?}");
        }
        assert_eq!(by_program(&dir.path().join("none"), &file).await.exit, Exit::FAILED);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_or_not_readable() {
        let dir = tempfile::tempdir().unwrap();
        let absent = module(&dir.path().join("irc.toml"), None).await;
        assert_eq!((absent.exit, absent.exists), (Exit::CONFIGURATION, false));
        let broken = dir.path().join("dice.toml");
        std::fs::write(&broken, "kind = \n").unwrap();
        let broken = module(&broken, None).await;
        assert_eq!(broken.exit, Exit::CONFIGURATION);
        assert!(broken.text.contains("dice.toml:1:"), "{}", broken.text);
    }
}
