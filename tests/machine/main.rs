//! What eevee has to show on real Debians with real systemd; one module for each subject.
//!
//! A scenario is a function `fn(&Machine) -> anyhow::Result<()>`, named in its module's
//! `scenarios()`. `cargo test -p eevee-tests --test machine -- NAME --suite 12` runs some.

mod bot;
mod conversation;
mod halt;
mod harness;
mod package;
mod reload;

fn main() {
    let scenarios =
        [harness::scenarios(), conversation::scenarios(), reload::scenarios(), halt::scenarios(), package::scenarios()]
            .concat();
    eevee_tests::runner::main(&scenarios);
}
