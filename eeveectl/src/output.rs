//! What a person sees: results on standard output, complaints and progress on standard error. Text that may come from a
//! network is escaped on its way to a terminal.

use std::io::{self, BufRead, IsTerminal, Write, stderr, stdin, stdout};
use std::time::Duration;

use anstream::AutoStream;
use comfy_table::{ContentArrangement, Table, TableStyle};
use libeevee::OperatorId;
use tokio::time::Instant;

/// Whether somebody could answer a question.
pub(crate) fn questions_possible() -> bool {
    stdin().is_terminal() && stderr().is_terminal()
}

/// Asks on the terminal, and takes nothing but a y for a yes.
pub(crate) fn agrees(question: &str) -> io::Result<bool> {
    write!(stderr(), "{} [y/N] ", safe(question))?;
    stderr().flush()?;
    let mut answer = String::new();
    let read = stdin().lock().read_line(&mut answer)?;
    Ok(read > 0 && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// A table without lines, as wide as the terminal; every cell is escaped. None for a pipe: nobody reads one by columns,
/// and words that scripts look for must not be broken.
pub(crate) fn table(titles: &[&str], rows: impl IntoIterator<Item = Vec<String>>, width: Option<usize>) -> String {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new())
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(titles.to_vec());
    table.set_width(width.map_or(1000, |width| u16::try_from(width).unwrap_or(u16::MAX)));
    for row in rows {
        table.add_row(row.iter().map(|cell| libeevee::escape_for_terminal(cell).into_owned()));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A result, on standard output. A reader that went away is no reason to leave the work undone.
pub(crate) fn line(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}

/// A complaint, on standard error.
pub(crate) fn error(text: &str) {
    let _ = writeln!(AutoStream::auto(stderr()), "\u{1b}[1;31merror\u{1b}[0m: {text}");
}

/// Something worth knowing that is no failure.
pub(crate) fn warning(text: &str) {
    let _ = writeln!(AutoStream::auto(stderr()), "\u{1b}[1;33mwarning\u{1b}[0m: {text}");
}

/// A word on the way, on standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

/// Text from elsewhere, such that it can do nothing to a terminal. Lines stay lines.
pub(crate) fn safe(text: &str) -> String {
    text.split('\n').map(|line| libeevee::escape_for_terminal(line).into_owned()).collect::<Vec<_>>().join("\n")
}

/// JSON in ASCII where a terminal could act on the character or a person be misled by it; it reads back as the same.
pub(crate) fn safe_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        // Whatever the escape for terminals would change is written as \u; quotes and backslashes already are.
        let mut bytes = [0; 4];
        if character.is_ascii_graphic()
            || matches!(character, ' ' | '\n')
            || libeevee::escape_for_terminal(character.encode_utf8(&mut bytes)) == character.to_string()
        {
            out.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// `300 ms`, `12 s`, `3 min`, `2 h 5 min`, `4 d 3 h`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if !time.is_zero() => format!("{} ms", time.as_millis()),
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `812 B`, `3.4 KiB`, `12 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" || value >= 10.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// How long ago that was, in whole seconds.
pub(crate) fn ago(time: jiff::Timestamp) -> Duration {
    let exact = Duration::try_from(jiff::Timestamp::now().duration_since(time)).unwrap_or_default();
    Duration::from_secs(exact.as_secs())
}

/// One line on a terminal that says what is being waited for; nothing elsewhere, and nothing for quick work.
pub(crate) struct Progress {
    shown: std::cell::Cell<bool>,
    waiting: std::cell::RefCell<std::collections::BTreeMap<OperatorId, String>>,
    begun: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: Default::default(), waiting: Default::default(), begun: Instant::now() }
    }

    /// What is being waited for at this operator; an empty text when it is done.
    pub(crate) fn set(&self, id: &OperatorId, text: &str) {
        let mut waiting = self.waiting.borrow_mut();
        if text.is_empty() {
            waiting.remove(id);
        } else {
            waiting.insert(id.clone(), text.to_owned());
        }
    }

    /// Draws the line again and again; never ends.
    pub(crate) async fn draw(&self) {
        if !stderr().is_terminal() {
            return std::future::pending().await;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        loop {
            let all: Vec<String> = self.waiting.borrow().iter().map(|(id, text)| format!("{id} {text}")).collect();
            let line =
                safe(&format!("{}: {}", span(Duration::from_secs(self.begun.elapsed().as_secs())), all.join(", ")));
            let line: String = line.chars().take(width().unwrap_or(80).saturating_sub(1)).collect();
            let _ = write!(stderr(), "\r\u{1b}[K{line}").and_then(|()| stderr().flush());
            self.shown.set(true);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Takes the line away, so that something else can be printed.
    pub(crate) fn clear(&self) {
        if self.shown.replace(false) {
            let _ = write!(stderr(), "\r\u{1b}[K").and_then(|()| stderr().flush());
        }
    }
}

/// The width of the terminal that tables are printed to.
pub(crate) fn width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size()?;
    Some(usize::from(width.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (61, "1 min"), (7500, "2 h 5 min"), (356_400, "4 d 3 h")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        for (count, text) in
            [(0, "0 B"), (1023, "1023 B"), (3500, "3.4 KiB"), (12 << 20, "12 MiB"), (5 << 40, "5120 GiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn hostile_text_does_nothing_to_a_terminal() {
        for hostile in ["\u{1b}]52;c;x\u{7}", "\u{9b}31m", "a\u{202e}b", "zero\u{200b}width", "del\u{7f}", "cr\rx"] {
            let shown = safe(hostile);
            assert!(!shown.chars().any(|c| c.is_control() || "\u{202e}\u{200b}".contains(c)), "{shown:?}");
            let json = serde_json::to_string(hostile).unwrap();
            let shown = safe_json(&json);
            assert!(!shown.chars().any(|c| c.is_control() || "\u{202e}\u{200b}".contains(c)), "{shown:?}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), hostile);
        }
        assert_eq!(safe("two\nlines é"), "two\nlines é");
        let plain = r#"{"body":"a \"quoted\" \\ back é 😀"}"#;
        let back: serde_json::Value = serde_json::from_str(&safe_json(plain)).unwrap();
        assert_eq!(back, serde_json::from_str::<serde_json::Value>(plain).unwrap());
    }
}
