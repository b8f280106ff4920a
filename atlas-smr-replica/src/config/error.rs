//! What is wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

/// A place in a file, both numbers counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in it.
    pub column: usize,
}

/// A wrong value in a configuration, in the words that an operator needs to put it right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file to change.
    pub file: PathBuf,
    /// Where in it, when the key is written there.
    pub position: Option<Position>,
    /// The key, dotted, list positions in brackets: `members[2].address`. Empty when it is about the
    /// whole file.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What is expected.
    pub expected: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "`{}` is ", self.key)?;
        }
        write!(f, "{}; expected {}", self.found, self.expected)
    }
}

impl std::error::Error for ConfigError {}
