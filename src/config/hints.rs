//! What a user may have meant: names that look like a wrong one, settings of another section, and types in plain words.

use serde_json::json;

use super::{Config, leaves};

/// The candidate that a name most likely means: one that it abbreviates, or one that differs from it in few letters.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let few = 1.max(name.len() / 3);
    let distance = |candidate: &&'a str| strsim::damerau_levenshtein(name, candidate);
    let similar = candidates.clone().filter(|candidate| distance(candidate) <= few).min_by_key(distance);
    candidates.clone().find(|candidate| abbreviates(name, candidate)).or(similar)
}

/// Whether a name consists of the initials of a longer one (`lr`), or is its beginning (`weight`).
fn abbreviates(name: &str, full: &str) -> bool {
    let initials: String = full.split('_').filter_map(|word| word.chars().next()).collect();
    name.len() > 1 && (name == initials || (name.len() > 2 && full != name && full.starts_with(name)))
}

/// The dotted paths of the settings whose last key a name is, in any section. If there is none, those whose last key it
/// abbreviates.
pub fn settings_named(name: &str) -> Vec<String> {
    let mut all: Vec<String> = leaves(&json!(Config::default())).into_iter().map(|(path, _)| path).collect();
    let mut exact = all.clone();
    exact.retain(|path| last(path) == name);
    all.retain(|path| abbreviates(name, last(path)));
    if exact.is_empty() { all } else { exact }
}

/// The last key of a dotted path.
pub fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The message of a deserializer with the types of Rust in plain words.
pub fn plain(message: &str) -> String {
    const WORDS: [(&str, &str); 12] = [
        ("usize", "a whole number"),
        ("u8", "a whole number"),
        ("u16", "a whole number"),
        ("u32", "a whole number"),
        ("u64", "a whole number"),
        ("i32", "a whole number"),
        ("i64", "a whole number"),
        ("f32", "a number"),
        ("f64", "a number"),
        ("a boolean", "true or false"),
        ("a string", "text"),
        ("a sequence", "a list"),
    ];
    let (before, expected) = match (message.rsplit_once("expected "), message.strip_prefix("invalid ")) {
        (Some(parts), _) => parts,
        (None, Some(expected)) => ("", expected), // the YAML library says "invalid u64" of another kind of value
        (None, None) => return message.to_owned(),
    };
    let replaced = WORDS.iter().find_map(|(word, plain)| {
        let rest = expected.strip_prefix(word)?;
        (!rest.starts_with(|c: char| c.is_alphanumeric())).then(|| format!("{before}expected {plain}{rest}"))
    });
    replaced.unwrap_or_else(|| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_what_it_abbreviates_before_what_it_resembles() {
        let keys = ["model", "learning_rate", "ema", "batch_size", "weight_decay"];
        let cases = [
            ("lr", Some("learning_rate")),
            ("batch", Some("batch_size")),
            ("modle", Some("model")),
            ("wd", Some("weight_decay")),
            ("emma", Some("ema")),
            ("zzz", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest(name, keys.into_iter()), expected, "{name}");
        }
    }

    #[test]
    fn settings_are_found_in_every_section() {
        assert_eq!(settings_named("digits"), ["plan.digits"]);
        assert_eq!(settings_named("lr"), ["train.learning_rate"]);
        assert_eq!(settings_named("ratio"), ["plan.split.ratio", "augment.erasing.ratio"]);
        assert!(settings_named("nothing").is_empty());
    }

    #[test]
    fn types_are_told_in_plain_words() {
        let cases = [
            (
                "invalid type: floating point `0.8`, expected u32",
                "invalid type: floating point `0.8`, expected a whole number",
            ),
            ("invalid type: map, expected a string at line 3", "invalid type: map, expected text at line 3"),
            ("expected `a` or `b`", "expected `a` or `b`"),
            ("expected u64s", "expected u64s"),
            ("invalid u64 at line 2, column 11", "expected a whole number at line 2, column 11"),
            ("invalid number of keys", "invalid number of keys"),
        ];
        for (message, told) in cases {
            assert_eq!(plain(message), told);
        }
    }
}
