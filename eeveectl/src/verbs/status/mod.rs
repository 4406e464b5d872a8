//! status: systemd's view and the bus's view of every operator, side by side. Each of the two may be absent.

mod json;
mod table;

use std::collections::BTreeMap;

use libeevee::{Exit, OperatorId};

use crate::bus::{self, BusView};
use crate::context::Context;
use crate::durable::{self, DeadView, QueueView, Whose};
use crate::unit::UnitView;
use crate::values::Owner;
use crate::waiting::{self, Waiting};
use crate::{modules, output, systemctl, why};

/// All that is known of one operator.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) id: OperatorId,
    /// None where systemd cannot be asked.
    pub(super) unit: Option<UnitView>,
    /// None where the bus cannot be asked.
    pub(super) bus: Option<BusView>,
    /// What waits in its durable subscriptions, and what was given up there; nothing where the bus cannot be asked.
    pub(super) waiting: Waiting,
    pub(super) has_file: bool,
}

pub(crate) async fn run(context: &Context, ids: &[OperatorId], json: bool) -> anyhow::Result<Exit> {
    let mut list = modules::list(&context.config).unwrap_or_else(|error| {
        let directory = modules::directory(&context.config);
        output::warning(&format!("{} cannot be listed: {error}", directory.display()));
        modules::List::default()
    });
    for (path, why) in &list.misnamed {
        output::warning(&output::safe(&format!("{} describes no operator: {why}", path.display())));
    }
    // A developer's bus has files elsewhere, and its operators are no units.
    if !context.is_system() && context.config == std::path::Path::new(crate::cli::CONFIG_DEFAULT) {
        list.ids.clear();
    }
    let asked: Vec<OperatorId> = if ids.is_empty() { list.ids.clone() } else { ids.to_vec() };
    let (bus, units) = tokio::join!(from_bus(context), from_systemd(context, &asked, ids.is_empty()));
    if let Err(why) = &bus {
        output::warning(&output::safe(&format!("bus not reachable: {why}")));
    }
    if let Err(Some(why)) = &units {
        output::warning(&output::safe(&format!("systemd not reachable: {why}")));
    }
    if bus.is_err() && units.is_err() {
        anyhow::bail!("neither the bus nor systemd can be asked");
    }
    let durable = match &bus {
        Ok(_) => on_disk(context).await.unwrap_or_else(not_known),
        Err(_) => Vec::new(),
    };
    let mut rows = merge(ids, &list.ids, bus.ok(), units.ok(), durable);
    for row in rows.iter_mut().filter(|row| row.waiting.queues.iter().any(|queue| queue.dead > 0)) {
        row.waiting.dead = deaths(context, row).await.unwrap_or_else(not_known);
    }
    let mut exit = Exit::DONE;
    for id in ids.iter().filter(|id| !rows.iter().any(|row| row.id == **id)) {
        output::error(&format!("{id}: there is no such operator: no module file, no unit, no connection"));
        exit = Exit::FAILED;
    }
    if json {
        output::line(&output::safe_json(&json::array(&rows)?));
    } else if ids.is_empty() {
        table::print(&rows);
        if rows.is_empty() {
            output::note(
                "there are no operators yet: copy an example of /usr/share/eevee/examples to /etc/eevee/modules.d, then eeveectl enable --now ID",
            );
        }
    } else {
        rows.iter().for_each(table::print_details);
    }
    Ok(exit)
}

async fn from_bus(context: &Context) -> Result<Vec<BusView>, String> {
    bus::status(context.bus().await?).await
}

/// What waits on disk for anybody. A disk that takes nothing is told once.
async fn on_disk(context: &Context) -> Result<Vec<QueueView>, String> {
    let client = context.bus().await?;
    if let Some(trouble) = waiting::store_trouble(durable::store(client).await?.as_ref()) {
        let next = trouble.next.map(|next| format!("\n  next: {next}")).unwrap_or_default();
        output::warning(&output::safe(&format!("{}{next}", trouble.what)));
    }
    Ok(durable::queues(client, Whose::default()).await?.1)
}

async fn deaths(context: &Context, row: &Row) -> Result<Vec<DeadView>, String> {
    let owner = Owner::Operator(row.id.clone());
    let whose = Whose { owner: Some(&owner), name: None };
    waiting::deaths(context.bus().await?, whose, &row.waiting.queues).await
}

fn not_known<T>(why: String) -> Vec<T> {
    output::warning(&output::safe(&format!("what waits in durable subscriptions is not known: {why}")));
    Vec::new()
}

/// None as the error where systemd has no part in it.
async fn from_systemd(
    context: &Context,
    ids: &[OperatorId],
    loaded: bool,
) -> Result<BTreeMap<OperatorId, UnitView>, Option<String>> {
    if !context.is_system() {
        return Err(None);
    }
    systemctl::show(ids, loaded).await.map_err(Some)
}

