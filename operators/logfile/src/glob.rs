//! Patterns of file names: `*`, `?` and `[...]` within a component of a path, as a shell has them, and the walk over the
//! directories that they lead to.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// More files than this are no log directory; the rest is not followed, and the status says so.
pub(crate) const FILES_MAX: usize = 10_000;

/// The pattern of an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Wild(String),
}

/// What a walk came by.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Files that match, and the pattern that each one matched first.
    pub(crate) files: Vec<(PathBuf, usize)>,
    /// Directories whose changes could make other files match.
    pub(crate) directories: BTreeSet<PathBuf>,
    /// Directories that could not be read.
    pub(crate) denied: Vec<(PathBuf, io::Error)>,
    /// Directories in which names match that are not UTF-8, and so cannot be the value of a header.
    pub(crate) strange: BTreeSet<PathBuf>,
    /// There were more than [`FILES_MAX`].
    pub(crate) too_many: bool,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A sentence for the person who wrote it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > 1024 {
            return Err(format!("a path has at most 1024 bytes, this one has {}", text.len()));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("{text:?} is not an absolute path: begin it with /"));
        };
        if text.contains(char::is_control) {
            return Err("a path has no control characters".to_owned());
        }
        let mut parts = Vec::new();
        for part in rest.split('/') {
            match part {
                "" => return Err(format!("{text:?} ends with / or has two of them in a row: name files")),
                "." | ".." => return Err(format!("{text:?} has {part:?} in it: write the path without it")),
                _ if part.contains("**") => {
                    return Err(format!("{text:?} has ** in it: one * for each directory on the way is possible"));
                }
                _ if is_wild(part) => {
                    check_sets(part)?;
                    parts.push(Part::Wild(part.to_owned()));
                }
                _ => parts.push(Part::Literal(part.to_owned())),
            }
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// Whether a path matches, whether or not there is such a file.
    pub(crate) fn covers(&self, path: &Path) -> bool {
        let Some(names) = path.to_str().and_then(|path| path.strip_prefix('/')) else { return false };
        let names: Vec<&str> = names.split('/').collect();
        names.len() == self.parts.len()
            && self.parts.iter().zip(names).all(|(part, name)| match part {
                Part::Literal(literal) => literal == name,
                Part::Wild(pattern) => matches(pattern, name),
            })
    }

    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl Found {
    /// Walks all patterns.
    pub(crate) fn walk(patterns: &[Pattern]) -> Self {
        let mut found = Self::default();
        let mut seen = BTreeSet::new();
        for (number, pattern) in patterns.iter().enumerate() {
            found.descend(Path::new("/"), &pattern.parts, number, &mut seen);
        }
        found
    }

    fn descend(&mut self, directory: &Path, parts: &[Part], number: usize, seen: &mut BTreeSet<PathBuf>) {
        let Some((part, rest)) = parts.split_first() else { return };
        match part {
            Part::Literal(name) => {
                let path = directory.join(name);
                match rest.is_empty() {
                    // The last directory is watched in any case: its files come, go and grow.
                    true => {
                        self.directories.insert(directory.to_owned());
                        if path.symlink_metadata().is_ok() {
                            self.add(path, number, seen);
                        }
                    }
                    false if self.may_enter(&path) => self.descend(&path, rest, number, seen),
                    false => drop(self.directories.insert(directory.to_owned())),
                }
            }
            Part::Wild(pattern) => {
                self.directories.insert(directory.to_owned());
                let (mut names, strange) = match read_names(directory) {
                    Ok(names) => names,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                    Err(error) => return self.denied.push((directory.to_owned(), error)),
                };
                if strange.iter().any(|name| matches(pattern, name)) {
                    self.strange.insert(directory.to_owned());
                }
                names.retain(|name| matches(pattern, name));
                names.sort_unstable();
                for name in names {
                    let path = directory.join(name);
                    match rest.is_empty() {
                        true => self.add(path, number, seen),
                        false if self.may_enter(&path) => self.descend(&path, rest, number, seen),
                        false => {}
                    }
                }
            }
        }
    }

    /// Whether this is a directory that may be walked. Who may write in the one above must not lead us by a symbolic link to
    /// where he himself could not read.
    fn may_enter(&mut self, path: &Path) -> bool {
        let Ok(link) = path.symlink_metadata() else { return false };
        if !link.is_symlink() {
            return link.is_dir();
        }
        let Ok(target) = path.metadata() else { return false };
        let is_trusted = is_trusted_link(link.uid(), target.uid());
        if target.is_dir() && !is_trusted {
            self.denied.push((path.to_owned(), io::Error::new(io::ErrorKind::PermissionDenied, STRANGE_LINK)));
        }
        target.is_dir() && is_trusted
    }

    fn add(&mut self, path: PathBuf, number: usize, seen: &mut BTreeSet<PathBuf>) {
        if seen.contains(&path) {
            return;
        }
        if self.files.len() == FILES_MAX {
            self.too_many = true;
            return;
        }
        seen.insert(path.clone());
        self.files.push((path, number));
    }
}

/// Why a symbolic link is not followed.
pub(crate) const STRANGE_LINK: &str =
    "a symbolic link that belongs neither to root nor to the owner of what it leads to is not followed";

/// Whether a symbolic link of this owner may lead to what that owner has.
pub(crate) fn is_trusted_link(link: u32, target: u32) -> bool {
    link == 0 || link == target
}

/// The names in a directory; those that are not UTF-8 cannot be the value of a header, and are left out.
pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    Ok(read_names(directory)?.0)
}

