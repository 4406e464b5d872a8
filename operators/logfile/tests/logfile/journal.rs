//! The journal, from a `journalctl` that is a script: what it says about its cursor, its end in the middle, and entries that
//! no journald makes. The real one is for the machines.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::place::{Place, next};

/// Knows entries 1 to the number in the file `count`, and follows it; ends where the file `end` is there.
const SCRIPT: &str = r#"#!/bin/sh
cursor=; follow=; root=$(dirname "$0")
for argument; do
    case $argument in --cursor=*) cursor=${argument#--cursor=} ;; --follow) follow=1 ;; esac
done
echo "$*" >> "$root/arguments"
entry() {
    unit=nginx.service level=4
    [ $(($1 % 10)) -ne 0 ] || unit=eevee-op@logs.service
    [ $(($1 % 10)) -ne 5 ] || unit=eeveed.service
    [ $(($1 % 10)) -ne 7 ] || level=5
    [ $(($1 % 10)) -ne 8 ] || unit=ssh.service
    printf '{"__CURSOR":"s=a;i=%x;b=c","MESSAGE":"entry %d","PRIORITY":"%s","_SYSTEMD_UNIT":"%s"}\n' "$1" "$1" "$level" "$unit"
}
if [ -z "$follow" ]; then entry "$(cat "$root/count")"; exit; fi
at=$(printf '%d' "0x$(echo "$cursor" | sed 's/.*i=\([0-9a-f]*\);.*/\1/')")
[ ! -e "$root/oldest" ] || [ "$at" -ge "$(cat "$root/oldest")" ] || at=$(cat "$root/oldest")
while :; do
    count=$(cat "$root/count")
    while [ "$at" -le "$count" ]; do entry "$at"; at=$((at + 1)); done
    if [ -e "$root/garbage" ]; then rm "$root/garbage"; echo '{"no": "entry"'; fi
    if [ -e "$root/end" ]; then rm "$root/end"; echo "the disk is gone" >&2; exit 1; fi
    sleep 0.05
done
"#;

#[tokio::test]
async fn every_entry_once() {
    let mut place = Place::start("journal = { units = [\"nginx\"], priority = 4 }");
    let bin = place.folder.path().join("bin");
    fs::write(bin.join("journalctl"), SCRIPT).unwrap();
    fs::set_permissions(bin.join("journalctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let count = |number: u32| {
        fs::write(bin.join("new"), number.to_string()).unwrap();
        fs::rename(bin.join("new"), bin.join("count")).unwrap();
    };
    count(7);
    place.run();
    let tool = place.tool().await;
    place.says(&tool, "following the journal").await;
    let mut durable = tool.subscribe("type=log.line").durable("all").await.unwrap();
    // The first cursor was asked for before anything new came.
    place
        .until("the child", || fs::read_to_string(bin.join("arguments")).unwrap_or_default().contains("--follow"))
        .await;
    let mut expected = 8..=400_u32;
    let mut last = 7;
    for (step, to) in [60, 130, 200, 270, 340, 400].into_iter().enumerate() {
        count(to);
        while last < to {
            last = expected.next().unwrap();
            if [0, 5, 7, 8].contains(&(last % 10)) {
                continue;
            }
            let message = next(&tool, &mut durable).await.unwrap();
            assert_eq!(message.text(), Some(&*format!("entry {last}")));
            if last == 9 {
                assert_eq!((message.header("level"), message.header("unit")), (Some("4"), Some("nginx.service")));
                assert_eq!(message.header("channel"), Some("journal"));
            }
        }
        match step {
            0 | 3 => {
                place.end(Signal::SIGKILL);
                place.run();
            }
            1 => {
                place.end(Signal::SIGTERM);
                place.run();
            }
            2 => fs::write(bin.join("garbage"), "").unwrap(),
            _ => {
                fs::write(bin.join("end"), "").unwrap();
                place.says(&tool, "the disk is gone").await;
            }
        }
    }
    // All that is ours is left out, and a reload takes it in, except for our own.
    place.configure("journal = { units = [\"*\"], eevee = true }");
    let starts = || fs::read_to_string(bin.join("arguments")).unwrap().lines().count();
    let before = starts();
    tool.control("reload", "logs", "").await.unwrap();
    place.until("the other child", || starts() > before).await;
    count(415);
    for number in [401, 402, 403, 404, 405, 406, 407, 408, 409, 411, 412, 413, 414, 415] {
        assert_eq!(next(&tool, &mut durable).await.unwrap().text(), Some(&*format!("entry {number}")));
    }
    // What journald removes while nobody follows is lost, and that is said.
    place.end(Signal::SIGTERM);
    count(430);
    fs::write(bin.join("oldest"), "425").unwrap();
    place.run();
    for number in [425, 426, 427, 428, 429] {
        assert_eq!(next(&tool, &mut durable).await.unwrap().text(), Some(&*format!("entry {number}")));
    }
    let log = place.log();
    assert!(log.contains("the journal was rotated away while it was not followed: 9 entries"), "{log}");
    place.end(Signal::SIGTERM);
}
