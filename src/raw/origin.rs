//! The origin of the glyphs of a data set, and its consequences for publishing the data set or a network trained on it.
//!
//! The facts of a plan, which every shard carries, contain the published name of the glyphs. Only this module
//! compares such names.

use serde::Serialize;

/// The published name of MNIST.
pub(super) const MNIST: &str = "MNIST";

/// The published name of the synthetic glyphs.
pub(super) const SYNTHETIC: &str = "synthetic glyphs";

/// The origin of a set of glyphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The official MNIST files, verified.
    Mnist,
    /// Digits drawn by this program.
    Synthetic,
    /// A folder of the user, about whose content nothing more is known.
    Folder,
}

/// The licence of works made from a set of glyphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Licence {
    /// The licence's identifier at Hugging Face.
    pub id: &'static str,
    /// A sentence about the licence for readers, in Markdown.
    pub sentence: &'static str,
}

impl Origin {
    /// The origin of glyphs with the published name `name`, as returned by [`Source::name`](super::Source::name).
    pub fn of(name: &str) -> Origin {
        match name {
            MNIST => Origin::Mnist,
            SYNTHETIC => Origin::Synthetic,
            _ => Origin::Folder,
        }
    }

    /// The licence of works made from the glyphs.
    pub fn licence(self) -> Licence {
        match self {
            Origin::Mnist => Licence {
                id: "cc-by-sa-3.0",
                sentence: "MNIST is the work of Yann LeCun, Corinna Cortes and Christopher J.C. Burges, made available \
                           under [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/); images composed of it \
                           are under the same licence.",
            },
            Origin::Synthetic => Licence {
                id: "cc0-1.0",
                sentence: "The synthetic glyphs are drawn by the program; nobody's rights are in them.",
            },
            Origin::Folder => Licence {
                id: "other",
                sentence: "The glyphs come from a folder of the user's; their licence is that of their source.",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    #[test]
    fn an_origin_is_told_by_the_published_name() {
        assert_eq!(Origin::of(&Source::Mnist.name()), Origin::Mnist);
        assert_eq!(Origin::of(&Source::Synthetic.name()), Origin::Synthetic);
        for folder in ["kmnist", "MNIST", "synthetic glyphs", ".."] {
            assert_eq!(Origin::of(&Source::Folder(folder.into()).name()), Origin::Folder);
        }
    }

    #[test]
    fn every_origin_has_a_licence_of_its_own() {
        let ids = [Origin::Mnist, Origin::Synthetic, Origin::Folder].map(|origin| origin.licence().id);
        assert_eq!(ids, ["cc-by-sa-3.0", "cc0-1.0", "other"]);
    }
}
