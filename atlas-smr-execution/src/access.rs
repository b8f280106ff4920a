//! What a request reads and writes, as its application declares it.

/// The keys that a request reads and writes. Requests without a common key that one of them writes
/// may run in parallel.
///
/// A key is whatever the application takes for one; it need not be a key of its state. Only a hash of
/// it is kept: two keys with the same hash cost some parallelism, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadWriteSet(Option<Vec<Access>>);

/// A key by its hash, and whether it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Access {
    pub(crate) key: u64,
    pub(crate) writes: bool,
}

impl ReadWriteSet {
    /// Not known: the request runs by itself, after all before it and before all behind it.
    #[expect(
        non_upper_case_globals,
        reason = "reads as a variant, since one is what it is"
    )]
    pub const Unknown: Self = Self(None);

    /// No key yet: what depends on nothing and changes nothing, until [`ReadWriteSet::read`] and
    /// [`ReadWriteSet::write`] add to it.
    #[must_use]
    pub const fn nothing() -> Self {
        Self(Some(Vec::new()))
    }

    /// The request reads this key too.
    #[must_use]
    pub fn read(self, key: &[u8]) -> Self {
        self.with(key, false)
    }

    /// The request writes this key too, and may read it.
    #[must_use]
    pub fn write(self, key: &[u8]) -> Self {
        self.with(key, true)
    }

    /// Whether a key (or one with the same hash) is among them. An unknown set names every key.
    #[must_use]
    pub fn names(&self, key: &[u8]) -> bool {
        let key = hash(key);
        let keys = self.0.as_ref();
        keys.is_none_or(|keys| keys.iter().any(|access| access.key == key))
    }

    /// Whether the order of two requests with these sets may matter: they have a key in common that one
    /// of them writes, or one of them is unknown.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let (Some(mine), Some(theirs)) = (&self.0, &other.0) else {
            return true;
        };
        let meet = |one: &Access, two: &Access| one.key == two.key && (one.writes || two.writes);
        mine.iter()
            .any(|one| theirs.iter().any(|two| meet(one, two)))
    }

    fn with(mut self, key: &[u8], writes: bool) -> Self {
        if let Some(keys) = &mut self.0 {
            let key = hash(key);
            keys.push(Access { key, writes });
        }
        self
    }

    pub(crate) fn keys(&self) -> Option<&[Access]> {
        self.0.as_deref()
    }
}

/// FNV-1a, eight bytes at a time.
fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let tail = [last, (bytes.len() as u64).to_le_bytes()];
    let words = words.iter().chain(&tail);
    words.fold(0xcbf2_9ce4_8422_2325, |hash: u64, word| {
        let mixed = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x0100_0000_01b3);
        mixed ^ (mixed >> 29)
    })
}
