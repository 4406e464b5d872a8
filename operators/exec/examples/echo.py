#!/usr/bin/env python3
"""Echo with state: says what was said, and how often it has done so, over restarts as well.

    kind = "exec"
    [settings]
    mode = "stream"
    run = ["/usr/bin/python3", "/usr/local/lib/eevee/echo.py"]
    command = "echo"
    expect-ready = true
    pings = true
    durable = true
    answers-reload = true
    [settings.program]
    upper-case = false

The file with the count is in the directory that systemd gives to the operator: $STATE_DIRECTORY.
"""

import json
import os
import sys


def say(**line):
    print(json.dumps(line), flush=True)


class Count:
    """How often, on disk before anybody hears of it."""

    def __init__(self, directory):
        self.path = os.path.join(directory, "count")
        try:
            with open(self.path, encoding="utf-8") as file:
                self.value = int(file.read())
        except FileNotFoundError:
            self.value = 0

    def next(self):
        self.value += 1
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            file.write(str(self.value))
        os.replace(self.path + ".new", self.path)
        return self.value


def arguments(message):
    # "args-at" counts bytes.
    text = message.get("body", "").encode()
    return text[int(message["headers"].get("args-at", 0)):].decode(errors="replace").strip()


def wrong(settings):
    """What is wrong with settings, if anything."""
    for key, value in settings.items():
        if key != "upper-case":
            return f"I do not know {key!r}, only 'upper-case'"
        if not isinstance(value, bool):
            return f"upper-case is true or false, not {value!r}"
    return None


def main():
    count = Count(os.environ.get("STATE_DIRECTORY", "."))
    settings = None
    for line in sys.stdin:
        got = json.loads(line)
        if "id" in got:
            text = arguments(got)
            if settings.get("upper-case"):
                text = text.upper()
            say(reply=got["id"], body=f"{text} ({count.next()})")
            say(ack=got["id"])
        elif "ping" in got:
            say(pong=got["ping"])
        elif "settings" in got:
            # The first settings are as they are; only those of a reload can be refused.
            first, problem = settings is None, wrong(got["settings"])
            if first and problem:
                sys.exit(problem)
            if not problem:
                settings = got["settings"]
            if first:
                say(ready=True)
            elif problem:
                say(refuse=problem)
            else:
                say(accept=True)
        elif got.get("control") == "stop":
            break


main()
