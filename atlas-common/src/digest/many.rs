//! Digests of many inputs at a time (`docs/adr/0006-digests-of-many.md`).
//!
//! BLAKE3 cuts an input into chunks of 1 KiB and hashes chunks beside each other, each in a lane of the
//! processor's vector registers. An input of a few chunks leaves most lanes empty; here the chunks of
//! many inputs fill them. The parts of BLAKE3 used are those of its paper (section 2): chunks of blocks,
//! and a tree of parents over them. What is computed is [`Digest::of`], and nothing else.

use super::Digest;
use blake3::platform::Platform;
use blake3::{BLOCK_LEN, CHUNK_LEN, IncrementCounter, OUT_LEN};

/// Inputs that are hashed together. It bounds the memory taken: 64 KiB of chaining values, and as much
/// again on the way.
const GROUP: usize = 256;
/// Fewer than so many go faster one by one.
const GROUP_LEAST: usize = 4;
/// Inputs that are longer fill the lanes by themselves.
const LONGEST: usize = 8 * CHUNK_LEN;

/// The key of BLAKE3 where it has none: the constants of SHA-256.
const KEY: [u32; 8] = [
    0x6A09_E667,
    0xBB67_AE85,
    0x3C6E_F372,
    0xA54F_F53A,
    0x510E_527F,
    0x9B05_688C,
    0x1F83_D9AB,
    0x5BE0_CD19,
];
const CHUNK_START: u8 = 1 << 0;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;

type ChainingValue = [u8; OUT_LEN];

/// An input of two chunks or more, and where its digest goes.
struct Input<'a> {
    bytes: &'a [u8],
    digest: &'a mut Digest,
}

pub(super) fn digests(inputs: &[impl AsRef<[u8]>]) -> Vec<Digest> {
    let platform = Platform::detect();
    let has_lanes = platform.simd_degree() > 1;
    let mut digests = vec![Digest::default(); inputs.len()];
    let mut group = Vec::with_capacity(GROUP.min(inputs.len()));
    for (input, digest) in inputs.iter().zip(&mut digests) {
        let bytes = input.as_ref();
        if has_lanes && bytes.len() > CHUNK_LEN && bytes.len() <= LONGEST {
            group.push(Input { bytes, digest });
        } else {
            *digest = Digest::of(bytes);
        }
        if group.len() == GROUP {
            hash(platform, &mut group);
        }
    }
    hash(platform, &mut group);
    digests
}

fn hash(platform: Platform, group: &mut Vec<Input<'_>>) {
    if group.len() < GROUP_LEAST {
        for input in group.drain(..) {
            *input.digest = Digest::of(input.bytes);
        }
        return;
    }
    let mut tree = Tree::new(platform, group);
    tree.whole_chunks(group);
    tree.last_chunks(group);
    while tree.merge(group) {}
    group.clear();
}

/// The chaining values of a group's inputs: first those of the chunks, and then, level by level, those of
/// the parents over them.
struct Tree {
    platform: Platform,
    /// Of the first input, then those of the second, ...
    values: Vec<ChainingValue>,
    /// How many each input has. 0: its digest is known.
    counts: Vec<usize>,
    /// What came out of the lanes.
    output: Vec<ChainingValue>,
}

