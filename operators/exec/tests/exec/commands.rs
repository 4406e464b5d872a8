//! Mode `command`: one run for each message.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bus::document;
use crate::place::{Place, WAIT, said};

const COMMAND: &str = "run = \"DIR/program\"\ncommand = \"do\"\n";

async fn place(script: &str) -> Place {
    Place::new(COMMAND, &[("program", script)]).await
}

#[tokio::test]
async fn what_it_prints_is_the_answer() {
    let mut place = place("#!/bin/sh\nread -r arguments\necho \"$EEVEE_USER in $EEVEE_CHANNEL: <$arguments>\"\n").await;
    let id = place.say("!do  this and that ").await;
    let answer = place.answer().await;
    assert_eq!(answer.text(), Some("goos in #here: <this and that>"));
    assert_eq!((answer.cause, answer.hops), (Some(id), 1));
    place.asks("!do", "goos in #here: <>").await;
    // Text of a chat is text, also for a shell.
    place.asks("!do $(touch DIR/evil) `id` ; rm \\ \"x", "goos in #here: <$(touch DIR/evil) `id` ; rm \\ \"x>").await;
    assert!(place.log().lines().all(|line| !line.contains("WARN")), "{}", place.log());
}

#[tokio::test]
async fn nothing_printed_is_no_answer_and_done() {
    let mut place = place("#!/bin/sh\nread -r word\n[ \"$word\" = quiet ] || echo said\n").await;
    place.say("!do quiet").await;
    place.asks("!do loud", "said").await;
    assert!(place.is_silent(Duration::from_millis(300)).await);
}

#[tokio::test]
async fn the_environment_has_the_headers_and_nothing_of_the_operator_alone() {
    let mut place = Place::without("run = \"DIR/program\"\nsubscribe = \"type=x\"\n", &[]).await;
    place.script("program", "#!/bin/sh\ncat >\"$STATE_DIRECTORY/body\"\nenv >\"$STATE_DIRECTORY/env.new\"\nmv \"$STATE_DIRECTORY/env.new\" \"$STATE_DIRECTORY/env\"\n");
    let socket = place.path("notify");
    let _systemd = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let nowhere = place.path("nowhere");
    place.start_with(&[("NOTIFY_SOCKET", &socket), ("EEVEE_USER", &nowhere), ("EEVEE_HEADER_OLD", &nowhere)]);
    place.is("ready").await;
    let headers = [
        ("type", "x"),
        ("user", "goos"),
        ("path", "/evil"),
        ("ld_preload", "/evil.so"),
        ("ifs", "x"),
        ("a.b-c", "$(id)"),
    ];
    place.irc.publish_confirmed(document(&headers, "line one\nline two")).await.unwrap();
    place.until("environment", || place.path("state/env").exists()).await;
    let environment = std::fs::read_to_string(place.path("state/env")).unwrap();
    let value = |name: &str| environment.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    assert_eq!(value("PATH"), Some(std::env::var("PATH").unwrap().as_str()));
    for (name, wanted) in [
        ("EEVEE_TYPE", Some("x")),
        ("EEVEE_USER", Some("goos")),
        ("EEVEE_HEADER_PATH", Some("/evil")),
        ("EEVEE_HEADER_LD_PRELOAD", Some("/evil.so")),
        ("EEVEE_HEADER_A_B_C", Some("$(id)")),
        ("EEVEE_SOURCE", Some("irc")),
        ("EEVEE_OPERATOR", Some("test")),
        ("EEVEE_ATTEMPT", Some("1")),
        ("EEVEE_HEADER_OLD", None),
        ("EEVEE_CHANNEL", None),
        ("LD_PRELOAD", None),
        ("NOTIFY_SOCKET", None),
        ("CREDENTIALS_DIRECTORY", None),
        ("EEVEE_LOG", None),
    ] {
        assert_eq!(value(name), wanted, "{name} in\n{environment}");
    }
    assert_eq!(std::fs::read_to_string(place.path("state/body")).unwrap(), "line one\nline two", "byte for byte");
}

