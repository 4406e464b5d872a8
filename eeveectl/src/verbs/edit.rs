//! edit: an editor on a copy, a check, and only then the file itself, replaced in one step.

use std::fs::{self, File};
use std::io::{self, BufRead, Write, stderr, stdin};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use libeevee::{Exit, OperatorId};

use super::check;
use crate::context::Context;
use crate::{modules, output};

const EXAMPLES: &str = "/usr/share/eevee/examples";

pub(crate) async fn run(context: &Context, id: &OperatorId) -> anyhow::Result<Exit> {
    let path = modules::path(&context.config, id);
    let before = read(&path)?;
    // Found out now, not after half an hour of editing.
    drop(new_file(&path)?);
    let copies = tempfile::Builder::new().prefix("eeveectl-").tempdir().context("no directory for a copy")?;
    // The same name, so that editors know the language and diagnoses name the file.
    let copy = copies.path().join(format!("{id}.toml"));
    let begin = before.clone().unwrap_or_else(|| template(id));
    fs::write(&copy, &begin).with_context(|| format!("cannot write {}", copy.display()))?;
    loop {
        open_editor(&copy)?;
        let text = fs::read(&copy).with_context(|| format!("cannot read {}", copy.display()))?;
        if Some(&text) == before.as_ref() {
            output::line(&format!("{id}: nothing changed"));
            return Ok(Exit::DONE);
        }
        let checked = check::module(&copy, Some(id)).await;
        if !checked.text.is_empty() {
            output::note(&output::safe(checked.text.trim_end()));
        }
        if checked.exit == Exit::DONE {
            return put(&path, before.as_deref(), &text, id);
        }
        if !again()? {
            let kept = copies.keep().join(format!("{id}.toml"));
            output::error(&format!("{} is as it was; what you wrote is kept in {}", path.display(), kept.display()));
            return Ok(checked.exit);
        }
    }
}

/// The file as it is, or none. What cannot be a module file is not read here either.
fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match path.symlink_metadata() {
        Ok(data) if data.is_file() => {
            Ok(Some(fs::read(path).with_context(|| format!("cannot read {}", path.display()))?))
        }
        Ok(_) => bail!("{} is not a regular file, and eeveed takes nothing else", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
}

/// A new file beside it, with a name that the bus does not take for a module file.
fn new_file(path: &Path) -> anyhow::Result<tempfile::NamedTempFile> {
    let directory = path.parent().unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".eeveectl-")
        .suffix(".new")
        .tempfile_in(directory)
        .with_context(|| format!("cannot write into {} (try as root)", directory.display()))
}

fn put(path: &Path, before: Option<&[u8]>, text: &[u8], id: &OperatorId) -> anyhow::Result<Exit> {
    if read(path)?.as_deref() != before {
        bail!("{} was changed by somebody else meanwhile and is left as it is", path.display());
    }
    let mut file = new_file(path)?;
    file.write_all(text)?;
    // 0644 for a new one: it holds no secrets, and people check it without being root.
    let old = path.metadata().ok();
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(old.as_ref().map_or(0o644, |old| old.mode() & 0o7777)))?;
    if let Some(old) = old {
        // Only root could have another owner here, and only root can give it back.
        let _ = std::os::unix::fs::fchown(file.as_file(), Some(old.uid()), Some(old.gid()));
    }
    file.as_file().sync_all()?;
    file.persist(path).with_context(|| format!("cannot replace {}", path.display()))?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    let next = if before.is_some() { format!("eeveectl reload {id}") } else { format!("eeveectl enable --now {id}") };
    output::line(&format!("{id}: {} is in place, next: {next}", path.display()));
    Ok(Exit::DONE)
}

/// What a new file begins with: the example of that name, or what every file has.
fn template(id: &OperatorId) -> Vec<u8> {
    fs::read(PathBuf::from(EXAMPLES).join(format!("{id}.toml"))).unwrap_or_else(|_| {
        format!(
            "# What operator {id} is and may do: eevee-module(5). Examples are in {EXAMPLES}.\nkind = \"{id}\"\n\n[bus]\n# may-publish = [\"direction=out\"]\n# may-receive = [\"type=chat.message\"]\n\n[settings]\n"
        )
        .into_bytes()
    })
}

/// As git does it: the variable may hold arguments, so a shell takes it apart, and the file stays one word.
fn open_editor(file: &Path) -> anyhow::Result<()> {
    let named =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()));
    let candidates = match named {
        Some(editor) => vec![editor],
        None => ["sensible-editor", "editor", "nano", "vi"].map(str::to_owned).to_vec(),
    };
    for editor in &candidates {
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("{editor} \"$@\""))
            .arg(editor)
            .arg(file)
            .status()
            .context("cannot run a shell for the editor")?;
        match status.code() {
            Some(0) => return Ok(()),
            // The shell did not find it.
            Some(127) => {}
            _ => bail!("the editor {editor:?} failed ({status}); nothing was changed"),
        }
    }
    bail!("there is no editor: set EDITOR (tried: {})", candidates.join(", "))
}

/// Whether to go on with what was written.
fn again() -> anyhow::Result<bool> {
    if !output::questions_possible() {
        return Ok(false);
    }
    write!(stderr(), "edit it again? [Y/n] ")?;
    stderr().flush()?;
    let mut answer = String::new();
    let read = stdin().lock().read_line(&mut answer)?;
    Ok(read > 0 && !answer.trim().to_lowercase().starts_with('n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("irc.toml");
        let id: OperatorId = "irc".parse().unwrap();
        assert_eq!(put(&path, None, b"one", &id).unwrap(), Exit::DONE);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o644);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(put(&path, Some(b"other"), b"two", &id).unwrap_err().to_string().contains("somebody else"));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        let _ = put(&path, Some(b"one"), b"two", &id).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let link = dir.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link).is_err());
    }
}
