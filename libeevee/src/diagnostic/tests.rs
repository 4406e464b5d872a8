use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed")]
struct File {
    kind: Option<String>,
    settings: Settings,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(dead_code, reason = "only parsed")]
struct Settings {
    nick: String,
    server: String,
    tls: Option<bool>,
    mode: Option<Mode>,
    port: Option<u16>,
    tls_pin: Option<String>,
    sasl: Option<Sasl>,
    channels: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Plain,
    External,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed")]
struct Sasl {
    account: String,
    password: String,
}

#[test]
fn mistakes_and_their_places() {
    let good = "nick = \"a\"\nserver = \"b\"\n";
    for (body, summary, help) in [
        ("nik = \"a\"", "2:1: unknown key `nik`, did you mean `nick`?", "known keys: `nick`, `server`"),
        ("tls_pin = \"a\"", "2:1: unknown key `tls_pin`, did you mean `tls-pin`?", ""),
        ("Nick = \"a\"", "2:1: unknown key `Nick`, did you mean `nick`?", ""),
        ("something = 1", "2:1: unknown key `something`", "known keys: "),
        ("nick = \"a\"", "1:1: missing key `server` in [settings]", ""),
        ("nick = 5", "2:8: expected a string, found integer `5`", ""),
        ("tls = \"yes\"", "2:7: expected true or false, found string \"yes\"", ""),
        ("port = 70000", "2:8: expected a whole number from 0 to 65535, found integer `70000`", ""),
        ("port = \"x\"", "2:8: expected a whole number from 0 to 65535, found string \"x\"", ""),
        ("channels = \"#a\"", "2:12: expected a list: [ ... ], found string \"#a\"", ""),
        ("sasl = 3", "2:8: expected a table: { ... }, found integer `3`", ""),
        ("mode = \"plane\"", "2:8: unknown value `plane`, did you mean `plain`?", "known values: `plain`, `external`"),
        ("nick = \"a\"\nnick = \"b\"", "3:1: key `nick` stands twice", ""),
        ("[settings]", "2:2: key `settings` stands twice", ""),
        ("[other", "2:7: unclosed table, expected `]`", ""),
        ("nick = \"a", "2:10: invalid basic string, expected `\"`", ""),
        ("nick = eevee", "2:8: `eevee` has no quotes", "a text is written in quotes: \"eevee\""),
        ("nick = irc", "2:8: `irc` has no quotes", "a text is written in quotes: \"irc\""),
        ("server = irc.example:6697", "2:10: `irc.example:6697` has no quotes", "\"irc.example:6697\""),
        ("nick = a b", "2:8: `a b` has no quotes", "\"a b\""),
        ("nick =", "2:7: no value after `nick =`", "an empty text is written \"\""),
        ("nick a", "2:6: key with no value, expected `=`", "a line is `key = value`"),
        ("tls = yes", "2:7: `yes` is no value", "write true, or \"yes\" where a text is meant"),
        ("tls = True", "2:7: `True` is no value", "write true"),
        ("tls = off", "2:7: `off` is no value", "write false"),
        ("channels = [#a]", "2:13: unclosed array, expected `]`", "a `#` outside quotes begins a comment"),
        ("channels = [\"#a\", b]", "2:19: `b` has no quotes", ""),
        (
            "nick = \u{201c}a\u{201d}",
            "2:8: typographic quotes do not enclose a text",
            "write \"a\" with straight quotes",
        ),
        ("nick = \"a\\q\"", "2:11: unknown escape after a backslash", "single quotes"),
        ("nick = \"a\x1b[1m\"", "2:10: invalid basic string, expected non-double-quote visible characters, `\\`", ""),
        ("sasl = { account = \"x\" }", "2:8: missing key `password`", ""),
        ("# grün\r\nnick = \"ü\"  # ü\r\nnik = \"a\"", "4:1: unknown key `nik`, did you mean `nick`?", ""),
    ] {
        let text = format!("[settings]\n{body}\n");
        let wrong = parse_toml::<File>("irc.toml", &text).expect_err(body);
        assert_eq!(wrong.summary(), format!("irc.toml:{summary}"), "{body}");
        let shown = wrong.to_string();
        assert!(shown.contains(help), "{shown}");
        let (line, column) = wrong.line_column().unwrap();
        assert!(shown.contains(&format!("--> irc.toml:{line}:{column}\n")), "{shown}");
        let offending = text.lines().nth(line - 1).unwrap().replace('\x1b', "\u{241b}");
        assert!(shown.contains(&format!("\n{line} | {offending}\n")), "{shown}");
    }
    parse_toml::<File>("irc.toml", &format!("[settings]\n{good}")).unwrap();
}

#[test]
fn mistakes_of_the_whole_file() {
    for (text, summary) in [
        ("", "f:1:1: missing key `settings`"),
        ("\u{feff}kind = \"irc\"", "f:1:1: the file begins with a byte order mark"),
        ("kind = irc", "f:1:8: `irc` has no quotes"),
        ("a\0 = 1", "f:1:2: invalid unquoted key, expected letters, numbers, `-`, `_`"),
        ("[setings]\nnick = \"a\"", "f:1:2: unknown key `setings`, did you mean `settings`?"),
    ] {
        assert_eq!(parse_toml::<File>("f", text).unwrap_err().summary(), summary);
    }
    let large = parse_toml::<File>("f", &" ".repeat(FILE_BYTES_MAX + 1)).unwrap_err();
    assert_eq!(large.summary(), "f: has 1048577 bytes, at most 1048576 (1 MiB) are possible");
    assert!(large.to_string().contains("--> f"), "{large}");
}

#[test]
fn deep_nesting_is_a_mistake_and_no_crash() {
    for open in ["[", "{ a = "] {
        let wrong = parse_toml::<File>("f", &format!("a = {}", open.repeat(100_000))).unwrap_err();
        assert!(wrong.summary().contains("recursion"), "{}", wrong.summary());
        assert!(wrong.to_string().len() < 2_000, "{} bytes", wrong.to_string().len());
    }
    let keys = vec!["a"; 100_000].join(".");
    let wrong = parse_toml::<File>("f", &format!("{keys} = 1")).unwrap_err();
    assert!(wrong.to_string().len() < 2_000, "{} bytes", wrong.to_string().len());
}

#[test]
fn literal_secrets_are_masked_whatever_the_mistake() {
    for (line, shown) in [
        ("sasl = { acount = \"x\", password = \"hunter2\" }", "password = \"*******\" }"),
        ("sasl = { acount = \"x\", password = 'hunter2', n = 1 }", "password = '*******', n = 1"),
        ("server-password = hunter2", "server-password = *******"),
        ("api_token = \"hunter2 \\\" hunter2\" # that", "= \"******************\" # that"),
        ("PassWord = 'hunter2", "PassWord = '*******"),
        ("x = { password = \"credential:password\" }", "\"credential:password\""),
        ("x = { password = 5, b = hunter }", "password = *, b = hunter"),
        ("sasl = { account = \"x\", password = 12345 }", "password = ***** }"),
        ("sasl = { account = \"x\", password = hunter2 }", "password = ******* }"),
    ] {
        let wrong = parse_toml::<File>("f", &format!("[settings]\n{line}\n")).unwrap_err();
        assert!(!wrong.to_string().contains("hunter2") && !wrong.to_string().contains("12345"), "{wrong}");
        assert!(wrong.to_string().contains(shown), "{wrong}");
    }
}

#[test]
fn spans_anywhere_do_no_harm() {
    let text = "a = \"grün\"\r\nb\n";
    for start in 0..text.len() + 3 {
        for end in 0..text.len() + 3 {
            let shown = Diagnosis::at("f", text, start..end, "m").to_string();
            assert!(shown.contains("--> f:"), "{shown}");
        }
    }
    assert_eq!(Diagnosis::at("f", "", 0..0, "m").line_column(), Some((1, 1)));
    assert_eq!(Diagnosis::at("f", text, text.len()..text.len(), "m").line_column(), Some((3, 1)));
}

#[test]
fn nothing_in_it_moves_a_cursor_or_starts_a_line() {
    let shown = Diagnosis::at("f\x1b[1m\n", "a = \"\x1b]52;c;x\x07\u{202e}\u{9b}\"", 0..1, "m\n\x1b[2J")
        .help("h\r\n")
        .render(false);
    assert_eq!(shown.lines().filter(|l| l.starts_with("error")).count(), 1, "{shown:?}");
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert!(!shown.contains('\u{202e}'), "{shown:?}");
    assert!(Diagnosis::file("f", "m").render(true).contains('\x1b'));
    assert!(Diagnosis::file("f", "m").warning().to_string().starts_with("warning: m"));
}

#[test]
fn only_regular_files_of_bounded_size_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let read = |name: &str| read_file(&path(name)).map_err(|wrong| wrong.summary());
    std::fs::write(path("good"), "kind = \"grün\"\n").unwrap();
    assert_eq!(read("good").unwrap(), "kind = \"grün\"\n");
    assert!(read("absent").unwrap_err().contains("absent: cannot open it: No such file"));
    std::os::unix::fs::symlink(path("good"), path("link")).unwrap();
    assert!(read("link").unwrap_err().contains("symbolic link"));
    std::fs::create_dir(path("dir")).unwrap();
    assert!(read("dir").unwrap_err().contains("not a regular file"));
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(read("fifo").unwrap_err().contains("not a regular file"));
    assert!(read_file(std::path::Path::new("/dev/zero")).unwrap_err().summary().contains("not a regular file"));
    std::fs::write(path("latin"), b"# a\nk = \"gr\xfcn\"\n").unwrap();
    let wrong = read_file(&path("latin")).unwrap_err();
    assert_eq!(wrong.line_column(), Some((2, 8)));
    assert!(wrong.message().contains("0xfc"), "{wrong}");
    std::fs::File::create(path("large")).unwrap().set_len(1 << 30).unwrap();
    assert!(read("large").unwrap_err().contains("has 1073741824 bytes"));
}
