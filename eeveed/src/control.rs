//! The verbs that need files: they are read off the loop, and come back to the core as events.

use std::rc::Rc;
use std::time::Instant;

use libeevee::log::records;
use libeevee::wire::{Code, Control, Refusal};

use crate::config::BusConfig;
use crate::core::{Event, SessionKey, refusal};
use crate::hub::Hub;
use crate::{files, queues};

/// Carries out one verb that the core passed on; the core has checked who asks.
pub(crate) async fn carry_out(hub: Rc<Hub>, session: SessionKey, number: u32, control: Control) {
    let outcome = match control.verb.as_str() {
        "reload" => match control.id.parse() {
            Ok(id) => {
                let outcome = files::load_module(&hub.places.config, &id).await.map_err(|error| error.to_string());
                hub.step(Event::ModuleRead { id, asker: (session, number), outcome });
                return;
            }
            Err(error) => Err(refusal(Code::NotFound, format!("{error}"))),
        },
        verb @ ("halt" | "resume") => match control.id.parse() {
            Ok(id) => {
                read_modules(&hub).await;
                hub.step(Event::Halt { session, number, id, on: verb == "halt" });
                return;
            }
            Err(error) => Err(refusal(Code::NotFound, format!("{error}"))),
        },
        "reload-bus" => reload_bus(&hub).await.map(|()| None),
        "status" => status(&hub, &control.id).await,
        verb => match queues::carry_out(&hub, session, number, verb, &control.argument).await {
            Some(outcome) => outcome,
            // The core answers, when it is on disk.
            None => return,
        },
    };
    hub.step(Event::Answered { session, number, outcome });
}

/// Reads eeveed.toml again. A bad one changes nothing.
pub(crate) async fn reload_bus(hub: &Rc<Hub>) -> Result<(), Refusal> {
    match files::load_bus(&hub.places.config).await {
        Ok(BusConfig { limits, publish_log }) => {
            records().publish_from(publish_log);
            hub.config_error.replace(None);
            tracing::info!("read {} again", files::bus_path(&hub.places.config).display());
            hub.step(Event::Limits(limits));
            files::warn_of_strange_names(&hub.places.config).await;
            Ok(())
        }
        Err(diagnosis) => {
            hub.config_error.replace(Some(diagnosis.summary()));
            tracing::error!("the bus goes on with its old configuration:\n{diagnosis}");
            Err(refusal(Code::Refused, diagnosis.to_string()))
        }
    }
}

/// With the module files as they are now, so that an operator that never ran is shown too.
async fn status(hub: &Rc<Hub>, id: &str) -> Result<Option<String>, Refusal> {
    read_modules(hub).await;
    let id = match id {
        "" => None,
        text => Some(text.parse().map_err(|error| refusal(Code::NotFound, format!("{error}")))?),
    };
    hub.with_core(|core| core.status(id.as_ref())).map(Some)
}

/// Tells the core which module files there are now. Whoever asks while they are being read waits for the next reading,
/// and one does for all that wait: reading a thousand files takes a while, and anybody may ask.
async fn read_modules(hub: &Rc<Hub>) {
    let asked = Instant::now();
    let mut read = hub.modules_read.lock().await;
    if read.is_none_or(|began| began < asked) {
        *read = Some(Instant::now());
        if let Some(modules) = files::load_modules(&hub.places.config).await {
            hub.step(Event::Modules(modules));
        }
    }
}
