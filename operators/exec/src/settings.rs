//! `[settings]` of the exec operator.

mod text;

use std::path::Path;
use std::time::Duration;

use libeevee::operator::CommandInfo;
use libeevee::settings::TimeSpan;
use libeevee::{Diagnosis, Filter, ModuleFile, Secret, Settings};
use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use self::text::Texts;

/// Filters of one subscription; the wire knows no more.
const FILTERS_MAX: usize = 64;
/// The longest command; connectors recognise no longer one.
const COMMAND_BYTES_MAX: usize = libeevee::chat::COMMAND_BYTES_MAX;
/// Linux's MAX_ARG_STRLEN, without the NUL at the end.
const ARGUMENT_BYTES_MAX: usize = (128 << 10) - 1;
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// A little less than the 30 s after which the bus would try again by itself.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(25);
const ACKNOWLEDGE_MIN: Duration = Duration::from_secs(1);
/// What may be in flight at all, unless the bus is configured for more.
const PARALLEL_MAX: u32 = 100;

/// Settings of the exec operator.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct ExecSettings {
    /// The program: its path, or a list of its path and its arguments. No shell looks at it.
    pub(crate) run: Texts,
    /// The command that it answers, or several: a word in lower case, without prefix.
    pub(crate) command: Option<Texts>,
    /// How the command is written, for people who ask for help: "hello [NAME]". Default: its name.
    pub(crate) usage: Option<String>,
    /// What the command does, in one line, for people who ask for help.
    pub(crate) about: Option<String>,
    /// Instead of a command: filters of the messages that it gets.
    pub(crate) subscribe: Option<Texts>,
    /// How it is run. Default: command.
    #[serde(default)]
    pub(crate) mode: Mode,
    /// Mode command: how long one run may take, default 30 s. Mode stream: how long the program may take to be ready or to
    /// answer a ping, default 10 s.
    pub(crate) timeout: Option<TimeSpan>,
    /// Mode command: runs at the same time, default 4. Mode stream with durable: messages in hand, default 16; 1 is
    /// strict order.
    pub(crate) parallel: Option<u32>,
    /// Whether messages wait on disk until they are done. Default: true for commands in mode command, else false.
    pub(crate) durable: Option<bool>,
    /// Secrets for the program, as files in its $CREDENTIALS_DIRECTORY: ["credential:token"].
    #[serde(default)]
    pub(crate) credentials: Vec<Secret>,
    /// Mode stream with durable: how long the program may have a message in hand; then it comes again. Default 25 s.
    pub(crate) acknowledge_within: Option<TimeSpan>,
    /// Mode stream: the program says when it is ready, and gets no message before.
    #[serde(default)]
    pub(crate) expect_ready: bool,
    /// Mode stream: the program answers pings; one that stops to is killed and started again.
    #[serde(default)]
    pub(crate) pings: bool,
    /// Mode stream: the program accepts or refuses new settings itself, instead of being started again.
    #[serde(default)]
    pub(crate) answers_reload: bool,
    /// Mode stream: the program's own settings, given to it as they stand here.
    #[serde(default)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub(crate) program: toml::Table,
}

/// How the program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Once for each message.
    #[default]
    Command,
    /// Once; messages are lines on its standard input.
    Stream,
}

impl ExecSettings {
    pub(crate) fn timeout(&self) -> Duration {
        let default = match self.mode {
            Mode::Command => Duration::from_secs(30),
            Mode::Stream => Duration::from_secs(10),
        };
        self.timeout.map_or(default, |TimeSpan(time)| time)
    }

    pub(crate) fn parallel(&self) -> usize {
        let default = match self.mode {
            Mode::Command => 4,
            Mode::Stream => 16,
        };
        self.parallel.unwrap_or(default) as usize
    }

    pub(crate) fn acknowledge_within(&self) -> Duration {
        self.acknowledge_within.map_or(ACKNOWLEDGE_WITHIN, |TimeSpan(time)| time)
    }

    /// What people are told of its commands. The usage is that of all of them.
    pub(crate) fn commands(&self) -> Vec<CommandInfo> {
        let info = |name| {
            let info = CommandInfo { about: self.about.clone().unwrap_or_default(), ..CommandInfo::new(name) };
            CommandInfo { usage: self.usage.clone().unwrap_or(info.usage), ..info }
        };
        self.command.iter().flat_map(Texts::iter).map(info).collect()
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.durable.unwrap_or(self.mode == Mode::Command && self.command.is_some())
    }

    /// The table `[settings.program]` as JSON; dates are texts.
    pub(crate) fn program_json(&self) -> serde_json::Value {
        json(&toml::Value::Table(self.program.clone()))
    }

    fn check_run(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if self.run.len() == 0 {
            return Err(file.error("settings.run", "the list is empty: it begins with the program's path"));
        }
        if !Path::new(self.run.first()).is_absolute() {
            let message = format!("{:?} is not the path of a program: it begins with /", self.run.first());
            let help = "for one that is found by its name, run = [\"/usr/bin/env\", \"NAME\"]";
            return Err(file.error(&self.run.place("settings.run", 0), message).help(help));
        }
        for (at, text) in self.run.iter().enumerate() {
            if text.contains('\0') {
                return Err(file.error(&self.run.place("settings.run", at), "no argument can have a NUL character"));
            }
            if text.len() > ARGUMENT_BYTES_MAX {
                let message =
                    format!("{} bytes: the kernel takes arguments of at most {ARGUMENT_BYTES_MAX}", text.len());
                let help = "a file that the program reads, or [settings.program] in mode = \"stream\"";
                return Err(file.error(&self.run.place("settings.run", at), message).help(help));
            }
        }
        Ok(())
    }

