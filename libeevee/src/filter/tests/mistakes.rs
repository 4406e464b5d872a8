//! Every mistake, with its column and the form that is proposed.

use super::super::*;
use crate::wire::Code;

/// Text, column, what is expected there, and the proposal.
const MISTAKES: &[(&str, usize, &str, Option<&str>)] = &[
    ("", 1, "a clause, or * for everything", Some("*")),
    ("   ", 4, "a clause, or * for everything", Some("*")),
    ("*,type=a", 2, "the end, because * alone is everything", Some("type=a")),
    ("*=a", 2, "the end: * alone is everything", None),
    ("* a", 3, "the end: * alone is everything", None),
    ("type=a,*", 8, "a key of a-z", None),
    ("ty*=a", 3, "an operator", None),
    (",type=a", 1, "a key of a-z", Some("type=a")),
    ("type=a,,user=b", 8, "a key of a-z", Some("type=a,user=b")),
    ("type=a,", 8, "a clause after the comma", Some("type=a")),
    ("type=a, ", 9, "a clause after the comma", Some("type=a")),
    ("=a", 1, "a key of a-z", None),
    ("!", 2, "a key", None),
    ("!!a", 2, "a key of a-z", None),
    ("Type=a", 1, "a key of a-z", Some("type=a")),
    ("user,chanNel=a", 10, "a key of a-z", Some("user,channel=a")),
    (".type=a", 1, "a key, which starts with a letter or digit", None),
    ("-a", 1, "a key, which starts with a letter or digit", None),
    ("größe=1", 3, "a key of a-z", None),
    ("\"type\"=a", 1, "a key of a-z", None),
    ("type:chat", 5, "an operator", Some("type=chat")),
    ("type chat.message", 6, "an operator", Some("type=chat.message")),
    ("type #a", 6, "an operator", Some("type=#a")),
    ("type is a", 6, "an operator", Some("type=a")),
    ("type and user", 6, "an operator", Some("type,user")),
    ("type/a", 5, "an operator", None),
    ("user IN (a)", 6, "an operator", Some("user in (a)")),
    ("user not in (a,b)", 6, "an operator", Some("user notin (a,b)")),
    ("user inn (a)", 6, "an operator", None),
    ("user!a", 5, "!= or !~", Some("user!=a")),
    ("user ! = a", 6, "!= or !~", None),
    ("!user=a", 6, "a comma or the end after !key", Some("user!=a")),
    ("!user==a", 6, "a comma or the end after !key", Some("user!=a")),
    ("b=c,!user~a*", 10, "a comma or the end after !key", Some("b=c,user!~a*")),
    ("!user in (a,b)", 7, "a comma or the end after !key", Some("user notin (a,b)")),
    ("!user bot", 7, "a comma before", Some("!user,bot")),
    ("type=", 6, "a value", Some("type=\"\"")),
    ("type=,user=a", 6, "a value", Some("type=\"\",user=a")),
    ("type!=  ", 9, "a value", Some("type!=  \"\"")),
    ("type~", 6, "a value", Some("type~\"\"")),
    ("type=)", 6, "a value", Some("type=\")\"")),
    ("user=two words", 10, "a comma before the next clause, or quotes", Some("user=\"two words\"")),
    ("type=a,user=two words", 17, "a comma before the next clause, or quotes", Some("type=a,user=\"two words\"")),
    ("type=a user=b", 8, "a comma before the next clause, or quotes", Some("type=a,user=b")),
    ("type=a && user=b", 8, "a comma before the next clause", Some("type=a,user=b")),
    ("type=a and user=b", 8, "a comma before the next clause", Some("type=a,user=b")),
    ("type=a ; user=b", 8, "a comma before the next clause", Some("type=a,user=b")),
    ("type in (a) user=b", 13, "a comma before the next clause", Some("type in (a),user=b")),
    ("type in (a)user=b", 12, "a comma before the next clause", Some("type in (a),user=b")),
    ("user=a(b)", 7, "quotes around a value", Some("user=\"a(b)\"")),
    ("user=a)", 7, "a comma before the next clause", Some("user=\"a)\"")),
    ("user=a\"b", 7, "quotes around a value", Some(r#"user="a\"b""#)),
    ("user=(a,b)", 6, "quotes around a value", None),
    ("user=\"a\"b", 9, "a comma before the next clause", None),
    ("user=a\u{a0}", 7, "quotes around a value", None),
    ("user=a\u{3000}b", 7, "quotes around a value", Some("user=\"a\u{3000}b\"")),
    ("user=\"a", 8, "\" at the end of the value", Some("user=\"a\"")),
    ("user=\"a\\", 8, r#"\" or \\"#, None),
    (r#"user="a\d""#, 8, r#"\" or \\"#, Some(r#"user="a\\d""#)),
    (r#"user="\*""#, 7, r#"\" or \\"#, Some(r#"user="\\*""#)),
    (r"user~\d+", 6, r"\*, \? or \\", Some(r"user~\\d+")),
    (r"user~ü\", 7, r"\*, \? or \\", Some(r"user~ü\\")),
    (r#"user~"a \d""#, 9, r#"\*, \?, \\ or \""#, Some(r#"user~"a \\d""#)),
    ("user=a\u{7}b", 7, "text without control characters", None),
    ("user=\"a\nb\"", 8, "text without control characters", None),
    ("user=\"\u{9b}\"", 7, "text without control characters", None),
    ("user~a\u{1}", 7, "text without control characters", None),
    ("user=a\n", 7, "text without control characters", None),
    ("user in", 8, "( before the list of values", None),
    ("user in #a,#b", 9, "( before the list of values", Some("user in (#a,#b)")),
    ("user notin a", 12, "( before the list of values", Some("user notin (a)")),
    ("user in ()", 10, "a value", Some("user in (\"\")")),
    ("user in (a,)", 12, "a value", Some("user in (a,\"\")")),
    ("user in (a,,b)", 12, "a value", Some("user in (a,\"\",b)")),
    ("user in (a", 11, "a comma before the next value", Some("user in (a)")),
    ("user in (a b)", 12, "a comma before the next value", Some("user in (a,b)")),
    ("user in (a(b)", 11, "quotes around a value", None),
    ("level<high", 7, "a whole number of 64 bits", None),
    ("level<", 7, "a value", None),
    ("level<4.5", 7, "a whole number of 64 bits", None),
    ("level< 4x", 8, "a whole number of 64 bits", None),
    ("level=>4,level=<4,level<>4", 25, "a whole number of 64 bits", None),
    ("level>9223372036854775808", 7, "a whole number of 64 bits", None),
    ("☃", 1, "a key of a-z", None),
    ("type=☃ ☃=1", 8, "a comma before the next clause", None),
];

#[test]
fn every_mistake_has_its_column_and_its_proposal() {
    for &(text, column, expected, nearest) in MISTAKES {
        let error = text.parse::<Filter>().expect_err(text);
        assert_eq!(error.kind(), FilterErrorKind::Bad, "{text}");
        assert_eq!(error.code(), Code::BadFilter);
        assert_eq!(error.column(), column, "{text}: {error}");
        assert!(error.expected().starts_with(expected), "{text}: {error}");
        assert_eq!(error.nearest(), nearest, "{text}: {error}");
        assert_eq!(text[..error.offset()].chars().count() + 1, column, "{text}");
        let printed = error.to_string();
        assert!(printed.starts_with(&format!("bad filter at column {column}: expected ")), "{printed}");
        assert!(!printed.contains(char::is_control), "{printed:?}");
    }
}

#[test]
fn the_message_is_a_sentence() {
    let error = "type=a,channel in #rust".parse::<Filter>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "bad filter at column 19: expected ( before the list of values, found '#'; write type=a,channel in (#rust)"
    );
    assert_eq!(error.underline("type=a,channel in #rust"), "type=a,channel in #rust\n                  ^");
    let hostile = "a=\u{1b}[2J";
    let error = hostile.parse::<Filter>().unwrap_err();
    assert_eq!(error.underline(hostile), "a=\\x1b[2J\n  ^");
}

#[test]
fn limits() {
    let clauses = |n: usize| vec!["a"; n].join(",");
    assert_eq!(clauses(32).parse::<Filter>().unwrap().clauses().len(), 32);
    let error = clauses(33).parse::<Filter>().unwrap_err();
    assert_eq!((error.kind(), error.column()), (FilterErrorKind::TooLarge, 65));
    assert_eq!(error.code(), Code::FilterTooLarge);
    assert_eq!(error.to_string(), "filter too large at column 65: expected at most 32 clauses, found one more");

    let long = |bytes: usize| format!("a={}", "v".repeat(bytes - 2));
    assert!(long(4096).parse::<Filter>().is_ok());
    let error = long(4097).parse::<Filter>().unwrap_err();
    assert_eq!((error.kind(), error.column(), error.offset()), (FilterErrorKind::TooLarge, 4097, 4096));
    assert_eq!(error.to_string(), "filter too large at column 4097: expected at most 4096 bytes, found 4097 bytes");
    let wide = format!("a={}", "☃".repeat(1365));
    assert_eq!(wide.len(), 4097);
    assert_eq!(wide.parse::<Filter>().unwrap_err().column(), 1367);
    assert_eq!("\0".repeat(1 << 20).parse::<Filter>().unwrap_err().kind(), FilterErrorKind::TooLarge);

    // Exactly 4 KiB, but its normal form has one space more, and would not parse.
    let tight = format!("a in({})", "v".repeat(4096 - 6));
    assert_eq!(tight.len(), 4096);
    let error = tight.parse::<Filter>().unwrap_err();
    assert_eq!((error.kind(), error.column()), (FilterErrorKind::TooLarge, 4097));
    assert!(error.to_string().ends_with("found 4097 bytes in its normal form"), "{error}");

    let key = "k".repeat(64);
    assert!(key.parse::<Filter>().is_ok());
    let error = format!("a,{key}k").parse::<Filter>().unwrap_err();
    assert_eq!((error.kind(), error.column()), (FilterErrorKind::Bad, 3));
    assert!(error.to_string().contains("at most 64 characters, found 65"), "{error}");
}

#[test]
fn the_builder_checks_the_same() {
    let key = |key: &str| Filter::builder().eq("type", "a").exists(key).build();
    for wrong in ["", "Type", "a b", "-a", &"k".repeat(65), "a=b"] {
        let error = key(wrong).unwrap_err();
        assert_eq!((error.kind(), error.column()), (FilterErrorKind::Bad, 8), "{wrong}: {error}");
    }
    assert!(key("source").is_ok(), "the envelope can be named");
    let list = Filter::builder().any_of("a", [""; 0]).build().unwrap_err();
    assert_eq!(list.to_string(), "bad filter at column 1: expected at least one value in a list, found none");
    assert!(Filter::builder().none_of("a", ["x", "\n"]).build().is_err());
    assert!(Filter::builder().ne("a", "\u{85}").build().is_err());
    let glob = Filter::builder().glob("a", r"\d").eq("b", "c").build().unwrap_err();
    assert_eq!(
        glob.to_string(),
        r#"bad filter at column 1: expected a pattern in which \ stands only before * ? \, found "\\d""#
    );
    assert!(Filter::builder().not_glob("a", "\u{1}").build().is_err());

    let clauses = |n: usize| (0..n).fold(Filter::builder(), |builder, _| builder.exists("a")).build();
    assert!(clauses(32).is_ok());
    let error = clauses(33).unwrap_err();
    assert_eq!((error.kind(), error.column()), (FilterErrorKind::TooLarge, 65));
    let value = |bytes: usize| Filter::builder().eq("a", "v".repeat(bytes)).build();
    assert!(value(4094).is_ok());
    assert_eq!(value(4095).unwrap_err().kind(), FilterErrorKind::TooLarge);
    assert_eq!(Filter::builder().eq("a", " ".repeat(4093)).build().unwrap_err().kind(), FilterErrorKind::TooLarge);
}

/// The manual tells columns to people: it may not be wrong.
#[test]
fn the_manual_page_is_right() {
    const PAGE: &str = include_str!("../../../../docs/man/eevee-filter.7");
    let plain = |roff: &str| {
        let escapes = [("\\(dq", "\""), ("\\(ti", "~"), ("\\(aq", "'"), ("\\-", "-"), ("\\e", "\\")];
        escapes.iter().fold(roff.to_owned(), |text, (escape, c)| text.replace(escape, c))
    };
    let section = |name: &str| PAGE.split_once(name).unwrap().1.split(".SH ").next().unwrap();

    for line in section(".SH SYNOPSIS").lines().filter_map(|line| line.strip_prefix(".B ")) {
        assert!(plain(line).parse::<Filter>().is_ok(), "{line}");
    }
    for example in section(".SH EXAMPLES").split(".nf\n").skip(1) {
        let line = plain(example.lines().next().unwrap());
        let filter = line.strip_prefix("eeveectl subscribe '").map_or(&*line, |rest| rest.trim_end_matches('\''));
        assert!(filter == "[bus]" || filter.parse::<Filter>().is_ok(), "{line}");
    }
    let diagnostics = section(".SH DIAGNOSTICS");
    let mut entries = 0;
    for entry in diagnostics.split(".TP\n.B ").skip(1) {
        let (text, told) = entry.split_once("\nColumn ").unwrap();
        let error = plain(text).parse::<Filter>().expect_err(text);
        assert_eq!(told.split_once(':').unwrap().0, error.column().to_string(), "{text}");
        entries += 1;
    }
    assert!(entries >= 12);
    let whole = "channel in #rust".parse::<Filter>().unwrap_err();
    assert!(plain(diagnostics).contains(&whole.to_string()), "{whole}");
}
