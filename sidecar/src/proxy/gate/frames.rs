//! Frames of HTTP/2, counted by their heads: those that bring no request, no answer and no body
//! forward have a budget.
//!
//! h2 bounds the frames that make it keep something: streams, streams reset before they are
//! accepted, CONTINUATION. It answers every PING and SETTINGS, and reads any number of PRIORITY,
//! WINDOW_UPDATE, RST_STREAM, empty DATA and unknown frames (CVE-2019-9512, -9513, -9515, -9518;
//! CVE-2023-44487 at a slower pace).

use std::time::Duration;

use tokio::time::Instant;

use super::super::limits::{CONTROL_FRAMES, CONTROL_FRAMES_EACH_SECOND};
use super::Refused;

const PREFACE: usize = 24;
/// Bytes of a frame's head (RFC 9113 section 4.1).
pub const FRAME_HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const SETTINGS: u8 = 4;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a frame that brings something forward pays for: its receiver may answer each DATA frame
/// with a WINDOW_UPDATE for the stream and one for the connection, and measure with a PING.
const EARNED: u32 = 4;

/// What one side of a connection sends, and the budget for it.
#[derive(Debug)]
pub struct Frames {
    read: Reader,
    written: Reader,
    greeted: bool,
    /// A header block that goes on in the next frame.
    block: bool,
    /// Header blocks begun.
    heads: u64,
    budget: u32,
    refilled: Instant,
}

/// Finds the heads of frames.
#[derive(Debug)]
struct Reader {
    /// Of the preface, or of a payload, to skip.
    skip: usize,
    /// Whether `skip` is of DATA.
    data: bool,
    head: [u8; FRAME_HEAD],
    have: usize,
}

/// One frame's head.
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
}

// === impl Reader ===

impl Reader {
    fn after(skip: usize) -> Self {
        Self {
            skip,
            data: false,
            head: [0; FRAME_HEAD],
            have: 0,
        }
    }

    /// The next head, and what is left of `bytes` after it.
    fn next<'a>(&mut self, mut bytes: &'a [u8]) -> Option<(Head, &'a [u8])> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = &bytes[skipped..];
        let more = (FRAME_HEAD - self.have).min(bytes.len());
        self.head[self.have..self.have + more].copy_from_slice(&bytes[..more]);
        self.have += more;
        if self.have < FRAME_HEAD {
            return None;
        }
        self.have = 0;
        let head = self.begin(self.head);
        Some((head, &bytes[more..]))
    }

    /// A frame has this head; its payload follows.
    fn begin(&mut self, head: [u8; FRAME_HEAD]) -> Head {
        let [a, b, c, kind, flags, ..] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.skip = length;
        self.data = kind == DATA;
        Head {
            length,
            kind,
            flags,
        }
    }

    /// Within a frame that is no DATA.
    fn is_within(&self) -> bool {
        self.have > 0 || (self.skip > 0 && !self.data)
    }
}

// === impl Frames ===

impl Frames {
    /// What a client sends: its preface first.
    pub fn of_client() -> Self {
        Self::new(PREFACE, 0)
    }

    /// What a server sends, after our preface.
    pub fn of_server() -> Self {
        Self::new(0, PREFACE)
    }

    fn new(read: usize, written: usize) -> Self {
        Self {
            read: Reader::after(read),
            written: Reader::after(written),
            greeted: false,
            block: false,
            heads: 0,
            budget: CONTROL_FRAMES,
            refilled: Instant::now(),
        }
    }

    /// The header block, or the frame in front of one, that has begun and not ended; the first
    /// SETTINGS count as begun from the start.
    pub fn open_head(&self) -> Option<u64> {
        (!self.greeted || self.block || self.read.is_within()).then_some(self.heads)
    }

