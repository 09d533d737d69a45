//! Recipes: named settings for a training, with a description. The program contains those in the folder `recipes/`; a
//! recipe of the user is a file of the same form.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::config::{self, Config};
use crate::error::{Error, Result, shown};
use crate::guard::guarded;
use crate::pipeline;

/// The names and the texts of the program's own recipes.
const OWN: [(&str, &str); 8] = [
    ("best", include_str!("../recipes/best.yaml")),
    ("fast", include_str!("../recipes/fast.yaml")),
    ("paper-alexnet-1e-3", include_str!("../recipes/paper-alexnet-1e-3.yaml")),
    ("paper-alexnet-5e-4", include_str!("../recipes/paper-alexnet-5e-4.yaml")),
    ("paper-fcn-1e-3", include_str!("../recipes/paper-fcn-1e-3.yaml")),
    ("paper-fcn-5e-4", include_str!("../recipes/paper-fcn-5e-4.yaml")),
    ("paper-resnet-2.5e-4", include_str!("../recipes/paper-resnet-2.5e-4.yaml")),
    ("paper-resnet-5e-4", include_str!("../recipes/paper-resnet-5e-4.yaml")),
];

/// A recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The name, with which the names of its runs begin.
    pub name: String,
    /// What the recipe is for, and what it reached.
    pub description: String,
    settings: Value,
    origin: String,
}

/// A recipe as its file holds it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    description: String,
    settings: Value,
}

impl Recipe {
    /// The names of the program's own recipes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        OWN.iter().map(|(name, _)| *name)
    }

    /// The program's own recipe of this name, or the recipe in this file if the word ends in `.yaml`. `key` is the flag or the
    /// key that named it, for errors.
    ///
    /// # Errors
    /// A configuration error if there is no such recipe, or the file is not a recipe.
    pub fn find(key: &str, word: &str) -> Result<Recipe> {
        if let Some((name, text)) = OWN.iter().find(|(name, _)| *name == word) {
            return Recipe::parse(name, text, name);
        }
        let path = Path::new(word);
        match path.file_stem().and_then(|stem| stem.to_str()) {
            Some(name) if path.extension().is_some_and(|extension| extension == "yaml") => {
                Recipe::parse(name, &config::text_of(path)?, word)
            }
            _ => {
                let names: Vec<&str> = Recipe::names().collect();
                Err(Error::value(key, word, format!("{}, or the path of a .yaml file", names.join(", "))))
            }
        }
    }

    /// Reads the text of a recipe. `origin` is its name in errors.
    fn parse(name: &str, text: &str, origin: &str) -> Result<Recipe> {
        let read: Result<File, _> = guarded(Path::new(origin), || serde_saphyr::from_str(text))?;
        let File { description, settings } = read.map_err(|error| Error::ConfigSyntax {
            origin: origin.to_owned(),
            message: shown(&error.without_snippet().to_string()),
        })?;
        if !settings.is_object() {
            let message = "`settings` is no mapping; expected settings by section, as in pipeline.yaml".to_owned();
            return Err(Error::ConfigSyntax { origin: origin.to_owned(), message });
        }
        let description = description.trim().to_owned();
        Ok(Recipe { name: name.to_owned(), description, settings, origin: origin.to_owned() })
    }

    /// The name and the description as lines of a YAML comment.
    pub fn comment(&self) -> String {
        config::comment(&format!("Recipe {}: {}", self.name, self.description), "")
    }

    /// The configuration with the settings of the recipe.
    ///
    /// # Errors
    /// A configuration error if the recipe has a key that does not exist, or a value of the wrong type.
    pub fn apply(&self, config: &Config) -> Result<Config> {
        apply(&self.settings, config.clone(), &self.origin)
    }

    /// The configuration of a run by this recipe: `base` with the settings of the recipe, then changed by `change`. The run
    /// is named after the recipe unless the result names it.
    pub fn configure(&self, base: &Config, change: impl FnOnce(Config) -> Result<Config>) -> Result<Config> {
        let mut config = change(self.apply(base)?)?;
        let alone = self.apply(&Config::default())?;
        config.train.run = Some(pipeline::run_name_of_recipe(&self.name, &alone, &config));
        Ok(config)
    }
}

/// The configuration with a tree of settings. `origin` is the name of their file in errors.
///
/// # Errors
/// A configuration error if there is no such setting, or if a value has the wrong type.
pub fn apply(settings: &Value, config: Config, origin: &str) -> Result<Config> {
    let set = |config: Config, (path, value): (String, Value)| {
        config.set(&path, value, origin).map_err(|error| match error {
            Error::ConfigSyntax { origin, message } => {
                Error::ConfigSyntax { origin, message: format!("`{path}`: {message}") }
            }
            other => other,
        })
    };
    config::leaves(settings).into_iter().try_fold(config, set)
}

#[cfg(test)]
mod tests {
    use multidigit_nn::schedule::Kind;

    use super::*;

