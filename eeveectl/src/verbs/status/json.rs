//! `status --json`: an array of objects, for scripts. What cannot be known is null.

use serde_json::{Value, json};

use super::Row;
use crate::bus::BusView;
use crate::output;

pub(super) fn array(rows: &[Row]) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&rows.iter().map(object).collect::<Vec<_>>())
}

fn object(row: &Row) -> Value {
    let unit = row.unit.as_ref();
    let bus = row.bus.as_ref();
    json!({
        "id": row.id,
        "unit": row.id.unit(),
        "active": row.active(),
        "sub": row.sub(),
        "enabled": unit.map(super::is_enabled),
        "state": bus.map(|bus| &bus.state),
        "connected": bus.map(|bus| bus.connected),
        "halted": bus.map(|bus| bus.halted),
        "since": row.since(),
        "restarts": unit.map(|unit| unit.restarts),
        "result": unit.map(|unit| if unit.result.is_empty() { "success" } else { &unit.result }),
        "exit_status": unit.filter(|unit| unit.main_code != 0).map(|unit| unit.main_status),
        "status": row.status(),
        "queue_messages": bus.map(|bus| bus.queue_messages),
        "queue_bytes": bus.map(|bus| bus.queue_bytes),
        "last_failure": bus.and_then(|bus| bus.last_failure.as_ref()),
        "last_reload": bus.and_then(|bus| bus.last_reload.as_ref()),
        "file_error": bus.and_then(|bus| bus.file_error.as_ref()),
        "problem": row.problem(),
        "kind": bus.and_then(|bus| bus.kind.as_ref()),
        "pid": unit.and_then(|unit| unit.main_pid).map(u64::from).or_else(|| bus.and_then(|bus| bus.pid)),
        "memory_bytes": unit.and_then(|unit| unit.memory_bytes),
        "claims": bus.map(|bus| &bus.claims),
        "published": bus.map(|bus| bus.published),
        "delivered": bus.map(|bus| bus.delivered),
        "dropped": bus.map(|bus| bus.dropped),
        "denied": bus.map(|bus| bus.denied),
        "rates": bus.and_then(rates),
        "subscriptions": bus.map(|bus| &bus.subscriptions),
        "durable": bus.map(|_| &row.waiting.queues),
    })
}

/// Messages per second, as a mean since it connected.
fn rates(bus: &BusView) -> Option<Value> {
    let seconds = output::ago(bus.since?).as_secs_f64().max(1.0);
    let rate = |count: u64| (count as f64 / seconds * 1000.0).round() / 1000.0;
    Some(json!({ "published_per_second": rate(bus.published), "delivered_per_second": rate(bus.delivered) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::UnitView;

    #[test]
    fn the_keys_that_scripts_rely_on_are_always_there() {
        let id: libeevee::OperatorId = "irc".parse().unwrap();
        for (unit, bus) in [(None, None), (Some(UnitView::default()), Some(BusView::default()))] {
            let row = Row { id: id.clone(), unit, bus, waiting: Default::default(), has_file: true };
            let text = array(&[row]).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            let object = value[0].as_object().unwrap();
            for key in [
                "id",
                "unit",
                "active",
                "sub",
                "state",
                "connected",
                "halted",
                "since",
                "restarts",
                "result",
                "status",
                "queue_messages",
                "queue_bytes",
                "last_failure",
                "memory_bytes",
                "claims",
                "rates",
                "durable",
            ] {
                assert!(object.contains_key(key), "{key}: {text}");
            }
            assert_eq!(object["unit"], "eevee-op@irc.service");
        }
    }
}
