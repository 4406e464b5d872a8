//! The JSON schema of a module file, for editors: what `--schema` prints.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use super::Settings;

/// The JSON schema of a whole module file whose `[settings]` are `S`, as text.
///
/// ```
/// let schema: serde_json::Value = serde_json::from_str(&libeevee::settings::schema::<libeevee::NoSettings>()).unwrap();
/// assert_eq!(schema["properties"]["kind"]["type"], "string");
/// ```
pub fn schema<S: Settings>() -> String {
    let mut generator = SchemaGenerator::default();
    let settings = generator.subschema_for::<S>();
    let bus = generator.subschema_for::<Bus>();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "module file of an eevee operator",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "kind": {
                "type": "string",
                "pattern": "^[a-z0-9][a-z0-9_-]{0,26}$",
                "description": "The program: /usr/local/lib/eevee/operators/KIND, then /usr/lib/eevee/operators/KIND. Default: the id itself.",
            },
            "bus": bus,
            "settings": settings,
        },
        "$defs": Value::Object(generator.take_definitions(true)),
    });
    format!("{schema:#}")
}

/// What the bus enforces for this operator.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(dead_code, reason = "the bus parses this table; here it only describes itself to editors")]
struct Bus {
    /// Filters of what it may publish. Absent: everything but `control.*`. Empty: nothing.
    may_publish: Option<Vec<String>>,
    /// Filters of what it may receive. Absent: everything but `control.*`. Empty: nothing.
    may_receive: Option<Vec<String>>,
    /// What may wait for it when it is slow, away or halted.
    queue: Option<Queue>,
    /// How fast it may publish. Absent: no limit but credit.
    rate: Option<Rate>,
    /// From which level on its log records are messages as well: a word or a number of syslog. Default: none.
    publish_log: Option<PublishLog>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only a description")]
enum PublishLog {
    Number(#[schemars(range(min = 0, max = 7))] u8),
    Word(LevelWord),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "only a description")]
enum LevelWord {
    None,
    Emerg,
    Alert,
    Crit,
    Error,
    Warning,
    Notice,
    Info,
    Debug,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(dead_code, reason = "only a description")]
struct Queue {
    messages: Option<u32>,
    /// A number of bytes, or a text such as "8 MiB".
    bytes: Option<Bytes>,
    overflow: Option<Overflow>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only a description")]
enum Bytes {
    Number(u64),
    Text(String),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only a description")]
enum Overflow {
    DropOldest,
    DropNewest,
    Disconnect,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(dead_code, reason = "only a description")]
struct Rate {
    per_second: u32,
    burst: Option<u32>,
}
