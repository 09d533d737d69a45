//! Patterns of the names of runs.

/// Whether a name fits a pattern, in which `*` stands for any characters or none, and `?` for any one character.
pub fn fits(pattern: &str, name: &str) -> bool {
    // whether the pattern up to here fits the first 0, 1, 2, ... characters of the name
    let mut reached: Vec<bool> = std::iter::once(true).chain(name.chars().map(|_| false)).collect();
    for symbol in pattern.chars() {
        reached = match symbol {
            '*' => {
                let first = reached.iter().position(|&here| here).unwrap_or(reached.len());
                (0..reached.len()).map(|length| length >= first).collect()
            }
            _ => {
                let next = |(&here, letter): (&bool, char)| here && (symbol == '?' || symbol == letter);
                std::iter::once(false).chain(reached.iter().zip(name.chars()).map(next)).collect()
            }
        };
    }
    reached.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_a_question_mark_for_one() {
        let name = "fcn-lr0.001-seed0";
        for pattern in
            ["fcn-lr0.001-seed0", "fcn*", "*seed0", "*", "fcn*seed?", "*0*0*0*", "**", "f?n-*", "*fcn-lr0.001-seed0*"]
        {
            assert!(fits(pattern, name), "{pattern}");
        }
        for pattern in
            ["", "fcn", "seed0", "fcn?", "?", "FCN*", "fcn*seed", "*seed1", "fcn-lr0.001-seed0?", "fcn-lr0x001*"]
        {
            assert!(!fits(pattern, name), "{pattern}");
        }
        assert!(fits("", "") && fits("*", "") && !fits("?", ""));
        assert!(fits("é?", "éß"), "a character is no byte");
        assert!(!fits(&"*a".repeat(75), &"a".repeat(74)) && fits(&"*a".repeat(75), &"a".repeat(75)));
    }
}
