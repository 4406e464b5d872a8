//! Reading a configuration file without being hung or flooded by it.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::Diagnosis;

/// The largest configuration file. The largest real one has some kilobytes; a gigabyte would be parsed for minutes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Reads a configuration file: a regular file of at most 1 MiB of UTF-8 text.
///
/// It is opened without following a link at its end and without waiting, so that a FIFO in its place hangs nobody.
/// Who owns it is for the caller to judge.
///
/// # Errors
/// A [`Diagnosis`] that says why it cannot be read, with line and column where it is not UTF-8.
pub fn read_file(path: &Path) -> Result<String, Diagnosis> {
    let name = path.to_string_lossy();
    let failed = |doing: &str, error: std::io::Error| Diagnosis::file(&name, format!("cannot {doing}: {error}"));
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits())
        .open(path)
        .map_err(|error| match error.raw_os_error() == Some(Errno::ELOOP as i32) {
            true => Diagnosis::file(&name, "is a symbolic link, which is not followed; put the file itself here"),
            false => failed("open it", error),
        })?;
    let data = file.metadata().map_err(|error| failed("look at it", error))?;
    if !data.is_file() {
        return Err(Diagnosis::file(&name, "is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|error| failed("read it", error))?;
    let size = data.len().max(bytes.len() as u64);
    if bytes.len() > FILE_BYTES_MAX {
        return Err(too_large(&name, size));
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let byte = error.as_bytes()[at];
            // The replacement character stands where the bytes are wrong; all before it is as it was.
            let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let what = format!("not UTF-8: byte 0x{byte:02x} begins no character here");
            return Err(Diagnosis::at(&name, &shown, at..at + '\u{fffd}'.len_utf8(), what)
                .help("save the file in the encoding UTF-8"));
        }
    };
    check_text(&name, &text)?;
    Ok(text)
}

/// Checks what TOML itself does not: the size of the text, and a byte order mark.
///
/// # Errors
/// A [`Diagnosis`].
pub fn check_text(path: &str, text: &str) -> Result<(), Diagnosis> {
    if text.len() > FILE_BYTES_MAX {
        return Err(too_large(path, text.len() as u64));
    }
    if text.starts_with('\u{feff}') {
        return Err(Diagnosis::at(path, text, 0..3, "the file begins with a byte order mark")
            .help("save the file as UTF-8 without a byte order mark (BOM)"));
    }
    Ok(())
}

fn too_large(path: &str, bytes: u64) -> Diagnosis {
    Diagnosis::file(path, format!("has {bytes} bytes, at most {FILE_BYTES_MAX} (1 MiB) are possible"))
}
