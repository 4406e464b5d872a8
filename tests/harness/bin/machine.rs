//! A throw-away Debian on the command line: build its image, get a shell in it, or watch eevee in it.

mod demo;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use eevee_tests::{Machine, Suite, eevee, ensure_base};

const HELP: &str = "\
eevee-machine: a throw-away Debian with systemd as PID 1 (run it as root)

    eevee-machine base [12|13]                 build the base image (both without a number)
    eevee-machine shell [12|13] [--deb FILE]   a shell in a new machine, eevee installed with --deb
    eevee-machine demo --deb FILE [12|13]      a conversation on IRC, step by step, in a new machine
    eevee-machine run [12|13] [--deb FILE] -- COMMAND [ARGUMENT…]
                                               one command in a new machine

The machine is Debian 12 unless a number says otherwise. It is gone when this program ends.
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            say(&format!("eevee-machine: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let options = Options::parse(arguments)?;
    match verb.as_str() {
        "base" => {
            let suites = options.suite.map_or(Suite::ALL.to_vec(), |s| vec![s]);
            if let Some(why) = eevee_tests::unavailable() {
                bail!("no machine can be had here: {why}");
            }
            for suite in suites {
                say(&format!("{suite}: {}", ensure_base(suite)?.path.display()));
            }
        }
        "shell" => {
            let machine = options.boot()?;
            say("type `exit` to end; the machine is gone then");
            machine.shell()?;
        }
        "demo" => {
            let deb = options.deb.as_deref().context("demo needs --deb and the package")?;
            return demo::run(options.suite.unwrap_or(Suite::Debian12), deb);
        }
        "run" => {
            let argv: Vec<&str> = options.command.iter().map(String::as_str).collect();
            if argv.is_empty() {
                bail!("run needs `--` and a command");
            }
            let machine = options.boot()?;
            return Ok(ExitCode::from(machine.cmd(&argv).attached()?));
        }
        "help" | "--help" | "-h" => say(HELP.trim_end()),
        _ => {
            say(HELP.trim_end());
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Default)]
struct Options {
    suite: Option<Suite>,
    deb: Option<PathBuf>,
    command: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--deb" => options.deb = Some(arguments.next().context("--deb needs a file")?.into()),
                "--" => options.command = arguments.by_ref().collect(),
                "--suite" => options.suite = Some(arguments.next().context("--suite needs 12 or 13")?.parse()?),
                suite => options.suite = Some(suite.parse()?),
            }
        }
        Ok(options)
    }

    fn boot(&self) -> Result<Machine> {
        let suite = self.suite.unwrap_or(Suite::Debian12);
        let machine = Machine::boot(suite, &format!("eevee-{}", suite.number()))?;
        say(&format!("{suite} booted in {:.1} s", machine.boot_time().as_secs_f64()));
        if let Some(deb) = &self.deb {
            eevee::install(&machine, deb)?;
            say(&format!("installed {}", deb.display()));
        }
        Ok(machine)
    }
}

#[expect(clippy::print_stderr, reason = "a command-line tool")]
fn say(text: &str) {
    eprintln!("{text}");
}
