//! The one subscription of this operator, as its settings want it, and its change by a reload.

use std::time::Duration;

use libeevee::operator::{COMMAND_AGE_MAX, Failure, Operator};
use libeevee::{Error, Filter, chat};

use crate::settings::{ExecSettings, Mode, Texts};

/// The durable subscriptions. The bus keeps what waits under these names, so they never change.
const COMMANDS: &str = "commands";
const MESSAGES: &str = "messages";

const WINDOW_BYTES: u64 = 1 << 20;

/// What is subscribed.
pub(crate) struct Subscription {
    wanted: Option<Wanted>,
    number: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    filters: Vec<String>,
    durable: Option<&'static str>,
    max_age: Option<Duration>,
    window: Option<u64>,
}

impl Subscription {
    pub(crate) async fn open(op: &Operator<ExecSettings>) -> Result<Self, Failure> {
        let mut this = Self { wanted: None, number: None };
        this.change(op, &op.settings()).await?;
        Ok(this)
    }

    /// Whether anything is subscribed at all.
    pub(crate) fn is_open(&self) -> bool {
        self.number.is_some()
    }

    /// Makes it what the settings want.
    pub(crate) async fn change(&mut self, op: &Operator<ExecSettings>, settings: &ExecSettings) -> Result<(), Failure> {
        op.announce(&settings.commands())?;
        let wanted = wanted(settings)?;
        if wanted == self.wanted && self.number.is_some() == wanted.is_some() {
            return Ok(());
        }
        // A durable one can be attached once only, so that the old one goes first; nothing is lost, as it stays in the bus.
        if let Some(number) = self.number.take() {
            op.unsubscribe(number);
        }
        let before = self.wanted.take().and_then(|wanted| wanted.durable);
        let now = wanted.as_ref().and_then(|wanted| wanted.durable);
        if let Some(name) = before.filter(|name| Some(*name) != now) {
            let id = op.id();
            tracing::warn!(
                "what is in durable subscription {name} stays there, and collects: eeveectl forget {id} {name} ends it"
            );
        }
        if let Some(Wanted { filters, durable, max_age, window }) = wanted.clone() {
            let mut subscribe = op.subscribe(filters);
            if let Some(age) = max_age {
                subscribe = subscribe.max_age(age);
            }
            if let Some(name) = durable {
                subscribe = subscribe.durable(name);
            }
            if let Some(messages) = window {
                subscribe = subscribe.window(messages, WINDOW_BYTES);
            }
            self.number = Some(subscribe.await?);
        }
        self.wanted = wanted;
        Ok(())
    }
}

fn wanted(settings: &ExecSettings) -> Result<Option<Wanted>, Error> {
    let (filters, name, max_age) = match (&settings.command, &settings.subscribe) {
        (Some(commands), _) => (command_filters(commands)?, COMMANDS, Some(COMMAND_AGE_MAX)),
        (None, Some(filters)) => (filters.iter().map(str::to_owned).collect(), MESSAGES, None),
        (None, None) => return Ok(None),
    };
    let durable = settings.is_durable().then_some(name);
    // What waits, waits in the bus, where a person sees it. A stream that is not durable takes what its pipe takes.
    let window = (durable.is_some() || settings.mode == Mode::Command).then_some(settings.parallel() as u64);
    Ok(Some(Wanted { filters, durable, max_age, window }))
}

fn command_filters(commands: &Texts) -> Result<Vec<String>, Error> {
    let mut filters = Vec::with_capacity(commands.len());
    for name in commands.iter() {
        let filter = Filter::builder()
            .eq(chat::key::TYPE, chat::kind::MESSAGE)
            .eq(chat::key::DIRECTION, chat::IN)
            .eq(chat::key::COMMAND, name);
        filters.push(filter.build()?.to_string());
    }
    Ok(filters)
}

/// What this operator works on, for its status.
pub(crate) fn described(settings: &ExecSettings) -> String {
    match (&settings.command, &settings.subscribe) {
        (Some(commands), _) => format!("commands: {}", commands.iter().collect::<Vec<_>>().join(", ")),
        (None, Some(filters)) => format!("messages: {}", filters.iter().collect::<Vec<_>>().join(" or ")),
        (None, None) => "no messages".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use libeevee::parse_module;

    use super::*;

    fn of(text: &str) -> Option<Wanted> {
        let text = format!("[settings]\nrun = \"/x\"\n{text}");
        wanted(&parse_module::<ExecSettings>("x.toml", &text).map_err(|d| d.to_string()).unwrap()).unwrap()
    }

    #[test]
    fn what_is_asked_of_the_bus() {
        let hello = of("command = \"hello\"").unwrap();
        assert_eq!(hello.filters, ["type=chat.message,direction=in,command=hello"]);
        assert_eq!((hello.durable, hello.max_age, hello.window), (Some("commands"), Some(COMMAND_AGE_MAX), Some(4)));
        let all = of("subscribe = [\"*\", \"type=x\"]").unwrap();
        assert_eq!((all.filters.len(), all.durable, all.max_age, all.window), (2, None, None, Some(4)));
        let strict = of("mode = \"stream\"\nsubscribe = \"*\"\ndurable = true\nparallel = 1").unwrap();
        assert_eq!((strict.durable, strict.window), (Some("messages"), Some(1)));
        assert_eq!(of("mode = \"stream\"\nsubscribe = \"*\"").unwrap().window, None);
        assert_eq!(of("mode = \"stream\""), None);
    }
}
