//! Every size limit of the protocol, with its reason. Those of the bus that an administrator may change are in
//! `[limits]` of eeveed.toml; these are the protocol's own, or the defaults of those.

/// The largest frame, in bytes after the length field, unless the bus says otherwise in Welcome.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// The smallest frame: the fixed header without a body.
pub const FRAME_BYTES_MIN: usize = 8;

/// No administrator can raise the frame limit above this: a reader keeps one frame in memory.
pub const FRAME_BYTES_CEILING: usize = 64 << 20;

/// Headers in a document. Chat messages need a dozen.
pub const HEADERS_MAX: usize = 64;

/// Bytes in a header key.
pub const HEADER_KEY_BYTES_MAX: usize = 64;

/// Bytes in a header value: long enough for any id of any network, too short to be a body.
pub const HEADER_VALUE_BYTES_MAX: usize = 1024;

/// The deepest chain of answers to answers. Two bots that answer each other end here.
pub const HOPS_MAX: u8 = 16;

/// bincode counts decoded memory, not bytes on the wire; the densest legal frame needs less than this times its length.
pub const DECODE_MEMORY_FACTOR: usize = 16;

/// Bytes in the text of one filter.
pub const FILTER_BYTES_MAX: usize = 4096;

/// Clauses in one filter.
pub const FILTER_CLAUSES_MAX: usize = 32;

/// Filters in one subscription.
pub const SUBSCRIPTION_FILTERS_MAX: usize = 64;

/// Bytes in the text of one log record that is published; the bus cuts off what is beyond.
pub const RECORD_BYTES_MAX: usize = 4096;

/// Bytes in the target of one.
pub const RECORD_TARGET_BYTES_MAX: usize = 128;

/// Log records of one operator that are published at once, and then each second. What is beyond is left out, and counted in
/// the next one.
pub const RECORDS_BURST: u32 = 100;

/// See [`RECORDS_BURST`].
pub const RECORDS_PER_SECOND: u32 = 10;

/// Bytes in what an operator says of its commands. Kept by the bus for each operator, also while it is away.
pub const COMMANDS_BYTES_MAX: usize = 16 << 10;
