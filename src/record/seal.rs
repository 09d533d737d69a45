//! Seals: a JSON file holds the digest of its own text as its last member.
//!
//! After a bit flip, such a file may still be readable, with another number in it. The digest covers the text as it
//! was written, since not every number survives being read and written again. Files of earlier versions have no
//! digest, and are read unchecked.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// The text between the sealed text and its digest.
const MEMBER: &str = ",\n  \"digest\": \"";

/// The text after the digest, which was the end of the text before it was sealed.
const END: &str = "\n}";

/// Adds the digest of its text to an indented JSON object.
pub fn seal(text: &str) -> String {
    let open = text.strip_suffix(END).unwrap_or(text);
    format!("{open}{MEMBER}{}\"{END}", Digest::of(open.as_bytes()))
}

/// Compares the text of a file with the digest in it, if it has one. `advice` says what to do if they differ.
///
/// # Errors
/// [`Error::Format`] if they differ.
pub fn check(path: &Path, text: &str, advice: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct Sealed {
        digest: Option<IgnoredAny>,
    }
    if !matches!(serde_json::from_str(text), Ok(Sealed { digest: Some(_) })) {
        return Ok(());
    }
    // a lock file passes through version control, which may change its line endings
    let text = text.replace("\r\n", "\n");
    let is_whole = |(open, rest): (&str, &str)| rest == format!("{}\"{END}", Digest::of(open.as_bytes()));
    match text.trim_end().rsplit_once(MEMBER).is_some_and(is_whole) {
        true => Ok(()),
        false => Err(Error::format(path, "its content is not what its own digest says", advice)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_of_every_byte_before_it_and_a_file_without_one_is_read_as_it_is() {
        let plain = "{\n  \"loss\": 4.602108012934824,\n  \"name\": \"a\"\n}";
        let sealed = seal(plain);
        let digest = Digest::of(plain.strip_suffix("\n}").unwrap().as_bytes());
        assert_eq!(sealed, plain.replace("\"a\"\n", &format!("\"a\",\n  \"digest\": \"{digest}\"\n")));
        let check = |text: &str| check(Path::new("P"), text, "what was written");
        for whole in [plain, &sealed, &format!("{sealed}\n"), &sealed.replace('\n', "\r\n")] {
            check(whole).unwrap();
        }
        let message = "`P`: its content is not what its own digest says; expected what was written";
        for damaged in [
            sealed.replace("4.6", "4.7"),
            sealed.replace("\"a\"", "\"b\""),
            sealed.replace(&digest.to_string(), &Digest::of(b"").to_string()),
            sealed.replace(&format!("\"{digest}\""), "7"),
            sealed.replace("\n", ""),
        ] {
            assert_eq!(check(&damaged).unwrap_err().to_string(), message, "{damaged}");
        }
    }
}
