//! Holds the house together: which crate may import which, and how long files and functions may grow.

use std::fs;
use std::path::{Path, PathBuf};

/// Alarm, not aim: split by step before these are reached.
const FILE_LINES_MAX: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn manifests() -> Vec<(String, String)> {
    let mut folders = vec![root().join("engine")];
    folders.extend(fs::read_dir(root().join("connectors")).unwrap().map(|entry| entry.unwrap().path()));
    let read = |folder: PathBuf| {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(folder.join("Cargo.toml")).unwrap())
    };
    folders.into_iter().map(read).collect()
}

/// Names of packages of the house that a manifest's `[dependencies]` section names.
fn imports(manifest: &str) -> Vec<String> {
    let section = manifest.split("[dependencies]").nth(1).unwrap_or("").split("\n[").next().unwrap_or("");
    let name = |line: &str| line.split(['.', ' ', '=']).next().unwrap_or("").to_owned();
    section.lines().map(name).filter(|name| name.starts_with("rowcast")).collect()
}

#[test]
fn imports_go_to_the_middle() {
    let manifests = manifests();
    assert!(manifests.len() >= 4, "the engine and three connectors");
    for (folder, manifest) in manifests {
        let imports = imports(&manifest);
        if folder == "engine" {
            assert!(imports.is_empty(), "the engine imports no other crate of the house: {imports:?}");
        } else {
            assert_eq!(imports, ["rowcast-engine"], "connectors/{folder} imports the engine alone");
        }
    }
}

#[test]
fn every_connector_is_wired() {
    let wiring = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for (folder, _) in manifests().iter().filter(|(folder, _)| folder != "engine") {
        assert!(wiring.contains(&format!("rowcast-{folder}")), "{folder} is not a dependency of the program");
    }
}

#[test]
fn heavy_libraries_enter_through_one_door() {
    for (library, door) in [("rdkafka", "kafka"), ("tokio-postgres", "postgres"), ("axum", "http")] {
        for (folder, manifest) in manifests().iter().filter(|(folder, _)| folder != door) {
            let section =
                manifest.split("[dependencies]").nth(1).unwrap_or("").split("\n[").next().unwrap_or("");
            let named = section.lines().any(|line| line.starts_with(library));
            assert!(!named, "{library} enters through connectors/{door} only, not through {folder}");
        }
    }
}

#[test]
fn files_stay_short() {
    let mut long = Vec::new();
    for folder in ["src", "engine/src", "connectors", "tests", "bench/src"] {
        visit(&root().join(folder), &mut |path| {
            let lines = fs::read_to_string(path).unwrap().lines().count();
            if lines > FILE_LINES_MAX {
                long.push(format!("{} ({lines})", path.display()));
            }
        });
    }
    assert!(long.is_empty(), "split by step: {long:?}");
}

#[test]
fn no_generic_names() {
    let mut generic = Vec::new();
    for folder in ["src", "engine/src", "connectors", "bench/src"] {
        visit(&root().join(folder), &mut |path| {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            if ["utils", "util", "common", "core", "manager", "helpers", "misc"].contains(&stem) {
                generic.push(path.display().to_string());
            }
        });
    }
    assert!(generic.is_empty(), "name files by what they are about: {generic:?}");
}

fn visit(folder: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("node_modules") {
            visit(&path, see);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            see(&path);
        }
    }
}
