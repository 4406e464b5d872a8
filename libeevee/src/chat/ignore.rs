//! Whose commands are not taken.

use std::str::FromStr;

use crate::filter::{Glob, GlobError};

/// People whose commands are not taken, as patterns: `*` is any text, `?` one character, case does not count.
///
/// A pattern with `!` is compared with `NAME!IDENT@HOST`, one with `@` and without `!` with `IDENT@HOST`, any other one with
/// the name and with the account that the network vouches for.
///
/// ```
/// use libeevee::chat::IgnoreList;
/// let list = IgnoreList::parse(["*!*@*.spam.example", "noisybot"])?;
/// assert!(list.holds("goos", None, Some("~g@mx.spam.example")));
/// assert!(list.holds("NoisyBot", None, None));
/// assert!(!list.holds("goos", None, Some("~g@honk.example")));
/// # Ok::<(), libeevee::filter::GlobError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreList(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Mask(Glob),
    Host(Glob),
    Name(Glob),
}

impl FromStr for Pattern {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let glob = text.to_lowercase().parse()?;
        Ok(match (text.contains('!'), text.contains('@')) {
            (true, _) => Self::Mask(glob),
            (false, true) => Self::Host(glob),
            (false, false) => Self::Name(glob),
        })
    }
}

impl IgnoreList {
    /// Reads the patterns.
    ///
    /// # Errors
    /// [`GlobError`] for a control character, or a backslash that escapes nothing.
    pub fn parse(patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, GlobError> {
        patterns.into_iter().map(|pattern| pattern.as_ref().parse()).collect::<Result<_, _>>().map(Self)
    }

    /// Whether somebody is in it.
    pub fn holds(&self, user: &str, account: Option<&str>, user_host: Option<&str>) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let lower = |text: &str| text.to_lowercase();
        let (user, account, host) = (lower(user), account.map(lower), user_host.map(lower));
        let mask = format!("{user}!{}", host.as_deref().unwrap_or_default());
        self.0.iter().any(|pattern| match pattern {
            Pattern::Mask(glob) => glob.matches(&mask),
            Pattern::Host(glob) => host.as_deref().is_some_and(|host| glob.matches(host)),
            Pattern::Name(glob) => {
                glob.matches(&user) || account.as_deref().is_some_and(|account| glob.matches(account))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_ignored() {
        let goos = ("Goos", Some("Account"), Some("~g@Honk.example"));
        for (pattern, (user, account, host), expected) in [
            ("goos", goos, true),
            ("GO?S", goos, true),
            ("account", goos, true),
            ("g*", goos, true),
            ("oos", goos, false),
            ("honk.example", goos, false),
            ("*@honk.example", goos, true),
            ("~g@*", goos, true),
            ("*@honk", goos, false),
            ("goos!*@*.example", goos, true),
            ("goos!*@honk", goos, false),
            ("*!~g@*", goos, true),
            ("account!*@*", goos, false),
            ("grün", ("GRÜN", None, None), true),
            ("*@*", ("goos", None, None), false),
            ("goos!*", ("goos", None, None), true),
            ("", goos, false),
        ] {
            let list = IgnoreList::parse([pattern]).unwrap();
            assert_eq!(list.holds(user, account, host), expected, "{pattern}");
        }
        assert!(!IgnoreList::default().holds("goos", None, None));
        assert!(IgnoreList::parse(["x", "goos"]).unwrap().holds("goos", None, None));
        assert!(IgnoreList::parse([r"a\b"]).is_err());
        // The name [x] on IRC is text, and no set of letters.
        assert!(!IgnoreList::parse(["[x]"]).unwrap().holds("x", None, None));
    }
}