/// Those that the file names, and nothing else: least of all the proof of who the operator is.
#[tokio::test]
async fn it_is_handed_the_secrets_that_the_file_names() {
    let script = "#!/bin/sh\nls \"$CREDENTIALS_DIRECTORY\" | tr '\\n' ' '\ncat \"$CREDENTIALS_DIRECTORY/token\"\n";
    let settings = format!("{COMMAND}credentials = [\"credential:token\"]\n");
    let mut place = Place::without(&settings, &[("program", script)]).await;
    let folder = place.path("credentials");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("password"), "no").unwrap();
    place.start_with(&[("CREDENTIALS_DIRECTORY", &folder)]);
    assert_eq!(place.ended().await, Some(78));
    assert!(place.log().contains("put the secret into the file /etc/credstore/eevee.ID.token"), "{}", place.log());
    std::fs::write(folder.join("token"), "hunter2\n").unwrap();
    place.start_with(&[("CREDENTIALS_DIRECTORY", &folder)]);
    place.is("ready").await;
    place.asks("!do it", "token hunter2").await;
    // A reload to one that is not there changes nothing.
    place.settings(&settings.replace("token", "key"));
    assert!(place.control("reload").await.unwrap_err().to_string().contains("eevee.ID.key"));
    place.settings(&settings.replace("[\"credential:token\"]", "[\"credential:password\", \"credential:token\"]"));
    place.control("reload").await.unwrap();
    place.asks("!do it", "password token hunter2").await;
    assert!(!place.log().contains("hunter2"), "{}", place.log());
}

