//! The origin of the glyphs of a data set, and its consequences for publishing the data set or a network trained on it.
//!
//! Glyphs are recognised by their content: the official files of MNIST are MNIST in any folder, and a folder called MNIST
//! with other glyphs is not. The facts of a plan, which every shard carries, contain the published name of the origin.

use serde::Serialize;

use super::synthetic;
use crate::digest::Digest;

/// The origin of a set of glyphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The official MNIST files.
    Mnist,
    /// The files of Fashion-MNIST.
    FashionMnist,
    /// Digits drawn by this program.
    Synthetic,
    /// Files about whose content nothing more is known.
    Unknown,
}

/// The licence of works made from a set of glyphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Licence {
    /// The licence's identifier at Hugging Face.
    pub id: &'static str,
    /// The address of its text, if there is one.
    pub url: Option<&'static str>,
    /// A sentence about the licence for readers, in Markdown.
    pub sentence: &'static str,
}

impl Origin {
    /// All origins.
    const ALL: [Origin; 4] = [Origin::Mnist, Origin::FashionMnist, Origin::Synthetic, Origin::Unknown];

    /// The digest of the glyphs, as [`Glyphs::digest`](super::Glyphs::digest) computes it; `None` of unknown ones.
    fn content(self) -> Option<&'static str> {
        match self {
            Origin::Mnist => Some("7ea19f397e53ca2456a5902ff53037254d49bda913a2d96f1939dda02d20f939"),
            Origin::FashionMnist => Some("c2ae99ad462f77d436a01df72872733cf949231a859b497479706bd100ba45f6"),
            Origin::Synthetic => Some(synthetic::DIGEST),
            Origin::Unknown => None,
        }
    }

    /// The published name.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Mnist => "MNIST",
            Origin::FashionMnist => "Fashion-MNIST",
            Origin::Synthetic => "synthetic glyphs",
            Origin::Unknown => "unknown glyphs",
        }
    }

    /// The origin of the glyphs with this digest.
    pub fn of_content(digest: Digest) -> Origin {
        let digest = digest.to_string();
        Origin::ALL.into_iter().find(|origin| origin.content() == Some(digest.as_str())).unwrap_or(Origin::Unknown)
    }

    /// The origin with a published name.
    pub fn named(name: &str) -> Origin {
        Origin::ALL.into_iter().find(|origin| origin.name() == name).unwrap_or(Origin::Unknown)
    }

    /// The address where the glyphs were published, if they were.
    pub fn url(self) -> Option<&'static str> {
        match self {
            Origin::Mnist => Some("http://yann.lecun.com/exdb/mnist/"),
            Origin::FashionMnist => Some("https://github.com/zalandoresearch/fashion-mnist"),
            Origin::Synthetic | Origin::Unknown => None,
        }
    }

    /// The name of a data set whose images show `digits` of the glyphs.
    pub fn title(self, digits: usize) -> String {
        let glyphs = match self {
            Origin::Mnist => "MNIST",
            Origin::FashionMnist => "FashionMNIST",
            Origin::Synthetic => "Synthetic",
            Origin::Unknown => "Glyphs",
        };
        match digits {
            1 => format!("Single{glyphs}"),
            2 => format!("Double{glyphs}"),
            3 => format!("Triple{glyphs}"),
            n => format!("Multi{glyphs} with {n} digits"),
        }
    }

    /// The licence of works made from the glyphs.
    pub fn licence(self) -> Licence {
        match self {
            Origin::Mnist => Licence {
                id: "cc-by-sa-3.0",
                url: Some("https://creativecommons.org/licenses/by-sa/3.0/"),
                sentence: "MNIST is the work of Yann LeCun, Corinna Cortes and Christopher J.C. Burges, made available \
                           under [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/); images composed of it \
                           are under the same licence.",
            },
            Origin::FashionMnist => Licence {
                id: "mit",
                url: Some("https://opensource.org/license/mit"),
                sentence: "Fashion-MNIST is the work of Han Xiao, Kashif Rasul and Roland Vollgraf, copyright Zalando SE, \
                           made available under the [MIT licence](https://opensource.org/license/mit).",
            },
            Origin::Synthetic => Licence {
                id: "cc0-1.0",
                url: Some("https://creativecommons.org/publicdomain/zero/1.0/"),
                sentence: "The synthetic glyphs are drawn by the program; nobody's rights are in them.",
            },
            Origin::Unknown => Licence {
                id: "other",
                url: None,
                sentence: "The program does not know the glyphs; their licence is that of their source.",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_told_by_the_content_and_by_the_published_name() {
        for origin in Origin::ALL {
            let digest = origin.content().map_or(Digest::of(b""), |digest| digest.parse().unwrap());
            assert_eq!((Origin::of_content(digest), Origin::named(origin.name())), (origin, origin));
        }
        assert_eq!(Origin::named("folder MNIST"), Origin::Unknown);
    }

    #[test]
    fn only_images_of_mnist_are_called_so() {
        assert_eq!(
            [1, 2, 3, 4].map(|digits| Origin::Mnist.title(digits)),
            ["SingleMNIST", "DoubleMNIST", "TripleMNIST", "MultiMNIST with 4 digits"]
        );
        let titles = Origin::ALL.map(|origin| origin.title(2));
        assert_eq!(titles, ["DoubleMNIST", "DoubleFashionMNIST", "DoubleSynthetic", "DoubleGlyphs"]);
    }

    #[test]
    fn every_origin_has_a_licence_of_its_own() {
        let ids = Origin::ALL.map(|origin| origin.licence().id);
        assert_eq!(ids, ["cc-by-sa-3.0", "mit", "cc0-1.0", "other"]);
    }
}
