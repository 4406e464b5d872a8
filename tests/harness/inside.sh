#!/bin/sh
# PID 1 of a machine's outer PID namespace: builds the overlay, runs nspawn,
# starts it again when the machine reboots, powers it off when the owner writes
# "off SECONDS" to the pipe (standard input), and ends it at once when the pipe
# closes without that: then the owner died.
set -eu

top="$EM_RUN/top"
mkdir -p "$top"
mount -t tmpfs -o mode=755 tmpfs "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay overlay \
    -o "lowerdir=$EM_BASE,upperdir=$top/upper,workdir=$top/work" "$top/root"
# nspawn keeps its own locks here; a private one cannot clash with another machine.
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn

# Without an id of its own, each boot would be a "first boot" with presets applied.
tr -d - </proc/sys/kernel/random/uuid >"$top/root/etc/machine-id"
echo "$EM_HOSTNAME" >"$top/root/etc/hostname"

exec 3<&0 </dev/null
nspawn=
stopping=
stop() {
    stopping=1
    if [ -n "$nspawn" ]; then kill -TERM "$nspawn" 2>/dev/null || :; fi
}
trap stop USR1
# Leaving this script ends everything in the namespace.
trap 'exit 1' USR2
(
    word= seconds=
    read -r word seconds <&3 || :
    if [ "$word" = off ]; then
        kill -USR1 1
        sleep "$seconds"
    fi
    kill -USR2 1
) 8<&- 9>&- &
exec 3<&-

export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
boots=0
boot() {
    # The previous boot handed controllers down in its cgroup, which then takes no process.
    if [ -d "/sys/fs/cgroup/$EM_CGROUP/keeper" ]; then
        mkdir "/sys/fs/cgroup/$EM_CGROUP/boot$boots"
        echo 0 >"/sys/fs/cgroup/$EM_CGROUP/boot$boots/cgroup.procs"
    fi
    exec systemd-nspawn \
        -D "$top/root" -M "$EM_HOSTNAME" --register=no --keep-unit \
        --private-network --resolv-conf=off --timezone=off --link-journal=no \
        --console=pipe --kill-signal=SIGRTMIN+4 --boot
}

while [ -z "$stopping" ]; do
    boots=$((boots + 1))
    boot 8<&- 9>&- &
    nspawn=$!
    # A trapped signal ends `wait` early, with a status that looks like a real one.
    while :; do
        status=0
        wait "$nspawn" || status=$?
        kill -0 "$nspawn" 2>/dev/null || break
    done
    # 133: the guest asked for a reboot (--keep-unit leaves it to us).
    [ "$status" = 133 ] || break
done
exit "$status"
