//! Reads texts out of a frame in place before it copies them, so that an announced length allocates nothing that the
//! frame does not hold. (serde's own `String` and `Vec` would reserve what the length says, up to a megabyte.)

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// An empty text is one byte on the wire and 24 in memory; no list of the protocol has nearly so many.
const TEXTS_MAX: usize = 1024;

struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer).map(Self)
    }
}

pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct InPlace;
    impl<'de> Visitor<'de> for InPlace {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }
    deserializer.deserialize_str(InPlace)
}

pub(super) fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Text>::deserialize(deserializer)?.map(|text| text.0))
}

pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct OneByOne;
    impl<'de> Visitor<'de> for OneByOne {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of texts")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element::<Text>()? {
                if texts.len() == TEXTS_MAX {
                    return Err(A::Error::custom(format_args!("more than {TEXTS_MAX} texts in a list")));
                }
                texts.push(text.0);
            }
            Ok(texts)
        }
    }
    deserializer.deserialize_seq(OneByOne)
}
