//! What the parts of the operator know, put together for the person who looks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use crate::access;
use crate::follow::Condition;

/// One thread shares it, and no borrow lives across an await.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Lines and entries that the bus has confirmed in this process.
    pub(crate) published: Cell<u64>,
    /// Those that it had already, from before a crash.
    pub(crate) repeated: Cell<u64>,
    /// Those that can never be published.
    pub(crate) given_up: Cell<u64>,
    /// Why the bus takes none.
    pub(crate) refused: RefCell<Option<String>>,
    pub(crate) files: RefCell<Option<Condition>>,
    pub(crate) journal: RefCell<Option<Journal>>,
    pub(crate) writing: RefCell<Option<Writing>>,
    pub(crate) claim: RefCell<Option<String>>,
    logged: RefCell<BTreeSet<String>>,
}

/// The state of following the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Journal {
    Follows,
    Denied,
    Trouble(String),
}

/// The state of writing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Writing {
    pub(crate) messages: u64,
    pub(crate) trouble: Option<String>,
}

impl Report {
    pub(crate) fn count(counter: &Cell<u64>) {
        counter.set(counter.get() + 1);
    }

    /// The bus has refused: logged when it is news.
    pub(crate) fn refuse(&self, error: &libeevee::Error) {
        let text = error.to_string();
        if self.refused.borrow().as_ref() != Some(&text) {
            tracing::error!("nothing can be published, what was read waits: {text}");
            self.refused.replace(Some(text));
        }
    }

    /// The bus takes something.
    pub(crate) fn accept(&self) {
        if self.refused.borrow().is_some() && self.refused.take().is_some() {
            tracing::info!("the bus takes what was read again");
        }
    }

    /// One line for `systemctl status`: what is wrong comes first.
    pub(crate) fn status(&self, id: &str) -> String {
        let mut wrong = Vec::new();
        let mut right = Vec::new();
        let mut denied = false;
        wrong.extend(self.claim.borrow().clone());
        if let Some(why) = &*self.refused.borrow() {
            wrong.push(format!("the bus takes nothing: {why}"));
        }
        if let Some(condition) = &*self.files.borrow() {
            right.push(format!("following {}", count(condition.files as u64, "file", "files")));
            if let Some((path, why)) = condition.denied.first() {
                denied = true;
                let more = match condition.denied.len() {
                    1 => String::new(),
                    all => format!(" and {} more", all - 1),
                };
                wrong.push(format!("no access to {}{more}: {why}", path.display()));
            }
            wrong.extend(condition.trouble.iter().cloned());
        }
        match &*self.journal.borrow() {
            Some(Journal::Follows) => right.push("following the journal".to_owned()),
            Some(Journal::Denied) => {
                denied = true;
                wrong.push("no access to the journal".to_owned());
            }
            Some(Journal::Trouble(why)) => wrong.push(format!("the journal is not followed: {why}")),
            None => {}
        }
        if let Some(writing) = &*self.writing.borrow() {
            right.push(format!("{} written", count(writing.messages, "message", "messages")));
            wrong.extend(writing.trouble.clone());
        }
        if self.files.borrow().is_some() || self.journal.borrow().is_some() {
            right.push(format!("{} published", count(self.published.get(), "record", "records")));
        }
        if self.given_up.get() > 0 {
            right.push(format!("{} given up", self.given_up.get()));
        }
        if denied {
            wrong.push(format!("to give it access: {}", access::advice(id)));
        }
        self.log(&wrong);
        wrong.extend(right);
        wrong.join("; ")
    }

    /// What is wrong stands in the log once, and again when it was gone meanwhile.
    fn log(&self, wrong: &[String]) {
        let now: BTreeSet<String> = wrong.iter().cloned().collect();
        let before = self.logged.replace(now.clone());
        for text in now.difference(&before) {
            tracing::warn!("{text}");
        }
    }
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_first() {
        let report = Report::default();
        report.files.replace(Some(Condition { files: 2, ..Condition::default() }));
        report.published.set(1);
        assert_eq!(report.status("logs"), "following 2 files; 1 record published");
        let denied = vec![("/var/log/auth.log".into(), "Permission denied".to_owned())];
        report.files.replace(Some(Condition { files: 2, denied, trouble: Vec::new() }));
        report.journal.replace(Some(Journal::Denied));
        let status = report.status("logs");
        assert!(status.starts_with("no access to /var/log/auth.log: Permission denied; no access to the journal; "));
        assert!(status.contains("/etc/systemd/system/eevee-op@logs.service.d/logs.conf"), "{status}");
        assert!(status.len() < 500, "{status}");
    }
}
