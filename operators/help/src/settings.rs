//! `[settings]` of the help operator.

use libeevee::Settings;
use schemars::JsonSchema;
use serde::Deserialize;

/// Settings of the help operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct HelpSettings {
    /// Where answers go. Default: aside.
    pub(crate) answer: Answer,
    /// Whether "!status OPERATOR" tells what the operator says of itself, such as server and channels. Default: false.
    pub(crate) details: bool,
}

/// Where answers go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// To the one who asks, as a notice; where the platform knows no such thing, as a notice in the channel.
    #[default]
    Aside,
    /// Into the channel, as any other answer.
    Channel,
}

impl Settings for HelpSettings {}

#[cfg(test)]
mod tests {
    use libeevee::parse_module;

    use super::*;

    #[test]
    fn the_example_the_defaults_and_mistakes() {
        let example = include_str!("../../../etc/examples/help.toml");
        let parse = |text: &str| parse_module::<HelpSettings>("help.toml", text).map_err(|d| d.summary());
        assert_eq!(parse(example), Ok(HelpSettings::default()));
        assert_eq!(parse("kind = \"help\""), Ok(HelpSettings { answer: Answer::Aside, details: false }));
        let settings = parse("[settings]\nanswer = \"channel\"\ndetails = true");
        assert_eq!(settings, Ok(HelpSettings { answer: Answer::Channel, details: true }));
        assert!(parse("[settings]\nanswer = \"loud\"").unwrap_err().starts_with("help.toml:2:10: "));
        assert!(parse("[settings]\ndetail = true").unwrap_err().contains("detail"));
    }
}
