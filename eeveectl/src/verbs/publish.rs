//! publish: one message, and how many subscriptions took it, because "nobody" is the commonest first mistake.

use std::io::{IsTerminal, Read, stdin};
use std::time::Duration;

use anyhow::Context as _;
use libeevee::client::Published;
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
    output::line(&match confirm {
        true => confirmed(&published),
        false => said(published.live, published.durable),
    });
    if published.repeated {
        output::note("the answer to the first try was lost; the bus had it already, and took it once");
    } else if published.live == 0 && published.durable == 0 {
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

/// `4711: published; 3 subscriptions matched (live 2, durable 1)`.
fn confirmed(published: &Published) -> String {
    let Published { id, live, durable, repeated, .. } = published;
    // The first answer had the counts; the one to the repetition has none.
    match (*repeated, *id) {
        (true, 0) => "unknown id: repeated".to_owned(),
        (true, id) => format!("{id}: repeated"),
        (false, id) => format!("{id}: {} (live {live}, durable {durable})", said(live + durable, 0)),
    }
}

fn said(live: u32, durable: u32) -> String {
    match (live, durable) {
        (0, 0) => "published; 0 subscriptions matched".to_owned(),
        (1, 0) => "published; 1 subscription matched".to_owned(),
        (live, 0) => format!("published; {live} subscriptions matched"),
        (0, 1) => "published; 1 subscription matched, which is durable and has it on disk".to_owned(),
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

    #[test]
    fn a_confirmation_for_scripts() {
        let published = |id, live, durable, repeated| Published { id, live, durable, repeated };
        assert_eq!(
            confirmed(&published(4711, 2, 1, false)),
            "4711: published; 3 subscriptions matched (live 2, durable 1)"
        );
        assert_eq!(confirmed(&published(4711, 0, 0, true)), "4711: repeated");
        assert_eq!(confirmed(&published(0, 0, 0, true)), "unknown id: repeated");
    }
}
