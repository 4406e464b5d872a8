//! Lines of a child's output, each bounded: whatever stands in an entry, it costs no more memory.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// journald takes entries of any size from programs that speak its own protocol. What is longer is cut; the cursor stands at
/// the beginning.
const LINE_BYTES_MAX: usize = 4 << 20;

/// A line as far as it was read, over calls that were dropped.
#[derive(Default)]
pub(super) struct Bounded {
    line: Vec<u8>,
}

/// The next line, without its end; none at the end of the output. It may be dropped and called again.
pub(super) async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    bounded: &mut Bounded,
) -> io::Result<Option<Vec<u8>>> {
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            // Half a line of a child that was killed is none.
            bounded.line.clear();
            return Ok(None);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let text = &available[..end.unwrap_or(available.len())];
        let room = LINE_BYTES_MAX.saturating_sub(bounded.line.len());
        bounded.line.extend_from_slice(&text[..text.len().min(room)]);
        let used = end.map_or(available.len(), |at| at + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(Some(std::mem::take(&mut bounded.line)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_of_any_length() {
        let mut text = b"one\n\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', LINE_BYTES_MAX + 5));
        text.extend_from_slice(b"\ntwo\nhalf");
        let mut reader = &text[..];
        let mut bounded = Bounded::default();
        let mut lengths = Vec::new();
        while let Some(line) = read_line(&mut reader, &mut bounded).await.unwrap() {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [3, 0, LINE_BYTES_MAX, 3]);
    }
}
