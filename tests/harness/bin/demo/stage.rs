//! What a person sees of the demo: titles, commands as they would type them, what came of them, and chat lines.
//!
//! Everything goes to standard output, wrapped to the terminal; nothing here decides what is shown.

use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use eevee_tests::{Machine, Output};

const DEADLINE: Duration = Duration::from_secs(90);
/// Longer lines are hard to read, however wide the terminal is.
const WIDTH_MAX: usize = 110;
const WIDTH_WITHOUT_TERMINAL: usize = 100;
const INDENT: &str = "   ";

pub(super) struct Stage {
    width: usize,
    colour: bool,
    titles: std::cell::Cell<usize>,
}

impl Stage {
    pub(super) fn new() -> Stage {
        let terminal = std::io::stdout().is_terminal();
        let width = if terminal { columns() } else { None };
        Stage {
            width: width.unwrap_or(WIDTH_WITHOUT_TERMINAL).clamp(40, WIDTH_MAX),
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
            titles: std::cell::Cell::new(0),
        }
    }

    /// How wide the output of a command may be.
    pub(super) fn columns(&self) -> usize {
        self.width - INDENT.len()
    }

    /// A numbered title.
    pub(super) fn title(&self, text: &str) {
        let number = self.titles.get() + 1;
        self.titles.set(number);
        self.heading(&format!("{number}. {text}"));
    }

    pub(super) fn heading(&self, text: &str) {
        self.line(&format!("\n{}", self.paint("1", text)));
    }

    /// A sentence of explanation.
    pub(super) fn explain(&self, text: &str) {
        for line in wrap(text, self.columns(), "") {
            self.line(&format!("{INDENT}{line}"));
        }
    }

    /// Something said or seen on IRC.
    pub(super) fn chat(&self, text: &str) {
        for line in wrap(text, self.columns(), "  ") {
            self.line(&format!("{INDENT}{}", self.paint("36", &line)));
        }
    }

    /// Types a command in the machine, in /root, and shows it and what it printed. Gives that, and its exit status.
    pub(super) fn command(&self, machine: &Machine, command: &str) -> Result<Output> {
        self.typed(command);
        let out = shell(machine, command)?;
        self.printed(&out.stdout);
        Ok(out)
    }

    pub(super) fn typed(&self, command: &str) {
        for (n, line) in command.lines().enumerate() {
            let line = if n == 0 { format!("$ {line}") } else { line.to_owned() };
            let line = if line.is_empty() { line } else { format!("{INDENT}{}", self.paint("1", &line)) };
            self.line(&line);
        }
    }

    pub(super) fn printed(&self, text: &str) {
        for line in text.lines() {
            // Columns are lined up by more than one space; a continuation is set apart from them.
            for part in wrap(line, self.columns(), "    ") {
                self.line(format!("{INDENT}{part}").trim_end());
            }
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // A reader that went away does not change what the demo finds out.
        let _ = out.write_all(format!("{text}\n").as_bytes());
        let _ = out.flush();
    }
}

/// Runs a command line by the machine's shell, both streams as one, as on a terminal.
pub(super) fn shell(machine: &Machine, command: &str) -> Result<Output> {
    let script = "exec 2>&1; cd; eval \"$1\"";
    let out = machine.cmd(&["bash", "-c", script, "bash", command]).deadline(DEADLINE).run()?;
    // An error names the command as it was typed.
    Ok(Output { command: command.to_owned(), ..out })
}

/// The terminal's width, as `stty` says it of standard input.
fn columns() -> Option<usize> {
    let mut stty = Command::new("stty");
    stty.arg("size").stdin(Stdio::inherit()).stderr(Stdio::null());
    let said = stty.output().ok()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    text.split_whitespace().nth(1)?.parse().ok().filter(|columns| *columns > 0)
}

/// Breaks one line at spaces, or inside a word that is longer than a whole line; spaces elsewhere stay.
fn wrap(line: &str, width: usize, hang: &str) -> Vec<String> {
    let own: String = line.chars().take_while(|c| *c == ' ').collect();
    let hang = format!("{own}{hang}");
    let mut parts = Vec::new();
    let mut rest: Vec<char> = line.trim_end().chars().collect();
    let mut first = true;
    loop {
        let prefix = if first { "" } else { hang.as_str() };
        let room = width.saturating_sub(prefix.len()).max(20);
        if rest.len() <= room {
            parts.push(format!("{prefix}{}", rest.iter().collect::<String>()));
            return parts;
        }
        let floor = if first { own.len() } else { 0 };
        let space = (floor + 1..=room).rev().find(|at| rest[*at] == ' ');
        let (end, next) = space.map_or((room, room), |at| (at, at + 1));
        let part: String = rest[..end].iter().collect();
        parts.push(format!("{prefix}{}", part.trim_end()));
        rest = rest[next..].to_vec();
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_fit_stay_as_they_are() {
        assert_eq!(wrap("", 30, "  "), [""]);
        assert_eq!(wrap("ID    UNIT    BUS", 30, "  "), ["ID    UNIT    BUS"]);
    }

    #[test]
    fn long_lines_break_at_spaces_and_hang_below_their_own_indent() {
        let line = "  one two three four five six seven";
        assert_eq!(wrap(line, 24, "  "), ["  one two three four", "    five six seven"]);
    }

    #[test]
    fn a_word_longer_than_a_line_is_cut() {
        let line = "x".repeat(50);
        assert_eq!(wrap(&line, 20, ""), ["x".repeat(20), "x".repeat(20), "x".repeat(10)]);
    }

    #[test]
    fn nothing_is_lost() {
        let line = "a bb ccc dddd eeeee ffffff ggggggg hhhhhhhh".repeat(5);
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&wrap(&line, 33, "    ").join(" ")), words(&line));
    }
}
