//! The files of a sweep's tables, which are never put over a file of the user.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;

/// The table with a row for each run.
pub const RUNS: &str = "sweep.csv";
/// The table with a row for each combination of settings other than the seed.
pub const SUMMARY: &str = "summary.csv";

/// The file in the folder of the tables that names them by their digests.
const OWN: &str = "tables.json";

/// The tables of a sweep in their folder. A file names the digests of the tables that the program wrote, so that it replaces
/// no table of the user, nor one that the user has changed.
pub struct Tables {
    folder: PathBuf,
}

/// The content of the file that names the tables.
#[derive(Default, Serialize, Deserialize)]
struct Own {
    about: String,
    digests: Vec<Digest>,
}

impl Tables {
    /// Makes the folder, and checks that nothing of the user stands in the place of a table.
    pub fn open(folder: &Path) -> Result<Tables> {
        files::create_dir(folder)?;
        let tables = Tables { folder: folder.to_owned() };
        tables.standing().map(|_| tables)
    }

    /// The digests of the existing tables.
    ///
    /// # Errors
    /// [`Error::Format`] if one of them is not as the program wrote it.
    fn standing(&self) -> Result<Vec<Digest>> {
        let path = self.folder.join(OWN);
        let refuse = |e: serde_json::Error| {
            Error::format(&path, format!("not readable ({e})"), "the digests of the tables; move the folder away")
        };
        let own: Own = match path.exists() {
            true => serde_json::from_str(&files::read_text(&path)?).map_err(refuse)?,
            false => Own::default(),
        };
        let mut standing = Vec::new();
        for path in [RUNS, SUMMARY].map(|name| self.folder.join(name)) {
            let digest = match std::fs::symlink_metadata(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(&path, "look at it")(error)),
                Ok(meta) => meta.is_file().then(|| Digest::of_file(&path)).transpose()?,
            };
            match digest.filter(|digest| own.digests.contains(digest)) {
                Some(digest) => standing.push(digest),
                None => {
                    let expected = "a table as a sweep wrote it, or nothing; move it away";
                    return Err(Error::format(&path, "what no sweep wrote, or what was changed since", expected));
                }
            }
        }
        Ok(standing)
    }

    /// Writes the tables. The former digests are kept until both are written, so that a kill leaves no table unnamed.
    pub fn write(&self, tables: [String; 2]) -> Result<()> {
        let new = tables.each_ref().map(|table| Digest::of(table.as_bytes()));
        let former = self.standing()?;
        self.name(former.into_iter().chain(new).collect())?;
        for (name, table) in [RUNS, SUMMARY].into_iter().zip(tables) {
            files::write_among_users(&self.folder.join(name), table.as_bytes())?;
        }
        self.name(new.to_vec())
    }

    fn name(&self, digests: Vec<Digest>) -> Result<()> {
        let about = "the digests of the tables beside this file, as `multidigit sweep` wrote them".to_owned();
        files::write_among_users(&self.folder.join(OWN), format!("{:#}\n", json!(Own { about, digests })).as_bytes())
    }
}
