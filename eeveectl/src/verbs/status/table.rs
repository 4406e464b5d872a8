//! `status` for people: a table of all operators with the reasons below it, or all about a few.

use super::Row;
use crate::output;

/// How many of the newest dead letters are shown among the details.
const DEAD_SHOWN: usize = 3;

const TITLES: [&str; 8] = ["ID", "UNIT", "BUS", "SINCE", "RESTARTS", "QUEUE", "MEMORY", "STATUS"];

pub(super) fn print(rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    output::line(&render(rows, output::width()));
    for row in rows {
        if let Some(problem) = row.problem() {
            output::line(&output::safe(&format!("\n{} {}", row.id, problem)));
        }
    }
}

fn render(rows: &[Row], width: Option<usize>) -> String {
    output::table(&TITLES, rows.iter().map(|row| cells(row).to_vec()), width)
}

fn cells(row: &Row) -> [String; 8] {
    let nothing = || "-".to_owned();
    let unit = match (row.active(), row.sub()) {
        (Some(active), Some(sub)) if active == sub => active.to_owned(),
        (Some(active), Some(sub)) => format!("{active} ({sub})"),
        _ => "?".to_owned(),
    };
    let queue = row.queue().map(|(messages, bytes)| match messages {
        0 => "0".to_owned(),
        count => format!("{count} ({})", output::bytes(bytes)),
    });
    [
        row.id.to_string(),
        unit,
        state(row),
        row.since().map_or_else(nothing, |since| output::span(output::ago(since))),
        row.unit.as_ref().map_or_else(nothing, |unit| unit.restarts.to_string()),
        queue.unwrap_or_else(nothing),
        row.unit.as_ref().and_then(|unit| unit.memory_bytes).map_or_else(nothing, output::bytes),
        row.status().to_owned(),
    ]
}

/// What it is on the bus. The flag comes first: it is why nothing happens.
fn state(row: &Row) -> String {
    match &row.bus {
        None => "?".to_owned(),
        Some(bus) if bus.halted && bus.state == "halted" => "halted".to_owned(),
        Some(bus) if bus.halted && bus.connected => format!("halted ({})", bus.state),
        Some(bus) if bus.halted => "halted (away)".to_owned(),
        Some(bus) if bus.state.is_empty() => "away".to_owned(),
        Some(bus) => bus.state.clone(),
    }
}

pub(super) fn print_details(row: &Row) {
    output::line(&output::safe(&details(row)));
}

