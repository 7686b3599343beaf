//! Holds the house together: which crate may import which, and how long files and functions may grow.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

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

/// The packages that a manifest depends on, to run, to test or to build, on whatever system.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let manifest: Table = manifest.parse().expect("TOML");
    let mut places = vec![&manifest];
    places.extend(
        manifest
            .get("target")
            .and_then(Value::as_table)
            .into_iter()
            .flatten()
            .filter_map(|(_, target)| target.as_table()),
    );
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = places.iter().flat_map(|place| kinds.iter().filter_map(|kind| place.get(*kind)?.as_table()));
    let package = |(name, told): (&String, &Value)| {
        told.get("package").and_then(Value::as_str).unwrap_or(name).to_owned()
    };
    tables.flatten().map(package).collect()
}

/// Those of the house.
fn imports(manifest: &str) -> Vec<String> {
    dependencies(manifest).into_iter().filter(|name| name.starts_with("rowcast")).collect()
}

/// The folder that a name in `docs/tests.md` begins from, and the rest of it.
fn place_of(name: &str) -> (PathBuf, &str) {
    let bases = [
        ("tests/", "tests"),
        ("engine/tests/", "engine/tests"),
        ("src/", "connectors/postgres/src"),
        ("fuzz::", "connectors/postgres/tests"),
        ("wire::", "connectors/postgres/tests"),
    ];
    let (start, base) = bases
        .into_iter()
        .find(|(start, _)| name.starts_with(start))
        .unwrap_or(("", "connectors/postgres/tests/capture"));
    let rest = if start.ends_with("::") { name } else { &name[start.len()..] };
    (root().join(base), rest)
}

#[test]
fn every_test_that_the_docs_name_is_there() {
    let text = fs::read_to_string(root().join("docs/tests.md")).unwrap();
    let names: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|code| code.contains("::")).collect();
    assert!(names.len() > 60, "{}", names.len());
    for name in names.into_iter().filter(|name| *name != "file::test") {
        let (base, rest) = place_of(name);
        let (file, test) = rest.rsplit_once("::").unwrap();
        let path = base.join(format!("{}.rs", file.replace("::", "/")));
        let code = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {path:?}: {error}"));
        assert!(code.contains(&format!("fn {test}(")), "{name} is not in {path:?}");
    }
}

#[test]
fn dependencies_of_every_kind_are_seen() {
    let manifest = r#"
        [dependencies]
        a.workspace = true
        [dependencies.b]
        version = "1"
        [dev-dependencies]
        c = { package = "rowcast-c", path = "c" }
        [build-dependencies]
        d = "1"
        [target.'cfg(unix)'.dependencies]
        rowcast-e = "1"
        [target.'cfg(windows)'.dev-dependencies]
        f = "1"
    "#;
    let all: Vec<_> = dependencies(manifest).into_iter().collect();
    assert_eq!(all, ["a", "b", "d", "f", "rowcast-c", "rowcast-e"]);
    assert_eq!(imports(manifest), ["rowcast-c", "rowcast-e"]);
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
            let named = dependencies(manifest).contains(library);
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

/// What people read is written for them: `{:?}` escapes and decorates as programmers want it. Tests may.
#[test]
fn nobody_is_shown_debug_output() {
    let mut shown = Vec::new();
    for folder in
        ["src", "engine/src", "connectors/http/src", "connectors/kafka/src", "connectors/postgres/src"]
    {
        visit(&root().join(folder), &mut |path| {
            let of_tests =
                path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "model");
            if of_tests || path.ends_with("model.rs") {
                return;
            }
            let text = fs::read_to_string(path).unwrap();
            let mut is_debug = false;
            for (number, line) in text.split("#[cfg(test)]").next().unwrap().lines().enumerate() {
                is_debug = (is_debug || line.contains("fmt::Debug for")) && line != "}";
                let field = line.contains(" = ?") || line.contains("(?") || line.contains(", ?");
                if !is_debug && (line.contains(":?}") || field) {
                    shown.push(format!("{}:{}", path.display(), number + 1));
                }
            }
        });
    }
    assert!(shown.is_empty(), "use `in_quotes`, or `identifier` for names of Postgres': {shown:?}");
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
