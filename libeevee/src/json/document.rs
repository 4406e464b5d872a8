//! Headers and body in JSON: headers keep their order, a body that is no text is base64.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::header::{HeaderError, Headers, check_key, check_value};
use crate::wire::limits::HEADERS_MAX;

pub(super) struct HeaderMap<'h>(pub(super) &'h Headers);

impl Serialize for HeaderMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

/// `body`, or `body_base64` where the bytes are not UTF-8.
pub(super) fn serialize_body<M: SerializeMap>(map: &mut M, body: &[u8]) -> Result<(), M::Error> {
    match std::str::from_utf8(body) {
        Ok(text) => map.serialize_entry("body", text),
        Err(_) => map.serialize_entry("body_base64", &STANDARD.encode(body)),
    }
}

/// The body that these two keys say, if one of them is there.
pub(super) fn body(text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => match STANDARD.decode(base64) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => Err(format!("`body_base64` is not base64: {error}")),
        },
        (Some(_), Some(_)) => Err("`body` and `body_base64` stand in one object; one of them is enough".into()),
    }
}

pub(super) fn deserialize_headers<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Headers>, D::Error> {
    struct HeadersVisitor;

    impl<'de> Visitor<'de> for HeadersVisitor {
        type Value = Headers;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of headers")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
            let mut headers = Headers::new();
            while let Some(key) = map.next_key::<String>()? {
                if headers.get(&key).is_some() {
                    return Err(A::Error::custom(HeaderError::Duplicate(key)));
                }
                if headers.len() == HEADERS_MAX {
                    return Err(A::Error::custom(HeaderError::TooMany(HEADERS_MAX + 1)));
                }
                check_key(&key).map_err(A::Error::custom)?;
                let value = map.next_value_seed(ValueOf(&key))?;
                headers.set(key, value).map_err(A::Error::custom)?;
            }
            Ok(headers)
        }
    }

    value.deserialize_map(HeadersVisitor).map(Some)
}

/// The value of this key: text. The commonest mistake is a number, and its error says what to write.
struct ValueOf<'k>(&'k str);

impl<'de> DeserializeSeed<'de> for ValueOf<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<String, D::Error> {
        value.deserialize_str(self)
    }
}

impl Visitor<'_> for ValueOf<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header value, which is a string, such as \"4\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        // Here, and not by `Headers::set` alone, because the parser knows the column here.
        check_value(self.0, text).map_err(E::custom)?;
        Ok(text.to_owned())
    }
}
