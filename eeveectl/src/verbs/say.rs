//! say: a chat message through the operator that is connected to the network. Which network that is, the bus knows from
//! what the operator claimed.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use libeevee::{Document, Exit, OperatorId};

use crate::bus;
use crate::context::Context;
use crate::output;

const WAIT: Duration = Duration::from_secs(30);

pub(crate) async fn run(
    context: &Context,
    id: &OperatorId,
    channel: &str,
    text: &str,
    network: Option<String>,
) -> anyhow::Result<Exit> {
    let client = context.bus().await.map_err(anyhow::Error::msg)?;
    let view = bus::status_one(client, id).await.map_err(anyhow::Error::msg)?;
    let view = view.ok_or_else(|| anyhow!("there is no operator {id}: eeveectl status"))?;
    if !view.connected {
        bail!("{id} is not running: eeveectl status {id}");
    }
    let (platform, network) = choose(id, &view.claims, network.as_deref())?;
    let document = Document::new(
        [
            ("type", "chat.message"),
            ("direction", "out"),
            ("platform", platform),
            ("network", network),
            ("channel", channel),
        ],
        text.to_owned(),
    )?;
    let published = tokio::time::timeout(WAIT, client.publish_confirmed(document))
        .await
        .with_context(|| format!("the bus did not confirm it within {}", output::span(WAIT)))?
        .map_err(|error| anyhow::Error::msg(bus::text_of(&error)))?;
    if published.live == 0 && published.durable == 0 {
        bail!(
            "{id} did not take it, nor did anybody else: its module file has to allow direction=out for {platform}/{network} in may-receive"
        );
    }
    let halted = if view.halted { "; it is halted, and sends it when it is resumed" } else { "" };
    let away = away(&view.status).map(|status| {
        format!("; it is not connected to its network, and sends it if it is within 5 minutes. Its status: {status}")
    });
    let away = away.unwrap_or_default();
    output::line(&output::safe(&format!("{id}: handed over for {channel} on {platform}/{network}{halted}{away}")));
    Ok(Exit::DONE)
}

/// What a connector says of itself that is not connected to its network; none where it says nothing to the point.
fn away(status: &str) -> Option<&str> {
    let status = status.strip_prefix("halted; ").unwrap_or(status);
    let is_away = ["connecting to", "registering with", "retrying "].iter().any(|word| status.starts_with(word));
    is_away.then_some(status)
}

/// The one network of the operator, or the one that was named.
fn choose<'a>(id: &OperatorId, claims: &'a [String], network: Option<&str>) -> anyhow::Result<(&'a str, &'a str)> {
    let all = || claims.iter().filter_map(|claim| claim.split_once('/'));
    let mut fitting = all().filter(|(_, name)| network.is_none_or(|network| network == *name));
    let list = || all().map(|(_, name)| name).collect::<Vec<_>>().join(", ");
    match (fitting.next(), fitting.next(), network) {
        (Some(one), None, _) => Ok(one),
        (Some(_), Some(_), _) => bail!("{id} holds several networks, say which with --network: {}", list()),
        (None, _, Some(network)) => bail!("{id} does not hold network {network:?}; it holds: {}", list()),
        (None, _, None) => bail!("{id} holds no chat network, so nothing can be said through it: eeveectl status {id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_network() {
        let id: OperatorId = "irc".parse().unwrap();
        let one = ["irc/libera".to_owned()];
        let two = ["irc/libera".to_owned(), "irc/oftc".to_owned()];
        assert_eq!(choose(&id, &one, None).unwrap(), ("irc", "libera"));
        assert_eq!(choose(&id, &two, Some("oftc")).unwrap(), ("irc", "oftc"));
        assert!(choose(&id, &two, None).unwrap_err().to_string().contains("libera, oftc"));
        assert!(choose(&id, &one, Some("oftc")).unwrap_err().to_string().contains("oftc"));
        assert!(choose(&id, &[], None).is_err());
    }

    #[test]
    fn who_is_not_connected_is_told_from_who_is() {
        for status in [
            "connecting to irc.libera.chat:6697",
            "registering with irc.libera.chat as eevee",
            "retrying irc.libera.chat:6697 in 8 s: connection refused",
        ] {
            assert_eq!(away(status), Some(status));
            assert_eq!(away(&format!("halted; {status}")), Some(status));
        }
        for status in ["", "halted", "connected to irc.libera.chat as eevee, on #a (1)", "halted; connected to x as y"]
        {
            assert_eq!(away(status), None, "{status}");
        }
    }
}
