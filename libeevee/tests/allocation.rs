//! Decoding never allocates more than a small multiple of what it was given, whatever the bytes announce.
#![allow(unsafe_code)] // A global allocator cannot be had without; it only counts.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use libeevee::wire::Frame;

struct Counting;

thread_local! {
    /// Bytes that this thread has allocated and not freed, and the most it ever had.
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NOW.set(NOW.get() + layout.size());
        PEAK.set(PEAK.get().max(NOW.get()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.set(NOW.get().saturating_sub(layout.size()));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was allocated at one time while these bytes were decoded.
fn peak(bytes: Vec<u8>) -> usize {
    let bytes = Bytes::from(bytes);
    let before = NOW.get();
    PEAK.set(before);
    let _ = Frame::decode(bytes);
    PEAK.get() - before
}

/// The value, what it takes to write it again for comparison, and what a message about an error takes.
fn allowed(len: usize) -> usize {
    4 * len + (64 << 10)
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, 1, 0, 0, 0];
    bytes.extend(body);
    bytes
}

#[test]
fn the_allocator_counts() {
    let text = "x".repeat(100_000);
    let mut body = vec![252];
    body.extend(100_000_u32.to_le_bytes());
    body.extend(text.as_bytes());
    assert!(peak(frame(7, &body)) >= 100_000, "a Bye of 100 kB is kept");
}

#[test]
fn announced_lengths_allocate_nothing() {
    for kind in 0..48 {
        for at in 0..24 {
            for mark in
                [&[251, 0xff, 0xff][..], &[252, 0xff, 0xff, 0xff, 0x3f], &[253, 0, 0, 0, 0, 1, 0, 0, 0], &[253; 9]]
            {
                for filler in [0, 1, 5] {
                    let body = [&vec![filler; at][..], mark, &[1, 2, 3]].concat();
                    let bytes = frame(kind, &body);
                    let (len, peak) = (bytes.len(), peak(bytes));
                    assert!(peak <= allowed(len), "kind {kind}: {len} bytes made it allocate {peak}");
                }
            }
        }
    }
}

#[test]
fn a_mebibyte_of_the_densest_values_is_no_bomb() {
    const LEN: usize = 1 << 20;
    for kind in 0..48 {
        for filler in [0, 1] {
            // Counts of a million at every place where one can stand, then a million empty values.
            for at in 0..24 {
                let mut body = vec![filler; at];
                body.push(252);
                body.extend((LEN as u32).to_le_bytes());
                body.resize(LEN, 0);
                let peak = peak(frame(kind, &body));
                assert!(peak <= allowed(LEN), "kind {kind}: a frame of {LEN} bytes made it allocate {peak}");
            }
        }
    }
}

#[test]
fn nor_are_random_bytes() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..20_000 {
        let body: Vec<u8> = {
            let len = random.usize(0..400);
            std::iter::repeat_with(|| random.u8(..)).take(len).collect()
        };
        let bytes = frame(random.u8(0..48), &body);
        let (len, peak) = (bytes.len(), peak(bytes));
        assert!(peak <= allowed(len), "{len} bytes made it allocate {peak}");
    }
}