/// One row for every operator that anybody knows; of these, the ones asked for.
fn merge(
    asked: &[OperatorId],
    files: &[OperatorId],
    bus: Option<Vec<BusView>>,
    units: Option<BTreeMap<OperatorId, UnitView>>,
    durable: Vec<QueueView>,
) -> Vec<Row> {
    let mut ids: Vec<OperatorId> = files.to_vec();
    // Also those that nobody describes any more: what they left waits until it is forgotten.
    ids.extend(durable.iter().filter_map(|queue| queue.owner.parse::<OperatorId>().ok()));
    ids.extend(bus.iter().flatten().filter_map(|view| view.id.parse::<OperatorId>().ok()));
    // systemd makes a unit of any id that it is asked about; only those that are or were something count.
    let known = |view: &&UnitView| !view.is_down() || view.active == "failed" || is_enabled(view);
    ids.extend(units.iter().flatten().filter(|(_, view)| known(view)).map(|(id, _)| id.clone()));
    ids.sort();
    ids.dedup();
    ids.retain(|id| asked.is_empty() || asked.contains(id));
    let row = |id: OperatorId| Row {
        unit: units.as_ref().map(|units| units.get(&id).cloned().unwrap_or_default()),
        bus: bus.as_ref().map(|views| {
            let view = views.iter().find(|view| view.id == id.as_str()).cloned();
            view.unwrap_or_else(|| BusView { id: id.to_string(), state: "away".into(), ..BusView::default() })
        }),
        waiting: Waiting {
            queues: durable.iter().filter(|queue| queue.owner == id.as_str()).cloned().collect(),
            dead: Vec::new(),
        },
        has_file: files.contains(&id),
        id,
    };
    ids.into_iter().map(row).collect()
}

fn is_enabled(view: &UnitView) -> bool {
    view.file_state.starts_with("enabled")
}

impl Row {
    pub(super) fn active(&self) -> Option<&str> {
        self.unit.as_ref().map(|unit| if unit.active.is_empty() { "inactive" } else { &unit.active })
    }

    pub(super) fn sub(&self) -> Option<&str> {
        self.unit.as_ref().map(|unit| if unit.sub.is_empty() { "dead" } else { &unit.sub })
    }

    pub(super) fn halted(&self) -> bool {
        self.bus.as_ref().is_some_and(|bus| bus.halted)
    }

    /// Since when it is as it is.
    pub(super) fn since(&self) -> Option<jiff::Timestamp> {
        let unit = self.unit.as_ref().and_then(|unit| unit.since);
        unit.or_else(|| self.bus.as_ref().and_then(|bus| bus.since))
    }

    /// What it says of itself.
    pub(super) fn status(&self) -> &str {
        let unit = self.unit.as_ref().map_or("", |unit| unit.status_text.as_str());
        match (unit, &self.bus) {
            ("", Some(bus)) => &bus.status,
            (text, _) => text,
        }
    }

    /// Messages and bytes that wait for it: in the memory of the bus, and on its disk, also while it is away.
    pub(super) fn queue(&self) -> Option<(u64, u64)> {
        Some(self.waiting.queue(self.bus.as_ref()?))
    }

    fn down(&self) -> bool {
        match (&self.unit, &self.bus) {
            (Some(unit), _) => !unit.is_active(),
            (None, Some(bus)) => !bus.connected,
            (None, None) => false,
        }
    }

