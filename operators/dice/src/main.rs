//! Dice operator: answers `!dice 2d6+1` by `USER: 2d6+1 = 9 (3 5)`.

mod expression;
mod roll;
mod settings;

use std::hash::{BuildHasher, RandomState};

use settings::DiceSettings;

fn main() -> libeevee::Exit {
    // fastrand seeds itself by the clock; the keys of a RandomState come from the operating system. Handlers run in this
    // thread.
    fastrand::seed(RandomState::new().hash_one(std::process::id()));
    libeevee::operator::run_with::<DiceSettings>(|op| {
        op.version(env!("CARGO_PKG_VERSION"))
            .command("dice", async |m| {
                let limits = m.settings().limits();
                m.reply(roll::answer(m.user(), m.args(), limits, |sides| fastrand::u32(1..=sides))).await
            })
            .usage("dice [2d6+1]")
            .about("rolls dice; without arguments one with six sides")
    })
}