/// The same, and those that are not UTF-8 as far as they can be shown.
fn read_names(directory: &Path) -> io::Result<(Vec<String>, Vec<String>)> {
    let (mut names, mut strange) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(directory)? {
        match entry?.file_name().into_string() {
            Ok(name) => names.push(name),
            Err(name) => strange.push(name.to_string_lossy().into_owned()),
        }
    }
    Ok((names, strange))
}

fn is_wild(part: &str) -> bool {
    part.contains(['*', '?', '['])
}

fn check_sets(part: &str) -> Result<(), String> {
    let mut rest = part;
    while let Some(at) = rest.find('[') {
        let set: Vec<char> = rest[at..].chars().collect();
        let Some(length) = set_length(&set) else {
            return Err(format!("the [ in {part:?} has no ]: write [[] for the character itself"));
        };
        rest = &rest[at + set[..length].iter().map(|c| c.len_utf8()).sum::<usize>()..];
    }
    Ok(())
}

/// How many characters the set at the beginning has, with its brackets.
fn set_length(pattern: &[char]) -> Option<usize> {
    // A ] in the first place is one of the set.
    let first = if matches!(pattern.get(1), Some('!' | '^')) { 3 } else { 2 };
    pattern.iter().skip(first).position(|c| *c == ']').map(|at| first + at + 1)
}

/// Whether a name matches the pattern of one component. As in a shell, a dot at the beginning has to be written.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => match set_length(&pattern[p..]) {
                Some(length) => in_set(&pattern[p + 1..p + length - 1], name[n]).then_some(length),
                None => (name[n] == '[').then_some(1),
            },
            Some(c) => (*c == name[n]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            // The last star takes one character more.
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

fn in_set(set: &[char], c: char) -> bool {
    let (negated, set) = match set.first() {
        Some('!' | '^') => (true, &set[1..]),
        _ => (false, set),
    };
    let mut at = 0;
    let mut found = false;
    while at < set.len() {
        if set.get(at + 1) == Some(&'-') && at + 2 < set.len() {
            found |= (set[at]..=set[at + 2]).contains(&c);
            at += 3;
        } else {
            found |= set[at] == c;
            at += 1;
        }
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components() {
        for (pattern, name, expected) in [
            ("*.log", "a.log", true),
            ("*.log", "a.log.1", false),
            ("*", ".hidden", false),
            (".*", ".hidden", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?.log", "ü.log", true),
            ("[a-c]?", "b1", true),
            ("[!a-c]?", "b1", false),
            ("[!a-c]?", "d1", true),
            ("[]x]", "]", true),
            ("x[[]y", "x[y", true),
            ("a-[-z]", "a--", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn mistakes() {
        for (text, said) in [
            ("var/log/a", "not an absolute path"),
            ("", "not an absolute path"),
            ("/var/log/", "name files"),
            ("/", "name files"),
            ("/var/../etc/x", "\"..\""),
            ("/var/**/x", "**"),
            ("/var/[a", "no ]"),
            ("/var/a\nb", "control"),
        ] {
            assert!(Pattern::parse(text).unwrap_err().contains(said), "{text}: {:?}", Pattern::parse(text));
        }
    }

    #[test]
    fn walks_and_watches() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap();
        for path in ["a/x.log", "a/y.txt", "b/x.log", "b/deep/z.log"] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let walk = |pattern: &str| {
            let found = Found::walk(&[Pattern::parse(&format!("{root}/{pattern}")).unwrap()]);
            let strip = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let files: Vec<_> = found.files.iter().map(|(path, _)| strip(path)).collect();
            (files.join(" "), found.directories.iter().map(|path| strip(path)).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(walk("*/*.log"), ("a/x.log b/x.log".into(), " a b".into()));
        assert_eq!(walk("a/x.log"), ("a/x.log".into(), "a".into()));
        assert_eq!(walk("a/none.log"), (String::new(), "a".into()));
        assert_eq!(walk("c/d/none.log"), (String::new(), String::new()), "the root of all is watched");
        assert_eq!(walk("*/deep/*"), ("b/deep/z.log".into(), " a b/deep".into()));
    }
}
