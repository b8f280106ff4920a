//! Reads the workspace: its crates, their manifests and sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The longest source file.
pub(crate) const LINES_MAX: usize = 600;

/// One member of the workspace.
pub(crate) struct Crate {
    pub(crate) name: String,
    /// Relative to the workspace, e.g. `protocols/atlas-pbft`.
    pub(crate) folder: String,
    /// What it depends on outside of tests, with the version where the manifest gives one.
    pub(crate) dependencies: BTreeMap<String, Option<String>>,
    pub(crate) inherits_lints: bool,
    pub(crate) files: Vec<SourceFile>,
}

/// One file under a crate's `src`.
pub(crate) struct SourceFile {
    /// Relative to the workspace.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl SourceFile {
    /// The lines that run in production, numbered from 1, without comments and string contents.
    pub(crate) fn code(&self) -> Vec<(usize, String)> {
        let lines = self
            .text
            .lines()
            .take_while(|line| line.trim() != "#[cfg(test)]");
        lines
            .map(strip)
            .enumerate()
            .map(|(index, line)| (index + 1, line))
            .collect()
    }

    /// Whether the file holds nothing but tests.
    pub(crate) fn is_test(&self) -> bool {
        self.path
            .iter()
            .any(|part| part == "tests" || part == "tests.rs")
    }
}

/// The line without what follows `//`, and with string literals emptied.
fn strip(line: &str) -> String {
    let mut kept = String::new();
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => drop(chars.next()),
            '"' => {
                in_string = !in_string;
                kept.push('"');
            }
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => kept.push(c),
        }
    }
    kept
}

/// All members of the workspace.
pub(crate) fn crates(workspace: &Path) -> Vec<Crate> {
    let root = manifest(&workspace.join("Cargo.toml"));
    let members = root.get("workspace").and_then(|w| w.get("members"));
    let members = members
        .and_then(toml::Value::as_array)
        .expect("a list of workspace members");
    let folders = members.iter().filter_map(toml::Value::as_str);
    folders
        .map(|folder| read_crate(workspace, folder))
        .collect()
}

#[expect(
    clippy::panic,
    reason = "a tool for developers: without manifests there is nothing to say"
)]
fn manifest(path: &Path) -> toml::Table {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn read_crate(workspace: &Path, folder: &str) -> Crate {
    let manifest = manifest(&workspace.join(folder).join("Cargo.toml"));
    let name = manifest["package"]["name"]
        .as_str()
        .expect("a package name")
        .to_owned();
    let empty = toml::Table::new();
    let table = |key: &str| {
        manifest
            .get(key)
            .and_then(toml::Value::as_table)
            .unwrap_or(&empty)
    };
    let version = |value: &toml::Value| {
        let version = value.as_str().or_else(|| value.get("version")?.as_str());
        version.map(str::to_owned)
    };
    let mut files = Vec::new();
    read_sources(workspace, &Path::new(folder).join("src"), &mut files);
    Crate {
        name,
        folder: folder.to_owned(),
        dependencies: table("dependencies")
            .iter()
            .map(|(k, v)| (k.clone(), version(v)))
            .collect(),
        inherits_lints: table("lints")
            .get("workspace")
            .and_then(toml::Value::as_bool)
            == Some(true),
        files,
    }
}

fn read_sources(workspace: &Path, folder: &Path, files: &mut Vec<SourceFile>) {
    let Ok(entries) = fs::read_dir(workspace.join(folder)) else {
        return;
    };
    for entry in entries.flatten() {
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            read_sources(workspace, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            files.push(SourceFile { path, text });
        }
    }
}
