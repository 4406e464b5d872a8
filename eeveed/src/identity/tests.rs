use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use nix::unistd::getuid;

use super::*;

fn id(text: &str) -> OperatorId {
    text.parse().unwrap()
}

#[test]
fn tokens_prove_their_id_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let key = Key::load_or_create(dir.path()).unwrap();
    let (one, two) = (key.issue(&id("irc")), key.issue(&id("irc")));
    assert_ne!(one.to_string(), two.to_string());
    // Both stay valid, also after a restart of the bus, and as the text that travels.
    let later = Key::load_or_create(dir.path()).unwrap();
    for token in [&one, &two] {
        assert!(later.verify(token));
        assert!(later.verify(&Token::parse(&token.to_string()).unwrap()));
    }
    assert!(!later.verify(&Token::new(id("dice"), *one.random(), *one.mac())));
    assert!(!later.verify(&Token::new(id("irc"), *two.random(), *one.mac())));
    assert!(!later.verify(&Token::new(id("irc"), *one.random(), [0; 32])));
    // A bit of the MAC.
    let mut mac = *one.mac();
    mac[31] ^= 1;
    assert!(!later.verify(&Token::new(id("irc"), *one.random(), mac)));
    let other = tempfile::tempdir().unwrap();
    assert!(!Key::load_or_create(other.path()).unwrap().verify(&one));
}

#[test]
fn the_key_file_is_private_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(KEY_FILE);
    let token = Key::load_or_create(dir.path()).unwrap().issue(&id("irc"));
    let good = std::fs::read(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // Every truncation, every flipped bit: set aside, a new key, and the next start keeps that one.
    let mut damaged: Vec<Vec<u8>> = (0..good.len()).map(|len| good[..len].to_vec()).collect();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        damaged.push(bytes);
    }
    damaged.push([good.as_slice(), b"x"].concat());
    damaged.push(vec![0; 93]);
    damaged.push(vec![b'a'; 100_000]);
    for content in damaged {
        std::fs::write(&path, &content).unwrap();
        let key = Key::load_or_create(dir.path()).unwrap();
        assert!(!key.verify(&token));
        assert_eq!(std::fs::read(dir.path().join(KEY_FILE_DAMAGED)).unwrap(), content);
        assert!(Key::load_or_create(dir.path()).unwrap().verify(&key.issue(&id("irc"))));
    }

    std::fs::write(&path, &good).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Key::load_or_create(dir.path()).unwrap().verify(&token));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_key_file_that_is_none_stops_the_start() {
    for make in [
        (|path: &Path| std::fs::create_dir(path).unwrap()) as fn(&Path),
        |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        |path| {
            let line = "eevee-key 2 from the future";
            std::fs::write(path, format!("{line} {:08x}\n", crc32fast::hash(line.as_bytes()))).unwrap();
        },
    ] {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join(KEY_FILE));
        let error = format!("{:#}", Key::load_or_create(dir.path()).unwrap_err());
        assert!(error.contains(KEY_FILE), "{error}");
    }
    let error = format!("{:#}", Key::load_or_create(Path::new("/nonexistent")).unwrap_err());
    assert!(error.contains("/nonexistent/identity.key"), "{error}");
}

