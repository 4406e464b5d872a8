//! What the server says about itself (numeric 005): which names are equal, and what is a channel.

/// The tokens that we use; the others are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Isupport {
    casemapping: Casemapping,
    chantypes: String,
    statusmsg: String,
    prefixes: String,
    pub(crate) nicklen: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Casemapping {
    Ascii,
    Rfc1459,
    Rfc1459Strict,
}

impl Default for Isupport {
    fn default() -> Self {
        Self {
            casemapping: Casemapping::Rfc1459,
            chantypes: "#&".to_owned(),
            statusmsg: String::new(),
            prefixes: "~&@%+".to_owned(),
            nicklen: None,
        }
    }
}

impl Isupport {
    /// Takes one token, such as `CASEMAPPING=ascii` or `-CHANTYPES`.
    pub(crate) fn take(&mut self, token: &str) {
        let fresh = Self::default();
        if let Some(gone) = token.strip_prefix('-') {
            match gone {
                "CASEMAPPING" => self.casemapping = fresh.casemapping,
                "CHANTYPES" => self.chantypes = fresh.chantypes,
                "STATUSMSG" => self.statusmsg = fresh.statusmsg,
                "PREFIX" => self.prefixes = fresh.prefixes,
                "NICKLEN" => self.nicklen = None,
                _ => {}
            }
            return;
        }
        let (key, value) = token.split_once('=').unwrap_or((token, ""));
        match key {
            "CASEMAPPING" => {
                self.casemapping = match value {
                    "rfc1459" => Casemapping::Rfc1459,
                    "rfc1459-strict" | "strict-rfc1459" => Casemapping::Rfc1459Strict,
                    _ => Casemapping::Ascii,
                }
            }
            "CHANTYPES" => self.chantypes = value.to_owned(),
            "STATUSMSG" => self.statusmsg = value.to_owned(),
            // (ov)@+
            "PREFIX" => self.prefixes = value.split_once(')').map_or("", |(_, symbols)| symbols).to_owned(),
            "NICKLEN" => self.nicklen = value.parse().ok().filter(|n| *n > 0),
            _ => {}
        }
    }

    /// The form of a name in which equal names are equal.
    pub(crate) fn fold(&self, name: &str) -> String {
        let upper_max = match self.casemapping {
            Casemapping::Ascii => 'Z',
            Casemapping::Rfc1459Strict => ']',
            Casemapping::Rfc1459 => '^',
        };
        // `[\]^` stand right after `A-Z` in ASCII, and `{|}~` right after `a-z`.
        let lower = |c: char| if ('A'..=upper_max).contains(&c) { ((c as u8) + 32) as char } else { c };
        name.chars().map(lower).collect()
    }

    pub(crate) fn same(&self, a: &str, b: &str) -> bool {
        self.fold(a) == self.fold(b)
    }

    pub(crate) fn is_channel(&self, name: &str) -> bool {
        name.starts_with(|c| self.chantypes.contains(c))
    }

    /// The channel in `@#channel`, which is how a message to a channel's operators is addressed.
    pub(crate) fn channel_of<'a>(&self, target: &'a str) -> Option<&'a str> {
        if self.is_channel(target) {
            return Some(target);
        }
        let bare = target.trim_start_matches(|c| self.statusmsg.contains(c));
        (bare.len() < target.len() && self.is_channel(bare)).then_some(bare)
    }

    /// A nick in the list of a channel, without the signs of its rank.
    pub(crate) fn bare_nick<'a>(&self, listed: &'a str) -> &'a str {
        listed.trim_start_matches(|c| self.prefixes.contains(c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let mut support = Isupport::default();
        assert!(support.same("Nick[a]^", "nICK{A}~"));
        support.take("CASEMAPPING=strict-rfc1459");
        assert!(support.same("[", "{") && !support.same("^", "~"));
        support.take("CASEMAPPING=ascii");
        assert!(support.same("AbC", "aBc") && !support.same("[", "{"));
        assert!(!support.same("É", "é"), "no server folds beyond ASCII in these mappings");
        support.take("-CASEMAPPING");
        assert!(support.same("[", "{"));
    }

    #[test]
    fn channels_and_ranks() {
        let mut support = Isupport::default();
        assert!(support.is_channel("#a") && support.is_channel("&a") && !support.is_channel("a"));
        assert!(!support.is_channel(""));
        assert_eq!(support.channel_of("@#a"), None);
        for token in ["CHANTYPES=#", "STATUSMSG=@+", "PREFIX=(ov)@+", "NICKLEN=9", "LINELEN=4096", "X"] {
            support.take(token);
        }
        assert!(!support.is_channel("&a"));
        assert_eq!(support.channel_of("@#a"), Some("#a"));
        assert_eq!(support.channel_of("#a"), Some("#a"));
        assert_eq!(support.channel_of("@a"), None);
        assert_eq!(support.bare_nick("@+goos"), "goos");
        assert_eq!(support.nicklen, Some(9));
    }
}
