//! Buffers of output that were written, kept for the next output: a delivery allocates nothing.

use super::output::Chunk;

/// So many bytes are kept at most, whatever was written at once.
const BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Default)]
pub(super) struct Spare {
    buffers: Vec<Vec<u8>>,
    /// The room of all of them.
    bytes: usize,
}

impl Spare {
    /// One that was used before, if there is any; it is empty.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        let buffer = self.buffers.pop()?;
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Keeps a buffer, if there is a point in it and room for it.
    pub(super) fn give(&mut self, chunk: Chunk) {
        let Some(mut buffer) = chunk.into_buffer() else { return };
        if buffer.capacity() > 0 && self.bytes + buffer.capacity() <= BYTES_MAX {
            buffer.clear();
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }
}
