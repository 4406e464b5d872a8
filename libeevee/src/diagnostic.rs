//! What is wrong with a configuration file, said so that a person finds it: file, line, column, the line itself, and the
//! nearest thing that would have been right. Everything that reads a TOML file of eevee goes through [`parse_toml`].

mod hint;
mod read;

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::de::DeserializeOwned;

pub(crate) use self::hint::SECRET;
pub use self::read::{FILE_BYTES_MAX, check_text, read_file};

/// A mistake in a configuration file.
///
/// Its [`Display`](fmt::Display) has several lines, without colour: the message, `--> path:line:column`, the offending
/// line, and help. [`summary`](Self::summary) is one line. A literal secret on the offending line is masked, because
/// diagnoses go to the journal.
///
/// ```
/// use libeevee::Diagnosis;
/// let text = "kind = \"irc\"\nnik = \"eevee\"\n";
/// let diagnosis = Diagnosis::at("irc.toml", text, 13..16, "unknown key `nik`").help("known keys: `nick`");
/// assert_eq!(diagnosis.summary(), "irc.toml:2:1: unknown key `nik`");
/// assert!(diagnosis.to_string().contains("2 | nik = \"eevee\""));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    warning: bool,
    path: String,
    message: String,
    place: Option<Box<Place>>,
    help: Vec<String>,
}

/// The offending line; not the whole file, because a diagnosis is kept and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    text: String,
    span: Range<usize>,
}

impl Diagnosis {
    /// A mistake at `span`, a range of bytes in `text`, which is all of the file at `path`.
    ///
    /// A span beyond the text or inside a character is moved to the nearest place that exists.
    pub fn at(path: &str, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { place: Some(Box::new(Place::find(text, span))), ..Self::file(path, message) }
    }

    /// A mistake of the file as a whole: it is missing, not readable, too large.
    pub fn file(path: &str, message: impl Into<String>) -> Self {
        Self { warning: false, path: one_line(path), message: one_line(&message.into()), place: None, help: Vec::new() }
    }

    /// Adds a line on what to do about it.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(one_line(&text.into()));
        self
    }

    /// Makes it a warning: worth saying, but nothing is refused for it.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.warning = true;
        self
    }

    /// Whether it is only a warning.
    pub fn is_warning(&self) -> bool {
        self.warning
    }

    /// The path of the file.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Line and column, both from 1; the column counts characters.
    pub fn line_column(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(|place| (place.line, place.column))
    }

    /// All in one line: `path:line:column: message`.
    pub fn summary(&self) -> String {
        match self.line_column() {
            Some((line, column)) => format!("{}:{line}:{column}: {}", self.path, self.message),
            None => format!("{}: {}", self.path, self.message),
        }
    }

    /// The whole diagnosis with the offending line, in colours of a terminal where `colour` says so.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let level = if self.warning { Level::WARNING } else { Level::ERROR };
        let title = level.primary_title(self.message.as_str());
        let mut group: Group<'_> = match &self.place {
            Some(place) => title.element(
                Snippet::source(place.text.as_str())
                    .line_start(place.line)
                    .path(self.path.as_str())
                    .annotation(AnnotationKind::Primary.span(place.span.clone())),
            ),
            None => title.element(Origin::path(self.path.as_str())),
        };
        for help in &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }

    /// What the offending line shows at the mistake.
    fn shown(&self) -> &str {
        self.place.as_ref().and_then(|place| place.text.get(place.span.clone())).unwrap_or_default()
    }

    /// Masks what stands at the mistake: it is a secret.
    fn masked(mut self) -> Self {
        if let Some(place) = &mut self.place {
            hint::mask(&mut place.text, place.span.clone());
        }
        self
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnosis {}

impl Place {
    fn find(text: &str, span: Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let start = (start - line_start).min(line.len());
        let end = span.end.saturating_sub(line_start).clamp(start, line.len());
        let end = line.ceil_char_boundary(end);
        let mut masked = line.to_owned();
        hint::mask_secrets(&mut masked);
        // annotate-snippets shows C0 controls and bidirectional ones harmlessly, but not C1.
        let harmless = |part: &str| part.replace(|c| matches!(c, '\u{80}'..='\u{9f}'), "\u{fffd}");
        let (before, at, after) = match (masked.get(..start), masked.get(start..end), masked.get(end..)) {
            (Some(before), Some(at), Some(after)) => (harmless(before), harmless(at), harmless(after)),
            // The place is inside a character that became asterisks; the line alone is still right.
            _ => (harmless(&masked), String::new(), String::new()),
        };
        Self {
            line: text[..line_start].matches('\n').count() + 1,
            column: line[..start].chars().count() + 1,
            span: before.len()..before.len() + at.len(),
            text: before + &at + &after,
        }
    }
}

/// A diagnosis goes to terminals and journals, and its parts may come from anywhere.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Parses a TOML file whose text is at hand; `path` is only for messages.
///
/// ```
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Limits {
///     queue: u32,
/// }
/// let limits: Limits = libeevee::parse_toml("eeveed.toml", "queue = 10")?;
/// assert_eq!(limits.queue, 10);
/// let wrong = libeevee::parse_toml::<Limits>("eeveed.toml", "qeue = 10").err().unwrap();
/// assert_eq!(wrong.summary(), "eeveed.toml:1:1: unknown key `qeue`, did you mean `queue`?");
/// # Ok::<(), libeevee::Diagnosis>(())
/// ```
///
/// # Errors
/// A [`Diagnosis`] of the first mistake: more than 1 MiB, a byte order mark, a mistake of syntax, an unknown or missing
/// key, a value of the wrong type. The place is exact only for types without `#[serde(tag)]` and `#[serde(flatten)]`,
/// which lose it.
pub fn parse_toml<T: DeserializeOwned>(path: &str, text: &str) -> Result<T, Diagnosis> {
    check_text(path, text)?;
    toml::from_str(text).map_err(|error| from_toml(path, text, &error))
}

/// Puts an error of toml or serde into the words of a person who edits the file.
pub(crate) fn from_toml(path: &str, text: &str, error: &toml::de::Error) -> Diagnosis {
    let span = error.span().unwrap_or(0..0);
    let mut said = hint::explain(error.message(), text, span.clone());
    let mut diagnosis = Diagnosis::at(path, text, span.clone(), "");
    if said.secret {
        diagnosis = diagnosis.masked();
    } else {
        // The message may repeat what the line no longer shows.
        let quotes = ['"', '\''];
        let literal = text.get(span).unwrap_or_default().trim_matches(quotes);
        if !literal.is_empty() && diagnosis.shown().trim_matches(quotes) != literal && diagnosis.shown().contains('*') {
            for text in said.help.iter_mut().chain([&mut said.message]) {
                *text = text.replace(literal, "***");
            }
        }
    }
    diagnosis.message = one_line(&said.message);
    said.help.into_iter().fold(diagnosis, Diagnosis::help)
}

#[cfg(test)]
mod tests;
