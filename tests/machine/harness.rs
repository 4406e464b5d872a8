//! The machine itself: if these fail, no other scenario means anything. They need no eevee.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use eevee_tests::irc::{IrcClient, IrcServer, ServerKind};
use eevee_tests::runner::Scenario;
use eevee_tests::{Machine, scenarios, wait_for};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let all = scenarios![
        harness_boots_the_right_systemd,
        harness_exec,
        harness_deadline_kills_inside,
        harness_users_and_units,
        harness_background,
        harness_reboot_keeps_disk_and_units,
        harness_ngircd_conversation,
        harness_inspircd_conversation,
        harness_machines_side_by_side,
        harness_dies_with_its_owner,
    ];
    let mut all: Vec<Scenario> = all.into_iter().map(Scenario::without_eevee).collect();
    all.extend(scenarios![harness_fresh]);
    all
}

fn harness_boots_the_right_systemd(m: &Machine) -> Result<()> {
    let version = m.run_ok(&["systemctl", "--version"])?;
    version.expect_text(&format!("systemd {} ", m.suite().systemd()))?;
    let comm = m.read("/proc/1/comm")?;
    ensure!(comm.trim() == "systemd", "PID 1 is {comm}");
    let failed = m.run_ok(&["systemctl", "--failed", "--no-legend"])?;
    ensure!(failed.stdout.trim().is_empty(), "failed units: {}", failed.stdout);
    let links = m.run_ok(&["ip", "-brief", "link"])?.stdout;
    ensure!(links.lines().count() == 1, "only loopback is wanted, there is {links}");
    Ok(())
}

fn harness_exec(m: &Machine) -> Result<()> {
    let out = m.sh("echo out; echo err >&2; exit 78")?;
    ensure!((out.status, out.stdout.as_str(), out.stderr.as_str()) == (78, "out\n", "err\n"), "{out}");
    let killed = m.sh("kill -9 $$")?;
    ensure!(killed.status == 137, "{killed}");
    let error = m.run_ok(&["sh", "-c", "echo said; exit 3"]).err().context("3 is no success")?;
    let text = format!("{error:#}");
    ensure!(text.contains("said") && text.contains("exit status 3"), "{text}");

    let environment = m.run_ok(&["env"])?.stdout;
    ensure!(!environment.contains("CARGO"), "the host's environment came along: {environment}");
    let echoed = m.cmd(&["sh", "-c", "cat; echo $X"]).stdin("in ").env("X", "a b").run_ok()?;
    ensure!(echoed.stdout == "in a b\n", "{echoed}");

    m.write("/srv/new/file", "text\n", 0o640)?;
    ensure!(m.read("/srv/new/file")? == "text\n");
    let mode = m.run_ok(&["stat", "-c", "%a", "/srv/new/file"])?.stdout;
    ensure!(mode.trim() == "640", "mode {mode}");
    ensure!(!Path::new("/srv/new/file").exists(), "the file landed on the host");
    Ok(())
}

fn harness_deadline_kills_inside(m: &Machine) -> Result<()> {
    let start = Instant::now();
    let hung = m.cmd(&["sleep", "4711"]).deadline(Duration::from_millis(300)).run();
    let error = format!("{:#}", hung.err().context("it must not succeed")?);
    ensure!(error.contains("sleep 4711") && error.contains("deadline"), "{error}");
    ensure!(start.elapsed() < Duration::from_secs(5));
    let gone = || m.run(&["pgrep", "-fx", "sleep 4711"]).is_ok_and(|o| !o.ok());
    m.wait_until("the command inside to be gone", Duration::from_secs(5), gone)
}

fn harness_users_and_units(m: &Machine) -> Result<()> {
    m.sh_ok("groupadd testers; useradd --create-home -G testers goos")?;
    let out = m.cmd(&["sh", "-c", "id -un; id -nG; cd; pwd"]).user("goos").run_ok()?;
    ensure!(out.stdout == "goos\ngoos testers\n/home/goos\n", "{out}");
    let denied = m.cmd(&["cat", "/etc/shadow"]).user("goos").run()?;
    ensure!(denied.status == 1, "{denied}");

    let unit = m.unit_run(&["DynamicUser=yes", "User=eop-x"], &["sh", "-c", "id -un; echo e >&2; exit 5"])?;
    ensure!((unit.status, unit.stdout.as_str(), unit.stderr.as_str()) == (5, "eop-x\n", "e\n"), "{unit}");
    m.sh_ok("systemd-run --quiet --wait --unit=speaker echo hello from a unit")?;
    let journal = m.journal("speaker.service")?;
    ensure!(journal.contains("hello from a unit"), "{journal}");
    m.sh_ok("userdel --remove goos; groupdel testers")?;
    Ok(())
}

