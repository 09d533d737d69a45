//! `pipeline.lock`: the content digests of the stages that make the data. The file is committed with the configuration,
//! so that anyone who runs the same configuration can tell whether the data are the same.
//!
//! A pin holds for the settings under which it was made, and is ignored under other settings.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::Stage;
use super::key::settings_digest;
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::record::seal;

/// The name of the lock file, which lies beside the configuration.
pub const FILE: &str = "pipeline.lock";

/// Pinned content, by stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// A sentence that describes the file.
    about: String,
    /// The pins, by stage.
    stages: BTreeMap<Stage, Pin>,
    /// The digest of the text before it. Without it, a pin with a damaged digest of settings would be ignored.
    #[serde(default, skip_serializing)]
    digest: Option<IgnoredAny>,
}

/// The pinned content of one stage under some settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    /// The digest of the settings and versions of the stage and all stages upstream.
    settings: Digest,
    /// The digest of the logical content.
    content: Digest,
}

impl Lock {
    /// Reads a lock file. Returns `None` if the file does not exist.
    pub fn read(path: &Path) -> Result<Option<Lock>> {
        if !path.exists() {
            return Ok(None);
        }
        let refuse = |e: serde_json::Error| {
            Error::format(path, format!("not a lock file ({e})"), "what `multidigit lock` writes")
        };
        let text = files::read_text(path)?;
        let lock: Lock = serde_json::from_str(&text).map_err(refuse)?;
        let advice = "the file as it was written; restore it, or remove it and write it again with `multidigit lock`";
        seal::check(path, &text, advice)?;
        Ok(Some(Lock { digest: None, ..lock }))
    }

    /// Pins content under a configuration.
    pub fn new(config: &Config, content: impl IntoIterator<Item = (Stage, Digest)>) -> Lock {
        let pin = |(stage, content)| (stage, Pin { settings: settings_digest(stage, config), content });
        Lock {
            about: "Digests of logical content (pixels, labels, columns), written by `multidigit lock`.".into(),
            stages: content.into_iter().map(pin).collect(),
            digest: None,
        }
    }

    /// Writes the lock file.
    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_among_users(
            path,
            format!("{}\n", seal::seal(&format!("{:#}", serde_json::json!(self)))).as_bytes(),
        )
    }

    /// The content that a stage must have under a configuration; `None` if none is pinned for it.
    pub fn expected(&self, stage: Stage, config: &Config) -> Option<Digest> {
        let pin = self.stages.get(&stage)?;
        (pin.settings == settings_digest(stage, config)).then_some(pin.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_holds_for_its_settings_only() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        let mut config = Config::default();
        let lock = Lock::new(&config, [(Stage::Plan, Digest::of(b"plan"))]);
        lock.write(&path).unwrap();
        let lock = Lock::read(&path).unwrap().unwrap();
        assert_eq!(lock.expected(Stage::Plan, &config), Some(Digest::of(b"plan")));
        assert_eq!(lock.expected(Stage::Dataset, &config), None);
        config.plan.seed = 7;
        assert_eq!(lock.expected(Stage::Plan, &config), None);
    }

    #[test]
    fn a_damaged_pin_is_an_error_and_a_lock_of_an_earlier_version_is_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        let config = Config::default();
        let lock = Lock::new(&config, [(Stage::Plan, Digest::of(b"plan"))]);
        lock.write(&path).unwrap();
        assert_eq!(Lock::read(&path).unwrap().as_ref(), Some(&lock));
        let text = std::fs::read_to_string(&path).unwrap();
        for digest in [settings_digest(Stage::Plan, &config), Digest::of(b"plan")] {
            std::fs::write(&path, text.replace(&digest.to_string(), &Digest::of(b"").to_string())).unwrap();
            let error = Lock::read(&path).unwrap_err().to_string();
            let words = "its content is not what its own digest says; expected the file as it was written; restore it, or \
                         remove it and write it again with `multidigit lock`";
            assert_eq!(error, format!("`{}`: {words}", path.display()));
        }
        std::fs::write(&path, serde_json::to_string_pretty(&lock).unwrap()).unwrap();
        assert_eq!(Lock::read(&path).unwrap(), Some(lock));
    }

    #[test]
    fn a_lock_that_is_no_lock_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        assert_eq!(Lock::read(&path).unwrap(), None);
        std::fs::write(&path, "raw: 1").unwrap();
        let error = Lock::read(&path).unwrap_err().to_string();
        assert!(error.contains("not a lock file") && error.ends_with("expected what `multidigit lock` writes"));
    }
}
