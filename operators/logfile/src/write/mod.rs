//! Writes messages into files: which file, which line, and the files themselves.

mod again;
mod files;
mod line;
mod template;

pub(crate) use self::files::{Plan, Writer};
pub(crate) use self::template::Template;
