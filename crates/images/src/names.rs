//! The names of a network's classes.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use crate::ImageError;

/// The limit of bytes of a file with names.
const MOST_BYTES: u64 = 1 << 24;

/// The names of a network's classes in the order of its outputs. A class may have several, such as `n01440764` and `tench`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClassNames(Vec<Vec<String>>);

/// The classes that have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    One(usize),
    None,
    /// Several classes share the name, as ImageNet's two cranes do.
    Several,
}

impl ClassNames {
    /// Reads names from a file. It has one name a line, which may be `0 cat` (Teachable Machine) or `n01440764 tench`, or it
    /// is JSON: `["cat", "dog"]`, `{"0": "cat"}`, `{"0": ["n01440764", "tench"]}` (`imagenet_class_index.json`),
    /// `{"cat": 0}` (Keras), or an object with such an `id2label` (Hugging Face).
    ///
    /// # Errors
    /// [`ImageError::Io`] where the file cannot be read; [`ImageError::ClassNames`] where it is none of these or leaves an
    /// output without a name.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let fail = |reason: String| ImageError::ClassNames { path: path.to_owned(), reason };
        let text = read_text(path)?;
        let json = text.trim_start().starts_with(['[', '{']);
        let names = if json { from_json(&text).map_err(fail)? } else { from_lines(&text) };
        let names = Self::from(names);
        match names.0.iter().position(|names| names.iter().all(String::is_empty)) {
            _ if names.is_empty() => Err(fail("no names".to_owned())),
            Some(class) => Err(fail(format!("class {class} has no name"))),
            None => Ok(names),
        }
    }

    /// Returns the number of classes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether no names are known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the name of each class that is shown to people, which is the last of several.
    pub fn shown(&self) -> Vec<String> {
        self.0.iter().map(|names| names.last().cloned().unwrap_or_default()).collect()
    }

    /// Finds the class of a folder's name. An equal name is preferred, then one that differs only in case and in the
    /// characters between words, then one without a number before it, as in `001.Albatross`.
    pub(crate) fn find(&self, name: &str) -> Found {
        let unnumbered = name.trim_start_matches(|c: char| c.is_ascii_digit());
        let unnumbered = if unnumbered.starts_with(['.', '_', '-', ' ']) { &unnumbered[1..] } else { name };
        [self.only(|other| other == name), self.alike(name), self.alike(unnumbered)]
            .into_iter()
            .find(|found| *found != Found::None)
            .unwrap_or(Found::None)
    }

    fn alike(&self, name: &str) -> Found {
        let plain = |name: &str| name.to_lowercase().replace(['_', '-'], " ");
        let name = plain(name);
        self.only(|other| plain(other) == name)
    }

    fn only(&self, is: impl Fn(&str) -> bool) -> Found {
        let mut classes = (0..self.len()).filter(|&class| self.0[class].iter().any(|name| is(name)));
        match (classes.next(), classes.next()) {
            (Some(class), None) => Found::One(class),
            (Some(_), Some(_)) => Found::Several,
            (None, _) => Found::None,
        }
    }
}

impl From<Vec<Vec<String>>> for ClassNames {
    fn from(names: Vec<Vec<String>>) -> Self {
        Self(names)
    }
}

impl From<&[String]> for ClassNames {
    fn from(names: &[String]) -> Self {
        Self(names.iter().map(|name| vec![name.clone()]).collect())
    }
}

/// Reads a text file of a reasonable size, without the byte order mark that Windows puts before UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, ImageError> {
    let fail = |error| ImageError::Io { path: path.to_owned(), error };
    let size = path.metadata().map_err(fail)?.len();
    if size > MOST_BYTES {
        let reason = format!("{size} bytes: a file of names has {MOST_BYTES} at most");
        return Err(ImageError::ClassNames { path: path.to_owned(), reason });
    }
    let text = std::fs::read_to_string(path).map_err(fail)?;
    Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned))
}

/// Reads one class a line. Blank lines and comments do not count.
pub(crate) fn from_lines(text: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    // A number before a name is left out only if every line has the number of its class; else `7up` is a name.
    let numbered: Option<Vec<&str>> = lines.iter().enumerate().map(|(i, line)| without_number(line, i)).collect();
    let lines = numbered.unwrap_or(lines);
    let synsets: Option<Vec<Vec<String>>> = lines.iter().map(|line| synset(line)).collect();
    synsets.unwrap_or_else(|| lines.iter().map(|line| vec![unquoted(line).to_owned()]).collect())
}

/// Returns `cat` for the line `3 cat`, `3: cat` or `3,cat` of class 3.
fn without_number(line: &str, expected: usize) -> Option<&str> {
    let (number, rest) = line.split_once(|c: char| c.is_whitespace() || c == ':' || c == ',')?;
    let rest = rest.trim_start_matches([':', ',']).trim();
    (number.parse() == Ok(expected) && !rest.is_empty()).then_some(rest)
}

/// Splits a line such as `n01440764 tench, Tinca tinca` into two names.
fn synset(line: &str) -> Option<Vec<String>> {
    let (id, rest) = line.split_once([' ', '\t', ','])?;
    let is_synset = id.len() == 9 && id.starts_with('n') && id[1..].bytes().all(|b| b.is_ascii_digit());
    is_synset.then(|| vec![id.to_owned(), rest.trim().to_owned()])
}

