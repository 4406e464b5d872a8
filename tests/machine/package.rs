//! The package itself: units as tight as promised, and what installing, upgrading, removing and purging leave behind.

use anyhow::{Context, Result, ensure};
use eevee_tests::runner::Scenario;
use eevee_tests::{Machine, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![package_units_pass_their_check, package_examples_are_right];
    // These leave the machine without the package, or with an administrator's changes.
    let alone = scenarios![
        package_keeps_what_the_administrator_disabled,
        package_removed_and_installed_again,
        package_purged_leaves_nothing,
    ];
    all.extend(alone.into_iter().map(Scenario::alone));
    all
}

const UNITS: [&str; 3] = ["eevee.target", "eeveed.socket", "eeveed-identity.socket"];
/// Where the harness put the package that it installed.
const DEB: &str = "/root/eevee.deb";

fn package_units_pass_their_check(m: &Machine) -> Result<()> {
    m.write("/root/units-check", include_str!("../../units/check"), 0o755)?;
    let said = m.run_ok(&["/root/units-check"])?;
    // What systemd does not know may be three keys on 252 and nothing on 257; the script decides, this shows it ran.
    said.expect_text(&format!("systemd-analyze verify (systemd {})", m.suite().systemd()))?
        .expect_text("eevee-op@check.service")?;
    Ok(())
}

/// As they are shipped, and after a person took the "#" away from every setting.
fn package_examples_are_right(m: &Machine) -> Result<()> {
    m.sh_ok(
        r"set -e
        mkdir /root/examples
        for file in /usr/share/eevee/examples/*.toml; do
            eeveectl check $file
            sed -E 's/^# ([a-z-]+ = )/\1/' $file > /root/examples/${file##*/}
            if cmp $file /root/examples/${file##*/}; then exit 1; fi
            eeveectl check /root/examples/${file##*/}
        done",
    )?;
    Ok(())
}

fn package_keeps_what_the_administrator_disabled(m: &Machine) -> Result<()> {
    enabled(m, true).context("a new installation")?;
    m.run_ok(&["systemctl", "disable", "--now", "eevee.target", "eeveed.socket", "eeveed-identity.socket"])?;
    m.run_ok(&["systemctl", "stop", "eeveed.service"])?;
    dpkg(m, &["--install", DEB])?;
    enabled(m, false).context("after an upgrade")?;
    for unit in UNITS.iter().chain(&["eeveed.service"]) {
        ensure!(!m.run(&["systemctl", "--quiet", "is-active", unit])?.ok(), "the upgrade started {unit}");
    }
    Ok(())
}

fn package_removed_and_installed_again(m: &Machine) -> Result<()> {
    m.write("/etc/eevee/modules.d/dice.toml", "kind = \"dice\"\n", 0o644)?;
    m.run_ok(&["systemctl", "enable", "--now", "eevee-op@dice"])?;
    m.sh_ok("echo '# changed' >> /etc/eevee/eeveed.toml; touch /var/lib/eevee/kept")?;

    dpkg(m, &["--remove", "eevee"])?;
    let left = m.run_ok(&["systemctl", "list-units", "--no-legend", "--state=active", "*eev*"])?.stdout;
    ensure!(left.trim().is_empty(), "removed, but active: {left}");
    m.sh_ok(
        "grep -q changed /etc/eevee/eeveed.toml && test -e /etc/eevee/modules.d/dice.toml -a -e /var/lib/eevee/kept",
    )
    .context("removing has to keep settings and state")?;

    dpkg(m, &["--install", DEB])?;
    for unit in UNITS.iter().chain(&["eevee-op@dice.service"]) {
        m.run_ok(&["systemctl", "is-active", unit]).context("installed again")?;
    }
    m.sh_ok("grep -q changed /etc/eevee/eeveed.toml").context("settings after installing again")?;
    Ok(())
}

fn package_purged_leaves_nothing(m: &Machine) -> Result<()> {
    m.write("/etc/eevee/modules.d/dice.toml", "kind = \"dice\"\n", 0o644)?;
    m.write("/etc/credstore/eevee.dice.password", "secret", 0o600)?;
    m.run_ok(&["systemctl", "enable", "--now", "eevee-op@dice"])?;
    dpkg(m, &["--purge", "eevee"])?;
    // Its user stays, by name and number. The machine's own settings are called eevee-machine.
    let left = m.sh_ok(
        "find /etc /usr /var /run -xdev -name '*eev*' \
            -not -name 'eevee-machine*' -not -path '/run/systemd/units/*' -not -path '/var/log/journal/*'; find /run -name '*eev*.sock'",
    )?;
    ensure!(left.stdout.trim().is_empty(), "purged, but there is: {left}");
    m.run_ok(&["getent", "passwd", "eevee"]).context("the user has to stay")?;

    dpkg(m, &["--install", DEB])?;
    enabled(m, true).context("installed after a purge")?;
    Ok(())
}

fn dpkg(m: &Machine, arguments: &[&str]) -> Result<()> {
    let argv: Vec<&str> = ["dpkg"].iter().chain(arguments).copied().collect();
    m.cmd(&argv).env("DEBIAN_FRONTEND", "noninteractive").run_ok()?;
    Ok(())
}

fn enabled(m: &Machine, wanted: bool) -> Result<()> {
    for unit in UNITS {
        let is = m.run(&["systemctl", "is-enabled", unit])?;
        let said = if wanted { "enabled" } else { "disabled" };
        ensure!(is.stdout.trim() == said, "{unit} has to be {said}, it is {}", is.stdout);
    }
    Ok(())
}
