//! Dice operator: answers `!dice 2d6+1` by `USER: 2d6+1 = 9 (3 5)`.

mod expression;
mod roll;
mod settings;

use std::hash::{BuildHasher, RandomState};

use libeevee::operator::Command;
use libeevee::{Error, Outgoing, chat};
use settings::DiceSettings;

fn main() -> libeevee::Exit {
    // fastrand seeds itself by the clock; the keys of a RandomState come from the operating system. Handlers run in this
    // thread.
    fastrand::seed(RandomState::new().hash_one(std::process::id()));
    libeevee::operator::run_with::<DiceSettings>(|op| {
        op.version(env!("CARGO_PKG_VERSION"))
            .about("dice", "[2d6+1]", "rolls dice; without arguments one with six sides")
            .command("dice", async |m| {
                let limits = m.settings().limits();
                answer_once(&m, &roll::answer(m.user(), m.args(), limits, |sides| fastrand::u32(1..=sides))).await
            })
    })
}

/// A command comes again when we die between its answer and its acknowledgement. The bus knows the second answer by the
/// epoch, which is the command's own, and drops it: so the first roll stands. Side by side, commands are not answered in
/// their order, so that one epoch with their ids as the sequence would drop answers that are not repetitions.
async fn answer_once(command: &Command<DiceSettings>, text: &str) -> Result<(), Error> {
    if command.reply_address.is_some() {
        return command.reply(text).await;
    }
    let document = chat::reply(command.message(), text).map_err(|error| Error::other(error.to_string()))?;
    let answer = Outgoing { epoch: command.id, sequence: 1, ..Outgoing::from(document).answering(command.message()) };
    command.operator().publish_confirmed(answer).await.map(drop)
}
