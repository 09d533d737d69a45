//! Figures: pictures that are embedded in the page and saved as files in `figures/`.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::error::Result;
use crate::files;

/// A picture on the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// The picture as a `data:` address, which needs no network.
    pub source: String,
    /// The text for readers who do not see the picture.
    pub alt: String,
    /// The caption below the picture.
    pub caption: String,
}

/// The folder for the files of the figures.
pub struct Figures(PathBuf);

impl Figures {
    /// Creates the folder for the files.
    pub fn new(folder: &Path) -> Result<Figures> {
        files::create_dir(folder)?;
        Ok(Figures(folder.to_owned()))
    }

    /// Writes a file and embeds it. The suffix of its name tells PNG from SVG.
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

    /// Writes a file without embedding it.
    pub fn save(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        files::create_dir(path.parent().unwrap_or(&self.0))?;
        files::write(&path, bytes)
    }
}
