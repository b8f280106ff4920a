//! The project's own checks, which no compiler makes: `cargo run -p xtask -- tidy`.

mod layers;
mod purity;
mod source;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words != ["tidy"] {
        eprintln!("usage: cargo run -p xtask -- tidy");
        return ExitCode::from(2);
    }
    let found = tidy(&workspace());
    for finding in &found {
        eprintln!("{finding}");
    }
    eprintln!("{} findings", found.len());
    if found.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Everything that breaks a rule of `ARCHITECTURE.md`, one line each.
fn tidy(workspace: &Path) -> Vec<String> {
    let crates = source::crates(workspace);
    let mut found = layers::check(&crates);
    found.extend(purity::check(&crates));
    found.extend(
        crates
            .iter()
            .flat_map(|one| one.files.iter())
            .filter_map(|file| {
                let lines = file.text.lines().count();
                let long = lines > source::LINES_MAX;
                long.then(|| {
                    format!(
                        "{}: {lines} lines; split it by subject",
                        file.path.display()
                    )
                })
            }),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_workspace_is_tidy() {
        let found = tidy(&workspace());
        assert!(found.is_empty(), "\n{}", found.join("\n"));
    }

    /// A workspace with one protocol crate whose `lib.rs` is `code` and which depends on `dependency`.
    fn findings(code: &str, dependency: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let protocol = dir.path().join("protocols/atlas-sample");
        fs::create_dir_all(protocol.join("src")).unwrap();
        let members = "[workspace]\nmembers = [\"protocols/atlas-sample\"]\n";
        fs::write(dir.path().join("Cargo.toml"), members).unwrap();
        let manifest = format!(
            "[package]\nname = \"atlas-sample\"\n[dependencies]\natlas-core = {{}}\n{dependency}\n\
             [lints]\nworkspace = true\n"
        );
        fs::write(protocol.join("Cargo.toml"), manifest).unwrap();
        fs::write(protocol.join("src/lib.rs"), code).unwrap();
        tidy(dir.path())
    }

    #[test]
    fn a_clean_protocol_passes() {
        let code = "// std::thread is only named here\nfn f() { let _ = \"std::net\"; }\n";
        assert_eq!(findings(code, ""), [""; 0]);
    }

    #[test]
    fn each_forbidden_thing_in_a_pure_crate_is_found() {
        for code in [
            "fn f() { let _ = std::time::Instant::now(); }",
            "use std::time::SystemTime;",
            "use std::net::TcpStream;",
            "use std::fs;",
            "fn f() { std::thread::spawn(|| ()); }",
            "use std::collections::HashMap;",
            "use std::{collections::HashSet, fmt};",
            "fn f() { tokio::spawn(async {}); }",
            "fn f() { getrandom::fill(&mut []); }",
            "fn f() { rand::random::<u8>(); }",
            "fn f() { println!(); }",
            "fn f() { std::env::var(\"X\"); }",
        ] {
            assert_eq!(findings(code, "").len(), 1, "{code}");
        }
    }

    #[test]
    fn a_protocol_that_reaches_for_another_layer_is_found() {
        for dependency in [
            "atlas-smr-core = {}",
            "atlas-communication = {}",
            "tokio = {}",
        ] {
            assert_eq!(findings("", dependency).len(), 1, "{dependency}");
        }
    }

    #[test]
    fn an_open_version_is_found() {
        assert_eq!(findings("", "bytes = \"*\"").len(), 1);
    }
}
