//! Figures: pictures that the page embeds and `figures/` holds as files.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::error::Result;
use crate::files;

/// A picture in the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// The picture as an address that needs no network.
    pub source: String,
    /// What those read who do not see it.
    pub alt: String,
    /// The line below it.
    pub caption: String,
}

/// The folder of the figures' files.
pub struct Figures(PathBuf);

impl Figures {
    /// Into a folder, which is created.
    pub fn new(folder: &Path) -> Result<Figures> {
        files::create_dir(folder)?;
        Ok(Figures(folder.to_owned()))
    }

    /// Writes a file, and embeds it. Its name's ending tells PNG from SVG.
    pub fn embed(
        &self,
        name: &str,
        bytes: &[u8],
        alt: impl Into<String>,
        caption: impl Into<String>,
    ) -> Result<Figure> {
        self.save(name, bytes)?;
        let kind = if name.ends_with(".svg") { "svg+xml" } else { "png" };
        let source = format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(bytes));
        Ok(Figure { source, alt: alt.into(), caption: caption.into() })
    }

    /// Writes a file only.
    pub fn save(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        files::create_dir(path.parent().unwrap_or(&self.0))?;
        files::write(&path, bytes)
    }
}
