//! Reads a file's metadata: the names of classes in the forms that programs write, and the preprocessing of this crate's
//! exports.
use super::names;
use crate::proto::StringStringEntryProto;

/// The keys of class names, the clearest first.
const KEYS: [&str; 7] = ["classes", "names", "class_names", "labels", "id2label", "categories", "classnames"];

/// Returns the names of classes in a file's metadata, and their key. There are no names where the text does not read as a name
/// for each of 0, 1, 2...
pub(super) fn classes(metadata: &[StringStringEntryProto]) -> Option<(&str, Vec<String>)> {
    let entry = |key: &&str| metadata.iter().find(|entry| entry.key.eq_ignore_ascii_case(key));
    let read = |entry: &StringStringEntryProto| -> Vec<String> {
        parse(entry.value.trim()).iter().flatten().map(|name| names::clean(name.trim())).collect()
    };
    let found: Vec<_> = KEYS.iter().filter_map(entry).map(|entry| (entry.key.as_str(), read(entry))).collect();
    let first = found.iter().position(|(_, names)| !names.is_empty()).unwrap_or(0);
    found.into_iter().nth(first)
}

/// Returns the preprocessing that [`crate::export`] wrote.
pub(super) fn preprocess(metadata: &[StringStringEntryProto]) -> Option<graph::Preprocess> {
    let entry = metadata.iter().find(|entry| entry.key == "preprocess")?;
    serde_json::from_str(&entry.value).ok()
}

/// Parses a list or a dictionary, in JSON or as Python prints it, or else a text that is separated by commas or lines.
fn parse(text: &str) -> Option<Vec<String>> {
    if text.starts_with(['[', '{', '(']) {
        return Literal(text).parse();
    }
    let parts: Vec<&str> = if text.contains('\n') { text.lines().collect() } else { text.split(',').collect() };
    (!text.is_empty()).then(|| parts.into_iter().map(str::to_owned).collect())
}

/// The unread rest of a list or dictionary.
struct Literal<'a>(&'a str);

/// A key or value of a list or dictionary.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LiteralItem {
    Text(String),
    Number(usize),
}

impl Literal<'_> {
    fn parse(mut self) -> Option<Vec<String>> {
        let open = self.next()?;
        let close = match open {
            '[' => ']',
            '(' => ')',
            _ => '}',
        };
        let mut named: Vec<(usize, String)> = Vec::new();
        loop {
            if self.skip(close) {
                break;
            }
            let first = self.item()?;
            let pair = if open == '{' {
                if !self.skip(':') {
                    return None;
                }
                // The pair is as in `{0: 'cat'}`, `{"0": "cat"}` or `{"cat": 0}`.
                match (first, self.item()?) {
                    (LiteralItem::Number(index), LiteralItem::Text(name))
                    | (LiteralItem::Text(name), LiteralItem::Number(index)) => (index, name),
                    (LiteralItem::Text(index), LiteralItem::Text(name)) => (index.parse().ok()?, name),
                    (LiteralItem::Number(_), LiteralItem::Number(_)) => return None,
                }
            } else {
                let LiteralItem::Text(name) = first else { return None };
                (named.len(), name)
            };
            named.push(pair);
            if !self.skip(',') {
                if self.skip(close) {
                    break;
                }
                return None;
            }
        }
        named.sort_by_key(|(index, _)| *index);
        let counts = named.iter().enumerate().all(|(i, (index, _))| i == *index);
        (counts && self.0.trim().is_empty()).then(|| named.into_iter().map(|(_, name)| name).collect())
    }

    fn next(&mut self) -> Option<char> {
        let c = self.0.chars().next()?;
        self.0 = &self.0[c.len_utf8()..];
        Some(c)
    }

    /// Passes over `c` if it comes next, and returns whether it did.
    fn skip(&mut self, c: char) -> bool {
        let rest = self.0.trim_start();
        match rest.strip_prefix(c) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn item(&mut self) -> Option<LiteralItem> {
        self.0 = self.0.trim_start();
        let first = self.0.chars().next()?;
        if !matches!(first, '"' | '\'') {
            let end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
            let (number, rest) = self.0.split_at(end);
            self.0 = rest;
            return number.parse().ok().map(LiteralItem::Number);
        }
        self.next();
        let mut text = String::new();
        loop {
            match self.next()? {
                c if c == first => return Some(LiteralItem::Text(text)),
                '\\' => text.push(match self.next()? {
                    'n' => '\n',
                    't' => '\t',
                    'u' => self.code(4)?,
                    'x' => self.code(2)?,
                    c => c,
                }),
                c => text.push(c),
            }
        }
    }

    /// Reads a character by its number in so many hexadecimal digits, or by two of them for a surrogate pair.
    fn code(&mut self, digits: usize) -> Option<char> {
        let number = self.hexadecimal(digits)?;
        if !(0xd800..0xdc00).contains(&number) {
            return char::from_u32(number);
        }
        let rest = self.0.strip_prefix("\\u")?;
        self.0 = rest;
        let low = self.hexadecimal(4)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
        char::from_u32(0x10000 + ((number - 0xd800) << 10) + low)
    }

    fn hexadecimal(&mut self, digits: usize) -> Option<u32> {
        let text = self.0.get(..digits)?;
        self.0 = &self.0[digits..];
        u32::from_str_radix(text, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: &str) -> Option<Vec<String>> {
        let entry = StringStringEntryProto { key: key.into(), value: value.into() };
        classes(&[entry]).map(|(_, names)| names)
    }

    #[test]
    fn names_are_read_in_every_form() {
        let cat_dog = Some(vec!["cat".to_owned(), "dog".to_owned()]);
        for value in [
            "{0: 'cat', 1: 'dog'}",
            "{1: \"dog\", 0: \"cat\",}",
            "{\"0\": \"cat\", \"1\": \"dog\"}",
            "{\"cat\": 0, \"dog\": 1}",
            "[\"cat\", \"dog\"]",
            " ['cat', 'dog'] ",
            "('cat', 'dog')",
            "cat,dog",
            "cat, dog",
            "cat\ndog\n",
            "cat\r\ndog",
        ] {
            assert_eq!(read("names", value), cat_dog, "{value}");
        }
        assert_eq!(read("Labels", "[\"cat\", \"dog\"]"), cat_dog);
        assert_eq!(read("classes", r#"{0: "bird's nest", 1: 'a \'b\', c'}"#).unwrap(), ["bird's nest", "a 'b', c"]);
        assert_eq!(read("classes", r#"["\u00e9t\xe9", "\ud83d\ude00", "a\nb"]"#).unwrap(), ["été", "😀", "a_b"]);
    }

    #[test]
    fn what_is_no_list_of_names_is_left() {
        for value in [
            "",
            "{0: 'cat', 2: 'dog'}",
            "{0: 'cat'",
            "[1, 2]",
            "{0: 1}",
            "[\"cat\"] x",
            "['cat",
            "{'a': 'b'}",
            "[\"\\ud83d\"]",
            "{0 'cat'}",
            "[",
            "[[\"a\"]]",
        ] {
            // The key is there, and has no names.
            assert_eq!(read("names", value), Some(vec![]), "{value}");
        }
        assert_eq!(read("stride", "32"), None);
    }
}
