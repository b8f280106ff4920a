//! What happened, as a hash for comparing runs and as a transcript for people.

use atlas_common::Time;
use std::fmt::{self, Write as _};

/// The running hash of a run, and its transcript where one was asked for.
///
/// Two runs with equal hashes went the same way: every event, its moment, and what it led to has
/// been mixed in.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    transcript: Option<String>,
}

impl Trace {
    /// An empty trace; with `transcript`, one that keeps readable lines.
    #[must_use]
    pub fn new(transcript: bool) -> Self {
        Self {
            hash: 0x9e37_79b9_7f4a_7c15,
            transcript: transcript.then(String::new),
        }
    }

    /// Mixes a number in.
    pub fn mix(&mut self, value: u64) {
        // One round of a multiplicative hash that folds 128 bits into 64.
        let wide = u128::from(self.hash ^ value) * 0xa076_1d64_78bd_642f;
        self.hash = ((wide >> 64) as u64) ^ (wide as u64) ^ self.hash.rotate_left(23);
    }

    /// Mixes the first bytes of a digest in.
    pub fn mix_digest(&mut self, digest: &atlas_common::Digest) {
        let [a, b, c, d, e, f, g, h, ..] = digest.0;
        self.mix(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }

    /// Mixes a word in.
    pub fn mix_name(&mut self, name: &str) {
        for chunk in name.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// Whether lines are kept: only then is it worth making them.
    #[must_use]
    pub const fn is_readable(&self) -> bool {
        self.transcript.is_some()
    }

    /// Adds a line, when lines are kept.
    pub fn line(&mut self, now: Time, who: impl fmt::Display, what: fmt::Arguments<'_>) {
        if let Some(transcript) = &mut self.transcript {
            let micros = now.as_nanos() / 1000;
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            // Writing to a string cannot fail.
            writeln!(transcript, "{seconds:>4}.{micros:06}  {who:<8} {what}").ok();
        }
    }

    /// The hash so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The transcript; empty when none was kept.
    #[must_use]
    pub fn into_transcript(self) -> String {
        self.transcript.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_change_the_hash() {
        let hash = |values: &[u64]| {
            let mut trace = Trace::new(false);
            values.iter().for_each(|value| trace.mix(*value));
            trace.hash()
        };
        assert_eq!(hash(&[1, 2]), hash(&[1, 2]));
        assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
        assert_ne!(hash(&[0]), hash(&[0, 0]));
        assert_ne!(hash(&[]), hash(&[0]));
    }
}
