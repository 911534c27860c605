//! Names that are nearly right.

/// The name that was probably meant: at most a third of its letters away, case and `-`/`_` aside.
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

/// `` `a`, `b`, `c` ``.
pub fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// `did you mean `x`?` where something is near, then all that is allowed.
pub fn suggestion(given: &str, what: &str, names: &[&str]) -> Option<String> {
    let near = nearest(given, names.iter().copied());
    let all = (!names.is_empty()).then(|| format!("{what} {}", quoted(names.iter().copied())));
    match (near, all) {
        (Some(near), Some(_)) if names.len() > 12 => Some(format!("did you mean `{near}`?")),
        (Some(near), Some(all)) => Some(format!("did you mean `{near}`? {all}")),
        (Some(near), None) => Some(format!("did you mean `{near}`?")),
        (None, all) => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