fn details(row: &Row) -> String {
    let [_, unit, _, since, restarts, queue, memory, status] = cells(row);
    let mut lines = vec![row.id.to_string()];
    let mut diagnosis = Vec::new();
    let mut say = |name: &str, value: String| {
        if !value.is_empty() && value != "-" {
            // One line each, so that nothing from a network can pass for another line.
            lines.push(format!("{name:>14}: {}", libeevee::escape_for_terminal(&value)));
        }
    };
    let enabled = match row.unit.as_ref().map(super::is_enabled) {
        Some(true) => ", starts at boot",
        Some(false) => ", does not start at boot",
        None => "",
    };
    say("unit", format!("{} {unit}{enabled}", row.id.unit()));
    say("bus", state(row));
    say("since", since);
    say("status", status);
    say("restarts", restarts);
    say("memory", memory);
    say("queue", queue);
    if let Some(bus) = &row.bus {
        say("kind", bus.kind.clone().unwrap_or_default());
        say("claims", bus.claims.join(", "));
        if bus.connected {
            say(
                "messages",
                format!("{} published, {} delivered, {} dropped", bus.published, bus.delivered, bus.dropped),
            );
        }
        if bus.denied > 0 {
            say("refused", format!("{} publishes outside may-publish", bus.denied));
        }
        for subscription in bus.subscriptions.iter().filter(|subscription| subscription.durable.is_none()) {
            say("subscription", subscription.filters.join(" or "));
        }
        for queue in &row.waiting.queues {
            let waits = crate::waiting::depth(queue).unwrap_or_else(|| "nothing waits".to_owned());
            let attached = if queue.connected { "" } else { ", nobody is attached" };
            say("durable", format!("{}: {}; {waits}{attached}", queue.name, queue.filters.join(" or ")));
        }
        for letter in row.waiting.dead.iter().rev().take(DEAD_SHOWN) {
            say("dead letter", crate::verbs::dead::in_short(letter));
        }
        if let Some(failure) = &bus.last_failure {
            let when =
                failure.time.map(|time| format!(", {} ago", output::span(output::ago(time)))).unwrap_or_default();
            say("last failure", format!("{}{when}", crate::why::failure_text(failure)));
        }
        if let Some(reload) = bus.last_reload.as_ref().filter(|reload| !reload.accepted) {
            let text = reload.text.as_deref().unwrap_or_default();
            say("last reload", "refused".to_owned());
            // A file that is still wrong is told below.
            diagnosis.extend(bus.file_error.is_none().then(|| text.trim_end().to_owned()));
        }
    }
    if row.halted() {
        say("next", format!("eeveectl resume {}", row.id));
    }
    lines.append(&mut diagnosis);
    if let Some(problem) = row.problem() {
        lines.push(format!("{} {problem}", row.id));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{BusView, SubscriptionView};
    use crate::durable::tests::{sample_dead, sample_queues};
    use crate::unit::UnitView;

    fn row(status: &str) -> Row {
        let unit = UnitView {
            active: "active".into(),
            sub: "running".into(),
            status_text: status.into(),
            restarts: 2,
            memory_bytes: Some(3 << 20),
            ..UnitView::default()
        };
        let bus = BusView {
            connected: true,
            halted: true,
            state: "halted".into(),
            queue_messages: 4,
            queue_bytes: 2048,
            ..BusView::default()
        };
        Row {
            id: "dice".parse().unwrap(),
            unit: Some(unit),
            bus: Some(bus),
            waiting: Default::default(),
            has_file: true,
        }
    }

    #[test]
    fn a_table_off_a_terminal_keeps_each_operator_on_one_line() {
        let long = "x".repeat(300);
        let text = render(&[row(&long)], None);
        let line = text.lines().nth(1).unwrap();
        for part in ["dice", "active (running)", "halted", "4 (2.0 KiB)", "3.0 MiB", &long] {
            assert!(line.contains(part), "{part}: {text}");
        }
        assert!(render(&[row(&long)], Some(100)).lines().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn a_hostile_status_stays_in_its_cell() {
        for text in [render(&[row("\u{1b}[2Jx\ny")], None), output::safe(&details(&row("\u{1b}[2Jx")))] {
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
        assert_eq!(render(&[row("a\nb")], None).lines().count(), 2);
    }

    #[test]
    fn details_say_what_to_do_about_a_halt() {
        assert!(details(&row("ok")).contains("next: eeveectl resume dice"));
    }

    #[test]
    fn details_show_what_waits_and_what_died() {
        let mut row = row("ok");
        let queues = sample_queues()[..1].to_vec();
        row.waiting = crate::waiting::Waiting { queues, dead: sample_dead() };
        let bus = row.bus.as_mut().unwrap();
        let subscription = |durable: Option<&str>| SubscriptionView {
            durable: durable.map(str::to_owned),
            filters: vec!["a=b".into()],
            queue_messages: 4,
            queue_bytes: 2048,
            ..SubscriptionView::default()
        };
        bus.subscriptions = vec![subscription(Some("commands"))];
        let text = details(&row);
        for part in [
            "durable: commands: type=chat.message,direction=in,command=dice; 12 messages wait, the oldest for 9 min, nobody is attached",
            "dead letter: 11 from xmpp, ",
            "ago: no die has 0 sides",
            "queue: 12 (3.4 KiB)",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("subscription: ") && !text.contains('\u{1b}'), "{text}");
    }
}
