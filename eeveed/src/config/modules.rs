//! The module files, one for each operator: which there are, and what one says.

use std::path::{Path, PathBuf};

use libeevee::module::Module;
use libeevee::{Diagnosis, OperatorId};

use super::source;

/// More operators than one machine runs; reading the files of all must not take seconds.
const MODULES_MAX: usize = 1024;
/// Files of all kinds that are looked at to find them.
const ENTRIES_MAX: usize = 65_536;

/// Which module files there are.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    /// The operators that have one, in order.
    pub(crate) ids: Vec<OperatorId>,
    /// Files whose names are no ids; nobody reads them, so somebody should be told.
    pub(crate) strange: Vec<Diagnosis>,
}

/// Where the file of an operator is; `directory` is `/etc/eevee/modules.d`.
pub(crate) fn module_path(directory: &Path, id: &OperatorId) -> PathBuf {
    directory.join(format!("{id}.toml"))
}

/// Whether an operator has a file, good or bad.
pub(crate) fn has_module(directory: &Path, id: &OperatorId) -> bool {
    module_path(directory, id).symlink_metadata().is_ok()
}

/// Reads the file of an operator and checks what it says to the bus. Gives its text as well.
pub(crate) fn read_module(directory: &Path, id: &OperatorId) -> Result<(Module, String), Diagnosis> {
    let path = module_path(directory, id);
    let name = path.to_string_lossy();
    let text = source::read(&path)?.ok_or_else(|| {
        Diagnosis::file(&name, format!("operator {id} has no module file"))
            .help("there are examples in /usr/share/eevee/examples")
    })?;
    let module = Module::parse(id, &name, &text)?;
    Ok((module, text))
}

/// Finds the operators that have a file. A missing directory has none; hidden files, and those that do not end in
/// `.toml`, are an editor's or a package manager's.
pub(crate) fn list_modules(directory: &Path) -> Result<Modules, Diagnosis> {
    let shown = directory.to_string_lossy();
    let unreadable = |error: std::io::Error| Diagnosis::file(&shown, format!("cannot be listed: {error}"));
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Modules::default()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut modules = Modules::default();
    for (count, entry) in entries.enumerate() {
        if count >= ENTRIES_MAX {
            return Err(Diagnosis::file(&shown, format!("has more than {ENTRIES_MAX} files")));
        }
        let name = entry.map_err(unreadable)?.file_name();
        // Lossy: a name that is not UTF-8 is no id either way.
        let name = name.to_string_lossy();
        let Some(id) = name.strip_suffix(".toml").filter(|_| !name.starts_with('.')) else { continue };
        match id.parse() {
            Ok(id) => modules.ids.push(id),
            Err(error) => {
                let path = directory.join(&*name);
                modules.strange.push(Diagnosis::file(&path.to_string_lossy(), format!("is ignored: {error}")));
            }
        }
        if modules.ids.len() + modules.strange.len() > MODULES_MAX {
            return Err(Diagnosis::file(&shown, format!("has more than {MODULES_MAX} module files")));
        }
    }
    modules.ids.sort();
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn good_names_are_found_and_strange_ones_told() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "irc.toml",
            "dice.toml",
            "a-b_c.toml",
            ".irc.toml.swp",
            ".hidden.toml",
            "irc.toml~",
            "irc.toml.dpkg-new",
            "README",
            "IRC.toml",
            "eeveed.toml",
            ".toml",
            "-h.toml",
            "a\nb.toml",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let modules = list_modules(dir.path()).unwrap();
        assert_eq!(modules.ids.iter().map(OperatorId::as_str).collect::<Vec<_>>(), ["a-b_c", "dice", "irc"]);
        let mut strange: Vec<_> = modules.strange.iter().map(Diagnosis::summary).collect();
        strange.sort();
        assert_eq!(strange.len(), 4);
        assert!(
            strange.iter().any(|said| said.contains("/IRC.toml: is ignored: operator id \"IRC\" has 'I'")),
            "{strange:?}"
        );
        assert!(strange.iter().all(|said| !said.contains('\n')));
    }

    #[test]
    fn too_many_are_refused_soon() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..MODULES_MAX {
            std::fs::write(dir.path().join(format!("m{number}.toml")), "").unwrap();
        }
        assert_eq!(list_modules(dir.path()).unwrap().ids.len(), MODULES_MAX);
        for number in MODULES_MAX..10_000 {
            std::fs::write(dir.path().join(format!("m{number}.toml")), "").unwrap();
        }
        let began = Instant::now();
        assert!(list_modules(dir.path()).unwrap_err().summary().ends_with("has more than 1024 module files"));
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_missing_directory_has_no_modules_and_a_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(list_modules(&dir.path().join("modules.d")).unwrap().ids.is_empty());
        std::fs::write(dir.path().join("modules.d"), "").unwrap();
        assert!(list_modules(&dir.path().join("modules.d")).is_err());
    }

    #[test]
    fn a_module_is_read_with_its_text() {
        let dir = tempfile::tempdir().unwrap();
        let id: OperatorId = "irc".parse().unwrap();
        assert!(!has_module(dir.path(), &id));
        let said = read_module(dir.path(), &id).unwrap_err().summary();
        assert_eq!(said, format!("{}/irc.toml: operator irc has no module file", dir.path().display()));

        let text = "[bus]\nmay-publish = [\"direction=in\"]\n[settings]\nnick = \"eevee\"\n";
        std::fs::write(dir.path().join("irc.toml"), text).unwrap();
        assert!(has_module(dir.path(), &id));
        let (module, read) = read_module(dir.path(), &id).unwrap();
        assert_eq!((module.kind.as_str(), read.as_str()), ("irc", text));

        std::fs::write(dir.path().join("irc.toml"), "[bus]\nmay-publish = [\"direction==\"]\n").unwrap();
        let said = read_module(dir.path(), &id).unwrap_err().summary();
        assert!(said.contains("/irc.toml:2:"), "{said}");

        std::fs::remove_file(dir.path().join("irc.toml")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("irc.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(has_module(dir.path(), &id));
        assert!(read_module(dir.path(), &id).unwrap_err().summary().contains("FIFO"));
    }
}
