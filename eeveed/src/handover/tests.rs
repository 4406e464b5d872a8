//! The state as another run finds it: whole it comes back as it was, and damaged in any way it is refused, never a panic.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use libeevee::OperatorId;
use libeevee::wire::{Content, EncodedDocument, Frame, Grant, Publish, Subscribe};
use libeevee::{Document, module};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::state::{Connection, Unusable, VERSION, read, write};
use crate::config::Limits;
use crate::core::{Chunk, Core, Event, Identity, LoadedModule, Now, Peer};
use crate::hub::now;

/// A bus with an operator, and a message that waits for it.
fn core(now: Now) -> Core {
    let mut core = Core::new(now, 4711, Limits::default(), Vec::new(), 1_000..1 << 40);
    let id: OperatorId = "dice".parse().unwrap();
    let text = "[bus]\nmay-publish = [\"type=chat.message\"]\n";
    let file = module::Module::parse(&id, "dice.toml", text).unwrap();
    let module = Some(LoadedModule { file, path: "dice.toml".into(), text: text.into() });
    let peer = Peer { uid: 7, pid: None, program: "test".into(), instance: 1 };
    let mut actions = Vec::new();
    let mut step = |event| core.step(now, event, &mut actions);
    step(Event::Join { session: 1, identity: Identity::Operator(id), peer, module });
    let mut frame = |number, content| step(Event::Frame { session: 1, frame: Frame::new(number, content) });
    frame(
        1,
        Content::Subscribe(Subscribe {
            filters: vec!["type=chat.message".into()],
            overflow: 0,
            queue_messages: 0,
            queue_bytes: 0,
            max_age_ms: 0,
            window_messages: 0,
            window_bytes: 0,
            durable: None,
        }),
    );
    frame(1, Content::Grant(Grant { messages: 0, bytes: 5 }));
    let document = Document::new([("type", "chat.message")], "honk").unwrap();
    let document = EncodedDocument::from(&document);
    frame(0, Content::Publish(Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document }));
    core
}

fn connections() -> Vec<Connection> {
    vec![
        Connection { inode: 77, session: Some(1), frame_bytes_max: 1 << 20, input: Some(0), output: None },
        Connection { inode: 78, session: None, frame_bytes_max: 1 << 20, input: None, output: None },
    ]
}

/// The bytes of a state that is as it should be.
fn good() -> Vec<u8> {
    let now = now();
    let file = File::from(write(&core(now).save(now), &connections()).unwrap());
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The same bytes in another file, as systemd gives it.
fn sealed(bytes: &[u8]) -> OwnedFd {
    let descriptor = memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let mut file = File::from(descriptor);
    file.write_all(bytes).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all())).unwrap();
    file.into()
}

