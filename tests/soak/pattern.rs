//! Bytes that tell where they belong: what is lost, doubled or in another's place is noticed.

use std::sync::LazyLock;

use anyhow::{Result, ensure};
use bytes::Bytes;

/// How many bytes in a row are the same.
const PIECE: usize = 64 << 10;

/// A prime, so that no buffer's size repeats it.
const KINDS: u64 = 251;

static PIECES: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    let kinds = 0..KINDS as u8;
    kinds.map(|kind| vec![kind; PIECE].into()).collect()
});

/// The bytes of a body from the first on, in pieces.
pub(crate) struct Pattern {
    at: u64,
    length: u64,
}

/// Where a reader is.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    at: u64,
}

// === impl Pattern ===

impl Pattern {
    /// A body of this length.
    pub(crate) fn new(length: u64) -> Self {
        Self { at: 0, length }
    }
}

impl Iterator for Pattern {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let left = (self.length - self.at).min(PIECE as u64) as usize;
        let piece = PIECES[(self.at / PIECE as u64 % KINDS) as usize].slice(..left);
        self.at += left as u64;
        (left > 0).then_some(piece)
    }
}

// === impl Reader ===

impl Reader {
    /// Takes the next bytes of a body.
    ///
    /// # Errors
    /// They are others than are due.
    pub(crate) fn takes(&mut self, bytes: &[u8]) -> Result<()> {
        let mut bytes = bytes;
        while let [first, ..] = bytes {
            let expected = (self.at / PIECE as u64 % KINDS) as u8;
            let length = PIECE - (self.at % PIECE as u64) as usize;
            let (same, rest) = bytes.split_at(length.min(bytes.len()));
            // The ends of a run tell as much as what is between them.
            let right = *first == expected && same.last() == Some(&expected);
            ensure!(right, "other bytes at {} than were sent", self.at);
            self.at += same.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// How many it has taken.
    pub(crate) fn taken(&self) -> u64 {
        self.at
    }
}

#[test]
fn bytes_that_are_lost_or_doubled_are_noticed() -> Result<()> {
    let sent: Vec<u8> = Pattern::new(300_000).flatten().collect();
    assert_eq!(sent.len(), 300_000);
    let mut reader = Reader::default();
    for part in sent.chunks(999) {
        reader.takes(part)?;
    }
    assert_eq!(reader.taken(), 300_000);
    let mut reader = Reader::default();
    reader.takes(&sent[..100_000])?;
    assert!(reader.takes(&sent[150_000..]).is_err());
    let mut reader = Reader::default();
    reader.takes(&sent[..100_000])?;
    assert!(reader.takes(&sent[20_000..100_000]).is_err());
    Ok(())
}