fn unquoted(line: &str) -> &str {
    let line = line.trim_end_matches(',');
    ['"', '\''].iter().find_map(|&q| line.strip_prefix(q)?.strip_suffix(q)).unwrap_or(line)
}

fn from_json(text: &str) -> Result<Vec<Vec<String>>, String> {
    const EXPECTED: &str = "neither a list of names nor a table of number and name";
    let mut value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Some(inner) = value.get_mut("id2label") {
        value = inner.take();
    }
    let names = |value: &Value| match value {
        Value::String(name) => Some(vec![name.clone()]),
        Value::Array(names) => names.iter().map(|name| name.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    match &value {
        Value::Array(list) => list.iter().map(names).collect::<Option<_>>().ok_or_else(|| EXPECTED.to_owned()),
        Value::Object(table) => {
            let number = |text: &str| text.parse::<usize>().ok();
            let pair = |(key, value): (&String, &Value)| match number(key) {
                Some(class) => Some((class, names(value)?)),
                None => Some((usize::try_from(value.as_u64()?).ok()?, vec![key.clone()])),
            };
            let pairs: Option<Vec<(usize, Vec<String>)>> = table.iter().map(pair).collect();
            let mut pairs = pairs.ok_or(EXPECTED)?;
            pairs.sort_unstable_by_key(|(class, _)| *class);
            match pairs.iter().enumerate().find(|(i, (class, _))| i != class) {
                Some((missing, _)) => Err(format!("no name, or two, for class {missing}")),
                None => Ok(pairs.into_iter().map(|(_, names)| names).collect()),
            }
        }
        _ => Err(EXPECTED.to_owned()),
    }
}

/// Lists up to five names for a message.
pub(crate) fn some_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let mut text: Vec<String> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    if names.len() > 5 {
        text.push(format!("and {} more", names.len() - 5));
    }
    text.join(", ")
}

/// Returns whether no two classes are the same.
pub(crate) fn all_differ(classes: &[usize]) -> bool {
    classes.iter().collect::<HashSet<_>>().len() == classes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Vec<String>>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names");
        std::fs::write(&path, text).unwrap();
        ClassNames::read(&path).map(|names| names.0).map_err(|error| error.to_string())
    }

    #[test]
    fn files_that_people_have_are_read() {
        let cat_dog = Ok(vec![vec!["cat".to_owned()], vec!["dog".to_owned()]]);
        let texts = [
            "cat\ndog\n",
            "\u{feff}cat\r\ndog\r\n\r\n",
            "# classes\n0 cat\n1 dog",
            "0: cat\n1: dog",
            "0,cat\n1,dog",
            "\"cat\",\n'dog'",
            r#"["cat", "dog"]"#,
            r#"{"1": "dog", "0": "cat"}"#,
            r#"{"dog": 1, "cat": 0}"#,
            r#"{"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0}}"#,
        ];
        for text in texts {
            assert_eq!(read(text), cat_dog, "{text}");
        }
        let synsets =
            vec![vec!["n01440764".to_owned(), "tench".to_owned()], vec!["n01443537".into(), "goldfish".into()]];
        for text in
            ["n01440764 tench\nn01443537 goldfish", r#"{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}"#]
        {
            assert_eq!(read(text).as_ref(), Ok(&synsets), "{text}");
        }
        assert_eq!(ClassNames(synsets).shown(), ["tench", "goldfish"]);
    }

    #[test]
    fn a_number_is_part_of_a_name_unless_all_count() {
        let names = |text| ClassNames(read(text).unwrap()).shown();
        assert_eq!(names("7 up\n8 ball"), ["7 up", "8 ball"]);
        assert_eq!(names("polar bear\n1 dog"), ["polar bear", "1 dog"]);
        assert_eq!(names("0\n1\n2"), ["0", "1", "2"]);
    }

    #[test]
    fn files_without_names_are_refused() {
        for (text, reason) in [
            ("\n\n", "no names"),
            ("[]", "no names"),
            (r#"["cat", ""]"#, "class 1 has no name"),
            (r#"{"0": "cat", "2": "dog"}"#, "no name, or two, for class 1"),
            (r#"{"cat": 0, "dog": 0}"#, "no name, or two, for class 1"),
            ("[1, 2]", "neither a list of names nor a table of number and name"),
            ("{\"a\": [", "EOF while parsing a list at line 1 column 7"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.ends_with(reason), "{text}: {error}");
        }
    }

    #[test]
    fn names_are_found_also_in_another_case_and_behind_numbers() {
        let names = ClassNames(from_lines("Cat\ncrane\nDOG\ncrane\ncat"));
        assert_eq!(names.find("Cat"), Found::One(0));
        assert_eq!(names.find("CAT"), Found::Several);
        assert_eq!(names.find("dog"), Found::One(2));
        assert_eq!(names.find("crane"), Found::Several);
        assert_eq!(names.find("bird"), Found::None);
        let names = ClassNames(from_lines("great white shark\nBlack_footed_Albatross\n7 up\n7"));
        assert_eq!(names.find("great_white_shark"), Found::One(0));
        assert_eq!(names.find("001.Black_footed_Albatross"), Found::One(1));
        assert_eq!(names.find("7-up"), Found::One(2));
        assert_eq!(names.find("7"), Found::One(3));
        assert_eq!(names.find("003"), Found::None);
    }
}
