//! What a person may ask for, such as `2d6+1`: parsing, limits, and printing it again.

use std::fmt;

/// The most terms in one expression.
const TERMS_MAX: usize = 16;
/// The largest plain number; sums of it stay far inside an i64.
const NUMBER_MAX: u32 = 1_000_000_000;
/// How much of a nonsense is repeated in the answer, in characters.
const QUOTED_CHARACTERS_MAX: usize = 40;

/// How much a person may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Dice in one expression, all terms together.
    pub(crate) dice: u32,
    /// Sides of one die.
    pub(crate) sides: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Dice { count: u32, sides: u32 },
    Number(u32),
}

/// One summand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) negative: bool,
    pub(crate) value: Value,
}

/// A sum of dice and numbers, with at least one die.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expression(Vec<Term>);

/// Why it is not rolled, as it is told to the person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("I do not understand \"{0}\", try 2d6+1")]
    Nonsense(String),
    #[error("there are no dice in {0}, try 2d6+1")]
    NoDice(String),
    #[error("{asked} dice are too many, at most {max}")]
    TooManyDice { asked: u64, max: u32 },
    #[error("a die has 1 to {max} sides, not {asked}")]
    Sides { asked: u32, max: u32 },
    #[error("0 dice cannot be rolled")]
    ZeroDice,
    #[error("{0} is too large, at most {NUMBER_MAX}")]
    Number(String),
    #[error("{asked} terms are too many, at most {TERMS_MAX}")]
    TooManyTerms { asked: usize },
}

impl Expression {
    /// Reads `2d6+1`, `d20`, `3d6 + 2d4 - 2`, `d%`. Nothing at all is one die with six sides.
    pub(crate) fn parse(text: &str, limits: Limits) -> Result<Self, Refusal> {
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if compact.is_empty() {
            return Ok(Self(vec![Term {
                negative: false,
                value: Value::Dice { count: 1, sides: 6.min(limits.sides) },
            }]));
        }
        let nonsense = || Refusal::Nonsense(quoted(text));
        let mut terms = Vec::new();
        let mut rest = compact.as_str();
        let mut asked = 0;
        while !rest.is_empty() {
            let negative = rest.starts_with('-');
            match rest.strip_prefix(['+', '-']) {
                Some(after) => rest = after,
                None if asked == 0 => {}
                None => return Err(nonsense()),
            }
            let end = rest.find(['+', '-']).unwrap_or(rest.len());
            let value = Value::parse(&rest[..end]).ok_or_else(nonsense)??;
            rest = &rest[end..];
            asked += 1;
            if asked <= TERMS_MAX {
                terms.push(Term { negative, value });
            }
        }
        if asked > TERMS_MAX {
            return Err(Refusal::TooManyTerms { asked });
        }
        let expression = Self(terms);
        expression.check(limits)?;
        Ok(expression)
    }

    fn check(&self, limits: Limits) -> Result<(), Refusal> {
        let mut asked = 0_u64;
        for term in &self.0 {
            if let Value::Dice { count, sides } = term.value {
                if count == 0 {
                    return Err(Refusal::ZeroDice);
                }
                if sides == 0 || sides > limits.sides {
                    return Err(Refusal::Sides { asked: sides, max: limits.sides });
                }
                asked += u64::from(count);
            }
        }
        match asked {
            0 => Err(Refusal::NoDice(self.to_string())),
            asked if asked > u64::from(limits.dice) => Err(Refusal::TooManyDice { asked, max: limits.dice }),
            _ => Ok(()),
        }
    }

    pub(crate) fn terms(&self) -> &[Term] {
        &self.0
    }
}

impl Value {
    /// `None` for what is not a term at all.
    fn parse(text: &str) -> Option<Result<Self, Refusal>> {
        let Some((count, sides)) = text.split_once(['d', 'D']) else {
            return Some(number(text)?.map(Self::Number));
        };
        let count = if count.is_empty() { Ok(1) } else { number(count)? };
        let sides = if sides == "%" { Ok(100) } else { number(sides)? };
        Some(count.and_then(|count| Ok(Self::Dice { count, sides: sides? })))
    }
}

