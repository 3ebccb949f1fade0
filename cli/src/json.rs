//! JSON for `--json`. A crate would be a tenth of what a first boot compiles.

use std::fmt::{self, Write as _};

/// A value; its `Display` is the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Json::Bool(value)
    }
}

impl From<u32> for Json {
    fn from(value: u32) -> Self {
        Json::Number(value.into())
    }
}

impl From<usize> for Json {
    fn from(value: usize) -> Self {
        Json::Number(value as u64)
    }
}

impl From<&str> for Json {
    fn from(value: &str) -> Self {
        Json::Text(value.to_owned())
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Json::Null, Into::into)
    }
}

impl<T: Into<Json>> FromIterator<T> for Json {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Json::List(values.into_iter().map(Into::into).collect())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl Json {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Number(value) => write!(f, "{value}"),
            Json::Text(text) => write_text(f, text),
            Json::List(values) if values.is_empty() => f.write_str("[]"),
            Json::List(values) => {
                for (n, value) in values.iter().enumerate() {
                    start_line(f, if n == 0 { "[" } else { "," }, depth + 1)?;
                    value.write(f, depth + 1)?;
                }
                start_line(f, "", depth)?;
                f.write_str("]")
            }
            Json::Object(members) => {
                for (n, (name, value)) in members.iter().enumerate() {
                    start_line(f, if n == 0 { "{" } else { "," }, depth + 1)?;
                    write_text(f, name)?;
                    f.write_str(": ")?;
                    value.write(f, depth + 1)?;
                }
                start_line(f, "", depth)?;
                f.write_str("}")
            }
        }
    }
}

fn start_line(f: &mut fmt::Formatter<'_>, end: &str, depth: usize) -> fmt::Result {
    write!(f, "{end}\n{:1$}", "", 2 * depth)
}

/// A string, escaped by RFC 8259, section 7.
fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\0'..'\x20' => write!(f, "\\u{:04x}", u32::from(c))?,
            _ => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reader_finds_what_was_written() {
        let odd = "a \"b\" \\ \n \u{1} \u{e4}";
        let list: Json = [1_usize, 2].into_iter().collect();
        let written = Json::Object(vec![
            ("text", odd.into()),
            ("list", list),
            ("empty", Json::List(Vec::new())),
            ("nothing", None::<bool>.into()),
            ("inner", Json::Object(vec![("is", true.into())])),
        ]);
        let read: serde_json::Value = serde_json::from_str(&written.to_string()).unwrap();
        let meant = serde_json::json!({
            "text": odd, "list": [1, 2], "empty": [], "nothing": null, "inner": {"is": true},
        });
        assert_eq!(read, meant);
    }
}
