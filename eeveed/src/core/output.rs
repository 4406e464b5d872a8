//! Encoded frames that are written next to a session, in pieces of one size. However much waits, no piece is ever moved to
//! a larger place, and each is used again as soon as it is written: under load a delivery touches no new memory.

use std::collections::VecDeque;
use std::ops::Deref;
use std::rc::Rc;

use super::spare::Spare;

/// A frame that does not fit into the rest of a piece begins the next one; one that is longer has its own.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Output {
    /// What is added to.
    last: Piece,
    /// The pieces before it; most sessions never have any.
    full: Option<Box<Full>>,
}

/// Whole frames, and what they are.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    pub(super) counts: Counts,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    /// How many bytes are no deliveries.
    pub(super) answers: usize,
    /// How many messages were delivered directly.
    pub(super) direct: usize,
}

#[derive(Debug, Default)]
struct Full {
    pieces: VecDeque<(Chunk, Counts)>,
    /// Of all of them.
    bytes: usize,
    counts: Counts,
}

/// Bytes that are written. What goes to several sessions alike stands in memory once.
#[derive(Debug)]
pub(crate) enum Chunk {
    Own(Vec<u8>),
    Shared(Rc<Vec<u8>>),
}

impl Default for Chunk {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Chunk {
    pub(crate) fn capacity(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.capacity(),
            Self::Shared(bytes) => bytes.capacity(),
        }
    }

    /// To be added to; what others have, too, is copied.
    pub(crate) fn own(&mut self) -> &mut Vec<u8> {
        if let Self::Shared(bytes) = self {
            *self = Self::Own(Rc::unwrap_or_clone(std::mem::take(bytes)));
        }
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(_) => unreachable!("it was made its own"),
        }
    }

    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(self.own())
    }

    pub(super) const fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// Its buffer, if nobody else has it.
    pub(super) fn into_buffer(self) -> Option<Vec<u8>> {
        match self {
            Self::Own(bytes) => Some(bytes),
            Self::Shared(bytes) => Rc::try_unwrap(bytes).ok(),
        }
    }
}

