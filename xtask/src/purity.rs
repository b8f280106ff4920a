//! Which code must be pure: no socket, file, thread, clock, global randomness or unordered map.

use crate::source::{Crate, SourceFile};

/// Names that have no place in pure code.
const FORBIDDEN: [(&str, &str); 17] = [
    ("Instant", "a clock; time is an argument"),
    ("SystemTime", "a clock; time is an argument"),
    ("net", "a socket"),
    ("fs", "a file"),
    ("thread", "a thread"),
    ("process", "a process"),
    ("env", "the environment"),
    ("tokio", "a runtime"),
    ("rayon", "threads"),
    ("getrandom", "global randomness; take a SeededRng"),
    ("rand", "global randomness; take a SeededRng"),
    (
        "HashMap",
        "an unordered map; its order could reach an output",
    ),
    (
        "HashSet",
        "an unordered set; its order could reach an output",
    ),
    ("println", "output"),
    ("eprintln", "output"),
    ("Mutex", "a lock"),
    ("crossbeam_channel", "a channel between threads"),
];

/// Parts of the crates below that are not pure, each for the reason given.
const EXEMPT: [(&str, &str); 6] = [
    (
        "atlas-common/src/crypto",
        "makes keys from the operating system's randomness",
    ),
    (
        "atlas-smr-core/src/request_pre_processing",
        "worker threads and the cache they share",
    ),
    (
        "atlas-smr-execution/src/executor_thread",
        "the thread around the pure executor",
    ),
    (
        "atlas-smr-execution/src/pool.rs",
        "threads and a stopwatch, which decide how operations run and never what comes of them",
    ),
    (
        "atlas-client/src/client",
        "the task around the pure client core",
    ),
    ("atlas-client/src/lib.rs", "names both"),
];

pub(crate) fn check(crates: &[Crate]) -> Vec<String> {
    let pure = crates.iter().filter(|one| is_pure(one));
    pure.flat_map(|one| &one.files)
        .filter(|file| !is_exempt(file))
        .flat_map(findings)
        .collect()
}

fn is_pure(one: &Crate) -> bool {
    let pure = [
        "atlas-common",
        "atlas-core",
        "atlas-smr-core",
        "atlas-smr-execution",
        "atlas-kv",
    ];
    one.folder.starts_with("protocols/") || pure.contains(&one.name.as_str())
}

fn is_exempt(file: &SourceFile) -> bool {
    let path = file.path.to_string_lossy();
    file.is_test() || EXEMPT.iter().any(|(exempt, _)| path.starts_with(exempt))
}

fn findings(file: &SourceFile) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in file.code() {
        if let Some((name, what)) = FORBIDDEN.iter().find(|(name, _)| names(&line, name)) {
            found.push(format!(
                "{}:{number}: `{name}` is {what}",
                file.path.display()
            ));
        }
    }
    found
}

/// Whether the line uses the name as a path or macro: `name::`, `::name`, `name!`, or in an import.
fn names(line: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        let whole = !before.ends_with(is_word) && !after.starts_with(is_word);
        let type_like = name.starts_with(char::is_uppercase);
        let path = before.ends_with("::") || after.starts_with("::") || after.starts_with('!');
        let import = line.trim_start().starts_with("use ") && !before.ends_with("self::");
        whole && (type_like || path || import)
    })
}
