use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::sync::mpsc::channel;

use super::*;

#[test]
fn the_environment_is_not_believed() {
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(passed(None, None, 7), Ok(3..3));
    assert_eq!(passed(some("7"), None, 7), Ok(3..3));
    assert_eq!(passed(None, some("2"), 7), Ok(3..3));
    assert_eq!(passed(some("7"), some("2"), 7), Ok(3..5));
    assert_eq!(passed(some("7"), some("0"), 7), Ok(3..3));
    for (pid, fds) in [
        ("8", "2"),
        ("", "2"),
        ("x", "2"),
        ("-7", "2"),
        ("7", ""),
        ("7", "x"),
        ("7", "-1"),
        ("7", "1000000000"),
        ("7", "18446744073709551616"),
    ] {
        assert!(passed(some(pid), some(fds), 7).is_err(), "{pid:?} {fds:?}");
    }
}

#[test]
fn descriptors_are_placed_by_name_and_kind() {
    let dir = tempfile::tempdir().unwrap();
    let listener = |name: &str| OwnedFd::from(UnixListener::bind(dir.path().join(name)).unwrap());
    let mut inherited = Inherited::default();
    inherited.place(listener("i"), "identity");
    inherited.place(listener("b"), "bus");
    inherited.place(UnixStream::pair().unwrap().0.into(), "c");
    inherited.place(tempfile::tempfile().unwrap().into(), "s");
    assert!(inherited.problems.is_empty(), "{:?}", inherited.problems);
    assert!(inherited.bus.is_some() && inherited.identity.is_some());
    assert_eq!((inherited.state.len(), inherited.connections.len()), (1, 1));

    inherited.place(listener("b2"), "bus");
    assert!(inherited.problems[0].contains("a second inherited socket bus"));
    inherited.place(UnixStream::pair().unwrap().0.into(), "conn-1");
    assert!(inherited.problems[1].contains("conn-1"), "{:?}", inherited.problems);
}

#[test]
fn what_does_not_listen_is_no_bus() {
    let file = tempfile::tempfile().unwrap();
    for (fd, reason) in [
        (OwnedFd::from(file), "no socket"),
        (UnixStream::pair().unwrap().0.into(), "does not listen"),
        (UnixDatagram::unbound().unwrap().into(), "not a stream"),
        (std::net::TcpListener::bind("127.0.0.1:0").unwrap().into(), "no Unix socket"),
    ] {
        let mut inherited = Inherited::default();
        inherited.place(fd, "bus");
        assert!(inherited.bus.is_none() && inherited.problems[0].contains(reason), "{:?}", inherited.problems);
    }
}

#[test]
fn a_closed_descriptor_is_no_descriptor() {
    let mut inherited = Inherited::default();
    inherited.adopt(1_000_000, "bus");
    assert!(inherited.bus.is_none());
    assert_eq!(inherited.problems.len(), 1);
}

#[test]
fn watchdog_intervals() {
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(interval(some("20000000"), some("7"), 7), Some(Duration::from_secs(10)));
    assert_eq!(interval(some("20000000"), None, 7), Some(Duration::from_secs(10)));
    assert_eq!(interval(some("1"), some("7"), 7), Some(Duration::from_millis(100)));
    assert_eq!(interval(some("18446744073709551615"), some("7"), 7), Some(Duration::from_secs(3600)));
    for (microseconds, pid) in
        [("20000000", "8"), ("20000000", "x"), ("20000000", ""), ("0", "7"), ("-1", "7"), ("x", "7")]
    {
        assert_eq!(interval(some(microseconds), some(pid), 7), None, "{microseconds} {pid}");
    }
    assert_eq!(interval(None, some("7"), 7), None);
}

#[test]
fn notes_arrive_in_order() {
    let (sent, seen) = channel();
    let notifier = Notifier::with(move |states| {
        sent.send(states.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")).unwrap();
        Ok(())
    });
    notifier.put(Note::Ready(one_line("listening\nREADY=1")));
    notifier.put(Note::Status("5 sessions".into()));
    notifier.put(Note::Watchdog);
    notifier.put(Note::Stopping);
    notifier.flush(Duration::from_secs(10));
    assert_eq!(
        seen.try_iter().collect::<Vec<_>>(),
        ["READY=1 STATUS=listening READY=1", "STATUS=5 sessions", "WATCHDOG=1", "STOPPING=1"]
    );
}

#[test]
fn a_systemd_that_does_not_read_holds_nobody() {
    let (release, wait) = channel::<()>();
    let notifier = Notifier::with(move |_| {
        let _ = wait.recv();
        Ok(())
    });
    let began = Instant::now();
    for _ in 0..10_000 {
        notifier.put(Note::Watchdog);
    }
    notifier.flush(Duration::from_millis(50));
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(release);
}

#[test]
fn failures_do_not_end_the_thread() {
    let mut count = 0;
    let (sent, seen) = channel();
    let notifier = Notifier::with(move |_| {
        count += 1;
        sent.send(count).unwrap();
        if count % 2 == 0 { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
    });
    for _ in 0..5 {
        notifier.put(Note::Watchdog);
    }
    notifier.flush(Duration::from_secs(10));
    assert_eq!(seen.try_iter().count(), 5);
}

/// The environment cannot be changed in a process with threads, so these run this test program as a child, in which only
/// the test `child_*` runs, with the environment and descriptors that a hostile parent could give it.
fn child(test: &str, envs: &[(&str, &str)]) -> String {
    let mut command = Command::new("/bin/sh");
    let program = std::env::current_exe().unwrap();
    // The shell opens the descriptors and keeps its process id, which LISTEN_PID has to be.
    command
        .arg("-c")
        .arg("LISTEN_PID=$$ exec \"$0\" --exact --nocapture --include-ignored \"$1\" 3</dev/null 5>/dev/null");
    command.arg(program).arg(format!("systemd::tests::{test}")).envs(envs.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    text
}

#[test]
#[ignore = "run by hostile_descriptors in a child"]
fn child_takes_descriptors() {
    let inherited = Inherited::take();
    assert!(inherited.bus.is_none());
    // 3 is no socket, 4 is closed, 5 is what an earlier run stored.
    assert_eq!(inherited.connections.len(), 1);
    assert!(inherited.problems.iter().any(|problem| problem.contains("no socket")), "{:?}", inherited.problems);
    assert!(Inherited::take().connections.is_empty(), "taken twice");
}

#[test]
fn hostile_descriptors() {
    child("child_takes_descriptors", &[("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "bus:identity:c:x:y")]);
}

#[test]
#[ignore = "run by absurd_variables in a child"]
fn child_ignores_the_absurd() {
    let inherited = Inherited::take();
    assert!(inherited.bus.is_none() && inherited.identity.is_none() && inherited.connections.is_empty());
    assert_eq!(watchdog_interval(), None);
    notify_ready("x");
    notify_watchdog();
    notify_stopping();
}

#[test]
fn absurd_variables() {
    for socket in ["/nonexistent/notify", "@abstract", "vsock:2:1", "", "/dev/null", &"x".repeat(4000)] {
        let envs = [
            ("LISTEN_FDS", "1000000000"),
            ("NOTIFY_SOCKET", socket),
            ("WATCHDOG_USEC", "20000000"),
            ("WATCHDOG_PID", "1"),
        ];
        child("child_ignores_the_absurd", &envs);
    }
}
