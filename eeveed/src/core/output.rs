//! Encoded frames that are written next to a session, in pieces of one size. However much waits, no piece is ever moved to
//! a larger place, and each is used again as soon as it is written: under load a delivery touches no new memory.

use std::collections::VecDeque;

use super::spare::Spare;

/// A frame that does not fit into the rest of a piece begins the next one; one that is longer has its own.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Output {
    /// What is added to. Empty only when there is nothing at all.
    last: Piece,
    /// The pieces before it; most sessions never have any.
    full: Option<Box<Full>>,
}

/// Whole frames, and what they are.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    /// How many bytes are no deliveries.
    pub(super) answers: usize,
    /// How many messages were delivered directly.
    pub(super) direct: usize,
}

#[derive(Debug, Default)]
struct Full {
    pieces: VecDeque<Piece>,
    /// Of all of them.
    bytes: usize,
    answers: usize,
    direct: usize,
}

impl Output {
    /// What the last run of the bus encoded, which are answers.
    pub(super) fn of_answers(bytes: Vec<u8>) -> Self {
        Self { last: Piece { answers: bytes.len(), bytes, direct: 0 }, full: None }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.last.bytes.len() + self.full.as_ref().map_or(0, |full| full.bytes)
    }

    pub(super) fn answers(&self) -> usize {
        self.last.answers + self.full.as_ref().map_or(0, |full| full.answers)
    }

    #[inline]
    pub(super) fn direct(&self) -> usize {
        self.last.direct + self.full.as_ref().map_or(0, |full| full.direct)
    }

    /// Where a frame of so many bytes is added. What is used again is large, and is not for a session that `is_slow`: it
    /// would hold more room than it needs for as long as its reader likes.
    #[inline]
    pub(super) fn piece_for(&mut self, frame_bytes: usize, is_slow: bool, spare: &mut Spare) -> &mut Piece {
        if self.last.bytes.capacity() == 0 || self.last.bytes.len() + frame_bytes > PIECE_BYTES {
            self.begin_piece(frame_bytes, is_slow, spare);
        }
        &mut self.last
    }

    #[cold]
    fn begin_piece(&mut self, frame_bytes: usize, is_slow: bool, spare: &mut Spare) {
        if self.last.bytes.is_empty() {
            if !is_slow {
                self.last.bytes = spare.take().unwrap_or_default();
            }
            return;
        }
        let bytes = spare.take().unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES.max(frame_bytes)));
        let piece = std::mem::replace(&mut self.last, Piece { bytes, ..Piece::default() });
        let full = self.full.get_or_insert_default();
        full.bytes += piece.bytes.len();
        full.answers += piece.answers;
        full.direct += piece.direct;
        full.pieces.push_back(piece);
    }

    /// How long the first piece is.
    pub(super) fn first_bytes(&self) -> usize {
        self.full.as_ref().and_then(|full| full.pieces.front()).unwrap_or(&self.last).bytes.len()
    }

    /// Takes the first piece; it is empty when there is nothing.
    pub(super) fn take_first(&mut self) -> Vec<u8> {
        let Some(full) = &mut self.full else { return std::mem::take(&mut self.last).bytes };
        let Some(piece) = full.pieces.pop_front() else { return std::mem::take(&mut self.last).bytes };
        full.bytes -= piece.bytes.len();
        full.answers -= piece.answers;
        full.direct -= piece.direct;
        if full.pieces.is_empty() {
            self.full = None;
        }
        piece.bytes
    }

    /// All that is there, as it will be written.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let full = self.full.iter().flat_map(|full| &full.pieces);
        full.chain([&self.last]).flat_map(|piece| &piece.bytes).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(output: &mut Output, spare: &mut Spare, byte: u8, bytes: usize) {
        let piece = output.piece_for(bytes, false, spare);
        piece.bytes.extend(std::iter::repeat_n(byte, bytes));
        piece.direct += 1;
    }

    fn pieces(output: &mut Output) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| Some(output.take_first()).filter(|piece| !piece.is_empty())).collect()
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
        assert_eq!(pieces.concat(), expected);
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
        assert_eq!(output.first_bytes(), 10);
        let lengths: Vec<usize> = pieces(&mut output).iter().map(Vec::len).collect();
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
        spare.give(Vec::with_capacity(PIECE_BYTES));
        output.piece_for(100, true, &mut spare).bytes.extend_from_slice(&[0; 100]);
        assert!(output.last.bytes.capacity() < 1000);
        let mut other = Output::default();
        assert!(other.piece_for(100, false, &mut spare).bytes.capacity() >= PIECE_BYTES);
    }
}
