//! Names that are nearly right, and names as they are typed.
use std::fmt::Display;

/// The hint for a name that is no model's.
pub const MODELS: &str = "`dsconv models` lists the names";

/// Returns the name that was probably meant: at most a third of its letters differ, with case, `-` and `_` aside.
pub fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace(['-', '.', ' '], "_");
    let given = plain(given);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&given, &plain(name)), name))
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Returns the network of the zoo that was probably meant.
pub fn nearest_network(given: &str) -> Option<&'static str> {
    nearest(given, zoo::variants().iter().map(|variant| variant.name))
}

/// Returns the hint for a wrong name: the one that was probably meant, or `otherwise` where none is near.
pub fn did_you_mean(near: Option<&str>, otherwise: &str) -> String {
    near.map_or_else(|| otherwise.to_owned(), |near| format!("did you mean `{near}`?"))
}

/// Lists names in backquotes: `` `a`, `b`, `c` ``.
pub fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Writes a word as it is typed on a shell's line: quoted, where it holds what a shell would read otherwise.
pub fn typed(word: impl Display) -> String {
    let word = word.to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,~^".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Options of a model, and what a config says in their place.
const KEYS: [(&str, &str); 14] = [
    ("--weights FILE", "--set weights=FILE"),
    ("--classes FILE` (in a config: `classes`)", "--set classes=FILE`"),
    ("--classes imagenet_class_index.json` (in a config: `classes`)", "--set classes=imagenet_class_index.json`"),
    ("--classes folders", "--set classes=folders"),
    ("--classes)", "classes)"),
    ("`--input 224`", "`--set image.input=224`"),
    ("`--crop 224`", "`--set image.crop=224`"),
    ("--input", "image.input"),
    ("--mean", "image.mean"),
    ("--std", "image.std"),
    ("--order", "image.order"),
    ("--divide", "image.divide"),
    ("--resize", "image.resize"),
    ("--crop", "image.crop"),
];

/// Puts the keys of a config in the place of a model's options, for commands that have a config and no such options.
pub fn in_keys(text: &str) -> String {
    KEYS.iter().fold(text.to_owned(), |text, (option, key)| text.replace(option, key))
}

/// Returns the hint for a wrong word: the one that was probably meant where one is near, and all that are allowed where they
/// are few. `what` introduces the latter.
pub fn suggestion(given: &str, what: &str, names: &[&str]) -> Option<String> {
    let near = nearest(given, names.iter().copied()).map(|near| did_you_mean(Some(near), ""));
    let all = (!names.is_empty()).then(|| format!("{what} {}", quoted(names.iter().copied())));
    match (near, all) {
        (Some(near), Some(all)) if names.len() <= 12 => Some(format!("{near} {all}")),
        (near, all) => near.or(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_keys() {
        let hint = "give the weights with `--weights FILE` (--mean, --std)";
        assert_eq!(in_keys(hint), "give the weights with `--set weights=FILE` (image.mean, image.std)");
        assert_eq!(in_keys("give it, such as `--input 224`"), "give it, such as `--set image.input=224`");
        assert_eq!(in_keys("`dsconv models` lists the names"), "`dsconv models` lists the names");
    }

    #[test]
    fn typed_words_stay_whole() {
        let cases = [
            ("models/net-1.onnx", "models/net-1.onnx"),
            ("my net.pth", "'my net.pth'"),
            ("it's.dsc", "'it'\\''s.dsc'"),
            ("a*b", "'a*b'"),
            ("dir ü", "'dir ü'"),
            ("ü.dsc", "ü.dsc"),
            ("", "''"),
        ];
        for (word, expected) in cases {
            assert_eq!(typed(word), expected);
        }
    }

    #[test]
    fn nearest_forgives_a_third_of_the_letters() {
        let names = ["resnet50_4bit", "alexnet_4bit", "vgg_4bit"];
        let cases = [
            ("resnet5_4bit", Some("resnet50_4bit")),
            ("ResNet50-4bit", Some("resnet50_4bit")),
            ("vgg", None),
            ("vgg4bit", Some("vgg_4bit")),
            ("transformer", None),
            ("", None),
        ];
        for (given, expected) in cases {
            assert_eq!(nearest(given, names), expected, "{given}");
        }
    }
}
