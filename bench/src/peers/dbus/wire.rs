//! D-Bus messages as bytes, as much of it as the benchmark sends.

/// Types of messages.
pub(super) const CALL: u8 = 1;
pub(super) const SIGNAL: u8 = 4;

/// No reply is expected.
pub(super) const NO_REPLY: u8 = 1;

/// A header field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field<'a> {
    Path(&'a str),
    Interface(&'a str),
    Member(&'a str),
    Destination(&'a str),
    Signature(&'a str),
    UnixFds(u32),
}

/// Appends a message. `body` is marshalled already: its alignment begins at zero.
pub(super) fn message(kind: u8, flags: u8, serial: u32, fields: &[Field<'_>], body: &[u8], out: &mut Vec<u8>) {
    let mut message = vec![b'l', kind, flags, 1];
    message.extend_from_slice(&bytes_of(body.len()));
    message.extend_from_slice(&serial.to_le_bytes());
    array(&mut message, |out| {
        for field in fields {
            align(out, 8);
            match *field {
                Field::Path(path) => text_field(1, "o", path, out),
                Field::Interface(name) => text_field(2, "s", name, out),
                Field::Member(name) => text_field(3, "s", name, out),
                Field::Destination(name) => text_field(6, "s", name, out),
                Field::Signature(types) => {
                    out.push(8);
                    signature("g", out);
                    signature(types, out);
                }
                Field::UnixFds(count) => {
                    out.push(9);
                    signature("u", out);
                    unsigned(count, out);
                }
            }
        }
    });
    align(&mut message, 8);
    // A message's length is no multiple of anything: the next one counts from zero again.
    out.extend_from_slice(&message);
    out.extend_from_slice(body);
}

fn text_field(code: u8, types: &str, value: &str, out: &mut Vec<u8>) {
    out.push(code);
    signature(types, out);
    string(value, out);
}

pub(super) fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

pub(super) fn string(value: &str, out: &mut Vec<u8>) {
    unsigned(u32::from_le_bytes(bytes_of(value.len())), out);
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

pub(super) fn signature(types: &str, out: &mut Vec<u8>) {
    out.push(bytes_of(types.len())[0]);
    out.extend_from_slice(types.as_bytes());
    out.push(0);
}

pub(super) fn unsigned(value: u32, out: &mut Vec<u8>) {
    align(out, 4);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn long(value: u64, out: &mut Vec<u8>) {
    align(out, 8);
    out.extend_from_slice(&value.to_le_bytes());
}

/// An array of structs, which begin at multiples of eight.
pub(super) fn array(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    unsigned(0, out);
    let at = out.len();
    align(out, 8);
    let begin = out.len();
    fill(out);
    let length = bytes_of(out.len() - begin);
    out[at - 4..at].copy_from_slice(&length);
}

/// An array of bytes.
pub(super) fn bytes(value: &[u8], out: &mut Vec<u8>) {
    unsigned(u32::from_le_bytes(bytes_of(value.len())), out);
    out.extend_from_slice(value);
}

fn bytes_of(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}
