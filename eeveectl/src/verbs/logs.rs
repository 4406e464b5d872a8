//! logs: journalctl takes this process's place, with its pager and its own ways to end.

use std::os::unix::process::CommandExt;
use std::process::Command;

use libeevee::{Exit, OperatorId};

use crate::unit;

pub(crate) fn run(ids: &[OperatorId], follow: bool, since: Option<&str>, lines: Option<u64>) -> anyhow::Result<Exit> {
    let error = Command::new("journalctl").args(unit::logs(ids, follow, since, lines)).exec();
    Err(anyhow::Error::new(error).context("journalctl cannot be run"))
}
