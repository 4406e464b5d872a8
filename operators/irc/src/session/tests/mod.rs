//! Conversations as tables: what the server says, and what comes of it.

mod channels;
mod chat;
mod connection;
mod hostile;
mod register;

use libeevee::chat::{IgnoreList, Rate, Recogniser, key};
use proptest::prelude::*;

use super::*;
use crate::config::{Nickserv, Password, Sasl, Wanted};

fn config() -> Config {
    Config {
        host: "irc.example.net".into(),
        network: "test".into(),
        nick: "eevee".into(),
        user: "eevee".into(),
        realname: "A Bot".into(),
        channels: vec![
            Wanted { name: "#a".into(), key: None },
            Wanted { name: "#b".into(), key: Some(Password("key".into())) },
        ],
        recogniser: Recogniser { prefix: "!".into(), ..Recogniser::default() },
        rate: Rate::default(),
        ignore: IgnoreList::default(),
        sasl: None,
        server_password: None,
        nickserv: None,
    }
}

struct Talk {
    session: Session,
    now: Instant,
}

impl Talk {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        Self { session: Session::new(Arc::new(config), now), now }
    }

    fn online(config: Config) -> Self {
        let mut talk = Self::new(config);
        talk.hear("CAP * LS :");
        talk.hear(":s 001 eevee :Welcome");
        talk.hear(":s 005 eevee CASEMAPPING=rfc1459 CHANTYPES=# STATUSMSG=@+ PREFIX=(ov)@+ :are supported");
        talk.hear(":s 376 eevee :End of MOTD");
        talk
    }

    fn joined(config: Config) -> Self {
        let mut talk = Self::online(config);
        for channel in ["#a", "#b"] {
            talk.hear(&format!(":eevee!~eevee@our.host JOIN {channel}"));
            talk.hear(&format!(":s 353 eevee = {channel} :eevee @goos +other"));
        }
        talk
    }

    fn hear(&mut self, line: &str) -> Vec<String> {
        self.session.on_line(&line.parse().unwrap(), self.now);
        self.effects()
    }

    fn wait(&mut self, seconds: u64) -> Vec<String> {
        self.now += Duration::from_secs(seconds);
        self.session.on_time(self.now);
        self.effects()
    }

    fn effects(&mut self) -> Vec<String> {
        self.session.effects().into_iter().map(|effect| self.print(effect)).collect()
    }

    fn print(&self, effect: Effect) -> String {
        match effect {
            Effect::Send(line) => format!("> {}", line.as_str()),
            Effect::Pace(line) => format!("~ {}", line.as_str()),
            Effect::Status => format!("= {}", self.session.status()),
            Effect::Confirmed(token) => format!("? {token}"),
            Effect::Echo(line) => format!("< {}", line.as_str()),
            Effect::Close { why, least } => format!("x {} {why}", least.as_secs()),
            Effect::Publish(document) => {
                let shown =
                    document.headers.iter().filter(|(k, _)| !matches!(*k, "direction" | "platform" | "network"));
                let headers: Vec<String> = shown.map(|(k, v)| format!("{k}={v}")).collect();
                format!("* {} | {}", headers.join(" "), document.text().unwrap())
            }
        }
    }
}
