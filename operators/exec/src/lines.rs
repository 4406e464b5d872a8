//! Lines of a program, bounded: a line of a gigabyte takes no more memory than the longest that is allowed.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much is read in one go.
const CHUNK: usize = 16 << 10;

pub(crate) struct Lines<R> {
    source: R,
    buffer: BytesMut,
    /// In how much of the buffer no line feed was found.
    searched: usize,
    max: usize,
    /// The rest of a line that is too long is on its way.
    skipping: bool,
    number: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Which line it is, from 1.
    pub(crate) number: u64,
    /// Without the line feed; of one that is too long, the beginning.
    pub(crate) bytes: Bytes,
    pub(crate) is_cut: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// `max` is the longest line in bytes.
    pub(crate) fn new(source: R, max: usize) -> Self {
        Self { source, buffer: BytesMut::new(), searched: 0, max, skipping: false, number: 0 }
    }

    /// The next line; none at the end. A last line needs no line feed. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            self.buffer.reserve(CHUNK);
            if self.source.read_buf(&mut self.buffer).await? == 0 {
                let rest = self.buffer.split().freeze();
                self.searched = 0;
                return Ok((!rest.is_empty() && !self.skipping).then(|| self.line(rest, false)));
            }
        }
    }

    fn take(&mut self) -> Option<Line> {
        loop {
            let found = memchr(b'\n', &self.buffer[self.searched..]);
            let end = found.map(|at| self.searched + at);
            if self.skipping {
                self.buffer.advance(end.map_or(self.buffer.len(), |end| end + 1));
                self.searched = 0;
                self.skipping = end.is_none();
                if self.skipping {
                    return None;
                }
                continue;
            }
            match end {
                Some(end) if end <= self.max => {
                    let bytes = self.buffer.split_to(end).freeze();
                    self.buffer.advance(1);
                    self.searched = 0;
                    return Some(self.line(bytes, false));
                }
                None if self.buffer.len() <= self.max => {
                    self.searched = self.buffer.len();
                    return None;
                }
                _ => {
                    // Its end is found again, by skipping to it.
                    let bytes = Bytes::copy_from_slice(&self.buffer[..self.max]);
                    self.buffer.advance(self.max);
                    self.searched = 0;
                    self.skipping = true;
                    return Some(self.line(bytes, true));
                }
            }
        }
    }

    fn line(&mut self, bytes: Bytes, is_cut: bool) -> Line {
        self.number += 1;
        Line { number: self.number, bytes, is_cut }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn all(text: &[u8], max: usize, piece: usize) -> (Vec<(u64, String, bool)>, usize) {
        let (mut write, read) = tokio::io::duplex(1 << 20);
        let pieces: Vec<Vec<u8>> = text.chunks(piece.max(1)).map(<[u8]>::to_vec).collect();
        let writer = tokio::spawn(async move {
            for piece in pieces {
                write.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut lines = Lines::new(read, max);
        let (mut found, mut memory) = (Vec::new(), 0);
        while let Some(Line { number, bytes, is_cut }) = lines.next().await.unwrap() {
            memory = memory.max(lines.buffer.capacity());
            found.push((number, String::from_utf8(bytes.to_vec()).unwrap(), is_cut));
        }
        writer.await.unwrap();
        (found, memory.max(lines.buffer.capacity()))
    }

    #[tokio::test]
    async fn long_ones_are_cut_and_counted() {
        let (found, _) = all(b"a\n\n1234\n12345\nxyz\n123456789", 4, 100).await;
        let expected = [
            (1, "a", false),
            (2, "", false),
            (3, "1234", false),
            (4, "1234", true),
            (5, "xyz", false),
            (6, "1234", true),
        ];
        assert_eq!(found, expected.map(|(number, text, cut)| (number, text.to_owned(), cut)));
    }

    #[tokio::test]
    async fn a_line_without_end_takes_no_memory() {
        let mut text = vec![b'x'; 64 << 20];
        text.extend(b"\nshort\n");
        let (found, memory) = all(&text, 1 << 16, 1 << 20).await;
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], (2, "short".to_owned(), false));
        assert!(memory < 1 << 20, "{memory}");
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(text in "[ab\n]{0,60}", max in 1_usize..8, piece in 1_usize..20) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (found, _) = runtime.block_on(all(text.as_bytes(), max, piece));
            let lines: Vec<&str> = match text.strip_suffix('\n') {
                Some(text) => text.split('\n').collect(),
                None if text.is_empty() => vec![],
                None => text.split('\n').collect(),
            };
            let expected: Vec<_> = lines.iter().enumerate().map(|(at, line)| {
                (at as u64 + 1, line[..line.len().min(max)].to_owned(), line.len() > max)
            }).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