    fn check_messages(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        match (&self.command, &self.subscribe) {
            (Some(_), Some(_)) => {
                let help = "a command is the filter type=chat.message,direction=in,command=NAME";
                return Err(file.error("settings.subscribe", "command or subscribe, not both").help(help));
            }
            (None, None) if self.mode == Mode::Command => {
                let help = "command = \"NAME\", or subscribe = [\"FILTER\"]";
                return Err(file.error("settings", "mode command needs command or subscribe").help(help));
            }
            _ => {}
        }
        for (key, texts) in [("settings.command", &self.command), ("settings.subscribe", &self.subscribe)] {
            let Some(texts) = texts else { continue };
            if !(1..=FILTERS_MAX).contains(&texts.len()) {
                return Err(file.error(key, format!("{} in the list: 1 to {FILTERS_MAX} are possible", texts.len())));
            }
            for (at, text) in texts.iter().enumerate() {
                let wrong = match key {
                    "settings.command" => check_command(text).err(),
                    _ => text.parse::<Filter>().err().map(|error| error.to_string()),
                };
                if let Some(wrong) = wrong {
                    return Err(file.error(&texts.place(key, at), wrong));
                }
                if texts.iter().take(at).any(|earlier| earlier == text) {
                    return Err(file.error(&texts.place(key, at), format!("{text:?} stands twice")));
                }
            }
        }
        Ok(())
    }

    fn check_credentials(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        for (at, secret) in self.credentials.iter().enumerate() {
            let key = format!("settings.credentials.{at}");
            if secret.name() == "bus-token" {
                return Err(file.error(&key, "bus-token proves who the operator is, and is for nobody else"));
            }
            if self.credentials[..at].contains(secret) {
                return Err(file.error(&key, format!("{} stands twice", secret.name())));
            }
        }
        Ok(())
    }

    fn check_help(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        for (key, text) in [("usage", &self.usage), ("about", &self.about)] {
            let Some(text) = text else { continue };
            if self.command.is_none() {
                return Err(file.error(&format!("settings.{key}"), format!("{key} is of a command, and there is none")));
            }
            if text.is_empty() || text.chars().count() > 200 || text.contains(char::is_control) {
                let message = format!("{key} is one line of 1 to 200 characters");
                return Err(file.error(&format!("settings.{key}"), message));
            }
        }
        Ok(())
    }

    /// Keys that only one of the modes knows.
    fn check_mode(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if self.mode == Mode::Stream {
            return match self.acknowledge_within {
                Some(_) if !self.is_durable() => {
                    let help = "durable = true, or leave it out";
                    Err(file.error("settings.acknowledge-within", "nothing has to be acknowledged").help(help))
                }
                Some(TimeSpan(time)) if !(ACKNOWLEDGE_MIN..=TIMEOUT_MAX).contains(&time) => {
                    Err(file.error("settings.acknowledge-within", "acknowledge-within is 1 s to 1 h"))
                }
                _ => Ok(()),
            };
        }
        for (key, set) in [
            ("acknowledge-within", self.acknowledge_within.is_some()),
            ("expect-ready", self.expect_ready),
            ("pings", self.pings),
            ("answers-reload", self.answers_reload),
            ("program", !self.program.is_empty()),
        ] {
            if set {
                let message =
                    format!("{key} is for mode = \"stream\": a program that runs once for each message has none");
                return Err(file.error(&format!("settings.{key}"), message));
            }
        }
        Ok(())
    }
}

impl Settings for ExecSettings {
    fn check(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        self.check_run(file)?;
        self.check_messages(file)?;
        self.check_credentials(file)?;
        self.check_mode(file)?;
        self.check_help(file)?;
        if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&self.timeout()) {
            return Err(file.error("settings.timeout", "timeout is 100 ms to 1 h"));
        }
        if self.parallel.is_some_and(|parallel| !(1..=PARALLEL_MAX).contains(&parallel)) {
            return Err(file.error("settings.parallel", format!("parallel is 1 to {PARALLEL_MAX}")));
        }
        if self.durable == Some(true) && self.command.is_none() && self.subscribe.is_none() {
            return Err(file.error("settings.durable", "nothing is subscribed that could be durable"));
        }
        match path_to_no_number(&toml::Value::Table(self.program.clone())) {
            Some(path) => {
                let message = "nan and inf cannot be said in JSON";
                Err(file.error(&format!("settings.program{path}"), message))
            }
            None => Ok(()),
        }
    }
}

fn check_command(word: &str) -> Result<(), String> {
    let bad = |c: char| c.is_whitespace() || c.is_control();
    if word.is_empty() || word.len() > COMMAND_BYTES_MAX || word.contains(bad) {
        return Err(format!("{word:?} is no command: it is one word of at most {COMMAND_BYTES_MAX} bytes"));
    }
    if word.to_lowercase() != word {
        return Err(format!("{word:?} is no command: it is in lower case, however people write it"));
    }
    Ok(())
}

fn json(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(on) => (*on).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(list) => list.iter().map(json).collect(),
        toml::Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), json(value))).collect(),
    }
}

/// Where the first float stands that is no number.
fn path_to_no_number(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::Float(number) if !number.is_finite() => Some(String::new()),
        toml::Value::Array(list) => {
            list.iter().enumerate().find_map(|(at, value)| Some(format!(".{at}{}", path_to_no_number(value)?)))
        }
        toml::Value::Table(table) => {
            table.iter().find_map(|(key, value)| Some(format!(".{key}{}", path_to_no_number(value)?)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
