//! Reading of request bodies and queries as the stock gateway does, and a little more leniently: numbers quoted or
//! not, booleans as words, null as absent, unknown fields ignored.

use dolmen_cluster::{Error, Kind};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// The fields of one request: the query's, overlaid by the body's.
#[derive(Debug, Default)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body; an empty one has no fields.
    pub(crate) fn parse(body: &[u8], query: &HashMap<String, String>) -> Result<Fields, Error> {
        let mut fields: Map<String, Value> =
            query.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect();
        if !body.iter().all(u8::is_ascii_whitespace) {
            let parsed: Value = serde_json::from_slice(body)
                .map_err(|why| Error::new(Kind::InvalidArgument, format!("the body is not JSON: {why}")))?;
            let Value::Object(body) = parsed else {
                return Err(Error::new(Kind::InvalidArgument, "the body is not a JSON object"));
            };
            fields.extend(body.into_iter().filter(|(_, value)| !value.is_null()));
        }
        Ok(Fields(fields))
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A text; a number counts as its digits.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, Error> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(Error::invalid(name, "must be a text")),
        }
    }

    /// A text that is there and not empty.
    pub(crate) fn nonempty(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(self.text(name)?.filter(|text| !text.is_empty()))
    }

    /// A whole number, not negative; an empty text is absent.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Error> {
        match self.nonempty(name)? {
            None => Ok(None),
            Some(text) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| Error::invalid(name, format!("'{text}' is not a number"))),
        }
    }

    /// A yes or no; an empty text is absent.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        let text = match self.value(name) {
            Some(Value::Bool(flag)) => return Ok(Some(*flag)),
            _ => self.nonempty(name)?,
        };
        match text.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("true" | "1" | "yes" | "enabled") => Ok(Some(true)),
            Some("false" | "0" | "no" | "disabled") => Ok(Some(false)),
            Some(other) => Err(Error::invalid(name, format!("'{other}' is neither true nor false"))),
        }
    }

    /// A list of texts: `{"values": [...]}` or a bare list. Absent and empty lists are the same.
    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<String>>, Error> {
        let wrong = || Error::invalid(name, "must be {\"values\": [\"...\"]}");
        let list = match self.value(name) {
            None => return Ok(None),
            Some(Value::Array(list)) => list,
            Some(Value::Object(object)) => match object.get("values") {
                None | Some(Value::Null) => return Ok(None),
                Some(Value::Array(list)) => list,
                Some(_) => return Err(wrong()),
            },
            Some(_) => return Err(wrong()),
        };
        let texts: Option<Vec<String>> = list.iter().map(|v| v.as_str().map(String::from)).collect();
        Ok(Some(texts.ok_or_else(wrong)?).filter(|texts| !texts.is_empty()))
    }

    /// The fields of a field.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields>, Error> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Fields(fields.clone()))),
            Some(_) => Err(Error::invalid(name, "must be a JSON object")),
        }
    }

    /// A list of objects, each with its fields.
    pub(crate) fn objects(&self, name: &str) -> Result<Vec<Fields>, Error> {
        let wrong = || Error::invalid(name, "must be a list of JSON objects");
        match self.value(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                list.iter().map(|v| v.as_object().cloned().map(Fields).ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    /// Labels: a list of `{"key", "value"}`.
    pub(crate) fn labels(&self, name: &str) -> Result<Option<Vec<(String, String)>>, Error> {
        let wrong = || Error::invalid(name, "must be [{\"key\": \"...\", \"value\": \"...\"}]");
        let list = match self.value(name) {
            None => return Ok(None),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(wrong()),
        };
        let pair =
            |v: &Value| Some((v.get("key")?.as_str()?.to_string(), v.get("value")?.as_str()?.to_string()));
        let labels: Option<Vec<_>> = list.iter().map(pair).collect();
        Ok(Some(labels.ok_or_else(wrong)?).filter(|labels| !labels.is_empty()))
    }

    /// Refuses any other field than these. For our own paths, where what is spelled wrong would be left undone without a word; clients of
    /// LightOS send some that are none of ours.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Error> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(other) => {
                let other: String = other.chars().take(64).collect();
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                let why = format!("'{other}' is no field of this request; there are: {known}");
                Err(Error::new(Kind::InvalidArgument, why))
            }
        }
    }

    /// True when the field is there and is not the empty text, list or object.
    pub(crate) fn given(&self, name: &str) -> bool {
        match self.value(name) {
            None => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(object)) => !object.is_empty(),
            Some(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::parse(body.as_bytes(), &HashMap::new()).unwrap()
    }

    #[test]
    fn numbers_and_booleans_come_in_many_coats() {
        let f = fields(
            r#"{"a":"2","b":2,"c":null,"d":"","e":"x","f":-1,"t":"True","u":false,"v":"False","w":7}"#,
        );
        assert_eq!(f.number("a"), Ok(Some(2)));
        assert_eq!(f.number("b"), Ok(Some(2)));
        assert_eq!(f.number("c"), Ok(None));
        assert_eq!(f.number("d"), Ok(None));
        assert!(f.number("e").unwrap_err().text.starts_with("e: "));
        assert!(f.number("f").is_err());
        assert_eq!(f.flag("t"), Ok(Some(true)));
        assert_eq!(f.flag("u"), Ok(Some(false)));
        assert_eq!(f.flag("v"), Ok(Some(false)));
        assert_eq!(f.flag("missing"), Ok(None));
        assert!(f.flag("w").is_err());
    }

    #[test]
    fn lists_come_wrapped_or_bare() {
        let f = fields(r#"{"a":{"values":["x"]},"b":["x","y"],"c":{},"d":{"values":[]},"e":"x","f":[1]}"#);
        assert_eq!(f.texts("a").unwrap().unwrap(), ["x"]);
        assert_eq!(f.texts("b").unwrap().unwrap(), ["x", "y"]);
        assert_eq!(f.texts("c"), Ok(None));
        assert_eq!(f.texts("d"), Ok(None));
        assert!(f.texts("e").is_err() && f.texts("f").is_err());
    }

    #[test]
    fn the_body_wins_over_the_query_and_must_be_an_object() {
        let query = HashMap::from([("a".to_string(), "q".to_string()), ("b".to_string(), "q".to_string())]);
        let f = Fields::parse(br#"{"a":"body","b":null}"#, &query).unwrap();
        assert_eq!(f.text("a").unwrap().unwrap(), "body");
        assert_eq!(f.text("b").unwrap().unwrap(), "q");
        assert!(Fields::parse(b"[]", &query).is_err());
        assert!(Fields::parse(b"{", &query).is_err());
        assert!(Fields::parse(b"  ", &query).is_ok());
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let seed = br#"{"name":"a","size":1,"acl":{"values":["x",null]},"labels":[{"key":"k","value":7}],"f":"true"}"#;
        let mut dice = 1u64;
        let mut roll = |sides: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(dice >> 33).unwrap() % sides
        };
        for _ in 0..20_000 {
            let mut bytes = seed.to_vec();
            for _ in 0..=roll(4) {
                let at = roll(bytes.len());
                match roll(3) {
                    0 => bytes[at] = u8::try_from(roll(256)).unwrap(),
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, b"{}[]\",:0n"[roll(9)]),
                }
            }
            let Ok(f) = Fields::parse(&bytes, &HashMap::new()) else { continue };
            for name in ["name", "size", "acl", "labels", "f"] {
                let _ = (
                    f.text(name),
                    f.number(name),
                    f.flag(name),
                    f.texts(name),
                    f.labels(name),
                    f.given(name),
                );
            }
        }
    }
}
