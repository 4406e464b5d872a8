//! Reads bincode's standard configuration in place, without a copy and stricter than bincode: one encoding for a value.
//!
//! Only Publish and Deliver are read like this, because they are the hot path; a property test in `document.rs` shows
//! that bincode reads the same bytes to the same values.

use super::WireError;

/// A position in the body of a frame.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    #[inline]
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// Passes over bytes that were looked at otherwise; there are so many.
    #[inline]
    pub(crate) const fn skip(&mut self, count: usize) {
        self.at += count;
    }

    /// What was not read yet.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    #[inline]
    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..count)) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(self.too_short(count)),
        }
    }

    #[cold]
    fn too_short(&self, count: usize) -> WireError {
        WireError::malformed(format!(
            "{count} bytes announced at byte {}, {} are left in the frame",
            self.at,
            self.bytes.len() - self.at
        ))
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk()) {
            Some(array) => {
                self.at += N;
                Ok(*array)
            }
            None => Err(self.too_short(N)),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    /// An unsigned varint: one byte below 251, then 251, 252 or 253 before 2, 4 or 8 bytes; the shortest form only.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        match self.bytes.get(self.at) {
            Some(small @ 0..=250) => {
                self.at += 1;
                Ok(u64::from(*small))
            }
            _ => self.long_varint(),
        }
    }

    /// The same where most are of eight bytes.
    #[inline]
    pub(crate) fn large(&mut self) -> Result<u64, WireError> {
        if let Some([253, large @ ..]) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<9>()) {
            let value = u64::from_le_bytes(*large);
            if value >= 1 << 32 {
                self.at += 9;
                return Ok(value);
            }
        }
        self.varint()
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let start = self.at;
        let (value, least) = match self.u8()? {
            small @ 0..=250 => return Ok(u64::from(small)),
            251 => (u64::from(u16::from_le_bytes(self.array()?)), 251),
            252 => (u64::from(u32::from_le_bytes(self.array()?)), 1 << 16),
            253 => (u64::from_le_bytes(self.array()?), 1 << 32),
            mark => return Err(WireError::malformed(format!("byte {mark} at {start} begins no 64-bit integer"))),
        };
        if value < least {
            return Err(WireError::malformed(format!("the integer at byte {start} is longer than it needs to be")));
        }
        Ok(value)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        let start = self.at;
        u32::try_from(self.varint()?)
            .map_err(|_| WireError::malformed(format!("the integer at byte {start} does not fit 32 bits")))
    }

    /// A length, as far as it can be true: never more than is left in the frame.
    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let start = self.at;
        let len = usize::try_from(self.varint()?)
            .map_err(|_| WireError::malformed(format!("the length at byte {start} is too large")))?;
        self.take(len)
    }

    #[inline]
    pub(crate) fn str(&mut self) -> Result<&'a str, WireError> {
        let start = self.at;
        std::str::from_utf8(self.bytes()?)
            .map_err(|_| WireError::malformed(format!("the text at byte {start} is not UTF-8")))
    }

    #[inline]
    pub(crate) fn option(&mut self) -> Result<Option<u64>, WireError> {
        let start = self.at;
        match self.u8()? {
            0 => Ok(None),
            1 => Ok(Some(self.varint()?)),
            tag => Err(WireError::malformed(format!("byte {tag} at {start} is neither none (0) nor some (1)"))),
        }
    }
}

/// Writes what [`Reader`] reads.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=250 => out.push(value as u8),
        251..=0xffff => {
            out.push(251);
            out.extend_from_slice(&(value as u16).to_le_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(252);
            out.extend_from_slice(&(value as u32).to_le_bytes());
        }
        _ => {
            out.push(253);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// How many bytes [`put_varint`] appends.
pub(crate) const fn varint_bytes(value: u64) -> u64 {
    match value {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

#[inline]
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[inline]
pub(crate) fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            put_varint(out, value);
        }
    }
}
