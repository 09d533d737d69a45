//! Tests the floors of the modules: a module imports only its own folder and modules of lower floors.

use std::path::Path;

use super::circles::paths;

/// The floors from bottom to top. Modules of the same floor do not import each other, except on the lowest floor and on
/// the highest, and for the types in [`HANDED_ON`].
const FLOORS: [&[&str]; 9] = [
    &[
        "digest",
        "documents",
        "error",
        "files",
        "guard",
        "labels",
        "parquet_file",
        "progress",
        "record",
        "rng",
        "shards",
        "store",
    ],
    &["raw", "plan", "dataset", "augment", "networks"],
    &["train"],
    &["evaluate"],
    &["runs"],
    &["report"],
    &["config"],
    &["pipeline"],
    &["export", "inspect", "predict", "preview", "recipe", "sweep"],
];

/// The data that one stage passes to another on the same floor: (module, what it may import).
const HANDED_ON: [(&str, &[&str]); 3] = [
    ("plan", &["raw::SIDE", "raw::Origin"]),
    ("dataset", &["raw::Glyphs", "raw::SIDE", "raw::Licence", "raw::Origin", "plan::"]),
    ("augment", &["raw::Licence", "plan::Facts", "plan::facts", "plan::slot", "plan::table"]),
];

fn floor(module: &str) -> usize {
    let found = FLOORS.iter().position(|floor| floor.contains(&module));
    found.unwrap_or_else(|| panic!("`{module}` stands on no floor: name it in tests/integration/floors.rs"))
}

/// The paths that a file without its tests imports from its own crate, without `crate::`.
fn imports(text: &str) -> Vec<String> {
    let inside = paths(text).into_iter().filter(|path| path[0] == "crate" && path.len() > 1);
    inside.map(|path| path[1..].join("::")).collect()
}

fn check(path: &Path, module: &str, breaches: &mut Vec<String>) {
    if path.is_dir() {
        let mut entries: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        return entries.iter().for_each(|entry| check(entry, module, breaches));
    }
    if path.extension().is_none_or(|extension| extension != "rs") {
        return;
    }
    for import in imports(&std::fs::read_to_string(path).unwrap()) {
        let other = import.split("::").next().unwrap_or_default();
        let allowed = other == module
            || floor(other) < floor(module)
            || floor(module) == 0 && floor(other) == 0
            || floor(module) == FLOORS.len() - 1 && floor(other) == FLOORS.len() - 1
            || HANDED_ON.iter().any(|(m, others)| *m == module && others.iter().any(|o| import.starts_with(o)));
        if !allowed {
            breaches.push(format!("{}: imports {import}", path.display()));
        }
    }
}

#[test]
fn no_module_imports_a_higher_floor() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut breaches = Vec::new();
    for entry in std::fs::read_dir(&source).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !["lib", "main", "cli", "output", "terminal"].contains(&module.as_str()) {
            check(&path, &module, &mut breaches);
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

#[test]
fn imports_are_found_in_lists_and_alone() {
    let text = "use crate::{augment, raw::{self, Glyphs}};\nlet x = crate::plan::split::NAMES;\n#[cfg(test)]\nmod tests {\nuse crate::cli;";
    let names: Vec<String> = imports(text).iter().map(|i| i.split("::").next().unwrap().to_owned()).collect();
    assert!(names.contains(&"augment".to_owned()) && names.contains(&"raw".to_owned()));
    assert!(names.contains(&"plan".to_owned()) && !names.contains(&"cli".to_owned()));
}