fn harness_background(m: &Machine) -> Result<()> {
    let mut cat = m.spawn(&["sh", "-c", "echo ready >&2; while read -r l; do echo \"got $l\"; done; exit 4"])?;
    let soon = Duration::from_secs(5);
    cat.stderr.expect("ready", soon, |l| l == "ready")?;
    cat.write("one\ntwo\n")?;
    cat.stdout.expect("two", soon, |l| l == "got two")?;
    cat.close_stdin();
    ensure!(cat.wait(soon)? == 4);

    let sleeper = m.spawn(&["sh", "-c", "sleep 4712 & sleep 4712"])?;
    m.wait_until("two sleepers", soon, || {
        m.run(&["pgrep", "-fxc", "sleep 4712"]).is_ok_and(|o| o.stdout.trim() == "2")
    })?;
    drop(sleeper);
    m.wait_until("the sleepers to be gone", soon, || m.run(&["pgrep", "-fx", "sleep 4712"]).is_ok_and(|o| !o.ok()))
}

fn harness_reboot_keeps_disk_and_units(m: &Machine) -> Result<()> {
    m.write("/etc/systemd/system/hello.service", HELLO, 0o644)?;
    m.sh_ok("systemctl enable --quiet hello; echo kept >/var/lib/kept; echo lost >/run/lost")?;
    let boot_id = m.read("/proc/sys/kernel/random/boot_id")?;
    let id = m.read("/etc/machine-id")?;
    let started = m.run_ok(&["systemctl", "show", "-p", "UserspaceTimestampMonotonic"])?.stdout;
    // A process of ours must not hold up the shutdown: 252 would wait 10 s for it.
    let sleeper = m.spawn(&["sh", "-c", "trap '' TERM; sleep 4714"])?;
    let start = Instant::now();
    m.reboot()?;
    ensure!(start.elapsed() < Duration::from_secs(9), "the reboot took {:?}", start.elapsed());
    ensure!(sleeper.status() == Some(137), "the background process ended with {:?}", sleeper.status());
    let again = m.run_ok(&["systemctl", "show", "-p", "UserspaceTimestampMonotonic"])?.stdout;
    ensure!(started != again, "it did not restart: {started}");
    ensure!(m.read("/etc/machine-id")? == id);
    ensure!(m.read("/var/lib/kept")? == "kept\n");
    ensure!(!m.run(&["test", "-e", "/run/lost"])?.ok(), "/run survived");
    ensure!(m.property("hello.service", "ActiveState")? == "active");
    let said = m.journal("hello.service")?;
    ensure!(said.matches("hello there").count() == 1, "{boot_id}{said}");
    m.sh_ok("systemctl disable --quiet --now hello; rm /etc/systemd/system/hello.service")?;
    Ok(())
}

const HELLO: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=echo hello there\n\
    [Install]\nWantedBy=multi-user.target\n";

fn harness_ngircd_conversation(m: &Machine) -> Result<()> {
    conversation(m, ServerKind::Ngircd)
}

fn harness_inspircd_conversation(m: &Machine) -> Result<()> {
    conversation(m, ServerKind::Inspircd)
}

/// One client in plain text, one over TLS, and a server that goes away and comes back.
fn conversation(m: &Machine, kind: ServerKind) -> Result<()> {
    let server = IrcServer::start(m, kind)?;
    let goos = IrcClient::connect(&server, "goos")?;
    let honk = IrcClient::connect_tls(&server, "honk")?;
    goos.join("#pond")?;
    honk.join("#pond")?;
    goos.expect_member("#pond", "honk", Duration::from_secs(5))?;
    goos.say("#pond", "hello: over there")?;
    let heard = honk.expect_message("goos", "#pond", |t| t.starts_with("hello"))?;
    ensure!(heard == "hello: over there", "{heard}");
    let mark = goos.mark();
    honk.say("#pond", "wie geht's, größte Gans?")?;
    goos.expect_message("honk", "#pond", |t| t == "wie geht's, größte Gans?")?;
    goos.stayed_since(mark, "honk")?;

    // Many lines at once: no flood penalty may slow the tests down.
    let start = Instant::now();
    for n in 0..200 {
        goos.say("#pond", &format!("line {n}"))?;
    }
    honk.expect_message("goos", "#pond", |t| t == "line 199")?;
    ensure!(start.elapsed() < Duration::from_secs(5), "throttled: {:?}", start.elapsed());

    let mark = goos.mark();
    honk.quit("off")?;
    goos.expect("the QUIT of honk", |l| l.contains("QUIT") && l.starts_with(":honk!"))?;
    if goos.stayed_since(mark, "honk").is_ok() {
        bail!("a QUIT was not seen as leaving");
    }
    ensure!(server.fingerprint()?.len() == 64);
    server.down()?;
    goos.expect("the end", |l| l.starts_with("ERROR")).ok();
    ensure!(IrcClient::connect(&server, "late").is_err(), "a stopped server answered");
    server.up()?;
    IrcClient::connect_tls(&server, "goos")?.quit("done")
}

