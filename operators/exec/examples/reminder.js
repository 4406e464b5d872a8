#!/usr/bin/env node
// A reminder, which publishes by itself: "!remind 10m tea" is answered at once, and again in ten minutes. What it has to
// say later is in a file, so that a restart forgets nothing.
//
//     kind = "exec"
//     [settings]
//     mode = "stream"
//     run = ["/usr/bin/node", "/usr/local/lib/eevee/reminder.js"]
//     command = "remind"
//     expect-ready = true
//     pings = true
//     durable = true

"use strict";
const fs = require("fs");
const path = require("path");
const readline = require("readline");

const FILE = path.join(process.env.STATE_DIRECTORY || ".", "reminders.json");
const UNITS = { s: 1, m: 60, h: 3600, d: 86400 };
const LONGEST = 30 * 86400;

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

let reminders = fs.existsSync(FILE) ? JSON.parse(fs.readFileSync(FILE, "utf8")) : [];
let timer = null;

function save() {
    fs.writeFileSync(FILE + ".new", JSON.stringify(reminders));
    fs.renameSync(FILE + ".new", FILE);
}

// Publishes what is due, and sleeps until the next.
function tick() {
    clearTimeout(timer);
    const now = Date.now();
    const due = reminders.filter((reminder) => reminder.at <= now);
    if (due.length > 0) {
        for (const { headers, body } of due) say({ publish: { headers, body } });
        reminders = reminders.filter((reminder) => reminder.at > now);
        save();
    }
    if (reminders.length > 0) {
        const next = Math.min(...reminders.map((reminder) => reminder.at));
        // A timer of Node counts at most 2^31 ms.
        timer = setTimeout(tick, Math.min(next - now, 0x7fffffff));
    }
    say({ status: `${reminders.length} reminders` });
}

function remind(message) {
    const { headers } = message;
    const text = Buffer.from(message.body || "").subarray(Number(headers["args-at"] || 0)).toString().trim();
    const asked = /^(\d{1,6})\s*([smhd])\s+(.+)$/s.exec(text);
    const seconds = asked ? Number(asked[1]) * UNITS[asked[2]] : 0;
    if (!asked || seconds > LONGEST) return "remind 10m tea: a number of s, m, h or d (at most 30 days), and what of";
    // A message that comes again after a crash is remembered once.
    if (!reminders.some((reminder) => reminder.id === message.id)) {
        const out = { type: "chat.message", direction: "out" };
        for (const key of ["platform", "network", "channel", "private"]) {
            if (headers[key] !== undefined) out[key] = headers[key];
        }
        const body = `${headers.user}: ${asked[3]}`;
        reminders.push({ id: message.id, at: Date.now() + seconds * 1000, headers: out, body });
        save();
    }
    return `${headers.user}: in ${asked[1]} ${asked[2]}`;
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
    const got = JSON.parse(line);
    if (got.id !== undefined) {
        say({ reply: got.id, body: remind(got) });
        say({ ack: got.id });
        tick();
    } else if (got.ping !== undefined) {
        say({ pong: got.ping });
    } else if (got.settings !== undefined) {
        say({ ready: true });
        tick();
    } else if (got.control === "stop") {
        process.exit(0);
    }
}).on("close", () => process.exit(0));
