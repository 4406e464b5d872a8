//! What a program prints on its standard error becomes entries in the operator's journal, one for each line.

use std::rc::Rc;

use tokio::process::ChildStderr;
use tokio::task::JoinHandle;

use crate::journal::{CUT_MARK, Journal, TEXT_BYTES_MAX};
use crate::lines::Lines;

/// The level of a line that names none.
const LEVEL: u8 = 6;

/// Follows it in a task, until its end or until this is dropped.
pub(crate) struct Follower(JoinHandle<()>);

impl Follower {
    pub(crate) fn new(stderr: ChildStderr, journal: Rc<Journal>, message: Option<u64>) -> Self {
        Self(tokio::task::spawn_local(follow(stderr, journal, message)))
    }

    /// Waits for the end of it.
    pub(crate) async fn end(&mut self) {
        // It fails only when it was ended.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn follow(stderr: ChildStderr, journal: Rc<Journal>, message: Option<u64>) {
    let mut lines = Lines::new(stderr, TEXT_BYTES_MAX - CUT_MARK.len());
    let mut count = 0_u32;
    loop {
        match lines.next().await {
            Ok(Some(line)) => {
                let text = String::from_utf8_lossy(&line.bytes);
                let (level, text) = level(text.trim_end());
                if !text.is_empty() {
                    let more = if line.is_cut { CUT_MARK } else { "" };
                    journal.says(level, &format!("{text}{more}"), message);
                }
            }
            Ok(None) => break,
            Err(error) => {
                journal.warns(&format!("its standard error cannot be read: {error}"), message);
                break;
            }
        }
        count = count.wrapping_add(1);
        // A program that prints without end is not alone in this thread.
        if count.is_multiple_of(64) {
            tokio::task::yield_now().await;
        }
    }
    journal.tell_refused();
}

/// `<4>text`, as services under systemd may write it.
fn level(line: &str) -> (u8, &str) {
    let bytes = line.as_bytes();
    match bytes {
        [b'<', digit @ b'0'..=b'7', b'>', ..] => (digit - b'0', line[3..].trim_start()),
        _ => (LEVEL, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for (line, expected) in [
            ("<3>bad", (3, "bad")),
            ("<7> x", (7, "x")),
            ("<8>x", (6, "<8>x")),
            ("<3", (6, "<3")),
            ("", (6, "")),
            ("é", (6, "é")),
        ] {
            assert_eq!(level(line), expected);
        }
    }
}