#[tokio::test]
async fn a_run_that_fails_comes_again_and_one_that_cannot_is_a_dead_letter() {
    let script = "#!/bin/sh\nread -r word\ncase $word in never) exit 65;; esac\n\
                  [ \"$EEVEE_ATTEMPT\" -gt 1 ] || { echo half; echo '<3>no luck' >&2; exit 3; }\necho \"attempt $EEVEE_ATTEMPT\"\n";
    let mut place = place(script).await;
    place.asks("!do it", "attempt 2").await;
    place.logs("exit status 3").await;
    place.logs("ERROR").await;
    place.logs("no luck").await;
    place.says("1 runs failed").await;
    place.say("!do never").await;
    place.logs("exit status 65").await;
    place.until_dead("exit status 65").await;
    assert!(place.is_silent(Duration::from_millis(300)).await);
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_ended_with_all_that_it_started() {
    let script = "#!/bin/sh\nread -r word\n[ \"$word\" = slow ] || { echo quick; exit; }\n\
                  sleep 4711.MARK1 & setsid sleep 4711.MARK2 & (setsid sleep 4711.MARK3 &)\ntrap '' TERM\nsleep 4711.MARK4\nsleep 4711.MARK5\n";
    let mut place = Place::new(&format!("{COMMAND}timeout = \"5 s\"\ndurable = false\n"), &[("program", script)]).await;
    place.say("!do slow").await;
    place.until("processes", || place.processes("sleep 4711.MARK").len() == 4).await;
    place.logs("it did not end within 5s, and was ended").await;
    place.until("end of all processes", || place.processes("sleep 4711.MARK").is_empty()).await;
    place.asks("!do it", "quick").await;
}

#[tokio::test]
async fn one_that_forks_and_exits_is_done_and_leaves_nothing() {
    // Its children hold the pipes open, and one is in a session of its own when it exits.
    let script = "#!/bin/sh\nsleep 4712.MARK1 &\nsetsid sh -c '>\"$STATE_DIRECTORY/go\"; sleep 4712.MARK2; sleep 4712.MARK3' &\nWAIT\necho done\n";
    let script = &script.replace("WAIT", WAIT);
    let mut place = place(script).await;
    let began = std::time::Instant::now();
    place.asks("!do it", "done").await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    place.until("end of all processes", || place.processes("sleep 4712.MARK").is_empty()).await;
    place.logs("that a program had left behind").await;
}

#[tokio::test]
async fn as_many_run_as_are_allowed() {
    let script = "#!/bin/sh\necho x >>\"$STATE_DIRECTORY/began\"\nWAIT\necho \"$EEVEE_MESSAGE\"\n";
    let script = &script.replace("WAIT", WAIT);
    let mut place = Place::new(&format!("{COMMAND}parallel = 2\n"), &[("program", script)]).await;
    for _ in 0..5 {
        place.say("!do it").await;
    }
    let began = || std::fs::read_to_string(place.path("state/began")).unwrap_or_default().lines().count();
    place.until("two runs", || began() == 2).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(began(), 2);
    place.go();
    for _ in 0..5 {
        place.answer().await;
    }
}

#[tokio::test]
async fn output_that_is_no_answer_is_none() {
    let script = "#!/bin/sh\nread -r word\ncase $word in\nlong) while :; do echo 0123456789012345678901234567890123456789; done;;\n\
                  bytes) printf '\\377\\376';;\n*) echo good;;\nesac\n";
    let mut place = place(script).await;
    place.say("!do long").await;
    place.logs("printed more than 65536 bytes").await;
    place.say("!do bytes").await;
    place.logs("no text in UTF-8").await;
    place.asks("!do it", "good").await;
    place.until_dead("65536").await;
    place.until_dead("UTF-8").await;
}

#[tokio::test]
async fn standard_error_is_bounded() {
    let script = "#!/bin/sh\nread -r word\nif [ \"$word\" = flood ]; then\n  i=0; while [ $i -lt 20000 ]; do echo \"line $i\"; i=$((i + 1)); done >&2\n\
                  head -c 3000000 /dev/zero | tr '\\0' 'y' >&2\nfi\nprintf '<4>careful \\033[2J\\n' >&2\necho done\n";
    let mut place = place(script).await;
    place.asks("!do it", "done").await;
    place.logs("careful \\x1b[2J").await;
    assert!(place.log().lines().any(|line| line.contains("WARN") && line.contains("careful")), "{}", place.log());
    place.asks("!do flood", "done").await;
    place.logs("more entries of the program were left out").await;
    let log = place.log();
    assert!(log.lines().count() < 1000 && log.len() < 200_000, "{} lines, {} bytes", log.lines().count(), log.len());
    assert!(place.memory_kib() < 64 << 10, "{} KiB", place.memory_kib());
}

/// A program need not read: 1 MB of arguments that nobody takes hold nothing up.
#[tokio::test]
async fn a_program_that_reads_nothing_is_no_trouble() {
    let mut place = Place::new("run = \"/bin/echo\"\nsubscribe = \"command\"\n", &[]).await;
    let long = "x".repeat(900_000);
    place.irc.publish_confirmed(said("goos", &format!("!do {long}"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    place.settings("run = [\"/bin/echo\", \"here\"]\nsubscribe = \"command\"\n");
    place.control("reload").await.unwrap();
    place.irc.publish_confirmed(said("goos", &format!("!do {long}"))).await.unwrap();
    // Without arguments, echo printed nothing but a line feed, which is no answer.
    place.answers("here").await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_mistake_in_the_file() {
    let mut place = Place::without(COMMAND, &[]).await;
    place.start();
    assert_eq!(place.ended().await, Some(78));
    assert!(
        place.log().contains("program: it, or the interpreter that its first line names, is not there"),
        "{}",
        place.log()
    );
    place.script("program", "#!/bin/sh\necho here\n");
    place.start();
    place.is("ready").await;
    place.asks("!do it", "here").await;
    std::fs::remove_file(place.path("program")).unwrap();
    place.say("!do it").await;
    place.logs("program cannot be started: it, or the interpreter").await;
    let refused = place.control("reload").await.unwrap_err().to_string();
    assert!(refused.contains("is not there"), "{refused}");
    place.script("program", "#!/bin/sh\necho back\n");
    place.answers("back").await;
}

#[tokio::test]
async fn what_is_in_hand_is_finished_at_a_stop() {
    let mut place = place("#!/bin/sh\ntouch \"$STATE_DIRECTORY/began\"\nsleep 1\necho finished\n").await;
    place.say("!do it").await;
    place.until("run", || place.path("state/began").exists()).await;
    let (status, took) = place.stop().await;
    assert_eq!(status, Some(0));
    assert!(took < Duration::from_secs(8), "{took:?}");
    place.answers("finished").await;
}

#[tokio::test]
async fn a_stop_waits_for_no_run_for_ever_and_its_message_comes_again() {
    let script = "#!/bin/sh\n[ \"$EEVEE_ATTEMPT\" = 1 ] || { echo again; exit; }\ntouch \"$STATE_DIRECTORY/began\"\nsleep 4713.MARK\n";
    let mut place = place(script).await;
    place.say("!do it").await;
    place.until("run", || place.path("state/began").exists()).await;
    let (status, took) = place.stop().await;
    assert_eq!(status, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
    place.until("end of the run", || place.processes("sleep 4713.MARK").is_empty()).await;
    place.start();
    place.answers("again").await;
}

#[tokio::test]
async fn a_command_is_answered_once_over_a_kill() {
    let script = "#!/bin/sh\necho x >>\"$STATE_DIRECTORY/runs\"\nWAIT\necho \"$EEVEE_ATTEMPT\"\n";
    let mut place = place(&script.replace("WAIT", WAIT)).await;
    place.say("!do it").await;
    place.until("run", || place.path("state/runs").exists()).await;
    place.signal(Signal::SIGKILL);
    place.ended().await;
    place.go();
    place.start();
    place.answers("2").await;
    assert!(place.is_silent(Duration::from_millis(500)).await);
}

/// What people write never becomes an argument, however it begins.
#[tokio::test]
async fn what_begins_with_a_dash_is_no_option() {
    let mut place = place("#!/bin/sh\necho \"$# <$(cat)>\"\n").await;
    for text in ["--help", "-rf /", "-", "--", "- -e x"] {
        place.asks(&format!("!do {text}"), &format!("0 <{text}>")).await;
    }
}

/// As many and as long as headers can be; one more of anything the bus refuses.
#[tokio::test]
async fn the_largest_environment_that_headers_can_make() {
    let script = "#!/bin/sh\nenv | grep -c '^EEVEE_HEADER_X[0-9]*=v*$' >\"$STATE_DIRECTORY/count\"\n";
    let place = Place::new("run = \"DIR/program\"\nsubscribe = \"type=x\"\n", &[("program", script)]).await;
    let names: Vec<String> = (0..63).map(|n| format!("x{n:063}")).collect();
    let long = "v".repeat(1024);
    let mut headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), long.as_str())).collect();
    headers.push(("type", "x"));
    place.irc.publish_confirmed(document(&headers, "")).await.unwrap();
    place.until("count", || std::fs::read_to_string(place.path("state/count")).is_ok_and(|text| text == "63\n")).await;
}

/// More than the kernel takes: not started, told, and everything else goes on.
#[tokio::test]
async fn arguments_that_no_process_can_have() {
    let long = format!("\"{}\"", "a".repeat(100_000));
    let many = [long.as_str(); 9].join(", ");
    // What a process may have follows the limit of its stack, which the program's parent has as well.
    let settings = format!("run = [\"/bin/sh\", \"-c\", \"ulimit -s\", {many}]\ncommand = \"do\"\n");
    let mut place = Place::new(&settings, &[]).await;
    place.say("!do it").await;
    let answer = place.answer().await;
    assert!(answer.text().is_some_and(|text| !text.is_empty()), "900 KB is within the bounds");
    place.settings(&settings.replacen(&long, &format!("\"{}\"", "a".repeat(131_072)), 1));
    let refused = place.control("reload").await.unwrap_err().to_string();
    assert!(refused.contains("131072 bytes: the kernel takes arguments of at most 131071"), "{refused}");
}

/// A halt takes nothing away from a run; it is over when the run is.
#[tokio::test]
async fn a_run_outlives_a_halt_and_nothing_else_begins() {
    let script = "#!/bin/sh\necho x >>\"$STATE_DIRECTORY/began\"\nWAIT\necho finished\n";
    let mut place = place(&script.replace("WAIT", WAIT)).await;
    let began = || std::fs::read_to_string(place.path("state/began")).unwrap_or_default().lines().count();
    place.say("!do it").await;
    place.until("run", || began() == 1).await;
    place.control("halt").await.unwrap();
    place.say("!do it again").await;
    assert_ne!(place.status().await["state"], "halted", "with a run in hand");
    place.go();
    place.answers("finished").await;
    place.is("halted").await;
    assert!(place.is_silent(Duration::from_millis(700)).await);
    assert_eq!(std::fs::read_to_string(place.path("state/began")).unwrap().lines().count(), 1);
    // A restart finds it halted, and nothing begins either.
    place.stop().await;
    place.start();
    place.is("halted").await;
    place.control("resume").await.unwrap();
    place.answers("finished").await;
}

#[tokio::test]
async fn one_that_closes_everything_and_one_with_a_nul() {
    let script = "#!/bin/sh\nread -r word\ncase $word in\nclose) exec <&- >&- 2>&-; sleep 0.5;;\n\
                  nul) printf 'a\\000b\\n';;\n*) printf 'bad \\377 on stderr\\n' >&2; echo good;;\nesac\n";
    let mut place = place(script).await;
    place.say("!do close").await;
    // It is the connector that knows what its network can say.
    place.asks("!do nul", "a\0b").await;
    place.asks("!do it", "good").await;
    place.logs("bad \u{fffd} on stderr").await;
    place.settled().await;
    assert!(!place.log().contains("is not done"), "{}", place.log());
}

/// A gigabyte where an answer belongs, by one that does not listen either.
#[tokio::test]
async fn an_answer_of_a_gigabyte() {
    let script = "#!/bin/sh\nread -r word\n[ \"$word\" = long ] || { echo good; exit; }\n\
                  trap '' TERM PIPE\nhead -c 1073741824 /dev/zero | tr '\\0' x\nsleep 4714.MARK\n";
    let mut place = place(script).await;
    place.say("!do long").await;
    place.logs("printed more than 65536 bytes, and was ended").await;
    place.until_dead("65536").await;
    place.asks("!do it", "good").await;
    place.until("end of it", || place.processes("sleep 4714.MARK").is_empty()).await;
    assert!(place.memory_kib() < 64 << 10, "{} KiB", place.memory_kib());
}

#[tokio::test]
async fn a_request_is_answered_to_who_asked() {
    let place = Place::new("run = [\"/bin/sh\", \"-c\", \"tr a-z A-Z\"]\nsubscribe = \"type=shout\"\n", &[]).await;
    let response = place.tool.request(document(&[("type", "shout")], "hello"), Duration::from_secs(20)).await.unwrap();
    assert_eq!(response.document.text(), Some("HELLO"));
    // A message that cannot be answered is no failure.
    place.irc.publish_confirmed(document(&[("type", "shout")], "nobody")).await.unwrap();
    place.logs("is from no chat").await;
}