    #[test]
    fn the_program_contains_the_recipes_of_the_folder_and_all_are_valid() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes"));
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, Recipe::names().map(|name| format!("{name}.yaml")).collect::<Vec<_>>());
        for name in Recipe::names() {
            let recipe = Recipe::find("--recipe", name).unwrap();
            let config = recipe.apply(&Config::default()).unwrap();
            config.validate().unwrap();
            assert!(recipe.comment().starts_with(&format!("# Recipe {name}: ")), "{}", recipe.comment());
            let file = Recipe::find("--recipe", folder.join(format!("{name}.yaml")).to_str().unwrap()).unwrap();
            assert_eq!((file.name.as_str(), file.apply(&Config::default()).unwrap()), (name, config));
        }
    }

    #[test]
    fn a_recipe_of_the_paper_is_the_default_with_its_model_and_its_rate() {
        for name in Recipe::names().filter(|name| name.starts_with("paper-")) {
            let [model, rate] = *name.trim_start_matches("paper-").splitn(2, '-').collect::<Vec<_>>() else {
                panic!("{name}")
            };
            let expected = Config::default().with_all(&[
                format!("train.model={model}"),
                format!("train.learning_rate={}", rate.parse::<f64>().unwrap()),
            ]);
            assert_eq!(Recipe::find("--recipe", name).unwrap().apply(&Config::default()).unwrap(), expected.unwrap());
        }
    }

    #[test]
    fn a_recipe_names_every_setting_that_its_results_depend_on() {
        // what is left to the user: the seeds, the machine, the name, and the normalisation, which belongs to the data
        let left =
            ["augment.seed", "augment.epochs", "train.seed", "train.device", "train.precision"].into_iter().chain([
                "train.deterministic",
                "train.checkpoint_every_steps",
                "train.run",
                "train.mean",
                "train.std",
                "evaluate.batch_size",
                "evaluate.device",
                "evaluate.precision",
                "evaluate.samples",
                "evaluate.data",
            ]);
        let left: Vec<&str> = left.collect();
        for name in Recipe::names() {
            let recipe = Recipe::find("--recipe", name).unwrap();
            let own: Vec<String> = config::leaves(&recipe.settings).into_iter().map(|(path, _)| path).collect();
            let train = recipe.apply(&Config::default()).unwrap().train;
            let unused = |path: &str| {
                path.starts_with("augment.") && !train.augment
                    || path.starts_with("train.trunk.") && !train.model.has_trunk()
                    || path.starts_with("train.plateau.") && train.schedule != Kind::Plateau
            };
            let named = |path: &str| own.iter().any(|own| path == own || path.starts_with(&format!("{own}.")));
            let all =
                config::leaves(&serde_json::to_value(Config::default()).unwrap()).into_iter().map(|(path, _)| path);
            let open: Vec<String> = all
                .filter(|path| ["augment.", "train.", "evaluate."].iter().any(|section| path.starts_with(section)))
                .filter(|path| !named(path) && !unused(path) && !left.contains(&path.as_str()))
                .collect();
            assert!(open.is_empty(), "{name} leaves open {open:?}");
        }
    }

    #[test]
    fn a_recipe_changes_what_it_names_and_turns_on_what_is_off() {
        let text = "description: d\nsettings:\n  train: {epochs: 2}\n  augment: {affine: {shear: 5}, erasing: null}\n";
        let recipe = Recipe::parse("mine", text, "mine.yaml").unwrap();
        let before = Config::default().with("augment.affine=null").unwrap().with("train.seed=3").unwrap();
        let after = recipe.apply(&before).unwrap();
        assert_eq!((after.train.epochs, after.train.seed, &after.augment.erasing), (2, 3, &None));
        assert_eq!(after.augment.affine.unwrap().shear, 5.0);
    }

    #[test]
    fn mistakes_in_a_recipe_are_told_with_its_name() {
        let refusal = |text: &str| {
            let recipe = Recipe::parse("mine", text, "mine.yaml");
            recipe.and_then(|recipe| recipe.apply(&Config::default())).unwrap_err().to_string()
        };
        let unknown = "description: d\nsettings: {train: {modle: fcn}}";
        assert_eq!(refusal(unknown), "mine.yaml: unknown key `train.modle`; did you mean `train.model`?");
        let wrong = "description: d\nsettings: {train: {epochs: many}}";
        assert_eq!(
            refusal(wrong),
            "mine.yaml: `train.epochs`: invalid type: string \"many\", expected a whole number; the default is 30"
        );
        assert!(refusal("settings: {}").starts_with("mine.yaml: missing field `description`"));
        assert!(refusal("description: d\nset: {}").starts_with("mine.yaml: unknown field `set`"));
        let all = "best, fast, paper-alexnet-1e-3, paper-alexnet-5e-4, paper-fcn-1e-3, paper-fcn-5e-4, \
                   paper-resnet-2.5e-4, paper-resnet-5e-4";
        assert_eq!(
            Recipe::find("--recipe", "slow").unwrap_err().to_string(),
            format!("`--recipe`: found slow; expected {all}, or the path of a .yaml file")
        );
        assert!(
            Recipe::find("--recipe", "absent.yaml").unwrap_err().to_string().starts_with("absent.yaml: cannot read it")
        );
    }
}
