//! The smallest operator: it answers `!hello`. Try it on a development bus: `hello --id hello`.
fn main() -> libeevee::Exit {
    libeevee::operator::run(|op| op.command("hello", async |m| m.reply("hello").await))
}