/// Starts `eevee-machine` as another owner, kills it with SIGKILL, and looks for what is left.
fn harness_dies_with_its_owner(m: &Machine) -> Result<()> {
    let owner = Command::new(env!("CARGO_BIN_EXE_eevee-machine"))
        .args(["run", m.suite().number(), "--", "sh", "-c", "echo up; exec sleep 4713"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut owner = Owner(owner);
    let mut line = String::new();
    BufReader::new(owner.0.stdout.take().context("no stdout")?).read_line(&mut line)?;
    ensure!(line == "up\n", "the owner said {line:?}");
    let sign = format!("/run/eevee-machines/eevee-{}-{}-0/", m.suite().number(), owner.0.id());
    ensure!(!processes(&sign)?.is_empty(), "no process names {sign}");
    // The start of any other machine would collect what is looked for here.
    let starts = Machine::hold_starts()?;
    drop(owner);
    wait_for("the machine to end after its owner", Duration::from_secs(20), || {
        let left = processes(&sign)?;
        if left.is_empty() { Ok(()) } else { bail!("{left:?}") }
    })?;
    // Its directory is collected by the next start.
    ensure!(Path::new(&sign).exists());
    drop(starts);
    drop(Machine::boot(m.suite(), "collector")?);
    ensure!(!Path::new(&sign).exists(), "{sign} is left");
    Ok(())
}

/// Three at once: their cgroups, networks and locks are apart, and each powers off cleanly.
fn harness_machines_side_by_side(m: &Machine) -> Result<()> {
    let boot = || Machine::boot(m.suite(), "twin");
    let (one, two) = std::thread::scope(|scope| {
        let (one, two) = (scope.spawn(boot), scope.spawn(boot));
        (one.join().map_err(|_| anyhow!("panic")), two.join().map_err(|_| anyhow!("panic")))
    });
    let (one, two) = (one??, two??);
    one.write("/run/mark", "one", 0o644)?;
    ensure!(!two.run(&["test", "-e", "/run/mark"])?.ok());
    let ids = [&one, &two, m].map(|m| m.read("/etc/machine-id"));
    let ids: Vec<String> = ids.into_iter().collect::<Result<_>>()?;
    ensure!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    let server = IrcServer::start(&one, ServerKind::Ngircd)?;
    ensure!(two.run(&["nc", "-z", "127.0.0.1", "6667"])?.status == 1, "two hears the server of one");
    drop(server);

    two.power_off()?;
    ensure!(two.run(&["true"]).is_err(), "a machine that is off ran a command");
    // The end of one cgroup tree must not take the others along.
    one.run_ok(&["systemctl", "is-system-running"])?;
    m.run_ok(&["systemctl", "is-active", "dbus"])?;
    // A guest that refuses to stop is ended all the same.
    one.sh_ok(
        "mkdir -p /run/systemd/system; printf '[Service]\\nExecStart=sleep 99\\nExecStop=sleep 99\\n' \
        >/run/systemd/system/slow.service; systemctl daemon-reload; systemctl start slow",
    )?;
    let start = Instant::now();
    let error =
        one.power_off_within(Duration::from_secs(1)).err().context("a guest that does not stop must be told")?;
    ensure!(start.elapsed() < Duration::from_secs(9), "it took {:?}: {error:#}", start.elapsed());
    Ok(())
}

/// What the other scenarios rely on: whatever one leaves behind, the next starts from the same state.
fn harness_fresh(m: &Machine) -> Result<()> {
    let clean = state(m)?;
    m.write("/etc/eevee/modules.d/dice.toml", "kind = \"dice\"\n", 0o644)?;
    m.write("/etc/eevee/eeveed.toml", "[limits]\nnonsense = 1\n", 0o644)?;
    m.write("/etc/systemd/system/eevee-op@dice.service.d/x.conf", "[Service]\nRestartSec=9\n", 0o644)?;
    m.write("/etc/credstore/eevee.dice.token", "x", 0o600)?;
    m.sh_ok("useradd --create-home -G eevee goos; echo x >/run/eevee/state/x; systemctl daemon-reload")?;
    m.run(&["systemctl", "enable", "--now", "eevee-op@dice"])?;
    m.run(&["systemctl", "kill", "--signal=SIGSTOP", "eevee-op@dice.service", "eeveed.service"])?;
    let server = IrcServer::start(m, ServerKind::Ngircd)?;
    server.enable()?;
    std::mem::forget(server);

    let start = Instant::now();
    eevee_tests::eevee::fresh(m)?;
    ensure!(start.elapsed() < Duration::from_secs(8), "it took {:?}", start.elapsed());
    let again = state(m)?;
    ensure!(again == clean, "before:\n{clean}\nafter:\n{again}");
    Ok(())
}

fn state(m: &Machine) -> Result<String> {
    let script = "systemctl is-active eeveed.socket eeveed-identity.socket eevee.target
        find /etc/eevee /etc/systemd/system/eevee* /etc/systemd/system/irc* /etc/credstore /run/eevee/state \
            /var/lib/private /var/cache/private /var/log/private -printf '%p %u %m %l\\n' 2>/dev/null | sort
        cat /etc/eevee/eeveed.toml; cut -d: -f1 /etc/passwd
        systemctl list-units --no-legend --plain --all 'eevee-op*' 'irc*'";
    Ok(m.sh_ok(script)?.stdout)
}

/// Killed without a chance to clean up, also when the scenario fails.
struct Owner(Child);

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Command lines on the host that contain `sign`.
fn processes(sign: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.contains(sign) {
            found.push(line.replace('\0', " "));
        }
    }
    Ok(found)
}
