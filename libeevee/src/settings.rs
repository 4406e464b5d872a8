//! An operator's settings: the table `[settings]` of its module file, parsed typed, checked, and told about with spans.

mod module;
mod schema;
mod secret;
mod span;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

pub use self::module::ModuleFile;
pub use self::schema::schema;
pub(crate) use self::secret::TOKEN_CREDENTIAL;
pub use self::secret::{CredentialError, Secret, credential};
pub use self::span::TimeSpan;
use crate::diagnostic::{Diagnosis, check_text, from_toml};

/// The settings of a kind of operator.
///
/// Derive `Deserialize` with `deny_unknown_fields`, and no `tag` or `flatten`: these lose the places of mistakes.
///
/// ```
/// use libeevee::{Diagnosis, ModuleFile, Settings};
///
/// #[derive(Clone, serde::Deserialize, schemars::JsonSchema)]
/// #[serde(deny_unknown_fields, rename_all = "kebab-case")]
/// struct Dice {
///     /// The most dice in one throw.
///     #[serde(default = "ten")]
///     dice_max: u32,
/// }
/// fn ten() -> u32 { 10 }
///
/// impl Settings for Dice {
///     fn check(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
///         if self.dice_max == 0 {
///             return Err(file.error("settings.dice-max", "must be at least 1"));
///         }
///         Ok(())
///     }
/// }
///
/// let text = "kind = \"dice\"\n[settings]\ndice-max = 0\n";
/// let wrong = libeevee::parse_module::<Dice>("dice.toml", text).err().unwrap();
/// assert_eq!(wrong.summary(), "dice.toml:3:12: must be at least 1");
/// ```
pub trait Settings: DeserializeOwned + JsonSchema + Send + Sync + Clone + 'static {
    /// Checks what types cannot say: ranges, keys that need each other, the grammar of names.
    ///
    /// It runs in `--check` too, as another user and perhaps on another machine: look at the file alone, and read no
    /// credential.
    ///
    /// # Errors
    /// A [`Diagnosis`], best made by [`ModuleFile::error`].
    fn check(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        let _ = file;
        Ok(())
    }
}

/// For operators without settings: `[settings]` may be absent or empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

impl Settings for NoSettings {}

/// A module file as an operator sees it. The bus has checked the rest, and two readers could disagree.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "S: DeserializeOwned")]
struct File<S> {
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "bus")]
    _bus: Option<IgnoredAny>,
    settings: Option<S>,
}

/// Parses and checks the `[settings]` of a module file; `path` is only for messages.
///
/// `kind` and `[bus]` are the bus's and not looked at. A file without `[settings]` is read as one with an empty table.
///
/// # Errors
/// A [`Diagnosis`] of the first mistake.
pub fn parse_module<S: Settings>(path: &str, text: &str) -> Result<S, Diagnosis> {
    check_text(path, text)?;
    let file: File<S> = toml::from_str(text).map_err(|error| {
        let diagnosis = from_toml(path, text, &error);
        match error.message().ends_with("expected one of `kind`, `bus`, `settings`") {
            true => diagnosis.help("the operator's own keys stand below [settings], those of the bus below [bus]"),
            false => diagnosis,
        }
    })?;
    let settings = match file.settings {
        Some(settings) => settings,
        None => toml::from_str("").map_err(|error| {
            let message = from_toml(path, "", &error).message().to_owned();
            Diagnosis::at(path, text, 0..0, format!("{message} in [settings]")).help("the file has no table [settings]")
        })?,
    };
    settings.check(&ModuleFile::parse(path, text)?)?;
    Ok(settings)
}

#[cfg(test)]
mod tests;
