//! Where the programs of operators are. The `kind` of a module file names one of them.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The directories with operator programs, the first one wins.
pub const PROGRAM_DIRECTORIES: [&str; 2] = ["/usr/local/lib/eevee/operators", "/usr/lib/eevee/operators"];

/// Finds the program of a kind.
///
/// ```
/// use libeevee::Programs;
/// let programs = Programs::in_directories(["/nonexistent"]);
/// let error = programs.find("irc").unwrap_err();
/// assert!(error.to_string().contains("/nonexistent/irc"));
/// ```
#[derive(Debug, Clone)]
pub struct Programs {
    directories: Vec<PathBuf>,
}

/// Why a kind has no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// The kind does not follow the grammar of an id, so that no file is looked for.
    #[error("kind {0:?} is not the name of an operator program: a kind has a-z, 0-9, '_' and '-', at most 27 of them")]
    Kind(String),
    /// There is no such file.
    #[error(
        "no operator program {kind:?}: looked for {looked}{nearest}; the kinds here are: {kinds}",
        looked = list(looked.iter().map(|path| path.display().to_string()), " and "),
        nearest = nearest.as_ref().map(|near| format!("; did you mean {near:?}?")).unwrap_or_default(),
        kinds = list(kinds.iter().cloned(), ", ")
    )]
    Unknown {
        /// The kind asked for.
        kind: String,
        /// The paths tried.
        looked: Vec<PathBuf>,
        /// The kind that is written most like it.
        nearest: Option<String>,
        /// All kinds that exist.
        kinds: BTreeSet<String>,
    },
    /// There is a file, and it is not a program.
    #[error("{} is not a program: it has to be an executable file (chmod 755)", .0.display())]
    NotExecutable(PathBuf),
}

impl Programs {
    /// The programs of this machine: [`PROGRAM_DIRECTORIES`], or the directories of the environment variable
    /// `EEVEE_OPERATORS` (separated by colons), which tests and developers set.
    pub fn installed() -> Self {
        match std::env::var_os("EEVEE_OPERATORS").filter(|value| !value.is_empty()) {
            Some(value) => Self::in_directories(std::env::split_paths(&value)),
            None => Self::in_directories(PROGRAM_DIRECTORIES),
        }
    }

    /// The programs in these directories.
    pub fn in_directories<P: Into<PathBuf>>(directories: impl IntoIterator<Item = P>) -> Self {
        Self { directories: directories.into_iter().map(Into::into).collect() }
    }

    /// The program of a kind.
    ///
    /// # Errors
    /// [`ProgramError`] with the paths tried and the kinds that exist.
    pub fn find(&self, kind: &str) -> Result<PathBuf, ProgramError> {
        // The grammar of ids has no slash and no dot, so that a kind cannot leave the directories.
        if !is_kind(kind) {
            return Err(ProgramError::Kind(kind.chars().take(100).collect()));
        }
        let looked: Vec<PathBuf> = self.directories.iter().map(|directory| directory.join(kind)).collect();
        match looked.iter().find(|path| path.exists()) {
            Some(path) if is_program(path) => Ok(path.clone()),
            Some(path) => Err(ProgramError::NotExecutable(path.clone())),
            None => {
                let kinds = self.kinds();
                let nearest = nearest(kind, &kinds);
                Err(ProgramError::Unknown { kind: kind.to_owned(), looked, nearest, kinds })
            }
        }
    }

    /// All kinds that have a program.
    pub fn kinds(&self) -> BTreeSet<String> {
        let files =
            self.directories.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten();
        files
            .filter(|file| is_program(&file.path()))
            .filter_map(|file| file.file_name().into_string().ok())
            .filter(|name| is_kind(name))
            .collect()
    }
}

/// A kind has the grammar of an id; the reserved ids are no reserved kinds.
fn is_kind(text: &str) -> bool {
    matches!(text.parse::<crate::OperatorId>(), Ok(_) | Err(crate::IdError::Reserved(_)))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn nearest(kind: &str, kinds: &BTreeSet<String>) -> Option<String> {
    let scored = kinds.iter().map(|known| (strsim::damerau_levenshtein(kind, known), known));
    scored.filter(|(distance, _)| *distance <= 2).min().map(|(_, known)| known.clone())
}

fn list(items: impl Iterator<Item = String>, between: &str) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(between) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(directory: &Path, name: &str, mode: u32) {
        std::fs::write(directory.join(name), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_directory_wins_and_errors_name_all() {
        let (local, shipped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        program(shipped.path(), "irc", 0o755);
        program(shipped.path(), "dice", 0o755);
        program(local.path(), "dice", 0o755);
        program(local.path(), "notes", 0o644);
        let programs = Programs::in_directories([local.path(), shipped.path(), Path::new("/nonexistent")]);

        assert_eq!(programs.find("dice").unwrap(), local.path().join("dice"));
        assert_eq!(programs.find("irc").unwrap(), shipped.path().join("irc"));
        assert_eq!(programs.find("notes").unwrap_err(), ProgramError::NotExecutable(local.path().join("notes")));
        let text = programs.find("icr").unwrap_err().to_string();
        for part in ["\"icr\"", &*local.path().join("icr").to_string_lossy(), "did you mean \"irc\"?", "dice, irc"] {
            assert!(text.contains(part), "{text}");
        }
        for bad in ["", "../irc", "a/b", "irc.sh", "-h", "*"] {
            assert!(matches!(programs.find(bad), Err(ProgramError::Kind(_))), "{bad:?}");
        }
    }
}
