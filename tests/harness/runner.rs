//! Runs scenarios on Debian 12 and 13: both machines at once, scenarios one after the other.
//!
//! A machine is used again for the next scenario after [`eevee::fresh`], and replaced
//! after a failure, so that one failure cannot cause the next. Speaks enough of libtest's
//! command line for `cargo test` and `cargo nextest`; a test is called `12/NAME`.

mod arguments;

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::eevee;
use crate::host;
use crate::machine::Machine;
use crate::suite::Suite;
use arguments::{Arguments, Mode};

/// One thing to show on a machine.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&Machine) -> Result<()>,
    /// Whether it needs the eevee package installed.
    pub eevee: bool,
    /// Whether it has to have a machine that no other scenario used.
    pub alone: bool,
    /// The one suite it is about, if not both.
    pub only: Option<Suite>,
}

impl Scenario {
    /// A scenario about eevee; see [`scenarios`](crate::scenarios) for the short form.
    pub const fn new(name: &'static str, run: fn(&Machine) -> Result<()>) -> Scenario {
        Scenario { name, run, eevee: true, alone: false, only: None }
    }

    /// It tests the machine itself and needs no package.
    pub const fn without_eevee(mut self) -> Scenario {
        self.eevee = false;
        self
    }

    /// It gets a machine of its own.
    pub const fn alone(mut self) -> Scenario {
        self.alone = true;
        self
    }

    /// It is about one suite only.
    pub const fn only(mut self, suite: Suite) -> Scenario {
        self.only = Some(suite);
        self
    }

    fn on(&self, suite: Suite) -> bool {
        self.only.is_none_or(|only| only == suite)
    }

    fn test_name(&self, suite: Suite) -> String {
        format!("{}/{}", suite.number(), self.name)
    }
}

/// A `Vec<Scenario>` from functions, each named as its function.
#[macro_export]
macro_rules! scenarios {
    ($($function:ident),* $(,)?) => {
        vec![$($crate::runner::Scenario::new(stringify!($function), $function)),*]
    };
}

struct Failure {
    test: String,
    report: String,
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failures: Vec<Failure>,
}

/// The whole of a test binary's `main`. Exits with 101, as libtest, when anything failed.
pub fn main(scenarios: &[Scenario]) {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            out(&format!("{error:#}"));
            std::process::exit(2);
        }
    };
    let chosen = |suite: Suite| -> Vec<Scenario> {
        let wanted = |s: &&Scenario| s.on(suite) && arguments.wants(suite, &s.test_name(suite));
        scenarios.iter().filter(wanted).copied().collect()
    };
    match arguments.mode {
        Mode::List => {
            for suite in Suite::ALL {
                for scenario in chosen(suite) {
                    out(&format!("{}: test", scenario.test_name(suite)));
                }
            }
            return;
        }
        // nextest asks for the ignored ones too, and there are none.
        Mode::ListIgnored => return,
        Mode::Run => {}
    }
    let plan: Vec<(Suite, Vec<Scenario>)> = Suite::ALL.map(|s| (s, chosen(s))).into();
    let total: usize = plan.iter().map(|(_, s)| s.len()).sum();
    if total > 0 && !host::require_machine() {
        out(&format!("test result: SKIPPED. 0 passed, 0 failed, {total} skipped"));
        return;
    }
    std::process::exit(run(&plan, total));
}

fn run(plan: &[(Suite, Vec<Scenario>)], total: usize) -> i32 {
    let start = Instant::now();
    remember_panics();
    out(&format!("running {total} machine tests"));
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let threads: Vec<_> = plan
            .iter()
            .filter(|(_, scenarios)| !scenarios.is_empty())
            .map(|(suite, scenarios)| scope.spawn(|| run_suite(*suite, scenarios)))
            .collect();
        let lost = |p: Box<dyn Any + Send>| Tally {
            passed: 0,
            failures: vec![Failure { test: "runner".to_owned(), report: panic_text(p.as_ref()) }],
        };
        threads.into_iter().map(|t| t.join().unwrap_or_else(lost)).collect()
    });
    let passed: usize = tallies.iter().map(|t| t.passed).sum();
    let failures: Vec<&Failure> = tallies.iter().flat_map(|t| &t.failures).collect();
    for failure in &failures {
        out(&format!("\n---- {} ----\n{}", failure.test, failure.report));
    }
    if !failures.is_empty() {
        out("\nfailures:");
        for failure in &failures {
            out(&format!("    {}", failure.test));
        }
    }
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    out(&format!(
        "\ntest result: {verdict}. {passed} passed, {} failed; finished in {:.1} s",
        failures.len(),
        start.elapsed().as_secs_f64()
    ));
    if failures.is_empty() { 0 } else { 101 }
}

/// A machine in use, and what has been done to it.
struct Lab {
    machine: Machine,
    installed: bool,
    used: bool,
}

fn run_suite(suite: Suite, scenarios: &[Scenario]) -> Tally {
    let mut tally = Tally::default();
    let mut lab: Option<Lab> = None;
    for scenario in scenarios {
        let test = scenario.test_name(suite);
        let start = Instant::now();
        if scenario.alone && lab.as_ref().is_some_and(|l| l.used) {
            lab = None;
        }
        let result = attempt(suite, scenario, &mut lab);
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                tally.passed += 1;
                out(&format!("test {test} ... ok ({seconds:.1} s)"));
                if scenario.alone {
                    lab = None;
                }
            }
            Err(error) => {
                out(&format!("test {test} ... FAILED ({seconds:.1} s)"));
                let log = lab.take().map(|l| l.machine.diagnosis()).unwrap_or_default();
                tally.failures.push(Failure { test, report: format!("{error:#}\n--- the machine\n{log}") });
            }
        }
    }
    tally
}

fn attempt(suite: Suite, scenario: &Scenario, lab: &mut Option<Lab>) -> Result<()> {
    let lab = match lab {
        Some(lab) => lab,
        None => {
            let machine = Machine::boot(suite, &format!("eevee-{}", suite.number()))?;
            lab.insert(Lab { machine, installed: false, used: false })
        }
    };
    if scenario.eevee && !lab.installed {
        eevee::install(&lab.machine, &eevee::package()?)?;
        lab.installed = true;
    }
    if scenario.eevee && lab.used {
        eevee::fresh(&lab.machine)?;
    }
    lab.used = true;
    catch_unwind(AssertUnwindSafe(|| (scenario.run)(&lab.machine)))
        .unwrap_or_else(|payload| Err(anyhow!("{}", panic_text(payload.as_ref()))))
}

thread_local! {
    /// Where the last panic of this thread was; the payload does not say.
    static PANIC_AT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the place of a panic instead of printing it between the lines of two machines.
fn remember_panics() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            PANIC_AT.with(|at| *at.borrow_mut() = place);
        }));
    });
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("panicked");
    PANIC_AT.with(|at| format!("{text}\nat {}", at.borrow()))
}

/// One whole line on standard output; a reader that went away must not end the run.
fn out(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(format!("{text}\n").as_bytes());
}
