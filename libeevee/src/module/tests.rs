use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Module, Diagnosis> {
    Module::parse(&"irc".parse().unwrap(), "irc.toml", text)
}

#[test]
fn the_example_of_the_design() {
    let module = parse(
        r##"
kind = "irc"
[bus]
may-publish = ["direction=in,platform=irc"]
may-receive = ["direction=out,platform=irc,network=libera"]
queue       = { messages = 1000, bytes = "8 MiB", overflow = "drop-oldest" }
rate        = { per-second = 200, burst = 1000 }
[settings]
network  = "libera"
channels = ["#eevee"]
sasl     = { mechanism = "PLAIN", account = "eevee", password = "credential:password" }
"##,
    )
    .unwrap();
    assert_eq!(module.kind, "irc");
    assert_eq!(module.may_publish.unwrap()[0].to_string(), "direction=in,platform=irc");
    assert_eq!(module.may_receive.unwrap().len(), 1);
    let queue = QueueBounds { messages: Some(1000), bytes: Some(8 << 20), overflow: Some(Overflow::DropOldest) };
    assert_eq!(module.queue, queue);
    assert_eq!(module.rate, Some(Rate { per_second: 200, burst: 1000 }));
}

#[test]
fn what_is_absent_has_a_meaning() {
    let module = parse("").unwrap();
    assert_eq!(
        module,
        Module {
            kind: "irc".into(),
            may_publish: None,
            may_receive: None,
            queue: QueueBounds::default(),
            rate: None,
            publish_log: None,
        }
    );
    // Nothing is not the same as absent.
    assert_eq!(parse("[bus]\nmay-publish = []").unwrap().may_publish, Some(vec![]));
    assert_eq!(parse("[bus]\nrate = { per-second = 5 }").unwrap().rate, Some(Rate { per_second: 5, burst: 5 }));
    assert_eq!(parse("[bus]\npublish-log = \"warning\"").unwrap().publish_log, Some(LogLevel::WARNING));
    assert_eq!(parse("[bus]\npublish-log = 4").unwrap().publish_log, Some(LogLevel::WARNING));
    assert_eq!(parse("kind = \"dice\"\n[settings]\nanything = [1, { x = 2 }]\n").unwrap().kind, "dice");
}

#[test]
fn mistakes_are_shown_where_they_are() {
    for (text, place, says) in [
        ("knd = \"irc\"", "1:1", "unknown key `knd`, did you mean `kind`?"),
        ("[bus]\nmay-publsh = []", "2:1", "did you mean `may-publish`?"),
        ("[bus]\nqueue = { mesages = 1 }", "2:11", "did you mean `messages`?"),
        ("[buss]\n", "1:2", "did you mean `bus`?"),
        ("[bus]\nrate = { per-second = 0 }", "2:23", "rate.per-second is 0, it has to be from 1 to 1000000"),
        ("[bus]\nrate = { per-second = -5 }", "2:23", "-5"),
        ("[bus]\nrate = { burst = 5 }", "2:8", "missing key `per-second`"),
        ("[bus]\nqueue = { messages = 1_000_001 }", "2:22", "from 1 to 1000000"),
        ("[bus]\npublish-log = 8", "2:15", "a level: emerg, "),
        ("[bus]\npublish-log = \"loud\"", "2:15", "\"loud\" is not a level: write emerg, alert"),
        ("[bus]\nqueue = { bytes = 10 }", "2:19", "queue.bytes is 10 B, it has to be from 1 KiB to 4 GiB"),
        ("[bus]\nqueue = { bytes = \"8 MB\" }", "2:19", "\"8 MB\" is not a size"),
        ("[bus]\nqueue = { bytes = -1 }", "2:19", "expected a number of bytes"),
        ("[bus]\nqueue = { bytes = 1.5 }", "2:19", "expected a number of bytes"),
        ("[bus]\nqueue = { overflow = \"drop-old\" }", "2:22", "did you mean `drop-oldest`?"),
        ("[bus]\nmay-publish = \"type=a\"", "2:15", "expected"),
        ("[bus]\nmay-publish = [5]", "2:16", "expected"),
        ("[bus]\nmay-publish = [\"a=b\", \"type=a,,user=b\"]", "2:31", "may-publish: bad filter at column 8"),
        ("[bus]\nmay-receive = [\"channel in #a\"]", "2:28", "may-receive: bad filter at column 12"),
        // The column counts characters, also before the filter; the last place is where something is missing.
        ("[bus]\nmay-receive = [\"é=ü\"]", "2:17", "may-receive: bad filter at column 1"),
        ("[bus]\nmay-receive = ['a=\"b']", "2:", "may-receive: bad filter"),
        // Escapes: the whole string.
        ("[bus]\nmay-receive = [\"a=\\\"b\\\",,\"]", "2:16", "may-receive: bad filter"),
        ("kind = \"../x\"", "1:8", "kind \"../x\" has '.' at position 1: a kind has a-z"),
        ("kind = \"\"", "1:8", "a kind cannot be empty"),
        ("kind = \"eeveed\"", "1:8", "reserved"),
        ("kind = irc", "1:8", ""),
        ("kind = \"a\"\nkind = \"b\"", "2:1", "stands twice"),
        ("\u{feff}kind = \"a\"", "1:1", "byte order mark"),
    ] {
        let wrong = parse(text).unwrap_err();
        let summary = wrong.summary();
        assert!(summary.starts_with(&format!("irc.toml:{place}")) && summary.contains(says), "{text}\n{summary}");
    }
}

#[test]
fn lists_have_a_limit() {
    let list = |count: usize| format!("[bus]\nmay-publish = [{}]", "\"a=b\",".repeat(count));
    assert_eq!(parse(&list(PERMISSION_FILTERS_MAX)).unwrap().may_publish.unwrap().len(), PERMISSION_FILTERS_MAX);
    assert!(parse(&list(PERMISSION_FILTERS_MAX + 1)).unwrap_err().summary().contains("at most 64"));
    let clauses = format!("[bus]\nmay-publish = [\"{}\"]", vec!["a=b"; 33].join(","));
    assert!(parse(&clauses).unwrap_err().summary().contains("may-publish: filter too large"));
}

#[test]
fn deep_nesting_and_huge_files_are_refused() {
    assert!(parse(&format!("[settings]\nx = {}", "[".repeat(100_000))).is_err());
    assert!(parse(&format!("[settings]\nx = {}{}", "[".repeat(10_000), "]".repeat(10_000))).is_err());
    assert!(parse(&"#".repeat(2 << 20)).unwrap_err().summary().contains("1 MiB"));
}

#[test]
fn sizes() {
    for (text, bytes) in [("0", 0), ("1024", 1024), ("1 B", 1), ("3KiB", 3072), ("8 MiB", 8 << 20), ("2 GiB", 2 << 30)]
    {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
    }
    for text in
        ["", " ", "MiB", "-1", "1.5 MiB", "8 MB", "8 mib", "8  MiB", " 8 MiB", "8 MiB ", "0x10", "1_000", "٣ MiB"]
    {
        assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
    }
    for text in ["18446744073709551616", "18014398509481984 KiB", "99999999999999999999999 GiB"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
    }
    assert_eq!(ByteSize(1536).to_string(), "1536 B");
    assert_eq!(ByteSize(0).to_string(), "0 B");
}

proptest! {
    #[test]
    fn sizes_print_and_parse(bytes: u64) {
        prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
        let _ = parse(&format!("[bus]\nmay-publish = [\"{text}\"]"));
        let _ = parse(&format!("[bus]\nmay-publish = ['''{text}''']"));
        let _ = text.parse::<ByteSize>();
    }
}
