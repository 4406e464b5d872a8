//! All workloads.

use super::{Flow, Kind, Shape, Workload};

pub(super) const W1: Flow = Flow {
    publishers: 1,
    subscribers: 1,
    topics: 1,
    body_bytes: 200,
    single: false,
    unique: false,
    shape: Shape::Equal,
    durable: false,
};
const W2: Flow = Flow { subscribers: 10, ..W1 };
const W4: Flow = Flow { subscribers: 10, topics: 1000, ..W1 };
/// With unique headers, or the daemon's memo would answer, and no filter be looked at.
const SHAPES: Flow = Flow { subscribers: 10, topics: 100, unique: true, ..W1 };

const fn all(name: &'static str, about: &'static str, kind: Kind) -> Workload {
    Workload { name, about, kind, alone: None }
}

const fn alone(name: &'static str, base: &'static str, about: &'static str, kind: Kind) -> Workload {
    Workload { name, about, kind, alone: Some(base) }
}

/// All workloads, in the order of a round and of the report. What is held against another one stands right behind it, so that
/// both have the same minute.
pub(crate) const WORKLOADS: &[Workload] = &[
    all("w1", "1 publisher, 1 subscriber, 200 bytes of body, 64 KiB of messages per write", Kind::Flow(W1)),
    alone(
        "lib-w1",
        "w1",
        "w1 through libeevee as its users call it: every message made, published, received and read",
        Kind::Library { subscribers: 1 },
    ),
    alone(
        "w1-unique",
        "w1",
        "w1 with a header value in every message that no other has",
        Kind::Flow(Flow { unique: true, ..W1 }),
    ),
    all("w1-32", "w1 with 32 bytes of body", Kind::Flow(Flow { body_bytes: 32, ..W1 })),
    all("w1-4096", "w1 with 4,096 bytes of body", Kind::Flow(Flow { body_bytes: 4096, ..W1 })),
    all("w1-65536", "w1 with 65,536 bytes of body", Kind::Flow(Flow { body_bytes: 65536, ..W1 })),
    all("w1-single", "as w1, each message written by itself", Kind::Flow(Flow { single: true, ..W1 })),
    all("w2", "1 publisher, 10 subscribers, all match", Kind::Flow(W2)),
    alone(
        "lib-w2",
        "w2",
        "w2 through libeevee, five subscribers in each of two threads",
        Kind::Library { subscribers: 10 },
    ),
    alone("w2-unique", "w2", "w2 with headers as in w1-unique", Kind::Flow(Flow { unique: true, ..W2 })),
    all("w3", "ping-pong between two clients, one message at a time", Kind::Ping),
    all(
        "w4-10",
        "10 subscriptions over 10 connections, each message matches one",
        Kind::Flow(Flow { topics: 10, ..W4 }),
    ),
    all("w4-1k", "1,000 subscriptions over 10 connections, each message matches one", Kind::Flow(W4)),
    all("w4-10k", "the same with 10,000", Kind::Flow(Flow { topics: 10_000, ..W4 })),
    all("w4-100k", "the same with 100,000", Kind::Flow(Flow { topics: 100_000, ..W4 })),
    alone("w4-1k-unique", "w4-1k", "w4-1k with headers as in w1-unique", Kind::Flow(Flow { unique: true, ..W4 })),
    all("w5", "resident memory per idle subscriber, of 1,000", Kind::Memory(1000)),
    all("w5-10k", "resident memory per idle subscriber, of 10,000", Kind::Memory(10_000)),
    all("w6", "from exec to the first subscription in force", Kind::Start),
    all("w7", "10 publishers, 1 subscriber", Kind::Flow(Flow { publishers: 10, ..W1 })),
    all("w1-half", "w1 at half of its top rate: from when a write is due to its last message", Kind::Half(W1)),
    alone(
        "shapes-glob",
        "w4-10",
        "100 subscriptions `channel~*-NUMBER` over 10 connections, each message matches one and has a unique header",
        Kind::Flow(Flow { shape: Shape::Glob, ..SHAPES }),
    ),
    alone(
        "shapes-notequal",
        "w4-10",
        "the same with `channel=ROOM,user!=nobody,!bot`",
        Kind::Flow(Flow { shape: Shape::NotEqual, ..SHAPES }),
    ),
    alone(
        "shapes-compare",
        "w4-10",
        "the same with `shard>N,shard<=M`",
        Kind::Flow(Flow { shape: Shape::Compare, ..SHAPES }),
    ),
    alone(
        "shapes-set",
        "w4-10",
        "the same with `channel in (A,B,C)`",
        Kind::Flow(Flow { shape: Shape::Set, ..SHAPES }),
    ),
    alone(
        "durable",
        "w1",
        "w1 to a durable subscription: every message confirmed once it is synced, and acknowledged",
        Kind::Flow(Flow { durable: true, ..W1 }),
    ),
];
