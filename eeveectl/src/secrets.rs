//! Secrets that a module file names and that are not there: a warning, because they may come later.

use std::io::ErrorKind;
use std::path::PathBuf;

use libeevee::OperatorId;
use toml::de::{DeTable, DeValue};

/// Where systemd looks for `LoadCredential=NAME:eevee.ID.NAME` and `LoadCredentialEncrypted=` (systemd.exec(5)).
const STORES: [&str; 3] = ["/etc", "/run", "/usr/lib"];

/// A line for each `credential:NAME` of which no file can be seen. Who may not look is told nothing.
pub(crate) fn missing(id: &OperatorId, path: &str, text: &str) -> Vec<String> {
    missing_in(id, path, text, &STORES.map(PathBuf::from))
}

fn missing_in(id: &OperatorId, path: &str, text: &str, stores: &[PathBuf]) -> Vec<String> {
    let Ok(file) = DeTable::parse(text) else { return Vec::new() };
    let mut named = Vec::new();
    for value in file.get_ref().values() {
        collect(value.get_ref(), value.span().start, &mut named);
    }
    named
        .into_iter()
        .filter(|(name, _)| is_absent(id, name, stores))
        .map(|(name, at)| {
            let before = &text[..at];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!(
                "warning: {path}:{line}:{column}: credential:{name} is not there yet: put it into \
                 /etc/credstore/eevee.{id}.{name} (mode 0600) before {id} starts"
            )
        })
        .collect()
}

fn collect(value: &DeValue<'_>, at: usize, named: &mut Vec<(String, usize)>) {
    match value {
        DeValue::String(text) => {
            if let Some(name) = text.strip_prefix("credential:") {
                named.push((name.to_owned(), at));
            }
        }
        DeValue::Array(items) => items.iter().for_each(|item| collect(item.get_ref(), item.span().start, named)),
        DeValue::Table(table) => table.values().for_each(|value| collect(value.get_ref(), value.span().start, named)),
        _ => {}
    }
}

fn is_absent(id: &OperatorId, name: &str, stores: &[PathBuf]) -> bool {
    // A name with a slash is refused elsewhere, as the form of a credential.
    let plain = stores.iter().map(|store| store.join("credstore").join(format!("eevee.{id}.{name}")));
    let encrypted = stores.iter().flat_map(|store| {
        ["credstore", "credstore.encrypted"].map(|folder| store.join(folder).join(format!("eevee.{id}.{name}.enc")))
    });
    plain.chain(encrypted).all(|path| {
        path.symlink_metadata()
            .is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_nowhere_is_warned_of() {
        let store = tempfile::tempdir().unwrap();
        let stores = [store.path().to_owned()];
        let id = "irc".parse().unwrap();
        let text =
            "[settings]\nnick = \"credential\"\nsasl = { account = \"a\", password = \"credential:password\" }\n";
        let told = missing_in(&id, "irc.toml", text, &stores);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("irc.toml:3:36: credential:password"), "{told:?}");
        assert!(told[0].contains("/etc/credstore/eevee.irc.password"), "{told:?}");
        for file in ["credstore/eevee.irc.password", "credstore.encrypted/eevee.irc.password.enc"] {
            let path = store.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "secret").unwrap();
            assert!(missing_in(&id, "irc.toml", text, &stores).is_empty(), "{file}");
            std::fs::remove_file(&path).unwrap();
        }
        assert!(missing_in(&id, "irc.toml", "no toml", &stores).is_empty());
    }
}