/// What is changed has a checksum that fits, so that it is all the reader has to judge by.
fn resealed(mut bytes: Vec<u8>) -> OwnedFd {
    let crc = crc32fast::hash(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    sealed(&bytes)
}

fn restore(descriptor: OwnedFd) -> Result<Core, Unusable> {
    let (saved, _) = read(descriptor)?;
    let (core, _) = Core::restore(now(), Limits::default(), Vec::new(), 2_000..1 << 40, saved)?;
    Ok(core)
}

#[test]
fn what_is_written_is_read() {
    let now = now();
    let core = core(now);
    let (saved, found) = read(write(&core.save(now), &connections()).unwrap()).unwrap();
    assert_eq!(found, connections());
    let (restored, _) = Core::restore(now, Limits::default(), Vec::new(), 2_000..1 << 40, saved).unwrap();
    assert_eq!(restored.status(None).unwrap(), core.status(None).unwrap());
    assert_eq!(restored.session_keys(), [1]);
    assert_eq!((restored.peer_uid(1), restored.next_session()), (Some(7), 2));
}

#[test]
fn nobody_can_change_a_state() {
    let now = now();
    let file = File::from(write(&core(now).save(now), &[]).unwrap());
    assert!(file.write_at(b"x", 20).is_err() && file.set_len(0).is_err() && file.set_len(1 << 20).is_err());
}

#[test]
fn a_state_that_is_cut_is_refused_at_every_byte() {
    let good = good();
    for length in 0..good.len() {
        assert!(restore(sealed(&good[..length])).is_err(), "cut to {length} of {}", good.len());
        // As if whoever wrote it had believed it whole.
        if length >= 40 {
            assert!(restore(resealed(good[..length].to_vec())).is_err(), "cut to {length} of {}", good.len());
        }
    }
    let mut longer = good;
    longer.push(0);
    assert!(restore(sealed(&longer)).is_err());
    assert!(restore(resealed(longer)).is_err());
}

/// Every bit: with its checksum it is seen; without, it is refused or some other state that makes sense.
#[test]
fn a_state_with_a_wrong_bit_is_refused_or_makes_sense() {
    let good = good();
    let mut usable = 0;
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(restore(sealed(&bytes)).is_err(), "bit {bit}");
        let Ok(mut core) = restore(resealed(bytes)) else { continue };
        usable += 1;
        let (mut actions, mut now) = (Vec::new(), now());
        for session in core.session_keys() {
            core.output(now, session, 1 << 20, &mut Chunk::default());
        }
        now.mono += Duration::from_secs(3600);
        core.step(now, Event::Tick, &mut actions);
        for session in core.session_keys() {
            core.step(now, Event::Leave { session }, &mut actions);
        }
        assert!(core.has_room());
    }
    assert!(usable > 0, "nothing was refused by its content");
}

#[test]
fn every_refusal_says_why() {
    let good = good();
    let changed = |at: usize, bytes: &[u8]| {
        let mut all = good.clone();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        resealed(all)
    };
    let other_version = changed(8, &(VERSION + 1).to_le_bytes());
    assert!(matches!(read(other_version), Err(Unusable::Version(version)) if version == VERSION + 1));
    assert!(matches!(read(changed(0, b"eeveebuz")), Err(Unusable::Magic)));
    assert!(matches!(read(changed(24, &u64::MAX.to_le_bytes())), Err(Unusable::Length)));
    assert!(matches!(read(sealed(b"")), Err(Unusable::Size(0))));
    let mut wrong = good.clone();
    wrong[12] ^= 1;
    assert!(matches!(read(sealed(&wrong)), Err(Unusable::Checksum)));
    // 61 s before now, and an hour after.
    let written = u64::from_le_bytes(good[16..24].try_into().unwrap());
    if let Some(long_ago) = written.checked_sub(61_000_000_000) {
        assert!(matches!(read(changed(16, &long_ago.to_le_bytes())), Err(Unusable::Age(61..))));
    }
    let to_come = written + 3_600_000_000_000;
    assert!(matches!(read(changed(16, &to_come.to_le_bytes())), Err(Unusable::Age(_))));
    assert!(matches!(read(changed(40, b"[")), Err(Unusable::Structure(_))));
    assert!(matches!(read(tempfile::tempfile().unwrap().into()), Err(Unusable::NotSealed)));
    let unsealed = memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    assert!(fcntl(unsealed.as_fd(), FcntlArg::F_GET_SEALS).is_ok());
    assert!(matches!(read(unsealed), Err(Unusable::NotSealed)));
}

/// No length that a file claims makes room for it: eleven bytes must not ask for gigabytes.
#[test]
fn claimed_lengths_allocate_nothing() {
    let good = good();
    let structure = usize::try_from(u64::from_le_bytes(good[24..32].try_into().unwrap())).unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&good[40..40 + structure]).unwrap();
    for lengths in [vec![u64::MAX], vec![u64::MAX, 2], vec![1 << 40], vec![]] {
        value["blobs"] = lengths.into();
        let text = serde_json::to_vec(&value).unwrap();
        let mut bytes = good[..40].to_vec();
        bytes[24..32].copy_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&text);
        bytes.extend_from_slice(&good[40 + structure..]);
        assert!(matches!(read(resealed(bytes)), Err(Unusable::Length)), "{value}");
    }
}
