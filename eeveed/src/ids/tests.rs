use super::*;

fn opened(state_dir: &Path) -> anyhow::Result<(IdBlocks, Range<u64>)> {
    let (blocks, first) = IdBlocks::open(state_dir)?;
    let end = blocks.reserve_first(state_dir)?;
    Ok((blocks, first..end))
}

fn reason(state_dir: &Path) -> String {
    match opened(state_dir) {
        Ok((_, ids)) => panic!("opened with {ids:?}"),
        Err(error) => format!("{error:#}"),
    }
}

/// What a start of the bus gets, as by a crash right after it.
fn start(state_dir: &Path) -> Range<u64> {
    opened(state_dir).unwrap().1
}

fn put(state_dir: &Path, name: &str, mark: u64) {
    std::fs::write(state_dir.join(name), line(mark)).unwrap();
}

#[test]
fn lines_come_back() {
    for mark in [FIRST, 4711, ID_END] {
        assert_eq!(line(mark).len(), line(FIRST).len());
        assert_eq!(parse(line(mark).as_bytes()), Some(mark));
    }
    for mark in [0, ID_END + 1, u64::MAX] {
        assert_eq!(parse(line(mark).as_bytes()), None);
    }
}

#[test]
fn ids_increase_over_crashes_and_clean_stops() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(start(dir.path()), 1..1 + BLOCK);
    assert_eq!(start(dir.path()), 1 + BLOCK..1 + 2 * BLOCK);
    // A clean stop gives back what was not used.
    let (blocks, ids) = opened(dir.path()).unwrap();
    blocks.release(ids.start + 5).unwrap();
    assert_eq!(start(dir.path()).start, ids.start + 5);
    // Of two blocks, only a part of the first may have been used.
    let (blocks, ids) = opened(dir.path()).unwrap();
    assert_eq!(blocks.reserve().unwrap(), ids.end..ids.end + BLOCK);
    blocks.release(ids.start).unwrap();
    assert_eq!(start(dir.path()).start, ids.start);
}

#[test]
fn blocks_follow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (blocks, first) = opened(dir.path()).unwrap();
    let second = std::thread::spawn(move || blocks.reserve().unwrap()).join().unwrap();
    assert_eq!(second, first.end..first.end + BLOCK);
    assert_eq!(start(dir.path()).start, second.end);
}

#[test]
fn what_was_never_reserved_is_not_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let (blocks, ids) = opened(dir.path()).unwrap();
    blocks.release(u64::MAX).unwrap();
    assert_eq!(start(dir.path()).start, ids.end);
    let (blocks, _) = opened(dir.path()).unwrap();
    blocks.release(0).unwrap();
    assert_eq!(start(dir.path()).start, FIRST);
}

#[test]
fn a_disk_that_refuses_changes_nothing_and_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let (blocks, ids) = opened(dir.path()).unwrap();
    // /dev/full gives ENOSPC, as a full disk does; first to the first file, then to the second.
    for broken in [0, 1] {
        let swap = |file: File| std::mem::replace(&mut blocks.lock().marks[broken].file, file);
        let whole = swap(OpenOptions::new().write(true).open("/dev/full").unwrap());
        let error = blocks.reserve().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains(FILES[broken]), "{error}");
        swap(whole);
    }
    assert_eq!(blocks.reserve().unwrap(), ids.end..ids.end + BLOCK);
}

#[test]
fn ids_stay_below_2_to_the_53() {
    let dir = tempfile::tempdir().unwrap();
    for name in FILES {
        put(dir.path(), name, ID_END - 10);
    }
    let (blocks, ids) = opened(dir.path()).unwrap();
    assert_eq!(ids, ID_END - 10..ID_END);
    assert!(blocks.reserve().unwrap_err().to_string().contains("2^53"));
    assert!(reason(dir.path()).contains("2^53"));
}

#[test]
fn one_damaged_file_costs_a_block_and_no_id_twice() {
    for broken in [0, 1] {
        for content in [b"".as_slice(), b"eevee-ids 1 0000", &[0; 42], &[b'x'; 10_000]] {
            let dir = tempfile::tempdir().unwrap();
            let used = start(dir.path());
            std::fs::write(dir.path().join(FILES[broken]), content).unwrap();
            assert!(start(dir.path()).start >= used.end);
            // Healed: both are whole again.
            assert!(FILES.iter().all(|name| matches!(Found::read(&dir.path().join(name)), Ok(Found::Mark(_)))));
        }
    }
}

#[test]
fn a_lost_file_that_was_a_block_ahead_makes_no_id_repeat() {
    let dir = tempfile::tempdir().unwrap();
    // A crash after the first file was written; then that one is lost.
    put(dir.path(), FILES[0], 10 + BLOCK);
    put(dir.path(), FILES[1], 10);
    assert_eq!(start(dir.path()).start, 10 + BLOCK);
    put(dir.path(), FILES[1], 10);
    std::fs::write(dir.path().join(FILES[0]), "").unwrap();
    assert!(start(dir.path()).start >= 10 + BLOCK);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let whole = line(123_456_789);
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            assert_eq!(parse(&bytes), None, "byte {at} bit {bit}");
            assert!(!is_later(&bytes), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn one_missing_file_is_made_again() {
    for missing in FILES {
        let dir = tempfile::tempdir().unwrap();
        let used = start(dir.path());
        std::fs::remove_file(dir.path().join(missing)).unwrap();
        assert!(start(dir.path()).start >= used.end);
        assert!(dir.path().join(missing).exists());
    }
}

#[test]
fn without_either_file_the_start_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILES[0]), "nonsense").unwrap();
    let said = reason(dir.path());
    assert!(said.contains("ids is damaged and") && said.contains("ids.copy is missing"), "{said}");
    std::fs::write(dir.path().join(FILES[1]), "").unwrap();
    assert!(reason(dir.path()).contains("would repeat"), "{}", reason(dir.path()));
    assert_eq!(std::fs::read(dir.path().join(FILES[0])).unwrap(), b"nonsense");
}

#[test]
fn a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let text = "eevee-ids 2 something else";
    std::fs::write(dir.path().join(FILES[1]), format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()))).unwrap();
    put(dir.path(), FILES[0], 5);
    assert!(reason(dir.path()).contains("later version"));
}

#[test]
fn no_link_is_written_through() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("target"), line(77)).unwrap();
    std::os::unix::fs::symlink(dir.path().join("target"), dir.path().join(FILES[0])).unwrap();
    put(dir.path(), FILES[1], 100);
    assert_eq!(start(dir.path()).start, 100 + BLOCK);
    assert_eq!(std::fs::read_to_string(dir.path().join("target")).unwrap(), line(77));
}

#[test]
fn a_missing_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(reason(&dir.path().join("none")).contains("none/ids"), "{}", reason(&dir.path().join("none")));
}
