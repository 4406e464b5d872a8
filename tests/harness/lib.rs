//! A throw-away Debian with systemd as PID 1, for tests and for `make demo`.
//!
//! [`Machine::boot`] builds (once, cached) an image of Debian 12 or 13, boots it in
//! systemd-nspawn with a disk that lives in memory, and gives you commands, files,
//! background processes, reboots, IRC servers and IRC clients in it. It is gone when the
//! owner is gone, even by `kill -9`. It needs root on a Linux with namespaces; see
//! [`require_machine`] for what happens elsewhere.
//!
//! ```no_run
//! use eevee_tests::{Machine, Suite, irc::{IrcClient, IrcServer, ServerKind}};
//! use std::time::Duration;
//!
//! fn main() -> anyhow::Result<()> {
//!     let machine = Machine::boot(Suite::Debian12, "example")?;
//!     println!("{}", machine.run_ok(&["systemctl", "--version"])?.stdout);
//!
//!     machine.write("/etc/motd", "hello\n", 0o644)?;
//!     machine.sh_ok("test -s /etc/motd && useradd --create-home goos")?;
//!     machine.cmd(&["id", "-un"]).user("goos").run_ok()?;
//!
//!     let server = IrcServer::start(&machine, ServerKind::Ngircd)?;
//!     let goos = IrcClient::connect(&server, "goos")?;
//!     goos.join("#eevee")?;
//!     goos.say("#eevee", "!dice 2d6")?;
//!     goos.expect("a server notice", |line| line.contains("NOTICE"))?;
//!
//!     machine.wait_until("multi-user.target", Duration::from_secs(5), || {
//!         machine.run(&["systemctl", "is-active", "multi-user.target"]).is_ok_and(|o| o.ok())
//!     })?;
//!     machine.reboot()
//! }
//! ```
//!
//! Scenarios live in `tests/machine/` and are run by [`runner`]: one function
//! `fn(&Machine) -> anyhow::Result<()>` each, on both Debians at once, with the eevee
//! package installed and everything else [`eevee::fresh`].
//!
//! ```text
//! cargo test -p eevee-tests --test machine                      # everything, on both
//! cargo test -p eevee-tests --test machine -- reload --suite 12 # names that contain "reload"
//! ```
//!
//! | variable | meaning |
//! |---|---|
//! | `EEVEE_DEB` | the package to install; else the newest `eevee_*.deb` in the target directory's `debian/` |
//! | `EEVEE_MACHINE_CACHE` | where base images are kept; else `$XDG_CACHE_HOME/eevee-machines`, else `~/.cache/eevee/machines` |
//! | `EEVEE_MIRROR` | the Debian mirror; else the one that this machine's own apt sources name |
//! | `CI` | `true`: a machine that cannot be had is a failure, not a skip |

mod base;
pub mod eevee;
mod exec;
mod host;
pub mod irc;
mod leftovers;
mod lines;
mod machine;
mod process;
mod progress;
pub mod runner;
mod suite;
mod wait;

pub use base::ensure as ensure_base;
pub use exec::{Background, Cmd, Output};
pub use host::{require_machine, unavailable};
pub use lines::Lines;
pub use machine::Machine;
pub use suite::Suite;
pub use wait::{wait_for, wait_until};
