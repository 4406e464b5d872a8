//! The error of everything that talks to the bus: a kind to match on, a sentence to show, and the cause that was below.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::filter::FilterError;
use crate::header::HeaderError;
use crate::wire::{Code, Refusal, WireError};

/// What kind of error an [`Error`] is; match on this, show the error itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bus refused it, with this code. The connection goes on unless [`Code::closes`] says otherwise.
    Refused(Code),
    /// Who this process is could not be proved, no protocol version is in common, or the bus lets it do nothing at all.
    /// The client has ended and connects no more; a new start of the unit fetches a new token.
    Auth,
    /// The operating system refused something, mostly the connection: see [`StdError::source`].
    Io,
    /// The connection to the bus is lost, or was before an answer came. The client connects again by itself; whether the
    /// bus had taken what was asked is not known, unless the text says so.
    Disconnected,
    /// No answer came before the deadline.
    Deadline,
    /// What came from the bus is no frame of the protocol, or not one that may come then.
    Wire,
    /// It is larger than the bus takes; [`Error::limit`] and [`Error::value`] have the numbers, in bytes.
    TooLarge,
    /// A header, filter or other argument is outside the contract; nothing was sent.
    Invalid,
    /// The client was closed by [`Client::close`](crate::Client::close), or by dropping the last one.
    Closed,
    /// Something that a program said with [`Error::other`].
    Other,
}

/// Why something that needed the bus did not work.
///
/// ```
/// use libeevee::{Error, ErrorKind};
/// let error = Error::other("the weather service answered 503");
/// assert_eq!(error.kind(), ErrorKind::Other);
/// assert_eq!(error.to_string(), "the weather service answered 503");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: ErrorKind,
    text: String,
    limit: Option<u64>,
    value: Option<u64>,
    rule: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, text: text.into(), limit: None, value: None, rule: None, source: None }))
    }

    /// An error of the program's own, for handlers that pass on what went wrong.
    pub fn other(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Other, text)
    }

    pub(crate) fn caused(self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.change(|inner| inner.source = Some(Arc::new(source)))
    }

    pub(crate) fn limited(self, limit: u64, value: u64) -> Self {
        self.change(|inner| (inner.limit, inner.value) = (Some(limit), Some(value)))
    }

    /// The same error with words before its text.
    pub(crate) fn context(self, before: impl fmt::Display) -> Self {
        self.change(|inner| inner.text = format!("{before}: {}", inner.text))
    }

    /// The same error as one of another kind.
    pub(crate) fn with_kind(self, kind: ErrorKind) -> Self {
        self.change(|inner| inner.kind = kind)
    }

    fn change(self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        change(&mut inner);
        Self(Arc::new(inner))
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        let code = Code::from_number(refusal.code);
        let kind = match code {
            Code::Auth | Code::Version => ErrorKind::Auth,
            Code::Deadline => ErrorKind::Deadline,
            code => ErrorKind::Refused(code),
        };
        let mut text = format!("the bus refused it ({code}): {}", refusal.text);
        if let Some(rule) = &refusal.rule
            && !refusal.text.contains(rule)
        {
            text.push_str(&format!("; the rule is {rule}"));
        }
        Self(Arc::new(Inner {
            kind,
            text,
            limit: refusal.limit,
            value: refusal.value,
            rule: refusal.rule,
            source: None,
        }))
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "this client of the bus was closed")
    }

    /// What kind it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The code with which the bus refused it, where it did so after Welcome.
    pub fn code(&self) -> Option<Code> {
        match self.0.kind {
            ErrorKind::Refused(code) => Some(code),
            ErrorKind::Deadline => Some(Code::Deadline),
            _ => None,
        }
    }

    /// The limit that was passed, where one was.
    pub fn limit(&self) -> Option<u64> {
        self.0.limit
    }

    /// The value that passed it.
    pub fn value(&self) -> Option<u64> {
        self.0.value
    }

    /// The rule that refused it, where one did: a filter of `may-publish`.
    pub fn rule(&self) -> Option<&str> {
        self.0.rule.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &inner.kind).field("text", &inner.text);
        if let (Some(limit), Some(value)) = (inner.limit, inner.value) {
            debug.field("limit", &limit).field("value", &value);
        }
        if let Some(source) = &inner.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::new(ErrorKind::Io, error.to_string()).caused(error)
    }
}

impl From<HeaderError> for Error {
    fn from(error: HeaderError) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string()).caused(error)
    }
}

impl From<FilterError> for Error {
    fn from(error: FilterError) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string()).caused(error)
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        let made = Self::new(ErrorKind::Wire, format!("the bus sent what is no frame ({error})"));
        match (error.limit, error.value) {
            (Some(limit), Some(value)) => made.limited(limit, value).caused(error),
            _ => made.caused(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_code_numbers_and_rule() {
        let refusal = |code: Code, rule: Option<&str>| Refusal {
            code: code as u16,
            text: "irc may not publish type=control.stop".into(),
            limit: Some(3),
            value: Some(4),
            rule: rule.map(str::to_owned),
        };
        let error = Error::refused(refusal(Code::Denied, Some("direction=in")));
        assert_eq!(error.kind(), ErrorKind::Refused(Code::Denied));
        assert_eq!((error.limit(), error.value(), error.rule()), (Some(3), Some(4), Some("direction=in")));
        let text = error.to_string();
        assert!(text.contains("denied") && text.contains("control.stop") && text.contains("direction=in"), "{text}");
        assert_eq!(Error::refused(refusal(Code::Auth, None)).kind(), ErrorKind::Auth);
        assert_eq!(Error::refused(refusal(Code::Deadline, None)).kind(), ErrorKind::Deadline);
    }

    #[test]
    fn the_cause_is_kept() {
        let error = Error::from(io::Error::from(io::ErrorKind::NotFound)).context("bus at /run/x");
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().starts_with("bus at /run/x: "));
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::NotFound));
    }
}