    /// Why it does not work, and what to type; nothing where it works, or was stopped by a person.
    pub(super) fn problem(&self) -> Option<String> {
        let mut lines = Vec::new();
        let mut next = None;
        match (&self.unit, &self.bus) {
            (Some(unit), _) if self.down() => {
                if let Some(what) = self.why_down(unit) {
                    lines.push(what);
                    next = Some(why::next(&self.id, unit, self.has_file));
                }
            }
            (Some(unit), Some(bus)) if unit.is_active() && !bus.connected => {
                lines.push("is up but not connected to the bus; it tries again by itself".to_owned());
                next = Some(format!("journalctl -u eevee-op@{} -n 50", self.id));
            }
            (None, Some(bus)) if !bus.connected => lines.extend(bus.last_failure.as_ref().map(why::failure_text)),
            _ => {}
        }
        if let Some(error) = self.bus.as_ref().and_then(|bus| bus.file_error.as_deref()) {
            let goes_on = if self.down() { "" } else { ", and goes on with what it read before" };
            lines.push(format!("has a module file with a mistake{goes_on}\n{}", error.trim_end()));
        }
        lines.extend(next.map(|next| format!("  next: {next}")));
        for trouble in self.waiting.troubles(self.bus.as_ref()) {
            let indent = if lines.is_empty() { "" } else { "  " };
            lines.push(format!("{indent}{}", trouble.what));
            lines.extend(trouble.next.map(|next| format!("  next: {next}")));
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn why_down(&self, unit: &UnitView) -> Option<String> {
        let since = unit.since.map(|since| format!(" for {}", output::span(output::ago(since)))).unwrap_or_default();
        let remembered = self.bus.as_ref().and_then(|bus| bus.last_failure.as_ref()).map(why::failure_text);
        // Between two starts systemd has forgotten why; the bus has not.
        let cause = why::ending(unit).or(remembered).unwrap_or_else(|| "cause unknown".to_owned());
        Some(match (unit.active.as_str(), unit.sub.as_str()) {
            ("activating", "auto-restart" | "auto-restart-queued") => {
                format!("ended and is about to be started again by systemd: {cause}")
            }
            ("activating" | "reloading" | "deactivating", _) => return None,
            ("failed", _) => format!("is down{since}: {cause}"),
            _ if !self.has_file => format!("is down{since}: it has no module file"),
            // Stopped by a person, or never started: that is no problem.
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::tests::{sample_dead, sample_queues};

    fn id(text: &str) -> OperatorId {
        text.parse().unwrap()
    }

    fn unit(active: &str, sub: &str, file_state: &str) -> UnitView {
        UnitView { active: active.into(), sub: sub.into(), file_state: file_state.into(), ..UnitView::default() }
    }

    #[test]
    fn every_operator_that_anybody_knows_has_one_row() {
        let bus = vec![BusView { id: "irc".into(), connected: true, state: "ready".into(), ..BusView::default() }];
        let units = BTreeMap::from([
            (id("irc"), unit("active", "running", "enabled")),
            (id("gone"), unit("failed", "failed", "disabled")),
            (id("asked"), unit("inactive", "dead", "disabled")),
        ]);
        let rows = merge(&[], &[id("dice")], Some(bus.clone()), Some(units.clone()), Vec::new());
        assert_eq!(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["dice", "gone", "irc"]);
        assert_eq!((rows[0].active(), rows[0].sub()), (Some("inactive"), Some("dead")));
        assert!(merge(&[id("asked")], &[], Some(bus.clone()), Some(units.clone()), Vec::new()).is_empty());

        let without_bus = merge(&[id("irc")], &[], None, Some(units), Vec::new());
        assert!(without_bus[0].bus.is_none() && without_bus[0].problem().is_none());
        let without_systemd = merge(&[], &[], Some(bus), None, Vec::new());
        assert_eq!((without_systemd[0].active(), without_systemd.len()), (None, 1));

        let left = merge(&[], &[], Some(Vec::new()), None, sample_queues());
        assert_eq!((left.len(), left[0].id.as_str(), left[0].waiting.queues.len()), (1, "dice", 1));
    }

    #[test]
    fn why_an_operator_is_down() {
        let failed =
            UnitView { result: "exit-code".into(), main_code: 1, main_status: 78, ..unit("failed", "failed", "") };
        let row = Row { id: id("irc"), unit: Some(failed), bus: None, waiting: Waiting::default(), has_file: true };
        let text = row.problem().unwrap();
        assert!(text.contains("its configuration was refused") && text.contains("next: eeveectl edit irc"), "{text}");

        let failure = bus::Failure { time: None, result: "watchdog".into(), text: String::new() };
        let bus = BusView { last_failure: Some(failure), ..BusView::default() };
        let row = Row {
            id: id("irc"),
            unit: Some(unit("activating", "auto-restart", "")),
            bus: Some(bus),
            waiting: Waiting::default(),
            has_file: true,
        };
        assert!(row.problem().unwrap().contains("watchdog"));

        let stopped = Row {
            id: id("irc"),
            unit: Some(unit("inactive", "dead", "")),
            bus: None,
            waiting: Waiting::default(),
            has_file: true,
        };
        assert_eq!(stopped.problem(), None);
        let nofile = Row { has_file: false, ..stopped };
        assert!(nofile.problem().unwrap().contains("no module file"));
    }

    #[test]
    fn why_it_did_not_reply() {
        let waiting = Waiting { queues: sample_queues()[..1].to_vec(), dead: sample_dead() };
        let bus = BusView { id: "dice".into(), connected: true, halted: true, ..BusView::default() };
        let up =
            Row { id: id("dice"), unit: Some(unit("active", "running", "")), bus: Some(bus), waiting, has_file: true };
        let text = up.problem().unwrap();
        for part in [
            "commands: 12 messages wait, the oldest for 9 min: it is halted\n  next: eeveectl resume dice",
            "1 was given up: \"no die has 0 sides\"; 2 waited longer than 5 min\n  next: eeveectl dead list dice",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let bus = BusView { id: "dice".into(), ..BusView::default() };
        let down = Row { unit: Some(unit("failed", "failed", "")), bus: Some(bus), ..up };
        let text = down.problem().unwrap();
        assert!(text.starts_with("is down: cause unknown\n  next: journalctl"), "{text}");
        assert!(text.contains("\n  commands: 12 messages wait, the oldest for 9 min: nobody is attached"), "{text}");
    }
}
