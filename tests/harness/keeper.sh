#!/bin/sh
# The outside of one machine: takes its locks, moves into cgroups of its own,
# and becomes the parent of the outer PID namespace (inside.sh is its PID 1).
# Standard input is the pipe that ties the machine to its owner.
# Environment: EM_RUN (run directory), EM_BASE (image), EM_CGROUP, EM_HOSTNAME.
set -eu

exec 2>>"$EM_RUN/console.log"
exec 9>"$EM_RUN/lock"
flock -n 9
exec 8<"$EM_BASE.lock"
flock -s 8

# Without a cgroup of its own in every hierarchy, two machines share /payload,
# and the second systemd kills the processes of the first.
join() {
    mkdir -p "$1/$EM_CGROUP"
    # A v1 cpuset refuses tasks until both files are filled.
    for f in cpuset.cpus cpuset.mems; do
        if [ -f "$1/$f" ]; then cat "$1/$f" >"$1/$EM_CGROUP/$f"; fi
    done
    echo $$ >"$1/$EM_CGROUP/cgroup.procs"
}
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    # In v2 only leaves may hold processes where controllers are handed down: this process
    # and each boot of nspawn (inside.sh) get one, and limits are really enforced in the machine.
    mine="/sys/fs/cgroup/$EM_CGROUP"
    mkdir -p "$mine/keeper"
    echo $$ >"$mine/keeper/cgroup.procs"
    for c in cpu io memory pids; do
        echo "+$c" 2>/dev/null >"$mine/cgroup.subtree_control" || :
    done
else
    for h in /sys/fs/cgroup/*; do
        if [ -d "$h" ] && [ ! -L "$h" ]; then join "$h"; fi
    done
fi

echo locked
exec >>"$EM_RUN/console.log"
# kill -9 of this process kills PID 1 of the namespace, and so everything in it.
exec unshare --mount --propagation private --pid --fork --kill-child=KILL --mount-proc \
    sh "$EM_RUN/inside.sh"
