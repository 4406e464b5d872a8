//! What each text means.

use super::super::*;
use crate::message::{Delivery, Document, Message, Timestamp};

fn filter(text: &str) -> Filter {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn message() -> Message {
    let headers = [
        ("type", "chat.message"),
        ("channel", "#rust-de"),
        ("user", "goos"),
        ("level", "3"),
        ("empty", ""),
        ("odd", "a, (\"b\") \\c"),
        ("stars", "*?"),
        ("user-host", "~goos@honk.example"),
        ("in", "word"),
        ("low", "-9223372036854775808"),
        ("huge", "9223372036854775808"),
        ("umlaut", "grün"),
    ];
    Message {
        id: 4711,
        source: "irc".into(),
        timestamp: Timestamp(1_795_000_000_000_000_000),
        cause: None,
        hops: 2,
        document: Document::new(headers, "body").unwrap().into(),
        reply_address: None,
        delivery: Delivery::default(),
    }
}

#[test]
fn every_operator() {
    let message = message();
    for (text, holds) in [
        ("*", true),
        (" * ", true),
        ("type=chat.message", true),
        ("type==chat.message", true),
        ("type = chat.message", true),
        ("type=chat", false),
        ("type=chat.message,user=other", false),
        ("none=x", false),
        ("type!=chat.message", false),
        ("type!=log.line", true),
        ("none!=x", true),
        ("user in (a,goos)", true),
        ("user in(goos)", true),
        ("user in ( a , b )", false),
        ("none in (a)", false),
        ("user notin (a,goos)", false),
        ("user notin (a,b)", true),
        ("none notin (a)", true),
        ("in in (word)", true),
        ("in notin (word)", false),
        ("in", true),
        ("type", true),
        ("empty", true),
        ("none", false),
        ("!type", false),
        ("!none", true),
        ("! none", true),
        ("channel~#rust*", true),
        ("channel~#rust", false),
        ("channel~*", true),
        ("none~*", false),
        ("channel!~#rust*", false),
        ("channel!~#c*", true),
        ("none!~*", true),
        ("umlaut~gr?n", true),
        (r"stars~\*\?", true),
        (r"stars~\?*", false),
        ("empty~*", true),
        ("empty~?", false),
        ("empty~\"\"", true),
        ("empty=\"\"", true),
        ("type=\"\"", false),
        ("level<4", true),
        ("level<3", false),
        ("level<=3", true),
        ("level<=2", false),
        ("level>2", true),
        ("level>3", false),
        ("level>=3", true),
        ("level>=4", false),
        ("level > -1", true),
        ("level<\"4\"", true),
        ("none<4", false),
        ("none>=-9223372036854775808", false),
        ("type<4", false),
        ("type>=-9223372036854775808", false),
        ("empty<=0", false),
        ("low<=-9223372036854775808", true),
        ("huge>0", false),
        ("huge<0", false),
        ("id=4711", true),
        ("id>4000,id<=4711", true),
        ("source=irc", true),
        ("source~user/*", false),
        ("timestamp>1700000000000000000", true),
        ("cause", false),
        ("!cause", true),
        ("cause!=1", true),
        ("hops<3", true),
        ("user-host=~goos@honk.example", true),
        (r#"odd="a, (\"b\") \\c""#, true),
        (r#"odd~"a, (?b?) \\*""#, true),
        (r#"odd~"*\"b\"*""#, true),
        (r#"odd in (x,"a, (\"b\") \\c")"#, true),
    ] {
        assert_eq!(filter(text).matches(&message), holds, "{text}");
    }
    let mut answer = message;
    answer.cause = Some(7);
    assert!(filter("cause=7,cause").matches(&answer));
    assert!(!filter("!cause").matches(&answer));
}

#[test]
fn the_normal_form() {
    for (text, printed) in [
        ("*", "*"),
        ("\t* ", "*"),
        ("platform=irc,channel in (#rust,#eevee),!bot", "platform=irc,channel in (#rust,#eevee),!bot"),
        ("type=chat.message,user!=goos,channel~#rust*", "type=chat.message,user!=goos,channel~#rust*"),
        ("type=log.record,level<4,source=irc", "type=log.record,level<4,source=irc"),
        ("a == b , ! c,d  in( x ,y,x )", "a=b,!c,d in (x,y)"),
        ("a notin (b)", "a notin (b)"),
        ("a==\"=b\"", "a=\"=b\""),
        ("a===b", "a=\"=b\""),
        ("a<+007,b>=-0", "a<7,b>=0"),
        ("a=\"plain\"", "a=plain"),
        (r#"a="x y",b=",",c="\"",d="(",e=")",f="""#, r#"a="x y",b=",",c="\"",d="(",e=")",f="""#),
        (r"a=back\slash", r"a=back\slash"),
        (r#"a="back\\ slash""#, r#"a="back\\ slash""#),
        (r"a~\*\?\\*?", r"a~\*\?\\*?"),
        (r#"a~"\*x""#, r"a~\*x"),
        (r#"a~"\* \"""#, r#"a~"\* \"""#),
        ("a!~#*", "a!~#*"),
        ("a=*", "a=*"),
        ("a=!b", "a=!b"),
        ("a=\"\u{a0}\u{3000}\"", "a=\"\u{a0}\u{3000}\""),
    ] {
        assert_eq!(filter(text).to_string(), printed, "{text}");
        assert_eq!(filter(printed), filter(text), "{text}");
    }
}

#[test]
fn clauses_are_there_for_an_index() {
    let filter = filter("type=chat.message,channel in (#a,#b),!bot,level<=4");
    assert_eq!(
        filter.clauses(),
        [
            Clause::Equals { key: "type".into(), value: "chat.message".into() },
            Clause::In { key: "channel".into(), values: vec!["#a".into(), "#b".into()] },
            Clause::Absent { key: "bot".into() },
            Clause::Compare { key: "level".into(), comparison: Comparison::AtMost, number: 4 },
        ]
    );
    assert_eq!(filter.clauses().iter().map(Clause::key).collect::<Vec<_>>(), ["type", "channel", "bot", "level"]);
}

#[test]
fn the_builder_prints_what_a_person_would_write() {
    let built = Filter::builder()
        .eq("type", "chat.message")
        .ne("user", "two words")
        .any_of("channel", ["#a", "#b", "#a"])
        .none_of("network", ["x"])
        .exists("account")
        .absent("bot")
        .glob("user-host", "*@honk.*")
        .not_glob("channel", r"\*")
        .less("level", 4)
        .at_most("hops", 3)
        .greater("id", 5)
        .at_least("timestamp", -6)
        .build()
        .unwrap();
    let text = "type=chat.message,user!=\"two words\",channel in (#a,#b),network notin (x),account,!bot,\
                user-host~*@honk.*,channel!~\\*,level<4,hops<=3,id>5,timestamp>=-6";
    assert_eq!(built.to_string(), text);
    assert_eq!(built, filter(text));
    assert_eq!(Filter::builder().build().unwrap(), Filter::any());
    assert_eq!(Filter::any().to_string(), "*");
}

#[test]
fn a_permission_for_control_messages_names_them() {
    for (text, names) in [
        ("type=control.start", true),
        ("type in (chat.message,control.start)", true),
        ("type~control.*", true),
        ("type~control.st?rt,source=irc", true),
        ("type~control.", true),
        ("source=irc,type=control.start", true),
        ("*", false),
        ("type", false),
        ("type~*", false),
        ("type~c*", false),
        ("type~control*", false),
        ("type~control?*", false),
        (r"type~\*control.*", false),
        ("type~?ontrol.*", false),
        ("type=control", false),
        ("type=controlx", false),
        ("type in (control,chat.message)", false),
        ("type!=control.start", false),
        ("type notin (control.start)", false),
        ("type!~control.*", false),
        ("kind=control.start", false),
        ("!type", false),
    ] {
        assert_eq!(filter(text).names_control_types(), names, "{text}");
    }
}

#[test]
fn filters_are_strings_in_json_and_toml() {
    #[derive(Debug, serde::Deserialize)]
    struct Rules {
        may_publish: Vec<Filter>,
    }
    let rules: Rules = toml::from_str("may_publish = [\"direction=in,platform=irc\", \"*\"]").unwrap();
    assert_eq!(rules.may_publish[1], Filter::any());
    assert_eq!(serde_json::to_string(&rules.may_publish).unwrap(), r#"["direction=in,platform=irc","*"]"#);
    let error = toml::from_str::<Rules>("may_publish = [\"a b\"]").unwrap_err();
    assert!(error.message().starts_with("bad filter at column 3: expected an operator"), "{}", error.message());
}
