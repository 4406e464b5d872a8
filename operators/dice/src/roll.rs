//! Rolling an expression, and the words of the answer.

use std::fmt::Write;

use crate::expression::{Expression, Limits, Value};

/// The most single rolls that an answer shows; more would fill several lines of chat.
const SHOWN_ROLLS_MAX: usize = 60;

/// The answer to `arguments`. `die` gives a number from 1 to its argument.
pub(crate) fn answer(user: &str, arguments: &str, limits: Limits, die: impl FnMut(u32) -> u32) -> String {
    let answer = match Expression::parse(arguments, limits) {
        Ok(expression) => rolled(&expression, die),
        Err(refusal) => refusal.to_string(),
    };
    if user.is_empty() { answer } else { format!("{user}: {answer}") }
}

fn rolled(expression: &Expression, mut die: impl FnMut(u32) -> u32) -> String {
    let mut total = 0_i64;
    let mut shown = String::new();
    let mut rolls = 0;
    for term in expression.terms() {
        let value = match term.value {
            Value::Number(number) => i64::from(number),
            Value::Dice { count, sides } => {
                // A comma parts the dice of one term from those of the next.
                let mut before = if rolls == 0 { "" } else { ", " };
                (0..count)
                    .map(|_| {
                        let roll = die(sides);
                        rolls += 1;
                        if rolls <= SHOWN_ROLLS_MAX {
                            let _ = write!(shown, "{before}{roll}");
                        }
                        before = " ";
                        i64::from(roll)
                    })
                    .sum()
            }
        };
        total += if term.negative { -value } else { value };
    }
    if rolls > SHOWN_ROLLS_MAX {
        let _ = write!(shown, " … {} more", rolls - SHOWN_ROLLS_MAX);
    }
    format!("{expression} = {total} ({shown})")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { dice: 100, sides: 1000 };

    #[test]
    fn the_answers() {
        for (arguments, rolls, expected) in [
            ("2d6+1", &[3, 5][..], "goos: 2d6+1 = 9 (3 5)"),
            ("", &[4], "goos: 1d6 = 4 (4)"),
            ("10-2d6", &[6, 6], "goos: 10-2d6 = -2 (6 6)"),
            ("2d6+1d4-3", &[1, 2, 4], "goos: 2d6+1d4-3 = 4 (1 2, 4)"),
            ("a lot", &[], "goos: I do not understand \"a lot\", try 2d6+1"),
        ] {
            let mut rolls = rolls.iter().copied();
            let said = answer("goos", arguments, LIMITS, |_| rolls.next().unwrap());
            assert_eq!(said, expected);
            assert_eq!(rolls.next(), None, "all dice are rolled");
        }
        assert_eq!(answer("", "d6", LIMITS, |_| 1), "1d6 = 1 (1)");
    }

    #[test]
    fn the_largest_answer_fits_a_line_of_irc() {
        let said = answer("goos", "100d1000", LIMITS, |sides| sides);
        assert!(said.starts_with("goos: 100d1000 = 100000 (1000 1000 "));
        assert!(said.ends_with(" … 40 more)"), "{said}");
        assert!(said.len() < 400, "{}", said.len());
    }

    #[test]
    fn real_dice_show_every_side_and_no_other() {
        let mut seen = [false; 7];
        for _ in 0..2_000 {
            seen[fastrand::u32(1..=6) as usize] = true;
        }
        assert_eq!(seen, [false, true, true, true, true, true, true]);
    }
}
