#!/usr/bin/env python3
"""Reports errors of any operator, and of the bus, to an admin channel: at most one line a minute for each cause.

    kind = "exec"
    [settings]
    mode = "stream"
    run = ["/usr/bin/python3", "/usr/local/lib/eevee/alarm.py"]
    subscribe = ["type=log.record,level<4"]
    durable = true
    [settings.program]
    platform = "irc"
    network = "libera"
    channel = "#admin"
    seconds = 60

Operators whose errors are wanted have publish-log = "error" in [bus] of their module files, and the bus in [bus] of eeveed.toml.

A cause is who says it, which part of it, and what, whatever numbers and names in quotes it has. What comes again within the
minute is counted, and told with the next line or at the end of the minute.
"""

import json
import re
import sys
import threading
import time

# More causes at once than a person can look at share one line.
CAUSES_MAX = 20
SHARED = ("many others", "")
LINE_MAX = 300

lock = threading.Lock()


def say(**line):
    with lock:
        print(json.dumps(line), flush=True)


class Alarm:
    def __init__(self, settings):
        self.seconds = settings.get("seconds", 60)
        self.headers = {"type": "chat.message", "direction": "out"}
        self.headers |= {key: settings[key] for key in ("platform", "network", "channel")}
        # For each cause: when it was told, how often it came since, what it said last.
        self.causes = {}

    def tell(self, who, text, more):
        end = f" ({more} more like it)" if more else ""
        say(publish={"headers": self.headers, "body": f"{who}: {text[:LINE_MAX]}{end}"})

    def hear(self, message, now):
        headers = message["headers"]
        who = message["source"]
        # Anybody who may publish could write such a message. The bus vouches for the source alone.
        if who == "eeveed":
            who = "the bus" if headers.get("operator") == "eeveed" else f"the bus, about {headers.get('operator')}"
        elif headers.get("operator") != who:
            return
        text = " ".join(message.get("body", "").split())
        cause = (who, headers.get("target", "") + re.sub(r'"[^"]*"|\d+', "_", text)[:LINE_MAX])
        if cause not in self.causes and len(self.causes) >= CAUSES_MAX:
            cause = SHARED
        if cause in self.causes:
            told, more, _, _ = self.causes[cause]
            self.causes[cause] = (told, more + 1, who, text)
        else:
            self.causes[cause] = (now, 0, who, text)
            self.tell(who, text, 0)

    def tick(self, now):
        """Tells what came again, and forgets causes that have been silent for their time."""
        for cause, (told, more, who, text) in list(self.causes.items()):
            if now - told < self.seconds:
                continue
            if more:
                self.tell(who, text, more - 1)
                self.causes[cause] = (now, 0, who, text)
            else:
                del self.causes[cause]


def clock(alarm, guard):
    while True:
        time.sleep(min(1, alarm.seconds / 4))
        with guard:
            alarm.tick(time.monotonic())


def main():
    alarm, guard = None, threading.Lock()
    for line in sys.stdin:
        got = json.loads(line)
        if "settings" in got:
            alarm = Alarm(got["settings"])
            threading.Thread(target=clock, args=(alarm, guard), daemon=True).start()
        elif "id" in got:
            with guard:
                alarm.hear(got, time.monotonic())
            say(ack=got["id"])
        elif got.get("control") == "stop":
            break


main()
