//! What an identity may publish and receive.

use std::rc::Rc;

use libeevee::filter::{Fields, Filter};

/// One of the two lists of a module file, or a person's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Permit {
    /// Administrators: everything.
    All,
    /// Without a list: everything but `control.*`.
    Usual,
    /// What any of these filters admits; `control.*` only by one that names it.
    Filters(Rc<Vec<Filter>>),
}

impl Permit {
    pub(crate) fn from_list(list: Option<&[Filter]>) -> Self {
        list.map_or(Self::Usual, |filters| Self::Filters(Rc::new(filters.to_vec())))
    }

    pub(crate) fn admits(&self, fields: &impl Fields) -> bool {
        self.admits_as(is_about_control(fields), fields)
    }

    /// The same, for who knows whether the message [is about control](is_about_control).
    pub(crate) fn admits_as(&self, control: bool, fields: &impl Fields) -> bool {
        match self {
            Self::All => true,
            Self::Usual => !control,
            Self::Filters(filters) => {
                filters.iter().any(|filter| (!control || filter.names_control_types()) && filter.matches(fields))
            }
        }
    }

    /// The rule as a person wrote it, for the error that names it.
    pub(crate) fn rule(&self) -> String {
        match self {
            Self::All => "everything".into(),
            Self::Usual => "type!~control.* (the default)".into(),
            Self::Filters(filters) if filters.is_empty() => "nothing (an empty list)".into(),
            Self::Filters(filters) => filters.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
        }
    }

    /// Whether its answer depends on more than headers and source.
    pub(crate) fn is_volatile(&self) -> bool {
        match self {
            Self::All | Self::Usual => false,
            Self::Filters(filters) => filters.iter().any(is_volatile),
        }
    }
}

/// Whether a message is one of control, which needs a permission that names it.
pub(crate) fn is_about_control(fields: &impl Fields) -> bool {
    fields.field("type").is_some_and(|kind| is_control(&kind))
}

/// `control` and everything below it.
fn is_control(kind: &str) -> bool {
    kind == "control" || kind.starts_with("control.")
}

/// Whether a filter looks at a part of the envelope that differs between messages with equal headers from one source.
pub(crate) fn is_volatile(filter: &Filter) -> bool {
    filter.clauses().iter().any(|clause| matches!(clause.key(), "id" | "timestamp" | "cause" | "hops"))
}

#[cfg(test)]
mod tests {
    use libeevee::Headers;

    use super::*;

    fn headers(kind: &str) -> Headers {
        Headers::try_from([("type", kind), ("platform", "irc")]).unwrap()
    }

    fn filters(texts: &[&str]) -> Permit {
        let list: Vec<Filter> = texts.iter().map(|text| text.parse().unwrap()).collect();
        Permit::from_list(Some(&list))
    }

    #[test]
    fn absent_is_everything_but_control_and_empty_is_nothing() {
        let usual = Permit::from_list(None);
        assert!(usual.admits(&headers("chat.message")) && usual.admits(&headers("controller")));
        assert!(!usual.admits(&headers("control.start")) && !usual.admits(&headers("control")));
        assert!(!filters(&[]).admits(&headers("chat.message")));
        assert!(Permit::All.admits(&headers("control.start")));
    }

    #[test]
    fn control_needs_a_clause_that_names_it() {
        assert!(!filters(&["*"]).admits(&headers("control.start")));
        assert!(!filters(&["platform=irc", "type!=x"]).admits(&headers("control.start")));
        assert!(filters(&["type=control.start,platform=irc"]).admits(&headers("control.start")));
        assert!(filters(&["type~control.*"]).admits(&headers("control.stop")));
        assert!(!filters(&["type=control.start"]).admits(&headers("control.stop")));
    }
}