impl Output {
    /// What the last run of the bus encoded, which are answers.
    pub(super) fn of_answers(bytes: Vec<u8>) -> Self {
        let counts = Counts { answers: bytes.len(), direct: 0 };
        Self { last: Piece { bytes, counts }, full: None }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.last.bytes.len() + self.full.as_ref().map_or(0, |full| full.bytes)
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn answers(&self) -> usize {
        self.last.counts.answers + self.full.as_ref().map_or(0, |full| full.counts.answers)
    }

    #[inline]
    pub(super) fn direct(&self) -> usize {
        self.last.counts.direct + self.full.as_ref().map_or(0, |full| full.counts.direct)
    }

    /// Where frames of so many bytes are added. What is used again is large, and is not for a session that `is_slow`: it
    /// would hold more room than it needs for as long as its reader likes.
    #[inline]
    pub(super) fn piece_for(&mut self, bytes: usize, is_slow: bool, spare: &mut Spare) -> &mut Piece {
        if self.last.bytes.capacity() == 0 || self.last.bytes.len() + bytes > PIECE_BYTES {
            self.begin_piece(bytes, is_slow, spare);
        }
        &mut self.last
    }

    #[inline(never)]
    fn begin_piece(&mut self, bytes: usize, is_slow: bool, spare: &mut Spare) {
        if !self.last.bytes.is_empty() {
            self.end_piece();
            let new = || Vec::with_capacity(PIECE_BYTES.max(bytes));
            self.last.bytes = spare.take().unwrap_or_else(new);
        } else if !is_slow {
            self.last.bytes = spare.take().unwrap_or_default();
        }
    }

    fn end_piece(&mut self) {
        let Piece { bytes, counts } = std::mem::take(&mut self.last);
        if !bytes.is_empty() {
            self.push(Chunk::Own(bytes), counts);
        }
    }

    fn push(&mut self, bytes: Chunk, counts: Counts) {
        let full = self.full.get_or_insert_default();
        full.bytes += bytes.len();
        full.counts.answers += counts.answers;
        full.counts.direct += counts.direct;
        full.pieces.push_back((bytes, counts));
    }

    /// Adds deliveries that others get, too.
    pub(super) fn push_shared(&mut self, bytes: Rc<Vec<u8>>, direct: usize) {
        self.end_piece();
        self.push(Chunk::Shared(bytes), Counts { answers: 0, direct });
    }

    /// Moves as much to `out` as fits a budget, and at least one piece; with a budget of 0 all. With a
    /// budget, what is shared comes alone.
    pub(super) fn take(&mut self, budget: usize, out: &mut Chunk, spare: &mut Spare) {
        while !self.is_empty() {
            let (bytes, is_shared) = self.first();
            let fits = out.len() + bytes <= budget && !is_shared && !out.is_shared();
            if budget > 0 && !out.is_empty() && !fits {
                return;
            }
            let mut piece = self.take_first();
            if out.is_empty() {
                std::mem::swap(out, &mut piece);
            } else {
                out.own().extend_from_slice(&piece);
            }
            spare.give(piece);
        }
    }

    /// How long what comes first is, and whether others have it, too.
    fn first(&self) -> (usize, bool) {
        match self.full.as_ref().and_then(|full| full.pieces.front()) {
            Some((chunk, _)) => (chunk.len(), chunk.is_shared()),
            None => (self.last.bytes.len(), false),
        }
    }

    fn take_first(&mut self) -> Chunk {
        let Some(full) = &mut self.full else { return Chunk::Own(std::mem::take(&mut self.last).bytes) };
        let Some((bytes, counts)) = full.pieces.pop_front() else {
            return Chunk::Own(std::mem::take(&mut self.last).bytes);
        };
        full.bytes -= bytes.len();
        full.counts.answers -= counts.answers;
        full.counts.direct -= counts.direct;
        if full.pieces.is_empty() {
            self.full = None;
        }
        bytes
    }

    /// All that is there, as it will be written.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let full = self.full.iter().flat_map(|full| &full.pieces).map(|(bytes, _)| &**bytes);
        full.chain([&self.last.bytes[..]]).flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(output: &mut Output, spare: &mut Spare, byte: u8, bytes: usize) {
        let piece = output.piece_for(bytes, false, spare);
        piece.bytes.extend(std::iter::repeat_n(byte, bytes));
        piece.counts.direct += 1;
    }

    /// As they are written; nothing is used again.
    fn pieces(output: &mut Output) -> Vec<Chunk> {
        let next = || {
            let mut piece = Chunk::default();
            output.take(PIECE_BYTES, &mut piece, &mut Spare::default());
            Some(piece).filter(|piece| !piece.is_empty())
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn what_is_added_comes_out_in_its_order_whole_and_in_pieces() {
        let (mut output, mut spare) = (Output::default(), Spare::default());
        let lengths: Vec<usize> = (0..200).map(|at| at * 31 % 5000 + 1).collect();
        for (at, length) in lengths.iter().enumerate() {
            put(&mut output, &mut spare, at as u8, *length);
        }
        let expected: Vec<u8> =
            lengths.iter().enumerate().flat_map(|(at, length)| std::iter::repeat_n(at as u8, *length)).collect();
        assert_eq!((output.len(), output.direct(), output.answers()), (expected.len(), 200, 0));
        assert_eq!(output.to_vec(), expected);
        let pieces = pieces(&mut output);
        assert_eq!(pieces.iter().flat_map(|piece| piece.to_vec()).collect::<Vec<u8>>(), expected);
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES && piece.capacity() <= PIECE_BYTES * 2));
        // A frame is in one piece.
        assert!(pieces.windows(2).all(|pair| pair[0].last() != pair[1].first()));
        assert_eq!((output.len(), output.direct(), output.to_vec().len()), (0, 0, 0));
    }

    #[test]
    fn a_long_frame_has_its_own_piece() {
        let (mut output, mut spare) = (Output::default(), Spare::default());
        for (byte, bytes) in [(1, 10), (2, PIECE_BYTES * 3), (3, 10)] {
            put(&mut output, &mut spare, byte, bytes);
        }
        assert_eq!(output.first(), (10, false));
        let lengths: Vec<usize> = pieces(&mut output).iter().map(|piece| piece.len()).collect();
        assert_eq!(lengths, [10, PIECE_BYTES * 3, 10]);
    }

    #[test]
    fn what_is_taken_is_no_longer_counted() {
        let (mut output, mut spare) = (Output::of_answers(vec![0; 100]), Spare::default());
        for _ in 0..3 {
            put(&mut output, &mut spare, 1, PIECE_BYTES - 100);
        }
        assert_eq!((output.answers(), output.direct(), output.len()), (100, 3, PIECE_BYTES * 3 - 200));
        for left in [(0, 2), (0, 1), (0, 0)] {
            output.take_first();
            assert_eq!((output.answers(), output.direct()), left);
        }
        assert_eq!(output.len(), 0);
    }

    #[test]
    fn a_slow_session_takes_no_large_buffer_for_little() {
        let (mut output, mut spare) = (Output::default(), Spare::default());
        spare.give(Chunk::Own(Vec::with_capacity(PIECE_BYTES)));
        output.piece_for(100, true, &mut spare).bytes.extend_from_slice(&[0; 100]);
        assert!(output.last.bytes.capacity() < 1000);
        let mut other = Output::default();
        assert!(other.piece_for(100, false, &mut spare).bytes.capacity() >= PIECE_BYTES);
    }

    #[test]
    fn what_is_shared_keeps_its_place_and_its_memory_is_used_again() {
        let (mut one, mut other, mut spare) = (Output::default(), Output::default(), Spare::default());
        let shared = Rc::new(vec![7; 20_000]);
        put(&mut one, &mut spare, 1, 10);
        for output in [&mut one, &mut other] {
            output.push_shared(shared.clone(), 50);
            put(output, &mut spare, 2, 10);
        }
        drop(shared);
        assert_eq!((one.len(), one.direct()), (20_020, 52));
        assert_eq!(one.to_vec(), [&[1; 10][..], &[7; 20_000], &[2; 10]].concat());
        for (output, expected) in [(&mut one, 20_020), (&mut other, 20_010)] {
            let mut all = Chunk::default();
            output.take(0, &mut all, &mut spare);
            assert_eq!((all.len(), output.len(), output.direct()), (expected, 0, 0));
            spare.give(all);
        }
        // The last who had it gave it back.
        let kept = std::iter::from_fn(|| spare.take()).map(|buffer| buffer.capacity());
        assert_eq!(kept.filter(|room| *room >= 20_000).count(), 2);
        // It is not copied behind what one alone has.
        put(&mut other, &mut spare, 1, 10);
        other.push_shared(Rc::new(vec![7; 20_000]), 50);
        put(&mut other, &mut spare, 2, 10);
        assert_eq!(pieces(&mut other).iter().map(|piece| piece.len()).collect::<Vec<_>>(), [10, 20_000, 10]);
    }
}
