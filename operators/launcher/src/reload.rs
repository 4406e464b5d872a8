//! The reload helper: asks the bus, waits for the verdict, and ends so that `systemctl reload` fails when it was refused.

use std::time::Duration;

use libeevee::client::{Client, Connect};
use libeevee::{Exit, OperatorId};

use crate::report::Failure;

/// A bus that is away is not waited for: the person would rather know.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The bus gives an operator 20 s for its verdict, and systemd this helper 60 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Has an operator take its changed module file. The bus knows this helper by the operator's uid.
pub(crate) fn operator(id: OperatorId) -> Result<(), Failure> {
    let connect = Connect::reload_helper(id.clone());
    ask(connect, "reload", id.as_str())
}

/// Has the bus take its changed file. The bus knows this helper by its own uid, or as root.
pub(crate) fn bus() -> Result<(), Failure> {
    ask(Connect::tool().reconnect(false), "reload-bus", "")
}

fn ask(connect: Connect, verb: &str, id: &str) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::FAILED, format!("cannot begin: {error}")))?;
    runtime.block_on(async {
        let connect = connect.program(concat!("eevee-op ", env!("CARGO_PKG_VERSION"))).wait(false);
        let client = tokio::time::timeout(CONNECT_WITHIN, Client::connect(connect))
            .await
            .map_err(|_| {
                Failure::new(Exit::FAILED, "the bus takes connections and does not answer: systemctl status eeveed")
            })?
            .map_err(|error| Failure { exit: Exit::FAILED, ..Failure::from_bus(&error) })?;
        match tokio::time::timeout(ANSWER_WITHIN, client.control(verb, id, "")).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Failure::from_bus(&error)),
            Err(_) => Err(Failure::new(Exit::FAILED, format!("no verdict within {} s", ANSWER_WITHIN.as_secs()))),
        }
    })
}
