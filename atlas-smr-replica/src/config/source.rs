//! A configuration file as text: reading it, and finding the place of a key in it.

use super::error::{ConfigError, Position};
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The longest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the value of a key should be, in an operator's words: pairs of a key (list positions as
/// `[]`) and a description.
pub(super) type Descriptions = [(&'static str, &'static str)];

/// The text of a file, or nothing for a configuration made by a program.
#[derive(Clone, Debug)]
pub(super) struct Source {
    file: PathBuf,
    text: String,
}

impl Source {
    /// What stands for the file where there is none.
    pub(super) fn in_memory() -> Self {
        Self {
            file: PathBuf::from("configuration in memory"),
            text: String::new(),
        }
    }

    /// Reads a file that somebody named on a command line.
    pub(super) fn read(file: &Path, what: &str) -> Result<Self, ConfigError> {
        let text = read_bounded(file, FILE_BYTES_MAX).map_err(|found| ConfigError {
            file: file.to_owned(),
            position: None,
            key: String::new(),
            found,
            expected: what.to_owned(),
        })?;
        Ok(Self {
            file: file.to_owned(),
            text,
        })
    }

    /// Reads a file that this one names under `key`.
    pub(super) fn read_named(
        &self,
        key: &str,
        file: &Path,
        what: &str,
    ) -> Result<Self, ConfigError> {
        let text = read_bounded(file, FILE_BYTES_MAX)
            .map_err(|found| self.wrong(key, format!("`{}`: {found}", file.display()), what))?;
        Ok(Self {
            file: file.to_owned(),
            text,
        })
    }

    /// The file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// A path written in this file, which is relative to it.
    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// The file's content as a `T`.
    pub(super) fn parse<T: DeserializeOwned>(
        &self,
        descriptions: &Descriptions,
    ) -> Result<T, ConfigError> {
        toml::from_str(&self.text).map_err(|error| self.refused(&error, descriptions))
    }

    /// An error about the value of a key, with its place where the file has it.
    pub(super) fn wrong(
        &self,
        key: &str,
        found: impl Display,
        expected: impl Display,
    ) -> ConfigError {
        let span = DeTable::parse(&self.text)
            .ok()
            .and_then(|table| span_of(table.get_ref(), key));
        ConfigError {
            file: self.file.clone(),
            position: span.map(|span| position(&self.text, span.start)),
            key: key.to_owned(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// The parser's or serde's error in our words.
    fn refused(&self, error: &toml::de::Error, descriptions: &Descriptions) -> ConfigError {
        let message = error.message();
        let (found, expected) = message
            .split_once(", expected ")
            .unwrap_or((message, "valid TOML"));
        let missing = found.strip_prefix("missing field ");
        let mut key = match (error.span(), DeTable::parse(&self.text)) {
            (Some(span), Ok(table)) => key_at(table.get_ref(), &span, missing.is_some()),
            _ => String::new(),
        };
        let mut found = found
            .strip_prefix("invalid type: ")
            .or_else(|| found.strip_prefix("invalid value: "))
            .unwrap_or(found)
            .to_owned();
        let mut expected = plain_type(expected).to_owned();
        let unknown = found.starts_with("unknown field");
        if unknown {
            found = "an unknown key".to_owned();
        } else if let Some(name) = missing {
            let dot = if key.is_empty() { "" } else { "." };
            key = format!("{key}{dot}{}", name.trim_matches('`'));
            found = "missing".to_owned();
            expected = "a value".to_owned();
        }
        let described = descriptions
            .iter()
            .find(|(of, _)| *of == without_positions(&key));
        if let Some((_, description)) = described.filter(|_| !unknown) {
            expected = (*description).to_owned();
        }
        ConfigError {
            file: self.file.clone(),
            position: error.span().map(|span| position(&self.text, span.start)),
            key,
            found,
            expected,
        }
    }
}

/// Reads a regular file of at most `bytes_max` bytes. The error says what is wrong with it.
pub(super) fn read_bounded(file: &Path, bytes_max: u64) -> Result<String, String> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::InvalidData => "not UTF-8 text".to_owned(),
        _ => format!("it cannot be read ({error})"),
    };
    // Asked before opening: to open a pipe is to wait for its writer.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err("not a regular file".to_owned());
    }
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened
        .take(bytes_max + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > bytes_max {
        return Err(format!("more than {bytes_max} bytes"));
    }
    Ok(text)
}

/// serde names Rust's types; operators know TOML's.
fn plain_type(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "a boolean" => "`true` or `false`",
        "a string" | "string" | "path string" => "a string in quotes",
        "a sequence" => "a list",
        "i64" => "a whole number that fits 64 bits",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

/// `members[2].address` as `members[].address`.
fn without_positions(key: &str) -> String {
    key.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Where the value of `key` stands; where it does not, the innermost table that it would stand in.
fn span_of(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (name, rest) = key.split_once('.').unwrap_or((key, ""));
    let (name, index) = match name.split_once('[') {
        Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
        None => (name, None),
    };
    let mut value = table.get(name)?;
    if let Some(item) = index.and_then(|index| value.get_ref().get(index)) {
        value = item;
    }
    value
        .get_ref()
        .as_table()
        .and_then(|inner| span_of(inner, rest))
        .or_else(|| Some(value.span()))
}

/// The key whose name or value is the smallest around `span`; of tables alone, the one at `span`.
fn key_at(table: &DeTable<'_>, span: &Range<usize>, tables_alone: bool) -> String {
    // The outermost table is nowhere, which an empty span stands for.
    if tables_alone && span.is_empty() {
        return String::new();
    }
    let mut best = Best {
        span,
        tables_alone,
        width: usize::MAX,
        key: String::new(),
    };
    best.search_table(table, "");
    best.key
}

struct Best<'a> {
    span: &'a Range<usize>,
    tables_alone: bool,
    width: usize,
    key: String,
}

impl Best<'_> {
    fn search_table(&mut self, table: &DeTable<'_>, path: &str) {
        for (name, value) in table {
            let dot = if path.is_empty() { "" } else { "." };
            let key = format!("{path}{dot}{}", name.get_ref());
            if !self.tables_alone {
                self.consider(&name.span(), &key);
            }
            self.search(value, &key);
        }
    }

    fn search(&mut self, value: &Spanned<DeValue<'_>>, key: &str) {
        if !self.tables_alone || value.get_ref().is_table() {
            self.consider(&value.span(), key);
        }
        match value.get_ref() {
            DeValue::Table(table) => self.search_table(table, key),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.search(item, &format!("{key}[{index}]"));
                }
            }
            _ => {}
        }
    }

    fn consider(&mut self, around: &Range<usize>, key: &str) {
        let contains = around.start <= self.span.start && self.span.end <= around.end;
        // `<=`: of two of the same width the inner one is met later.
        if contains && around.len() <= self.width {
            self.width = around.len();
            key.clone_into(&mut self.key);
        }
    }
}

fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}
