//! Help operator: `!help`, `!help dice` and `!status`, answered from what the bus knows of operators and their commands.

mod answer;
mod known;
mod settings;

use std::time::Duration;

use libeevee::operator::Command;
use libeevee::{Error, chat};
use tokio::time::timeout;

use known::Known;
use settings::{Answer, HelpSettings};

/// The bus answers within milliseconds; after this the command comes again.
const ASK_MAX: Duration = Duration::from_secs(5);

fn main() -> libeevee::Exit {
    libeevee::operator::run_with::<HelpSettings>(|op| {
        op.version(env!("CARGO_PKG_VERSION"))
            .command("help", async |m| {
                let known = ask(&m).await?;
                let before = answer::before(m.text().unwrap_or_default());
                say(&m, &answer::help(&known, m.args(), before)).await
            })
            .usage("help [COMMAND]")
            .about("says what commands there are, or what one does")
            .command("status", async |m| {
                let known = ask(&m).await?;
                say(&m, &answer::status(&known, m.args(), m.settings().details)).await
            })
            .usage("status [OPERATOR]")
            .about("says which operators are up, halted or down")
    })
}

/// Asked each time: the bus knows also of those that are away, or have never been there, and nothing gets old here.
async fn ask(m: &Command<HelpSettings>) -> Result<Known, Error> {
    let answer = timeout(ASK_MAX, m.operator().client().control("status", "", "")).await;
    let text = answer.map_err(|_| Error::other(format!("the bus does not answer within {ASK_MAX:?}")))??;
    Known::read(&text.unwrap_or_default())
        .map_err(|error| Error::other(format!("the bus's status is not understood: {error}")))
}

async fn say(m: &Command<HelpSettings>, text: &str) -> Result<(), Error> {
    if m.reply_address.is_some() || m.settings().answer == Answer::Channel {
        return m.reply(text).await;
    }
    let document = chat::aside(m.message(), text).map_err(|error| Error::other(error.to_string()))?;
    m.publish(document).await
}