#[test]
fn addresses_are_matched_in_full() {
    for (address, operator) in [
        ("0/unit/eevee-op@irc.service/bus-token", "irc"),
        ("0123456789abcdef/unit/eevee-op@a-b_c.service/bus-token", "a-b_c"),
        ("deadbeef/unit/eevee-op@aaaaaaaaaaaaaaaaaaaaaaaaaaa.service/bus-token", "aaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ] {
        assert_eq!(operator_of_address(address.as_bytes()).unwrap().as_str(), operator);
    }
    for address in [
        "",
        "/",
        "irc",
        "/unit/eevee-op@irc.service/bus-token",
        "0123456789abcdef0/unit/eevee-op@irc.service/bus-token",
        "ABC/unit/eevee-op@irc.service/bus-token",
        "xyz/unit/eevee-op@irc.service/bus-token",
        "abc/unit/eevee-op@irc.service/bus-token\n",
        "abc/unit/eevee-op@irc.service/bus-token/x",
        "abc/unit/eevee-op@irc.service/password",
        "abc/unit/eevee-op@irc.socket/bus-token",
        "abc/unit/eevee-op@.service/bus-token",
        "abc/unit/eevee-op@irc/../dice.service/bus-token",
        "abc/unit/eevee-op@a\\x2db.service/bus-token",
        "abc/unit/eevee-op@eeveed.service/bus-token",
        "abc/unit/eevee-op@aaaaaaaaaaaaaaaaaaaaaaaaaaaa.service/bus-token",
        "abc/unit/eevee-op@irc.service/bus-token.service/bus-token",
        "abc/unit/other@irc.service/bus-token",
        "abc/x/unit/eevee-op@irc.service/bus-token",
        "abc//unit/eevee-op@irc.service/bus-token",
        "abc/unit/eevee-op@irc.service\0/bus-token",
        "\0abc/unit/eevee-op@irc.service/bus-token",
    ] {
        assert_eq!(operator_of_address(address.as_bytes()), None, "{address:?}");
    }
    assert_eq!(operator_of_address(b"abc/unit/eevee-op@\xff.service/bus-token"), None);
}

fn server(uid: u32, key: Arc<Key>) -> Server {
    let (refusals, failures, door) = (Throttle::default(), Throttle::default(), Door::default());
    Server { key, uid, refusals, failures, reserve: None, door }
}

/// A server on a socket in a directory of its own, as far as it can be had without PID 1.
fn serve(uid: u32) -> (tempfile::TempDir, Arc<Key>) {
    let dir = tempfile::tempdir().unwrap();
    let key = Arc::new(Key::load_or_create(dir.path()).unwrap());
    let listener = UnixListener::bind(dir.path().join("identity.sock")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let server = server(uid, key.clone());
    // The thread ends with the test's process: nothing but the process's end stops it in life either.
    thread::spawn(move || server.run(&listener));
    (dir, key)
}

/// Connects as systemd does, from an abstract address if one is given.
fn ask(dir: &Path, address: Option<&str>) -> UnixStream {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    if let Some(address) = address {
        bind(fd.as_raw_fd(), &UnixAddr::new_abstract(address.as_bytes()).unwrap()).unwrap();
    }
    connect(fd.as_raw_fd(), &UnixAddr::new(&dir.join("identity.sock")).unwrap()).unwrap();
    UnixStream::from(fd)
}

fn answer(mut stream: UnixStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Addresses are one name space for the whole machine, and tests run at the same time.
fn address(tail: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{:x}{:04x}/unit/{tail}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn systemd_gets_the_token_of_the_unit_that_it_starts() {
    let (dir, key) = serve(getuid().as_raw());
    for name in ["irc", "a-b_c", "aaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
        let text = answer(ask(dir.path(), Some(&address(&format!("eevee-op@{name}.service/bus-token")))));
        let token = Token::parse(&text).unwrap();
        assert_eq!(token.id().as_str(), name);
        assert!(key.verify(&token));
    }
}

#[test]
fn others_get_nothing() {
    let (dir, _) = serve(getuid().as_raw());
    assert_eq!(answer(ask(dir.path(), None)), "");
    assert_eq!(answer(ask(dir.path(), Some(&address("eevee-op@irc.service/password")))), "");
    assert_eq!(answer(ask(dir.path(), Some(&address("sshd.service/bus-token")))), "");
    // The right address from another uid than PID 1's.
    let (dir, _) = serve(getuid().as_raw() + 1);
    assert_eq!(answer(ask(dir.path(), Some(&address("eevee-op@irc.service/bus-token")))), "");
}

#[test]
fn peers_that_do_not_read_hold_nobody() {
    let (dir, key) = serve(getuid().as_raw());
    let stuck: Vec<_> = (0..50)
        .map(|_| {
            let stream = ask(dir.path(), Some(&address("eevee-op@stuck.service/bus-token")));
            nix::sys::socket::setsockopt(&stream, sockopt::RcvBuf, &1).unwrap();
            stream
        })
        .collect();
    let gone: Vec<_> = (0..50).map(|_| ask(dir.path(), Some(&address("eevee-op@gone.service/bus-token")))).collect();
    drop(gone);
    let text = answer(ask(dir.path(), Some(&address("eevee-op@irc.service/bus-token"))));
    assert!(key.verify(&Token::parse(&text).unwrap()));
    for stream in stuck {
        assert_eq!(answer(stream).len(), libeevee::TOKEN_BYTES);
    }
}

#[test]
fn a_descriptor_that_is_no_listener_ends_the_thread() {
    let (one, _other) = UnixStream::pair().unwrap();
    let listener = UnixListener::from(std::os::fd::OwnedFd::from(one));
    let dir = tempfile::tempdir().unwrap();
    listener.set_nonblocking(true).unwrap();
    server(0, Arc::new(Key::load_or_create(dir.path()).unwrap())).run(&listener);
}

#[test]
fn log_lines_are_rare_and_count_what_they_left_out() {
    let mut throttle = Throttle::default();
    let start = Instant::now();
    assert_eq!(throttle.permit(start), Some(0));
    for second in 1..60 {
        assert_eq!(throttle.permit(start + Duration::from_secs(second)), None);
    }
    assert_eq!(throttle.permit(start + Duration::from_secs(60)), Some(59));
    assert_eq!(throttle.permit(start + Duration::from_secs(61)), None);
}

/// Ticks of the clock that this process has used; 100 of them are a second.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Opens files until the process may not open any more.
fn fill() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

#[test]
#[ignore = "run by without_descriptors in a child"]
fn child_without_descriptors() {
    let (dir, key) = serve(getuid().as_raw());
    let path = UnixAddr::new(&dir.path().join("identity.sock")).unwrap();
    // Sockets that are open already; connecting them needs no more descriptors here, only in the server.
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            let address = address("eevee-op@irc.service/bus-token");
            bind(fd.as_raw_fd(), &UnixAddr::new_abstract(address.as_bytes()).unwrap()).unwrap();
            fd
        })
        .collect();
    // One answer, so that the server surely keeps its reserve by now.
    answer(ask(dir.path(), Some(&address("eevee-op@irc.service/bus-token"))));
    let mut clients = clients.into_iter();
    let mut all = Vec::new();
    for client in clients.by_ref().take(3) {
        // Time enough to have a reserve again.
        thread::sleep(10 * ACCEPT_PAUSE);
        all.extend(fill());
        connect(client.as_raw_fd(), &path).unwrap();
        let text = answer(UnixStream::from(client));
        assert!(key.verify(&Token::parse(&text).unwrap()));
    }
    // No time for a reserve: now the server has to wait, and must not spin. One descriptor is for ticks().
    let last = clients.next().unwrap();
    all.extend(fill());
    connect(last.as_raw_fd(), &path).unwrap();
    all.pop();
    let before = ticks();
    all.extend(fill());
    thread::sleep(Duration::from_secs(1));
    all.clear();
    assert!(ticks() - before < 30, "{} ticks", ticks() - before);
    assert!(key.verify(&Token::parse(&answer(UnixStream::from(last))).unwrap()));
}

#[test]
fn without_descriptors() {
    let mut child = std::process::Command::new("/bin/sh");
    child.arg("-c").arg("ulimit -n 64; exec \"$0\" --exact --nocapture --include-ignored \"$1\"");
    child.arg(std::env::current_exe().unwrap()).arg("identity::tests::child_without_descriptors");
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A peer that comes when the door is closed waits for the next run of the bus, which has the same socket.
#[test]
fn who_comes_too_late_is_served_by_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let key = Arc::new(Key::load_or_create(dir.path()).unwrap());
    let door = spawn(listener.try_clone().unwrap(), key.clone()).unwrap();
    let mut first = UnixStream::connect(&path).unwrap();
    let read = |stream: &mut UnixStream| {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut text = String::new();
        Read::read_to_string(stream, &mut text).map(|_| text)
    };
    // Refused, as it is not PID 1; but answered.
    assert_eq!(read(&mut first).unwrap(), "");
    door.close();
    let mut late = UnixStream::connect(&path).unwrap();
    late.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = Read::read(&mut late, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "it was let in");
    let next = spawn(listener, key).unwrap();
    assert_eq!(read(&mut late).unwrap(), "");
    next.close();
}
