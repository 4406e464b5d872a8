//! The bus's side: the connection, with a deadline and a sentence for a person when there is none, and the sense of what
//! `status` answers.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use libeevee::client::{Client, Connect};
use libeevee::{Code, Error, ErrorKind, OperatorId};
use serde::{Deserialize, Deserializer};

/// A bus that is there welcomes within milliseconds; one that systemd has to start first needs a second.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Connects as a tool.
///
/// # Errors
/// One sentence with what to do next.
pub(crate) async fn connect(socket: &Path, system: bool) -> Result<Client, String> {
    let how = Connect::tool().socket(socket).program(concat!("eeveectl ", env!("CARGO_PKG_VERSION"))).wait(false);
    match tokio::time::timeout(CONNECT_WITHIN, Client::connect(how)).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(explain(&error, socket, system)),
        Err(_) => Err(format!(
            "the bus at {} takes connections and does not answer (waited {} s){}",
            socket.display(),
            CONNECT_WITHIN.as_secs(),
            if system { ": systemctl status eeveed" } else { "" }
        )),
    }
}

fn explain(error: &Error, socket: &Path, system: bool) -> String {
    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
    let socket = socket.display();
    match (cause, system) {
        (Some(io::ErrorKind::NotFound), true) => {
            format!("there is no bus at {socket}: systemctl start eeveed.socket")
        }
        (Some(io::ErrorKind::NotFound), false) => {
            format!("there is no bus at {socket}: start one with eeveed --listen {socket}")
        }
        (Some(io::ErrorKind::ConnectionRefused), true) => {
            format!("nobody listens at {socket}: systemctl restart eeveed.socket")
        }
        (Some(io::ErrorKind::ConnectionRefused), false) => format!("nobody listens at {socket} any more"),
        (Some(io::ErrorKind::PermissionDenied), _) => format!(
            "you may not open {socket}: become a member of group eevee (as root: usermod -aG eevee NAME, then log in again), or use root"
        ),
        _ => match error.kind() {
            ErrorKind::Auth => format!("the bus at {socket} does not let you in: {error}"),
            _ => format!("no connection to the bus at {socket}: {error}"),
        },
    }
}

/// What an error of the bus means to a person, without the words around it that only a log needs.
pub(crate) fn text_of(error: &Error) -> String {
    let text = error.to_string();
    let marker = error.code().map(|code| format!("the bus refused it ({code}): "));
    marker.and_then(|marker| Some(text.split_once(&marker)?.1.to_owned())).unwrap_or(text)
}

/// What the bus says of one operator.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BusView {
    #[serde(deserialize_with = "or_default")]
    pub(crate) id: String,
    pub(crate) kind: Option<String>,
    pub(crate) connected: bool,
    #[serde(deserialize_with = "or_default")]
    pub(crate) state: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) status: String,
    pub(crate) halted: bool,
    pub(crate) since: Option<jiff::Timestamp>,
    pub(crate) pid: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) queue_messages: u64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) queue_bytes: u64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) published: u64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) delivered: u64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) dropped: u64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) denied: u64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) claims: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) subscriptions: Vec<SubscriptionView>,
    pub(crate) last_failure: Option<Failure>,
    pub(crate) last_reload: Option<LastReload>,
    pub(crate) file_error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize, serde::Serialize)]
#[serde(default)]
pub(crate) struct SubscriptionView {
    pub(crate) number: u64,
    /// The name of a durable one.
    pub(crate) durable: Option<String>,
    pub(crate) filters: Vec<String>,
    pub(crate) queue_messages: u64,
    pub(crate) queue_bytes: u64,
    pub(crate) delivered: u64,
    pub(crate) dropped: u64,
}

/// How its last process ended, kept by the bus because systemd forgets it at the restart.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, serde::Serialize)]
#[serde(default)]
pub(crate) struct Failure {
    pub(crate) time: Option<jiff::Timestamp>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) result: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) text: String,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize, serde::Serialize)]
#[serde(default)]
pub(crate) struct LastReload {
    pub(crate) time: Option<jiff::Timestamp>,
    pub(crate) accepted: bool,
    pub(crate) text: Option<String>,
}

/// A null where something is expected is nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// What the bus says of all operators.
pub(crate) async fn status(client: &Client) -> Result<Vec<BusView>, String> {
    ask(client, "").await
}

/// What the bus says of one operator; none where it has no module file and is not connected.
pub(crate) async fn status_one(client: &Client, id: &OperatorId) -> Result<Option<BusView>, String> {
    let views = ask(client, id.as_str()).await?;
    Ok(views.into_iter().find(|view| view.id == id.as_str()))
}

async fn ask(client: &Client, id: &str) -> Result<Vec<BusView>, String> {
    let asked = tokio::time::timeout(CONNECT_WITHIN, client.control("status", id, "")).await;
    match asked.map_err(|_| format!("the bus did not answer within {} s", CONNECT_WITHIN.as_secs()))? {
        Ok(text) => parse_status(&text.unwrap_or_default()),
        Err(error) if error.kind() == ErrorKind::Refused(Code::NotFound) => Ok(Vec::new()),
        Err(error) => Err(text_of(&error)),
    }
}

fn parse_status(text: &str) -> Result<Vec<BusView>, String> {
    serde_json::from_str(text).map_err(|error| format!("the bus answered what eeveectl does not understand: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_with_nulls_and_keys_of_later_versions() {
        let text = r#"[{"id":"irc","kind":"irc","path":"/etc/eevee/modules.d/irc.toml","connected":true,"state":"ready",
            "status":"libera","halted":false,"since":"2026-11-22T15:00:00.5Z","session":7,"pid":812,
            "subscriptions":[{"number":1,"durable":null,"filters":["direction=out"],"queue_messages":2,"queue_bytes":90,"delivered":4,"dropped":0}],
            "queue_messages":2,"queue_bytes":90,"published":8,"delivered":4,"dropped":0,"denied":0,"claims":["irc/libera"],
            "last_failure":{"time":"2026-11-22T14:00:00Z","result":"exit-code","text":"exited 1"},
            "last_reload":{"time":"2026-11-22T14:30:00Z","accepted":false,"text":"error: ..."},"file_error":null,"later":[1]},
            {"id":"dice","connected":false,"state":"away","status":null,"since":null,"pid":null,"claims":null}]"#;
        let views = parse_status(text).unwrap();
        assert_eq!((views[0].state.as_str(), views[0].pid, views[0].claims.len()), ("ready", Some(812), 1));
        assert_eq!(views[0].last_failure.as_ref().unwrap().result, "exit-code");
        assert_eq!((views[1].status.as_str(), views[1].connected, views[1].queue_messages), ("", false, 0));
        assert!(parse_status("{}").is_err());
    }
}
