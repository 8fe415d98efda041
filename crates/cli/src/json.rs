//! JSON, spaced as iproute2 spaces it.

use std::fmt::Write;

/// A value. Keys keep their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Bool(bool),
    Number(i128),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(&'static str, Self)>),
}

impl Value {
    pub(crate) fn number(number: impl Into<i128>) -> Self {
        Self::Number(number.into())
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn texts<T: ToString>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(
            texts
                .into_iter()
                .map(|text| Self::Text(text.to_string()))
                .collect(),
        )
    }

    /// A line, or with `pretty` several.
    pub(crate) fn print(&self, pretty: bool) -> String {
        let mut out = String::new();
        self.write(&mut out, pretty.then_some(0));
        out.push('\n');
        out
    }

    /// `depth`: how far in this is, where that shows.
    fn write(&self, out: &mut String, depth: Option<usize>) {
        match self {
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(number) => put(out, format_args!("{number}")),
            Self::Text(text) => quote(out, text),
            Self::List(values) => {
                let space = if depth.is_some() { " " } else { "" };
                put(out, format_args!("[{space}"));
                for (place, value) in values.iter().enumerate() {
                    if place > 0 {
                        out.push(',');
                    }
                    value.write(out, depth.map(|depth| depth + 1));
                }
                let space = if values.is_empty() { "" } else { space };
                put(out, format_args!("{space}]"));
            }
            Self::Object(members) => {
                let inner = depth.map(|depth| depth + 1);
                out.push('{');
                for (place, (key, value)) in members.iter().enumerate() {
                    if place > 0 {
                        out.push(',');
                    }
                    new_line(out, inner);
                    quote(out, key);
                    out.push_str(if depth.is_some() { ": " } else { ":" });
                    value.write(out, inner);
                }
                if !members.is_empty() {
                    new_line(out, depth);
                }
                out.push('}');
            }
        }
    }
}

fn new_line(out: &mut String, depth: Option<usize>) {
    if let Some(depth) = depth {
        put(out, format_args!("\n{:1$}", "", depth * 4));
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\x1f' => put(out, format_args!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out.push('"');
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A String takes everything.
    let _: std::fmt::Result = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Value {
        Value::List(vec![
            Value::Object(vec![
                ("ifindex", Value::number(11)),
                ("flags", Value::texts(["A", "B"])),
                ("info", Value::Object(vec![("bridge", Value::Bool(true))])),
                ("none", Value::Object(vec![])),
            ]),
            Value::Object(vec![("ifindex", Value::number(-1))]),
        ])
    }

    #[test]
    fn spaced_as_iproute2_does() {
        assert_eq!(
            sample().print(false),
            "[{\"ifindex\":11,\"flags\":[\"A\",\"B\"],\"info\":{\"bridge\":true},\"none\":{}},{\"ifindex\":-1}]\n"
        );
        assert_eq!(
            sample().print(true),
            "\
[ {
        \"ifindex\": 11,
        \"flags\": [ \"A\",\"B\" ],
        \"info\": {
            \"bridge\": true
        },
        \"none\": {}
    },{
        \"ifindex\": -1
    } ]
"
        );
        assert_eq!(Value::List(vec![]).print(false), "[]\n");
        assert_eq!(Value::List(vec![]).print(true), "[ ]\n");
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<String>(), pretty: bool) {
            let json = Value::List(vec![Value::text(text.as_str())]).print(pretty);
            let read: Vec<String> = serde_json::from_str(&json).expect("JSON");
            prop_assert_eq!(read, [text]);
        }
    }
}
