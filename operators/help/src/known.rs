//! What the bus knows of operators, from its `status`.

use libeevee::operator::CommandInfo;
use serde::Deserialize;
use serde_json::Value;

/// All operators, by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known(pub(crate) Vec<Operator>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operator {
    pub(crate) id: String,
    pub(crate) standing: Standing,
    /// What it says of itself, or why it left.
    pub(crate) status: String,
    pub(crate) commands: Vec<CommandInfo>,
}

/// What a person has to know of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Up,
    Starting,
    Halted,
    Down,
}

impl Standing {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Starting => "starting",
            Self::Halted => "halted",
            Self::Down => "down",
        }
    }
}

/// The keys of one operator in `status` that matter here; a later bus may say more.
#[derive(Deserialize)]
struct Row {
    id: String,
    #[serde(default)]
    connected: bool,
    #[serde(default)]
    halted: bool,
    #[serde(default)]
    state: String,
    #[serde(default)]
    status: String,
    /// None from a bus that does not know of commands.
    commands: Option<Value>,
}

impl Known {
    pub(crate) fn read(status: &str) -> Result<Self, serde_json::Error> {
        let rows: Vec<Row> = serde_json::from_str(status)?;
        Ok(Self(rows.into_iter().map(Operator::from).collect()))
    }
}

impl From<Row> for Operator {
    fn from(row: Row) -> Self {
        let standing = match row.state.as_str() {
            _ if !row.connected => Standing::Down,
            _ if row.halted => Standing::Halted,
            "starting" => Standing::Starting,
            "stopping" => Standing::Down,
            _ => Standing::Up,
        };
        let commands = row.commands.map(|value| CommandInfo::from_json(&value.to_string())).unwrap_or_default();
        Self { id: row.id, standing, status: row.status, commands }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standings() {
        for (row, expected) in [
            (r#""connected":true,"state":"ready""#, Standing::Up),
            (r#""connected":true,"state":"starting""#, Standing::Starting),
            (r#""connected":true,"state":"halted","halted":true"#, Standing::Halted),
            // Told, and still finishing what it has in hand.
            (r#""connected":true,"state":"ready","halted":true"#, Standing::Halted),
            (r#""connected":true,"state":"stopping""#, Standing::Down),
            (r#""connected":false,"state":"away","halted":true"#, Standing::Down),
            (r#""new":1"#, Standing::Down),
        ] {
            let known = Known::read(&format!(r#"[{{"id":"x",{row},"commands":null}}]"#)).unwrap();
            assert_eq!(known.0[0].standing, expected, "{row}");
        }
        let known = Known::read(r#"[{"id":"x","commands":[{"name":"dice"}]}]"#).unwrap();
        assert_eq!(known.0[0].commands, [CommandInfo::new("dice")]);
        assert!(Known::read("{").is_err());
    }
}
