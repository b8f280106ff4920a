//! Key files: the secret half of an identity, for its owner's eyes only.

use super::error::ConfigError;
use super::source;
use atlas_common::crypto::KeyPair;
use std::io::{self, Write};
use std::path::Path;
use zeroize::Zeroizing;

/// The longest key file, in bytes: the key, and room for comments.
const FILE_BYTES_MAX: u64 = 4096;

const EXPECTED: &str = "a key file: one line of 64 hexadecimal digits, comments beginning with `#`";

/// Reads a key file. On Unix nobody but its owner may be able to read it (mode 0600 or 0400).
///
/// # Errors
/// When it is missing, readable by others, or holds no key. The error never shows what the file
/// holds.
pub fn read_key_file(file: &Path) -> Result<KeyPair, ConfigError> {
    let wrong = |found: String, expected: &str| ConfigError {
        file: file.to_owned(),
        position: None,
        key: String::new(),
        found,
        expected: expected.to_owned(),
    };
    check_mode(file, &wrong)?;
    let text =
        source::read_bounded(file, FILE_BYTES_MAX).map_err(|found| wrong(found, EXPECTED))?;
    let text = Zeroizing::new(text);
    let is_content = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let mut lines = text.lines().map(str::trim).filter(is_content);
    let (Some(line), None) = (lines.next(), lines.next()) else {
        let count = text.lines().map(str::trim).filter(is_content).count();
        return Err(wrong(
            format!("{count} lines that are no comments"),
            EXPECTED,
        ));
    };
    KeyPair::from_secret_text(line).map_err(|error| {
        let found = match error.found {
            64 => "a line of 64 characters, not all of them hexadecimal digits".to_owned(),
            found => format!("a line of {found} characters"),
        };
        wrong(found, EXPECTED)
    })
}

#[cfg(unix)]
fn check_mode(file: &Path, wrong: &dyn Fn(String, &str) -> ConfigError) -> Result<(), ConfigError> {
    use std::os::unix::fs::PermissionsExt;
    // A file that cannot be asked for its mode cannot be read either; reading says why.
    let Ok(metadata) = std::fs::metadata(file) else {
        return Ok(());
    };
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o177 != 0 {
        let found = format!("a private key with file mode {mode:04o}");
        let expected = "mode 0600, so that its owner alone can read it (`chmod 600`)";
        return Err(wrong(found, expected));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(
    _file: &Path,
    _wrong: &dyn Fn(String, &str) -> ConfigError,
) -> Result<(), ConfigError> {
    Ok(())
}

/// Writes a new key file that its owner alone can read, durably. `comment` says in one line whose it
/// is.
///
/// # Errors
/// When the file is there already, or cannot be written.
pub fn write_key_file(file: &Path, key: &KeyPair, comment: &str) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(file)?;
    let comment: String = comment.chars().filter(|c| !c.is_control()).collect();
    let secret = key.to_secret_text();
    let text = Zeroizing::new(format!("# {comment}\n{}\n", secret.as_str()));
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Text as a TOML string, quotes included.
pub(super) fn toml_string(text: &str) -> String {
    toml::Value::from(text).to_string()
}
