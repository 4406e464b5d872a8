//! The state of the bus in a sealed memory file: a header, the structure as JSON, then the large pieces of bytes as they are.
//!
//! ```text
//! 0  "eeveebus"   8  u32 version   12  u32 CRC-32 of all that follows
//! 16 u64 when it was written, nanoseconds since boot
//! 24 u64 length of the structure   32 u64 length of the pieces, which lie end to end
//! ```
//!
//! All numbers are little endian. JSON, because a package upgrade restarts the bus: the new version reads what the old one
//! wrote, fields that one of them does not know included.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::core::SessionKey;
use crate::core::handover::{Absurd, BlobNumber, Blobs, Saved, Structure};

const MAGIC: &[u8; 8] = b"eeveebus";
/// Rises with every change that is more than a new field with a default.
pub(super) const VERSION: u32 = 1;
const HEADER: usize = 40;

/// A state that is older than this comes from a bus that somebody stopped, and its clients have long given it up.
const AGE_MAX: Duration = Duration::from_secs(60);

/// Beyond this no state is read, whatever it says; the memory of the bus is bounded far below by default.
const BYTES_MAX: u64 = 4 << 30;

/// One connection that goes with the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connection {
    /// By which its descriptor is found again.
    pub(super) inode: u64,
    /// None before its Hello.
    pub(super) session: Option<SessionKey>,
    pub(super) frame_bytes_max: usize,
    pub(super) input: Option<BlobNumber>,
    pub(super) output: Option<BlobNumber>,
}

#[derive(Serialize)]
struct Written<'a> {
    core: &'a Structure,
    connections: &'a [Connection],
    /// The lengths of the pieces.
    blobs: Vec<u64>,
}

#[derive(Deserialize)]
struct Found {
    core: Structure,
    connections: Vec<Connection>,
    blobs: Vec<u64>,
}

/// Why a state is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is no sealed memory file")]
    NotSealed,
    #[error("it has {0} bytes, which no state has")]
    Size(u64),
    #[error("it does not begin as a state of eeveed")]
    Magic,
    #[error("its version is {0}, and this eeveed reads version {VERSION}")]
    Version(u32),
    #[error("its parts do not add up to its length")]
    Length,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it is {0} s old, at most {max} s are good", max = AGE_MAX.as_secs())]
    Age(u64),
    #[error("its structure cannot be read: {0}")]
    Structure(#[from] serde_json::Error),
    #[error("it makes no sense: {0}")]
    Absurd(#[from] Absurd),
}

/// Writes a state and seals it, so that nobody can change it any more.
pub(crate) fn write(saved: &Saved, connections: &[Connection]) -> io::Result<OwnedFd> {
    let blobs: Vec<u64> = saved.blobs.iter().map(|blob| blob.len() as u64).collect();
    let rest: u64 = blobs.iter().sum();
    let structure = serde_json::to_vec(&Written { core: &saved.structure, connections, blobs })?;
    let mut fields = Vec::with_capacity(HEADER - 16);
    for field in [since_boot(), structure.len() as u64, rest] {
        fields.extend_from_slice(&field.to_le_bytes());
    }
    let mut crc = crc32fast::Hasher::new();
    for part in [&fields[..], &structure].into_iter().chain(saved.blobs.iter()) {
        crc.update(part);
    }
    let file = File::from(memory_file()?);
    let mut out = BufWriter::with_capacity(1 << 20, &file);
    for part in [MAGIC, &VERSION.to_le_bytes()[..], &crc.finalize().to_le_bytes(), &fields, &structure] {
        out.write_all(part)?;
    }
    for blob in saved.blobs.iter() {
        out.write_all(blob)?;
    }
    out.flush()?;
    drop(out);
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok(file.into())
}

/// Reads what [`write`] wrote, and believes nothing of it.
pub(crate) fn read(file: OwnedFd) -> Result<(Saved, Vec<Connection>), Unusable> {
    let sealed = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS).is_ok_and(|found| {
        SealFlag::from_bits_truncate(found).contains(seals()) // Or it could change while it is read.
    });
    if !sealed {
        return Err(Unusable::NotSealed);
    }
    let file = File::from(file);
    let size = file.metadata()?.size();
    if !(HEADER as u64..=BYTES_MAX).contains(&size) {
        return Err(Unusable::Size(size));
    }
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| header[at + byte]));
    if header[..8] != *MAGIC {
        return Err(Unusable::Magic);
    }
    let version = number(8) as u32;
    if version != VERSION {
        return Err(Unusable::Version(version));
    }
    let (crc, written, structure, rest) = ((number(8) >> 32) as u32, number(16), number(24), number(32));
    if structure.checked_add(rest).and_then(|sum| sum.checked_add(HEADER as u64)) != Some(size) {
        return Err(Unusable::Length);
    }
    if checksum(&file, size)? != crc {
        return Err(Unusable::Checksum);
    }
    // A time in the future is of another boot, or made up.
    let age = Duration::from_nanos(since_boot().checked_sub(written).unwrap_or(u64::MAX));
    if age > AGE_MAX {
        return Err(Unusable::Age(age.as_secs()));
    }
    let mut text = vec![0; structure as usize];
    file.read_exact_at(&mut text, HEADER as u64)?;
    let Found { core, connections, blobs: lengths } = serde_json::from_slice(&text)?;
    drop(text);
    let sum = lengths.iter().try_fold(0_u64, |sum, length| sum.checked_add(*length));
    if sum != Some(rest) {
        return Err(Unusable::Length);
    }
    let mut at = HEADER as u64 + structure;
    let mut blobs = Vec::with_capacity(lengths.len());
    for length in lengths {
        let mut blob = vec![0; length as usize].into_boxed_slice();
        file.read_exact_at(&mut blob, at)?;
        at += length;
        blobs.push(blob);
    }
    Ok((Saved { structure: core, blobs: Blobs::from_bytes(blobs) }, connections))
}

/// Of all behind itself, without holding it in memory.
fn checksum(file: &File, size: u64) -> io::Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    let mut chunk = vec![0; 256 << 10];
    let mut at = 16;
    while at < size {
        let part = usize::try_from(size - at).unwrap_or(usize::MAX).min(chunk.len());
        file.read_exact_at(&mut chunk[..part], at)?;
        crc.update(&chunk[..part]);
        at += part as u64;
    }
    Ok(crc.finalize())
}

fn memory_file() -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Where vm.memfd_noexec demands it, one that can be executed is refused; kernels before 6.3 do not know the flag.
    let no_exec = MFdFlags::from_bits_retain(nix::libc::MFD_NOEXEC_SEAL);
    let name = c"eeveed state";
    Ok(memfd_create(name, flags | no_exec).or_else(|_| memfd_create(name, flags))?)
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

/// Nanoseconds, also of the time that the machine slept.
fn since_boot() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