    /// Looks at what has come, and takes out what says nothing. Answers how many bytes are left, at
    /// the beginning of `bytes`: what a frame's head begins with at their end is withheld until the
    /// rest of it has come ([`Frames::withheld`]).
    ///
    /// # Errors
    /// More than there is a budget for.
    pub fn sift(&mut self, bytes: &mut [u8]) -> Result<usize, Refused> {
        let (mut from, mut to) = (0, 0);
        let mut keep = |bytes: &mut [u8], from: usize, length: usize| {
            if from != to {
                bytes.copy_within(from..from + length, to);
            }
            to += length;
        };
        while from < bytes.len() {
            let skipped = self.read.skip.min(bytes.len() - from);
            self.read.skip -= skipped;
            keep(bytes, from, skipped);
            from += skipped;
            let Some(head) = bytes[from..].first_chunk::<FRAME_HEAD>().copied() else {
                let begun = &bytes[from..];
                self.read.head[..begun.len()].copy_from_slice(begun);
                self.read.have = begun.len();
                break;
            };
            if self.passes(head)? {
                keep(bytes, from, FRAME_HEAD);
            }
            from += FRAME_HEAD;
        }
        Ok(to)
    }

    /// What is missing of a frame's head that has begun, to be read there; empty when none has.
    pub fn withheld(&mut self) -> &mut [u8] {
        let have = self.read.have;
        match have {
            0 => &mut [],
            _ => &mut self.read.head[have..],
        }
    }

    /// So much of it has come. Answers the whole head once it is there and says something.
    ///
    /// # Errors
    /// As [`Frames::sift`].
    pub fn came(&mut self, bytes: usize) -> Result<Option<[u8; FRAME_HEAD]>, Refused> {
        self.read.have += bytes;
        if self.read.have < FRAME_HEAD {
            return Ok(None);
        }
        self.read.have = 0;
        let head = self.read.head;
        Ok(self.passes(head)?.then_some(head))
    }

    /// Whether a frame is passed on, of which this is the head. One of DATA without any is not, unless
    /// it ends a stream: h2 ends a connection that has had a hundred of them, however long that took,
    /// and applications send one before their trailers.
    fn passes(&mut self, head: [u8; FRAME_HEAD]) -> Result<bool, Refused> {
        let stream = head[5..].iter().any(|byte| *byte != 0);
        let head = self.read.begin(head);
        self.greeted |= head.kind == SETTINGS;
        match head.kind {
            DATA if head.length > 0 || head.flags & END_STREAM != 0 => self.earn(),
            DATA if stream && !self.block => {
                self.spend()?;
                return Ok(false);
            }
            HEADERS | PUSH_PROMISE | CONTINUATION => {
                self.block = head.flags & END_HEADERS == 0;
                self.heads += u64::from(head.kind != CONTINUATION);
                self.spend()?;
            }
            _ => self.spend()?,
        }
        Ok(true)
    }

    /// Looks at what was answered.
    pub fn written(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while let Some((head, rest)) = self.written.next(bytes) {
            bytes = rest;
            if matches!(head.kind, DATA | HEADERS) {
                self.earn();
            }
        }
    }

    fn earn(&mut self) {
        self.budget = (self.budget + EARNED).min(CONTROL_FRAMES);
    }

    fn spend(&mut self) -> Result<(), Refused> {
        if self.budget == 0 {
            self.refill();
        }
        self.budget = self.budget.checked_sub(1).ok_or(Refused {
            head_at: None,
            why: "too many frames that bring nothing forward",
        })?;
        Ok(())
    }

