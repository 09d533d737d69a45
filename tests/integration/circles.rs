//! Tests that imports within a folder are not circular: no module imports a sibling that imports it
//! back, directly or indirectly.
//!
//! A module and the `mod.rs` of its folder may import each other, because the content of `mod.rs`
//! belongs to the whole folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules that each module of a folder imports from the same folder.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// The paths in the code of a file without its tests. Lists in braces are expanded.
pub fn paths(text: &str) -> Vec<Vec<String>> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for start in ["super::", "crate::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let is_new_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if is_new_word {
                spell(&code[at..], &[], &mut found);
            }
        }
    }
    found
}

/// Adds the paths at the start of `text`, preceded by `prefix`.
fn spell(text: &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let text = text.trim_start();
    if let Some(list) = text.strip_prefix('{') {
        let (mut depth, mut start) = (0, 0);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                ',' if depth == 0 => {
                    spell(&list[start..at], prefix, found);
                    start = at + 1;
                }
                '}' if depth == 0 => return spell(&list[start..at], prefix, found),
                '}' => depth -= 1,
                _ => {}
            }
        }
        return;
    }
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if word.is_empty() {
        return;
    }
    let path: Vec<String> = prefix.iter().cloned().chain([word.clone()]).collect();
    match text[word.len()..].strip_prefix("::") {
        Some(rest) => spell(rest, &path, found),
        None => found.push(path),
    }
}

/// The module path of a file below `source`.
fn module(source: &Path, file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(source).unwrap().with_extension("");
    let mut names: Vec<String> = relative.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| !["mod", "lib", "main"].contains(&name.as_str()));
    names
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The import graph of the modules of each folder. A folder is given as a module path.
fn graphs(source: &Path) -> BTreeMap<Vec<String>, Imports> {
    let (mut all, mut graphs) = (Vec::new(), BTreeMap::<Vec<String>, Imports>::new());
    files(source, &mut all);
    let modules: BTreeSet<Vec<String>> = all.iter().map(|file| module(source, file)).collect();
    for file in all.iter().filter(|file| !file.ends_with("tests.rs")) {
        let own = module(source, file);
        for path in paths(&std::fs::read_to_string(file).unwrap()) {
            let mut absolute = if path[0] == "crate" { Vec::new() } else { own.clone() };
            for name in &path {
                match name.as_str() {
                    "crate" | "self" => {}
                    "super" => drop(absolute.pop()),
                    name => absolute.push(name.to_owned()),
                }
            }
            // the folder is the common prefix of both paths; the modules are the next names
            let shared = own.iter().zip(&absolute).take_while(|(a, b)| a == b).count();
            let (Some(from), Some(to)) = (own.get(shared), absolute.get(shared)) else { continue };
            let folder = own[..shared].to_vec();
            if modules.contains(&[folder.clone(), vec![to.clone()]].concat()) {
                graphs.entry(folder).or_default().entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    graphs
}

/// A circle in a graph, if there is one.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    fn visit(module: &str, imports: &Imports, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        if let Some(start) = way.iter().position(|other| other == module) {
            way.drain(..start);
            return true;
        }
        if done.contains(module) {
            return false;
        }
        way.push(module.to_owned());
        let found = imports.get(module).into_iter().flatten().any(|next| visit(next, imports, way, done));
        if !found {
            way.pop();
            done.insert(module.to_owned());
        }
        found
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    imports.keys().any(|module| visit(module, imports, &mut way, &mut done)).then_some(way)
}

#[test]
fn no_modules_of_a_folder_import_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for source in ["src", "crates/nn/src"] {
        let graphs = graphs(&root.join(source));
        assert!(graphs.len() > 2, "{source}: the imports are not read");
        for (folder, imports) in graphs {
            let circle = circle(&imports);
            assert!(circle.is_none(), "{source}/{}: {}", folder.join("/"), circle.unwrap().join(" -> "));
        }
    }
}

#[test]
fn a_circle_is_found_and_lists_are_read() {
    let text = "use super::{a, b::{self, C}};\nuse crate::x::y;\n// use crate::comment;\nlet z = self::k::f();";
    let spelled: Vec<String> = paths(text).iter().map(|path| path.join("::")).collect();
    assert_eq!(spelled, ["super::a", "super::b::self", "super::b::C", "crate::x::y", "self::k::f"]);
    let graph = |edges: &[(&str, &str)]| {
        let mut imports = Imports::new();
        for (from, to) in edges {
            imports.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        imports
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(circle(&graph(&[("x", "a"), ("a", "b"), ("b", "c"), ("c", "a")])).unwrap().len(), 3);
}
