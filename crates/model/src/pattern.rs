//! Patterns of layer names: `*` stands for any characters, `?` for one, everything else for itself.

/// Tells whether `pattern` stands for `name`.
pub fn matches(pattern: &str, name: &str) -> bool {
    distance(pattern, name) == 0
}

/// Returns the names closest to `pattern`, at most three, closest first; ties keep the order of `names`.
pub(crate) fn nearest<'a>(pattern: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut ranked: Vec<(usize, &str)> = names.into_iter().map(|name| (distance(pattern, name), name)).collect();
    ranked.sort_by_key(|(distance, _)| *distance);
    ranked.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// Counts the characters to insert, delete or replace until `pattern` stands for `name` (the Levenshtein distance, with free
/// wildcards).
fn distance(pattern: &str, name: &str) -> usize {
    let name: Vec<char> = name.chars().collect();
    // row[j] is the distance of the pattern read so far to the first j characters of the name.
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for p in pattern.chars() {
        let mut diagonal = row[0];
        row[0] += usize::from(p != '*');
        for (j, &c) in name.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = match p {
                '*' => above.min(row[j]),
                _ => (diagonal + usize::from(p != c && p != '?')).min(above + 1).min(row[j] + 1),
            };
            diagonal = above;
        }
    }
    row[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        let cases = [
            ("conv1", "conv1", true),
            ("conv1", "conv11", false),
            ("*", "", true),
            ("*", "layer1.0.conv1", true),
            ("layer?.*.conv1", "layer3.11.conv1", true),
            ("layer?.*.conv1", "layer13.11.conv1", false),
            ("*.conv?", "layer1.0.conv2", true),
            ("*.conv?", "layer1.0.conv", false),
            ("*a*b", "xaybzb", true),
            ("*a*b", "xaybz", false),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
            ("?", "é", true),
            // A point and a bracket stand for themselves.
            ("a.b", "axb", false),
            ("[ab]", "a", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn nearest_are_typing_errors_away() {
        let names = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "fc"];
        assert_eq!(nearest("convl", names)[0], "conv1");
        assert_eq!(nearest("layer1.0.con2", names)[0], "layer1.0.conv2");
        assert_eq!(nearest("layr1.*", names)[..2], ["layer1.0.conv1", "layer1.0.conv2"]);
        assert_eq!(nearest("x", []), Vec::<String>::new());
    }
}