    /// What time alone gives.
    fn refill(&mut self) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.refilled);
        if passed < Duration::from_secs(1) {
            return;
        }
        self.refilled = now;
        let seconds = u32::try_from(passed.as_secs()).unwrap_or(u32::MAX);
        let more = seconds.saturating_mul(CONTROL_FRAMES_EACH_SECOND);
        self.budget = more.min(CONTROL_FRAMES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![
            0,
            (length >> 8) as u8,
            length as u8,
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        frame.resize(FRAME_HEAD + length, 0);
        frame
    }

    /// What passes of `bytes` as the gate reads them.
    fn read(frames: &mut Frames, bytes: &[u8]) -> Result<Vec<u8>, Refused> {
        let (mut passed, mut bytes) = (Vec::new(), bytes);
        while !bytes.is_empty() {
            let missing = frames.withheld();
            let now = missing.len().min(bytes.len());
            if now > 0 {
                missing[..now].copy_from_slice(&bytes[..now]);
                bytes = &bytes[now..];
                passed.extend(frames.came(now)?.into_iter().flatten());
            } else {
                let mut rest = bytes.to_vec();
                let left = frames.sift(&mut rest)?;
                passed.extend_from_slice(&rest[..left]);
                bytes = &[];
            }
        }
        Ok(passed)
    }

    fn client() -> Frames {
        let mut frames = Frames::of_client();
        assert_eq!(frames.open_head(), Some(0));
        read(&mut frames, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        read(&mut frames, &frame(SETTINGS, 0, 0)).unwrap();
        assert_eq!(frames.open_head(), None);
        frames
    }

    #[test]
    fn frames_that_bring_nothing_forward_come_to_an_end() {
        // PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, empty DATA, unknown ones.
        for (kind, length) in [(2, 5), (3, 4), (4, 0), (6, 8), (8, 4), (0, 0), (99, 3)] {
            let mut frames = client();
            let flood = frame(kind, 0, length).repeat(CONTROL_FRAMES as usize + 1);
            // However they are cut.
            let refused = flood
                .chunks(7)
                .any(|piece| read(&mut frames, piece).is_err());
            assert!(refused, "{kind}");
        }
    }

    #[test]
    fn requests_without_answers_come_to_an_end() {
        let mut frames = client();
        let pair = [frame(HEADERS, END_HEADERS | END_STREAM, 10), frame(3, 0, 4)].concat();
        let flood = pair.repeat(CONTROL_FRAMES as usize);
        assert!(read(&mut frames, &flood).is_err());
    }

    #[test]
    fn what_goes_with_requests_answers_and_bodies_is_free() {
        let mut frames = client();
        for _ in 0..5 * CONTROL_FRAMES {
            read(&mut frames, &frame(HEADERS, END_HEADERS | END_STREAM, 10)).unwrap();
            frames.written(&frame(HEADERS, END_HEADERS, 10));
            frames.written(&frame(DATA, END_STREAM, 100));
            for _ in 0..2 {
                read(&mut frames, &frame(8, 0, 4)).unwrap();
            }
            read(&mut frames, &frame(6, 0, 8)).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_each_second_go_on_for_ever() {
        let mut frames = client();
        for _ in 0..100 * CONTROL_FRAMES {
            tokio::time::advance(Duration::from_secs(1) / CONTROL_FRAMES_EACH_SECOND).await;
            read(&mut frames, &frame(6, 0, 8)).unwrap();
        }
    }

    #[test]
    fn a_head_is_open_until_its_last_frame_has_come() {
        let mut frames = client();
        read(&mut frames, &frame(HEADERS, 0, 10)).unwrap();
        assert_eq!(frames.open_head(), Some(1));
        let last = frame(CONTINUATION, END_HEADERS, 10);
        read(&mut frames, &last[..last.len() - 1]).unwrap();
        assert_eq!(frames.open_head(), Some(1));
        read(&mut frames, &last[last.len() - 1..]).unwrap();
        assert_eq!(frames.open_head(), None);
        // A body may rest in the middle of a frame.
        read(&mut frames, &frame(DATA, 0, 10)[..12]).unwrap();
        assert_eq!(frames.open_head(), None);
    }

    #[test]
    fn data_without_any_is_taken_out_however_it_is_cut_and_nothing_else_is() {
        let said = [
            frame(HEADERS, END_HEADERS, 3),
            frame(DATA, 0, 0),
            frame(DATA, 0, 5),
            frame(DATA, 0, 0),
            frame(DATA, 0, 0),
            frame(HEADERS, END_HEADERS | END_STREAM, 20),
            frame(DATA, END_STREAM, 0),
        ];
        // On no stream, or within a header block, it is for hyper to refuse.
        let mut on_none = frame(DATA, 0, 0);
        on_none[8] = 0;
        let (block, within) = (frame(HEADERS, 0, 2), frame(DATA, 0, 0));
        let all = [
            said.concat(),
            on_none.clone(),
            block.clone(),
            within.clone(),
        ]
        .concat();
        let kept = [
            &said[0], &said[2], &said[5], &said[6], &on_none, &block, &within,
        ];
        let kept: Vec<u8> = kept.into_iter().flatten().copied().collect();
        for size in 1..all.len() {
            let mut frames = client();
            let pieces = all
                .chunks(size)
                .map(|piece| read(&mut frames, piece).unwrap());
            let passed: Vec<u8> = pieces.flatten().collect();
            assert_eq!(passed, kept, "in pieces of {size}");
        }
    }
}