impl Tree {
    fn new(platform: Platform, group: &[Input<'_>]) -> Self {
        let chunks = group
            .iter()
            .map(|input| input.bytes.len().div_ceil(CHUNK_LEN));
        let counts: Vec<usize> = chunks.collect();
        Self {
            platform,
            values: vec![[0; OUT_LEN]; counts.iter().sum()],
            counts,
            output: Vec::new(),
        }
    }

    /// Where the values of each input begin.
    fn starts(&self) -> Vec<usize> {
        let start = |end: &mut usize, count: &usize| {
            let next = *end + count;
            Some(std::mem::replace(end, next))
        };
        self.counts.iter().scan(0, start).collect()
    }

    /// Hashes into `output`.
    fn lanes<const N: usize>(&mut self, inputs: &[&[u8; N]], counter: usize, flags: [u8; 3]) {
        let [all, start, end] = flags;
        self.output.clear();
        self.output.resize(inputs.len(), [0; OUT_LEN]);
        self.platform.hash_many::<N>(
            inputs,
            &KEY,
            counter as u64,
            IncrementCounter::No,
            all,
            start,
            end,
            self.output.as_flattened_mut(),
        );
    }

    /// The first chunk of each input, then the second of each, as far as they are whole.
    fn whole_chunks(&mut self, group: &[Input<'_>]) {
        let starts = self.starts();
        for counter in 0..LONGEST / CHUNK_LEN {
            let (mut chunks, mut places) = (Vec::new(), Vec::new());
            for (input, start) in group.iter().zip(&starts) {
                if let Some(chunk) = input.bytes.as_chunks().0.get(counter) {
                    chunks.push(chunk);
                    places.push(start + counter);
                }
            }
            if chunks.is_empty() {
                return;
            }
            self.lanes::<CHUNK_LEN>(&chunks, counter, [0, CHUNK_START, CHUNK_END]);
            for (place, value) in places.into_iter().zip(&self.output) {
                self.values[place] = *value;
            }
        }
    }

    /// The chunk at the end of each input that is not whole. All of its blocks but the last are hashed with
    /// those of inputs that have as many there at the same place; the last, which may be shorter, by itself.
    fn last_chunks(&mut self, group: &[Input<'_>]) {
        let starts = self.starts();
        let ends = group.iter().zip(&starts).map(|(input, start)| {
            let (chunks, rest) = input.bytes.as_chunks::<CHUNK_LEN>();
            End::of(rest, chunks.len(), start + chunks.len())
        });
        let mut ends: Vec<End<'_>> = ends.flatten().collect();
        ends.sort_unstable_by_key(End::kind);
        for alike in ends.chunk_by(|a, b| a.kind() == b.kind()) {
            self.ends(alike);
        }
    }

    fn ends(&mut self, alike: &[End<'_>]) {
        let Some(End { blocks, chunk, .. }) = alike.first() else {
            return;
        };
        let counter = *chunk;
        macro_rules! by_length {
            ($($blocks:literal)*) => {
                match blocks.len() / BLOCK_LEN {
                    $($blocks => {
                        let blocks = alike.iter().filter_map(|end| end.blocks.first_chunk());
                        let blocks: Vec<&[u8; $blocks * BLOCK_LEN]> = blocks.collect();
                        self.lanes(&blocks, counter, [0, CHUNK_START, 0]);
                    })*
                    _ => self.output.clear(),
                }
            };
        }
        by_length!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for (number, end) in alike.iter().enumerate() {
            let value = end.finish(&self.platform, self.output.get(number));
            self.values[end.place] = value;
        }
    }

    /// One level up: pairs become their parents, and one without a partner goes up as it is. False when
    /// every digest is known.
    fn merge(&mut self, group: &mut [Input<'_>]) -> bool {
        let values = std::mem::take(&mut self.values);
        let (mut pairs, mut last) = (Vec::new(), Vec::new());
        let mut rest = &values[..];
        for count in &self.counts {
            let (own, behind) = rest.split_at(*count);
            rest = behind;
            let own = own.as_flattened().as_chunks::<{ 2 * OUT_LEN }>().0;
            match count {
                2 => last.extend(own),
                _ => pairs.extend(own),
            }
        }
        self.lanes(&last, 0, [PARENT | ROOT, 0, 0]);
        let mut roots = self.output.iter();
        let done = group.iter_mut().zip(&self.counts);
        for ((input, _), root) in done.filter(|(_, count)| **count == 2).zip(&mut roots) {
            *input.digest = Digest(*root);
        }
        if pairs.is_empty() {
            return false;
        }
        self.lanes(&pairs, 0, [PARENT, 0, 0]);
        self.go_up(&values);
        true
    }

    /// Takes the parents of all inputs that have more than one.
    fn go_up(&mut self, below: &[ChainingValue]) {
        let (mut parents, mut rest) = (self.output.iter(), below);
        for count in &mut self.counts {
            let (own, behind) = rest.split_at(*count);
            rest = behind;
            if *count == 2 {
                *count = 0;
                continue;
            }
            self.values.extend(parents.by_ref().take(*count / 2));
            if !count.is_multiple_of(2) {
                self.values.extend(own.last());
            }
            *count = count.div_ceil(2);
        }
    }
}

/// The chunk at the end of an input, where it is not whole.
struct End<'a> {
    /// Whole blocks, all but the last one.
    blocks: &'a [u8],
    /// The last block, of 1 byte at least.
    last: &'a [u8],
    /// Which chunk of the input it is.
    chunk: usize,
    /// Where its chaining value goes.
    place: usize,
}

impl<'a> End<'a> {
    fn of(bytes: &'a [u8], chunk: usize, place: usize) -> Option<Self> {
        let whole = bytes.len().checked_sub(1)? / BLOCK_LEN * BLOCK_LEN;
        let (blocks, last) = bytes.split_at(whole);
        Some(Self {
            blocks,
            last,
            chunk,
            place,
        })
    }

    /// What can be hashed together.
    const fn kind(&self) -> (usize, usize) {
        (self.blocks.len(), self.chunk)
    }

    /// The chaining value of the chunk, by that of its blocks before the last one.
    fn finish(&self, platform: &Platform, before: Option<&ChainingValue>) -> ChainingValue {
        let mut block = [0; BLOCK_LEN];
        block[..self.last.len()].copy_from_slice(self.last);
        let (mut value, flags) = match before {
            Some(before) => (words(before), CHUNK_END),
            None => (KEY, CHUNK_START | CHUNK_END),
        };
        // A block has 64 bytes at most.
        let bytes = self.last.len() as u8;
        platform.compress_in_place(&mut value, &block, bytes, self.chunk as u64, flags);
        let mut out = [0; OUT_LEN];
        for (bytes, word) in out.as_chunks_mut().0.iter_mut().zip(value) {
            *bytes = word.to_le_bytes();
        }
        out
    }
}

fn words(value: &ChainingValue) -> [u32; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(value.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SeededRng;

    fn compare(inputs: &[Vec<u8>], what: &str) {
        let one_by_one: Vec<Digest> = inputs.iter().map(|input| Digest::of(input)).collect();
        let together = Digest::of_all(inputs);
        assert_eq!(together.len(), inputs.len(), "{what}");
        for (number, (one, found)) in one_by_one.iter().zip(together).enumerate() {
            let length = inputs[number].len();
            assert_eq!(*one, found, "{what}: input {number} of {length} bytes");
        }
    }

    fn input(rng: &mut SeededRng, length: usize) -> Vec<u8> {
        (0..length).map(|_| rng.next_u64() as u8).collect()
    }

    /// Every number of whole blocks, chunks and rests, in groups of one length and of all lengths.
    #[test]
    fn digests_of_many_are_those_of_each_at_every_edge() {
        let mut rng = SeededRng::new(1);
        let borders = (0..=LONGEST + CHUNK_LEN).step_by(BLOCK_LEN);
        let around = borders.flat_map(|border| [border.saturating_sub(1), border, border + 1]);
        let mixed: Vec<Vec<u8>> = around.map(|length| input(&mut rng, length)).collect();
        compare(&mixed, "all lengths");
        for length in [0, 1, 1023, 1024, 1025, 2047, 2048, 2049, 3938, 4096, 16384] {
            for count in [1, 3, 4, 5, 15, 16, 17, 33] {
                let alike: Vec<Vec<u8>> = (0..count).map(|_| input(&mut rng, length)).collect();
                compare(&alike, &format!("{count} alike"));
            }
        }
    }

    #[test]
    fn digests_of_many_are_those_of_each_for_random_groups() {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).unwrap();
        let seed = u64::from_le_bytes(seed);
        let mut rng = SeededRng::new(seed);
        for round in 0..40 {
            let count = rng.below(600) as usize;
            let longest = [1100, 5000, 20_000][round % 3];
            let inputs: Vec<Vec<u8>> = (0..count)
                .map(|_| {
                    let length = rng.below(longest) as usize;
                    input(&mut rng, length)
                })
                .collect();
            compare(&inputs, &format!("seed {seed}, round {round}"));
        }
    }
}
