//! The operator's log records as messages, from the level on that its module file names.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use crate::OperatorId;
use crate::client::Client;
use crate::log::{LogLevel, LogRecord, records, unpublished};
use crate::module::Module;
use crate::wire;

/// Between attempts while the bus is away, or reads nothing.
const PAUSE: Duration = Duration::from_millis(500);

/// The module file in force says from which level on. The bus judges by the same file.
pub(super) fn follow(id: &OperatorId, module: Option<&wire::Module>) {
    // The bus has parsed it, or there would be none.
    let parsed = module.and_then(|module| Module::parse(id, &module.path, &module.text).ok());
    records().publish_from(parsed.and_then(|module| module.publish_log));
}

/// Publishes what is logged, for ever.
pub(super) async fn publish(client: &Client) -> Infallible {
    loop {
        records().ready().await;
        if !flush(client) {
            sleep(PAUSE).await;
        }
    }
}

/// Hands over what waits; false if not everything could be.
pub(super) fn flush(client: &Client) -> bool {
    unpublished(|| {
        while let Some(record) = records().take() {
            // One that cannot be handed over at all is not tried again.
            if let Ok(false) = client.record(frame(&record)) {
                records().put_back(record);
                return false;
            }
        }
        true
    })
}

/// Why the operator ends: the journal has it by [`last_words`](crate::log::last_words), which is not the log's usual way.
pub(super) fn last(client: &Client, text: &str) {
    records().add(LogRecord {
        level: LogLevel::ERROR,
        target: module_path!().to_owned(),
        text: text.to_owned(),
        operator: None,
        cause: None,
        hops: 0,
        lost: 0,
    });
    flush(client);
}

fn frame(record: &LogRecord) -> wire::Record {
    wire::Record {
        level: record.level.number(),
        cause: record.cause,
        hops: record.hops,
        lost: record.lost,
        target: record.target.clone(),
        text: record.text.clone(),
    }
}
