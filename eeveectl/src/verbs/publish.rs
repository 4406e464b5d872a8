//! publish: one message, and how many subscriptions took it, because "nobody" is the commonest first mistake.

use std::io::{IsTerminal, Read, stdin};
use std::time::Duration;

use anyhow::Context as _;
use libeevee::{Document, Exit, Headers};

use crate::bus;
use crate::context::Context;
use crate::output;

/// A disk that does not take it within this time will not.
const WAIT: Duration = Duration::from_secs(30);
/// Far above what a bus takes by default; it names its own limit.
const BODY_BYTES_MAX: u64 = 64 << 20;

pub(crate) async fn run(
    context: &Context,
    headers: Vec<(String, String)>,
    body: Option<String>,
    confirm: bool,
) -> anyhow::Result<Exit> {
    // Before the body: nobody wants to type a text that cannot be published.
    let headers: Headers = headers.try_into().map_err(|error: libeevee::HeaderError| anyhow::anyhow!("{error}"))?;
    let client = context.bus().await.map_err(anyhow::Error::msg)?;
    let body = match body {
        Some(text) => text.into_bytes(),
        None => read_body()?,
    };
    let document = Document { headers, body: body.into() };
    // Always confirmed: only then does the bus say who took it.
    let published = tokio::time::timeout(WAIT, client.publish_confirmed(document))
        .await
        .with_context(|| {
            format!("the bus did not confirm it within {}: whether it took it is not known", output::span(WAIT))
        })?
        .map_err(|error| anyhow::Error::msg(bus::text_of(&error)))?;
    let text = said(published.live, published.durable);
    if confirm {
        output::line(&format!("{}: {text}", published.id));
    } else {
        output::line(&text);
    }
    if published.live == 0 && published.durable == 0 {
        output::note(
            "nobody listens for these headers: see what is listened for with eeveectl status --json, and what passes with eeveectl subscribe",
        );
    }
    Ok(Exit::DONE)
}

fn read_body() -> anyhow::Result<Vec<u8>> {
    if stdin().is_terminal() {
        output::note("type the body, then Ctrl-D on a line of its own (or give --body TEXT)");
    }
    let mut body = Vec::new();
    stdin().take(BODY_BYTES_MAX + 1).read_to_end(&mut body).context("cannot read the body from standard input")?;
    anyhow::ensure!(body.len() as u64 <= BODY_BYTES_MAX, "the body has more than {BODY_BYTES_MAX} bytes");
    Ok(body)
}

fn said(live: u32, durable: u32) -> String {
    match (live, durable) {
        (0, 0) => "published; 0 subscriptions matched".to_owned(),
        (1, 0) => "published; 1 subscription matched".to_owned(),
        (live, 0) => format!("published; {live} subscriptions matched"),
        (live, durable) => {
            format!("published; {} subscriptions matched, {durable} of them durable and on disk", live + durable)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_took_it() {
        assert_eq!(said(0, 0), "published; 0 subscriptions matched");
        assert_eq!(said(1, 0), "published; 1 subscription matched");
        assert_eq!(said(2, 1), "published; 3 subscriptions matched, 1 of them durable and on disk");
    }
}