/// `None` for what has another character than a digit, or none at all.
fn number(text: &str) -> Option<Result<u32, Refusal>> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let too_large = || Refusal::Number(quoted(text));
    Some(text.parse().ok().filter(|n| *n <= NUMBER_MAX).ok_or_else(too_large))
}

/// An answer repeats no megabyte, and no control characters, that somebody pasted.
fn quoted(text: &str) -> String {
    let mut quoted: String = text.chars().filter(|c| !c.is_control()).take(QUOTED_CHARACTERS_MAX + 1).collect();
    if quoted.chars().count() > QUOTED_CHARACTERS_MAX {
        quoted.pop();
        quoted.push('…');
    }
    quoted
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.0.iter().enumerate() {
            match (at, term.negative) {
                (_, true) => f.write_str("-")?,
                (0, false) => {}
                (_, false) => f.write_str("+")?,
            }
            match term.value {
                Value::Dice { count, sides } => write!(f, "{count}d{sides}")?,
                Value::Number(number) => write!(f, "{number}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { dice: 100, sides: 1000 };

    fn printed(text: &str) -> Result<String, String> {
        Expression::parse(text, LIMITS).map(|e| e.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn good_ones() {
        for (text, expected) in [
            ("2d6+1", "2d6+1"),
            ("d20", "1d20"),
            ("D20", "1d20"),
            ("", "1d6"),
            ("  ", "1d6"),
            ("d%", "1d100"),
            (" 3d6 + 2d4 - 2 ", "3d6+2d4-2"),
            ("-1d6", "-1d6"),
            ("+1d6", "1d6"),
            ("10-1d6", "10-1d6"),
            ("007d06", "7d6"),
            ("100d1000", "100d1000"),
            ("1d1", "1d1"),
        ] {
            assert_eq!(printed(text).as_deref(), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn bad_ones_get_a_clear_answer() {
        for (text, expected) in [
            ("2x6", "I do not understand \"2x6\", try 2d6+1"),
            ("2d", "I do not understand \"2d\", try 2d6+1"),
            ("d", "I do not understand \"d\", try 2d6+1"),
            ("2d6+", "I do not understand \"2d6+\", try 2d6+1"),
            ("2d6++1", "I do not understand \"2d6++1\", try 2d6+1"),
            ("+", "I do not understand \"+\", try 2d6+1"),
            ("2d6d6", "I do not understand \"2d6d6\", try 2d6+1"),
            ("٣d6", "I do not understand \"٣d6\", try 2d6+1"),
            ("a\u{3}4b", "I do not understand \"a4b\", try 2d6+1"),
            ("7", "there are no dice in 7, try 2d6+1"),
            ("101d6", "101 dice are too many, at most 100"),
            ("60d6+60d6", "120 dice are too many, at most 100"),
            ("1d1001", "a die has 1 to 1000 sides, not 1001"),
            ("1d0", "a die has 1 to 1000 sides, not 0"),
            ("0d6", "0 dice cannot be rolled"),
            ("1d6+1000000001", "1000000001 is too large, at most 1000000000"),
            ("99999999999999999999d6", "99999999999999999999 is too large, at most 1000000000"),
            ("1000000000d6", "1000000000 dice are too many, at most 100"),
        ] {
            assert_eq!(printed(text), Err(expected.to_owned()), "{text:?}");
        }
        assert_eq!(printed(&vec!["1d6"; 17].join("+")), Err("17 terms are too many, at most 16".into()));
        let long = printed(&"x".repeat(100_000)).unwrap_err();
        assert!(long.chars().count() < 100 && long.contains('…'), "{long}");
    }

    proptest! {
        #[test]
        fn print_and_parse_are_inverse(text in "(-?[1-9]?d[1-9]{1,2}|[0-9]{1,3})([+-]([1-9]?d[1-9]|[0-9]{1,3})){0,4}") {
            if let Ok(expression) = Expression::parse(&text, LIMITS) {
                prop_assert_eq!(Expression::parse(&expression.to_string(), LIMITS), Ok(expression));
            }
        }

        #[test]
        fn anything_gets_a_short_answer(text in any::<String>()) {
            if let Err(refusal) = printed(&text) {
                prop_assert!(refusal.chars().count() < 120);
                prop_assert!(!refusal.contains(char::is_control));
            }
        }
    }
}
