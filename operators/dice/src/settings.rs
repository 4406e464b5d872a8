//! `[settings]` of the dice operator.

use libeevee::{Diagnosis, ModuleFile, Settings};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::expression::Limits;

/// Settings of the dice operator.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct DiceSettings {
    /// Dice in one roll, all terms together: 1 to 10000. Default 100.
    pub(crate) max_dice: u32,
    /// Sides of a die: 1 to 1000000. Default 1000.
    pub(crate) max_sides: u32,
}

impl Default for DiceSettings {
    fn default() -> Self {
        Self { max_dice: 100, max_sides: 1000 }
    }
}

impl DiceSettings {
    pub(crate) fn limits(&self) -> Limits {
        Limits { dice: self.max_dice, sides: self.max_sides }
    }
}

impl Settings for DiceSettings {
    fn check(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if !(1..=10_000).contains(&self.max_dice) {
            return Err(file.error("settings.max-dice", "max-dice is 1 to 10000"));
        }
        if !(1..=1_000_000).contains(&self.max_sides) {
            return Err(file.error("settings.max-sides", "max-sides is 1 to 1000000"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use libeevee::parse_module;

    use super::*;

    #[test]
    fn the_example() {
        let text = include_str!("../../../etc/examples/dice.toml");
        parse_module::<DiceSettings>("dice.toml", text).map_err(|d| d.to_string()).unwrap();
    }

    #[test]
    fn defaults_limits_and_mistakes() {
        let parse = |text: &str| parse_module::<DiceSettings>("dice.toml", text).map_err(|d| d.summary());
        assert_eq!(parse("kind = \"dice\"").unwrap().limits(), Limits { dice: 100, sides: 1000 });
        assert_eq!(parse("[settings]\nmax-dice = 7").unwrap().limits(), Limits { dice: 7, sides: 1000 });
        assert_eq!(parse("[settings]\nmax-dice = 0").unwrap_err(), "dice.toml:2:12: max-dice is 1 to 10000");
        assert_eq!(parse("[settings]\nmax-sides = 1000001").unwrap_err(), "dice.toml:2:13: max-sides is 1 to 1000000");
        assert!(parse("[settings]\nmax-dize = 1").unwrap_err().contains("max-dize"));
    }
}
