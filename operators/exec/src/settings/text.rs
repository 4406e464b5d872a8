//! A value that a person writes: one text or a list of them.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// One text, or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Texts {
    list: Vec<String>,
    is_list: bool,
}

impl Texts {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(String::as_str)
    }

    pub(crate) fn first(&self) -> &str {
        self.list.first().map_or("", String::as_str)
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The place of one of them in the file, for `ModuleFile::error`.
    pub(crate) fn place(&self, key: &str, at: usize) -> String {
        if self.is_list { format!("{key}.{at}") } else { key.to_owned() }
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts { list: vec![text.to_owned()], is_list: false })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Texts, A::Error> {
                let mut list = Vec::new();
                while let Some(text) = sequence.next_element()? {
                    list.push(text);
                }
                Ok(Texts { list, is_list: true })
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

impl JsonSchema for Texts {
    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }],
        })
    }
}
