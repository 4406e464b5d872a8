use super::*;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Chat {
    /// host:port
    server: String,
    #[serde(default)]
    channels: Vec<String>,
    sasl: Option<Sasl>,
    password: Option<Secret>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sasl {
    account: String,
    password: Secret,
}

impl Settings for Chat {
    fn check(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if !self.server.contains(':') {
            return Err(file.error("settings.server", "a server is \"host:port\""));
        }
        if let Some(at) = self.channels.iter().position(|c| !c.starts_with('#')) {
            return Err(file.error(&format!("settings.channels.{at}"), "a channel begins with #"));
        }
        if self.sasl.as_ref().is_some_and(|sasl| sasl.account.is_empty()) {
            return Err(file.error("settings.sasl.account", "must not be empty"));
        }
        if self.sasl.is_some() && self.password.is_none() {
            return Err(file.error("settings.password", "missing beside sasl"));
        }
        Ok(())
    }
}

fn mistake(text: &str) -> String {
    parse_module::<Chat>("irc.toml", text).expect_err(text).summary()
}

#[test]
fn mistakes_and_their_places() {
    for (text, summary) in [
        ("", "1:1: missing key `server` in [settings]"),
        ("kind = \"irc\"\n[settings]\n", "2:1: missing key `server` in [settings]"),
        ("server = \"a:1\"\n", "1:1: unknown key `server`"),
        ("[settings]\nserver = \"a\"\n", "2:10: a server is \"host:port\""),
        ("[settings]\nserver = \"a:1\"\nchannels = [\"#a\",\n  \"b\"]\n", "4:3: a channel begins with #"),
        (
            "[settings]\nserver = \"a:1\"\n[settings.sasl]\naccount = \"\"\npassword = \"credential:p\"\n",
            "4:11: must not be empty",
        ),
        (
            "[settings]\nserver = \"a:1\"\nsasl = { account = \"\", password = \"credential:p\" }\n",
            "3:20: must not be empty",
        ),
        (
            "[settings]\nserver = \"a:1\"\nsasl = { account = \"x\", password = \"credential:p\" }\n",
            "1:1: missing beside sasl",
        ),
        (
            "[settings]\nserver = \"a:1\"\npassword = \"credential:../x\"\n",
            "3:12: \"../x\" is not the name of a credential: it has letters, digits, '.', '_' and '-', and begins with none of '.' and '-'",
        ),
    ] {
        assert_eq!(mistake(text), format!("irc.toml:{summary}"), "{text}");
    }
    let settings: Chat = parse_module(
        "irc.toml",
        "kind = 5\n[bus]\nanything = [1]\n[settings]\nserver = \"a:1\"\npassword = \"credential:password\"\n",
    )
    .unwrap();
    assert_eq!(settings.password.unwrap().name(), "password");
    assert_eq!(settings.sasl.map(|sasl| sasl.password), None);
}

#[test]
fn a_literal_secret_is_refused_and_never_shown() {
    for literal in ["\"hunter2\"", "'hunter2'", "72727272", "7272.5", "-727272", "\"\"\"hunter2\"\"\"", "hunter2"] {
        for key in ["password = ", "sasl = { account = \"x\", password = "] {
            let end = if key.contains('{') { " }" } else { "" };
            let text = format!("[settings]\nserver = \"a:1\"\n{key}{literal}{end}\n");
            let wrong = parse_module::<Chat>("irc.toml", &text).expect_err(&text);
            assert_eq!(wrong.line_column(), Some((3, key.len() + 1)), "{wrong}");
            assert!(!wrong.to_string().contains("hunter2") && !wrong.to_string().contains("72"), "{wrong}");
        }
    }
    let text = "[settings]\nserver = \"a:1\"\npassword = \"hunter2\"\n";
    let wrong = parse_module::<Chat>("irc.toml", text).unwrap_err().to_string();
    assert!(wrong.contains("a secret cannot stand in this file, which everybody can read"), "{wrong}");
    assert!(wrong.contains("write \"credential:NAME\""), "{wrong}");
}

#[test]
fn keys_at_the_wrong_level_are_explained() {
    let wrong = parse_module::<Chat>("irc.toml", "server = \"a:1\"").unwrap_err().to_string();
    assert!(wrong.contains("below [settings]"), "{wrong}");
}

#[test]
fn no_settings_may_be_absent_or_empty() {
    for text in ["", "kind = \"hello\"", "[settings]\n", "[bus]\nmay-publish = []\n"] {
        parse_module::<NoSettings>("hello.toml", text).unwrap();
    }
    let wrong = parse_module::<NoSettings>("hello.toml", "[settings]\na = 1\n").unwrap_err();
    assert_eq!(wrong.summary(), "hello.toml:2:1: unknown key `a`");
}

#[test]
fn places_of_keys() {
    let text = "[settings]\nlist = [1, { a = 2 }]\n[[settings.net]]\nname = 'x'\n";
    let file = ModuleFile::parse("f", text).unwrap();
    for (key, found) in [
        ("settings", "[settings]"),
        ("settings.list", "[1, { a = 2 }]"),
        ("settings.list.0", "1"),
        ("settings.list.1.a", "2"),
        ("settings.list.7", "[1, { a = 2 }]"),
        ("settings.net.0.name", "'x'"),
        ("settings.absent", "[settings]"),
        ("absent.key", ""),
        ("", ""),
    ] {
        assert_eq!(&text[file.span(key)], found, "{key}");
    }
    assert!(file.has("settings.net.0") && !file.has("settings.net.1") && !file.has("settings.absent"));
}

#[test]
fn the_schema_describes_the_whole_file() {
    let schema: serde_json::Value = serde_json::from_str(&schema::<Chat>()).unwrap();
    let defs = &schema["$defs"];
    assert_eq!(schema["properties"]["settings"]["$ref"], "#/$defs/Chat");
    assert_eq!(defs["Chat"]["additionalProperties"], false);
    assert_eq!(defs["Chat"]["properties"]["server"]["description"], "host:port");
    assert!(defs["Secret"]["pattern"].as_str().unwrap().starts_with("^credential:"));
    assert!(defs["Bus"]["properties"]["may-publish"].is_object(), "{schema:#}");
    assert!(defs["Bus"]["properties"]["publish-log"].is_object(), "{schema:#}");
    assert_eq!(defs["LevelWord"]["enum"][0], "none", "{schema:#}");
}
