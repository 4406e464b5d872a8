//! Where the keys of a module file stand, so that a mistake in a value can be shown at its place.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnosis, check_text, from_toml};

/// A module file's text and the places of all its keys.
#[derive(Debug)]
pub struct ModuleFile<'a> {
    path: &'a str,
    text: &'a str,
    table: Spanned<DeTable<'a>>,
}

impl<'a> ModuleFile<'a> {
    /// Reads the places of a file whose text is at hand; `path` is only for messages.
    ///
    /// # Errors
    /// A [`Diagnosis`] where it is not TOML.
    pub fn parse(path: &'a str, text: &'a str) -> Result<Self, Diagnosis> {
        check_text(path, text)?;
        let table = DeTable::parse(text).map_err(|error| from_toml(path, text, &error))?;
        Ok(Self { path, text, table })
    }

    /// Its path.
    pub fn path(&self) -> &str {
        self.path
    }

    /// Its text.
    pub fn text(&self) -> &str {
        self.text
    }

    /// Whether a key stands in the file: `settings.sasl.account`, `settings.channels.0`.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).1
    }

    /// Where the value of a key stands, as a range of bytes: `settings.server`, or `settings.channels.0` for the first
    /// of a list. Where the key is absent, the nearest table that would hold it; for a table with a header, the header.
    pub fn span(&self, key: &str) -> Range<usize> {
        self.find(key).0
    }

    /// A mistake in the value of a key.
    pub fn error(&self, key: &str, message: impl Into<String>) -> Diagnosis {
        Diagnosis::at(self.path, self.text, self.span(key), message)
    }

    fn find(&self, key: &str) -> (Range<usize>, bool) {
        let mut span = 0..0;
        let mut table = Some(self.table.get_ref());
        let mut array = None;
        for part in key.split('.') {
            let next: Option<&Spanned<DeValue<'_>>> = match (table, array) {
                (Some(table), _) => table.iter().find(|(key, _)| key.get_ref() == part).map(|(_, value)| value),
                (_, Some(array)) => part.parse::<usize>().ok().and_then(|at| <[_]>::get(array, at)),
                _ => None,
            };
            let Some(value) = next else { return (span, false) };
            span = value.span();
            table = value.get_ref().as_table();
            array = value.get_ref().as_array().map(|array| &**array);
        }
        (span, true)
    }
}
